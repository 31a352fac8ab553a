"""The chain of `make model-gpu` in miniature: on two cores, drawn faces, within a minute."""

from __future__ import annotations

import errno
import json
import multiprocessing
import signal
import time
from argparse import Namespace
from pathlib import Path

import model_gpu
import pytest
import torch
from safetensors.torch import load_file

from mien.cli.settings import read_settings
from mien.config import PretrainConfig, TrainConfig
from mien.data.drawn import draw_faces, write_archive
from mien.data.read import read_faces
from mien.errors import MienError
from mien.model.classifier import Classifier

CNN = """\
backbone: timm:face_cnn
network_args: {channels: [8, 12, 16], layers: [1, 1, 1], stem_width: 8}
image_size: 48
batch_size: 16
drop_path: 0.1
select: clean_loss
warmup_epochs: 0
augment: {mixup: 0.2, blur: 0.02}
"""
AUTOENCODER = "preset: nano\nbatch_size: 16\nprobe_epochs: 0\ncompile: off\n"
STUDENT = """\
batch_size: 16
warmup_epochs: 0
freeze: {blocks: 0}
logit_adjustment: 0.5
validate_epochs: 50
distill: {features: 1}
"""


@pytest.mark.parametrize("path", sorted(model_gpu.CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_setting_of_the_chain_is_right(path: Path) -> None:
    schema: type[PretrainConfig | TrainConfig] = PretrainConfig if path.stem.endswith("-mae") else TrainConfig
    teachers = ["--teacher", "t"] if path.stem.endswith(("-1", "-2")) else []
    arguments = ["--config", str(path), "--data", "d", "--out", "o", "--minutes", "1", *teachers]
    config, _ = read_settings(schema, arguments)
    assert config.minutes == 1 and config.precision == "bf16" and config.optimizer == "muon"


def chain_of(tmp_path: Path, **options: object) -> model_gpu.Chain:
    """A chain that has not begun."""
    values = {"out": str(tmp_path), "minutes": 1.0, "teachers": [], "mini": None, "nano": None, "folds": 0, "jobs": 2,
              "device": "cpu", "grace": 0.0, "data": "d", "configs": tmp_path, "share": None,
              "pack": False}  # fmt: skip
    return model_gpu.Chain(Namespace(**{**values, **options}), time.monotonic(), startup=0.0)


def test_students_take_what_was_finished(tmp_path: Path) -> None:
    chain = chain_of(tmp_path)
    for name in ("teacher-b", "mini-mae"):
        model = chain.run_of(name) / "model"
        model.mkdir(parents=True)
        (model / "config.json").touch()
    jobs = {job.name: job for job in model_gpu.students(chain)}
    assert set(jobs) == {"mini-1", "mini-2", "nano-1"}
    assert jobs["mini-1"].teachers == (str(chain.run_of("teacher-b")),)
    assert jobs["mini-1"].backbone == str(chain.run_of("mini-mae")) and jobs["nano-1"].backbone == "nano"
    chain_with_teachers = chain_of(tmp_path, teachers=["one", "two"], mini="mae")
    assert [job.name for job in model_gpu.first_jobs(chain_with_teachers)] == ["nano-mae"]
    assert (
        model_gpu.students(chain_with_teachers)[0].teachers == ("one", "two")
        and model_gpu.students(chain_with_teachers)[0].backbone == "mae"
    )


def test_a_run_that_goes_on_keeps_its_minutes(tmp_path: Path) -> None:
    chain = chain_of(tmp_path)
    job = model_gpu.Job("teacher-a")
    words = chain.words(job, 2.0)
    assert "--resume" not in words and words[words.index("--minutes") + 1] == "2.0000"
    chain.run_of("teacher-a").mkdir(parents=True)
    (chain.run_of("teacher-a") / "state.safetensors").touch()
    words = chain.words(job, 5.0)
    assert "--resume" in words and words[words.index("--minutes") + 1] == "2.0000"


def test_folds_that_go_on_keep_their_minutes_too(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, folds=5)
    job = model_gpu.Job("folds", "folds", config="teacher-a")
    words = chain.words(job, 5.0)
    assert words[words.index("--minutes") + 1] == "1.0000"
    (chain.run_of("folds") / "seed-0-fold-1").mkdir(parents=True)
    (chain.run_of("folds") / "seed-0-fold-1" / "state.safetensors").touch()
    again = chain.words(job, 4.2)
    assert again == words, "the runs of folds go on by themselves"


def test_a_plan_that_cannot_be_written_whole_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = chain_of(tmp_path)
    chain.record["mini-1"] = {"minutes": 3.0, "done": True}
    chain.save()

    def half(self: Path, content: str | bytes, *_: object, **__: object) -> int:
        self.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises((OSError, MienError)):
        chain.save()
    assert json.loads((tmp_path / "plan.json").read_text()) == chain.record


def test_a_run_that_is_late_is_stopped_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = chain_of(tmp_path)
    commands = {
        "slow": ["data", "draw", "--train", "1000000", "--out", str(tmp_path / "drawn.zip")],
        "quick": ["--version"],
    }

    def words(self: model_gpu.Chain, job: model_gpu.Job, minutes: float) -> list[str]:
        self.record[job.name] = {"minutes": minutes, "done": False}
        return commands[job.name]

    monkeypatch.setattr(model_gpu.Chain, "words", words)
    (tmp_path / "logs").mkdir()
    model_gpu.started(["--version"], tmp_path / "logs" / "first.log").join()  # the imports, which no run waits for then
    model_gpu.phase(chain, [model_gpu.Job("slow"), model_gpu.Job("quick")], seconds=20.0)
    assert chain.record["quick"]["done"] is True and chain.record["slow"]["done"] is False
    assert (tmp_path / "logs" / "quick.log").read_text().strip()
    assert not (tmp_path / "drawn.zip").exists()
    assert "slow: late, stopped; what it saved stays" in capsys.readouterr().out
    assert chain.record["slow"]["code"] == 128 + signal.SIGTERM


def test_a_run_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A native call that hangs never comes back to Python, which alone would end the run."""
    chain = chain_of(tmp_path, grace=0.2)
    process = multiprocessing.get_context("fork").Process(target=deaf)

    def start(chain: model_gpu.Chain, job: model_gpu.Job, minutes: float) -> object:
        chain.record[job.name] = {"minutes": minutes, "done": False}
        process.start()
        return process

    monkeypatch.setattr(model_gpu, "start", start)
    monkeypatch.setattr(model_gpu, "LONGEST_END", 0.5)
    began = time.monotonic()
    model_gpu.phase(chain, [model_gpu.Job("stuck")], seconds=3.0)
    assert time.monotonic() - began < 30 and chain.record["stuck"]["code"] == -signal.SIGKILL


def deaf() -> None:
    """Ignores SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


@pytest.mark.slow
def test_the_whole_chain_in_a_minute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, configs = tmp_path / "drawn.zip", tmp_path / "gpu", tmp_path / "configs"
    write_archive(data, draw_faces(42, 21, 14, seed=0))
    configs.mkdir()
    texts = {**dict.fromkeys(model_gpu.TEACHERS, CNN), "mini-mae": AUTOENCODER, "nano-mae": AUTOENCODER,
             **dict.fromkeys(("mini-1", "mini-2", "nano-1"), STUDENT)}  # fmt: skip
    for name, text in texts.items():
        (configs / f"{name}.yaml").write_text(text, encoding="utf-8")
    arguments = ["--data", str(data), "--out", str(out), "--configs", str(configs), "--device", "cpu", "--no-pack",
                 "--jobs", "5"]  # fmt: skip
    for _ in range(6):  # once, or on a busy machine until all is made: it goes on where it was
        assert model_gpu.run([*arguments, "--minutes", "1.1", "--grace", "60"]) in (0, 1)
        record = json.loads((out / "plan.json").read_text())
        if all(record.get(name, {}).get("done") for name in ("mini-1", "nano-1")):
            break
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    networks = {row["name"] for row in results["scores"]}
    assert {"mini-1", "nano-1", "mini-1 and its mirror"} <= networks and "| network | accuracy |" in printed
    faces = read_faces(str(data)).part("validation")
    for name in ("mini-1", "nano-1"):
        classifier = Classifier.load(out / "half" / name)
        order = [classifier.names.index(label) for label in faces.names]
        right = (classifier.logits(faces.images)[:, order].argmax(1) == faces.labels).mean()
        row = next(row for row in results["scores"] if row["name"] == name)
        assert row["accuracy"] == pytest.approx(right, abs=0.05)
    weights = load_file(out / "half" / "nano-mae" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert {"scores.md", "results.json", "weights.tar.0"} <= {path.name for path in (out / "share").iterdir()}
    meta = Classifier.load(out / "runs" / "mini-1").meta()
    assert meta["config"]["minutes"] and len(meta["teachers"]) >= 1
    # Every run ended annealed: the last learning rate is that of the end of the cosine.
    for name in ("mini-1", "nano-1"):
        last = (out / "runs" / name / "history.csv").read_text().splitlines()
        rate = float(last[-1].split(",")[last[0].split(",").index("lr")])
        assert rate <= 0.05 * meta["config"]["lr"]


def test_missing_data_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert model_gpu.run(["--data", "/nowhere/archive.zip"]) == 2
    assert capsys.readouterr().err == "mien: error: /nowhere/archive.zip: no such file or folder\n"
