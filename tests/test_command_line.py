"""The command line as a whole: one spelling, default names, plans, resuming, inputs of every kind, completion."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from recognition_helpers import Bright, Mean, encoded, picture

import mien
from mien.cli import main
from mien.cli.parser import Parser, Switch, meant
from mien.cli.recipes import recipe_file, recipes
from mien.cli.settings import read_settings
from mien.config import PRESETS, PretrainConfig, TrainConfig
from mien.data.drawn import draw_faces, write_archive
from mien.errors import MienError
from mien.model.presets import SHAPES

SHELL_OPTIONS = ("--augment.rotation", "--no-tensorboard", "--video-out", "--batch-size")


def run_python(code: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own, with this checkout's package and without a connection to the hub."""
    environment = {**os.environ, "PYTHONPATH": str(Path(mien.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    environment |= options.pop("environment", {})
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=cwd, timeout=120, **options
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 training, 14 validation and 14 test faces."""
    path = tmp_path_factory.mktemp("drawn") / "drawn.zip"
    write_archive(path, draw_faces(70, 14, 14, seed=0))
    return path


@pytest.fixture
def simple_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mean:
    """A detector of bright squares and an engine that reads their brightness; the working folder is empty."""
    engine = Mean()
    monkeypatch.setattr("mien.recognition.detectors.detector", lambda *_: Bright())
    monkeypatch.setattr("mien.recognition.engines.engine", lambda *_: engine)
    monkeypatch.chdir(tmp_path)
    return engine


class TestSpelling:
    @pytest.mark.parametrize(
        ("arguments", "value"),
        [
            (["--tta"], True), (["--tta", "true"], True), (["--tta=on"], True), (["--tta", "yes", "word"], True),
            (["--no-tta"], False), (["--tta", "false"], False), (["--tta=off"], False), (["--no-tta", "false"], True),
        ],
    )  # fmt: skip
    def test_a_switch(self, arguments: list[str], value: bool) -> None:
        parser = Parser("mien x", "x")
        parser.add_argument("words", nargs="*")
        parser.add_argument("--tta", action=Switch)
        options = parser.parse(arguments)
        assert options.tta is value
        assert options.words == (["word"] if "word" in arguments else [])

    def test_a_switch_takes_no_other_word(self) -> None:
        parser = Parser("mien x", "x")
        parser.add_argument("words", nargs="*")
        parser.add_argument("--tta", action=Switch)
        assert parser.parse(["--tta", "runs/first"]).words == ["runs/first"]
        with pytest.raises(MienError, match="--tta"):
            parser.parse(["--tta=perhaps"])

    def test_a_tilde_behind_an_equals_sign_is_the_home_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Most shells resolve a tilde only at the beginning of a word."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        parser = Parser("mien x", "x")
        parser.add_argument("words", nargs="*")
        parser.add_argument("--csv", type=Path)
        options = parser.parse(["a~b", "--csv=~/faces.csv"])
        assert options.csv == tmp_path / "faces.csv" and options.words == ["a~b"]
        assert parser.parse(["--csv=faces~1.csv"]).csv == Path("faces~1.csv")

    def test_training_has_the_same_switches(self) -> None:
        arguments = ["--data", "d", "--out", "o"]
        assert read_settings(TrainConfig, [*arguments, "--no-class-weights", "--tensorboard"])[0].tensorboard
        assert not read_settings(TrainConfig, [*arguments, "--tensorboard", "--no-tensorboard"])[0].tensorboard
        assert read_settings(PretrainConfig, [*arguments, "--no-norm-pix"])[0].norm_pix is False

    @pytest.mark.parametrize(
        "command", ["train", "pretrain", "evaluate", "predict", "explain", "export", "pack", "card"]
    )
    def test_no_help_shows_an_option_with_underscores(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = capsys.readouterr().out.replace("--nproc_per_node", "")
        assert "--" in text and not [word for word in text.split() if word.startswith("--") and "_" in word]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["predict", "a.png", "--save", "x"], "unknown option --save, did you mean --csv or --annotate?"),
            (["predict", "a.png", "--output", "x"], "did you mean --csv or --annotate?"),
            (["predict", "a.png", "--gpu"], "did you mean --device?"),
            (["predict", "--folder", "photos"], "did you mean the path alone, without an option?"),
            (["evaluate", "mini", "--results", "x"], "did you mean --out?"),
            (["predict", "a.png", "--silent"], "did you mean -q/--quiet?"),
            (["train", "--dataset", "d"], "--dataset: no such field, did you mean --data?"),
            (["train", "--learning-rate", "1"], "--learning-rate: no such field, did you mean --lr?"),
            (["train", "--data", "d", "--cfg", "x"], "--cfg: no such field, did you mean --config?"),
            (["predict", "a.png", "--modle", "x"], "did you mean --model?"),
        ],
    )
    def test_a_guess_by_meaning(self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err

    def test_no_guess_where_there_is_none(self) -> None:
        assert meant("--zzzz", ["--model", "--out"]) is None
        assert meant("-o", ["--model", "--out"]) == "--out"

    def test_a_bare_word_of_yaml_is_a_text_where_a_text_is_expected(self, tmp_path: Path) -> None:
        path = tmp_path / "settings.yaml"
        path.write_text("data: no\nout: off\ntensorboard: yes\nclass_weights: off\nteacher: [on, yes]\n")
        config = read_settings(TrainConfig, ["--config", str(path)])[0]
        assert (config.data, config.out, config.tensorboard, config.class_weights) == ("no", "off", True, False)
        assert config.teacher == ["on", "yes"]


class TestEveryCommand:
    def test_quiet_leaves_results_and_errors(self, simple_engine: Mean, capsys: pytest.CaptureFixture[str]) -> None:
        Path("a.png").write_bytes(encoded(picture([204])))
        assert main(["predict", "a.png", "-q"]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith("a.png: glad 80%, uncertain") and captured.err == ""
        assert main(["predict", "--quiet"]) == 2
        assert capsys.readouterr().err.startswith("mien: error: PATH is missing")

    def test_verbose_tells_how_long_it_took(self, simple_engine: Mean, capsys: pytest.CaptureFixture[str]) -> None:
        Path("a.png").write_bytes(encoded(picture([255])))
        assert main(["-v", "predict", "a.png"]) == 0
        stderr = capsys.readouterr().err
        assert "mien: model mini (Mean), detector yunet" in stderr and "mien: done in " in stderr
        assert main(["predict", "a.png"]) == 0
        assert "done in" not in capsys.readouterr().err

    def test_the_environment_is_reported(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["env", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["mien"] == mien.__version__ and "numpy" in facts["packages"]
        assert "CPUExecutionProvider" in facts["onnxruntime"] and "mini (the default)" in facts["models"]
        assert main(["env"]) == 0
        assert f"mien          {mien.__version__}\n" in capsys.readouterr().out

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion_knows_the_options_of_the_parsers(self, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        for option in SHELL_OPTIONS:
            assert option in script or option[2:] in script
        assert "pretrain" in script and "inspect" in script

    def test_completion_of_bash_is_a_script(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["completion", "bash"]) == 0
        script = tmp_path / "mien.bash"
        script.write_text(capsys.readouterr().out)
        assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0

    def test_completion_of_an_unknown_shell(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["completion", "dos"]) == 2
        assert "invalid choice: 'dos'" in capsys.readouterr().err


class TestRecipes:
    def test_presets_have_shapes(self) -> None:
        assert set(PRESETS) == set(SHAPES)

    def test_a_name_is_a_recipe_and_a_file_of_that_name_wins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert recipe_file("baseline").parent.name == "recipes" and "baseline" in recipes()
        Path("baseline").write_text("epochs: 3\n")
        assert recipe_file("baseline") == Path("baseline")
        with pytest.raises(MienError, match="did you mean --config baseline"):
            recipe_file("configs/baseline.yaml")

    def test_help_lists_the_recipes(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["train", "--help"])
        text = " ".join(capsys.readouterr().out.split()).replace("- ", "-")  # as argparse breaks lines
        assert ", ".join(recipes()) in text

    @pytest.mark.parametrize(
        ("epochs", "warmup", "release"), [("80", 10.0, 11), ("8", 1.0, 2), ("1", 0.125, 2), ("160", 20.0, 21)]
    )
    def test_warmup_and_release_scale_with_the_epochs(self, epochs: str, warmup: float, release: int) -> None:
        config = read_settings(TrainConfig, ["--data", "d", "--out", "o", "--config", "baseline", "--epochs", epochs])[
            0
        ]
        assert (config.warmup_epochs, config.freeze.release_epoch) == (warmup, release)

    def test_a_share_that_is_replaced_is_no_mistake(self) -> None:
        arguments = ["--data", "d", "--out", "o", "--config", "baseline", "--warmup-epochs", "2"]
        assert read_settings(TrainConfig, arguments)[0].warmup_epochs == 2
        with pytest.raises(
            MienError, match=r"--warmup-epochs: got '120%', expected a number of at least 0, or a share"
        ):
            read_settings(TrainConfig, ["--data", "d", "--out", "o", "--warmup-epochs", "120%"])

    def test_baseline_can_be_tried_as_it_is_typed(
        self, archive: Path, mae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, options = tmp_path / "run", ["--backbone", str(mae_folder), "--freeze.blocks", "2", "--device", "cpu"]
        arguments = ["--config", "baseline", "--data", str(archive), "--out", str(out), "--epochs", "1", *options]
        assert main(["train", *arguments]) == 0
        captured = capsys.readouterr()
        assert "frozen: embeddings and blocks 0 to 1; released at epoch 2, after the last of 1" in captured.err
        assert (
            "beside it: config.yaml, curves.pdf, curves.png, curves.svg, history.csv, meta.json, state" in captured.out
        )

    def test_a_tracker_that_is_not_installed_is_reported_at_once(
        self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("mien.config.run.find_spec", lambda name: None)
        arguments = ["train", "--data", str(archive), "--backbone", "nano", "--freeze.blocks", "0", "--track", "wandb"]
        assert main([*arguments, "--out", str(tmp_path / "run")]) == 2
        assert capsys.readouterr().err == "mien: error: --track wandb: wandb is not installed; pip install wandb\n"


class TestPlan:
    def test_dry_run_prints_the_plan_and_writes_nothing(
        self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        arguments = ["train", "--data", str(archive), "--backbone", "nano", "--epochs", "3", "--batch-size", "16"]
        options = ["--freeze.blocks", "2", "--freeze.release-epoch", "3", "--freeze.random-weights", "--device", "cpu"]
        assert main([*arguments, *options, "--ema", "0", "--dry-run"]) == 0
        lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
        assert lines["plan"] == "3 epochs, 4 steps of 16 an epoch; 70 images train, 14 validate"
        assert lines["frozen"] == "embeddings and blocks 0 to 1; released at epoch 3"
        assert lines["parameters"] == "397,703 of 807,431 train, at the end 802,695"
        assert lines["learning rate"].startswith("encoder 3.00e-04, head 3.00e-04; warm-up over 1 epoch,")
        assert lines["memory"].startswith("about ") and " MiB: weights, gradients and moments " in lines["memory"]
        assert " s a step with 3 parts frozen" in lines["time"] and "nothing frozen" in lines["time"]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("command", ["train", "pretrain", "folds"])
    def test_nor_does_it_touch_the_folder_of_a_run(
        self, command: str, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        (run / "tensorboard").mkdir(parents=True)
        (run / "tensorboard" / "events.out.tfevents.1").write_bytes(b"hours of curves")
        (run / "tracking.json").write_text('{"id": "former", "trackers": ["tensorboard"]}')
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        network = ["--preset"] if command == "pretrain" else ["--freeze.blocks", "0", "--backbone"]
        options = ["--data", str(archive), *network, "nano", "--batch-size", "16", "--device", "cpu"]
        assert main([command, *options, "--out", str(run), "--track", "tensorboard", "--dry-run"]) == 0
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        output = capsys.readouterr().out
        assert ("folds: 5 runs, one after the other, each like this one:" in output) == (command == "folds")
        assert "time: about" in output

    def test_all_rates_end_at_the_same(self, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        options = ["--data", str(archive), "--backbone", "nano", "--out", str(tmp_path / "x"), "--dry-run"]
        assert main(["train", *options, "--lr", "1e-3", "--head-lr", "2e-3", "--min-lr", "0.5"]) == 0
        assert (
            "encoder 1.00e-03, head 2.00e-03; warm-up over 1 epoch, then a cosine to 5.00e-04"
            in capsys.readouterr().out
        )
        assert main(["train", *options, "--lr", "1e-3", "--head-lr", "1e-6", "--min-lr", "0.5"]) == 2
        expected = "--head-lr: got 1e-06, expected at least min_lr * lr, 5.00e-04, at which all rates end"
        assert expected in capsys.readouterr().err
        assert main(["train", *options, "--head-lr", "1e-4", "--min-lr", "1"]) == 2
        assert "expected at least min_lr * lr, 3.00e-04, at" in capsys.readouterr().err, "also below the default of lr"

    def test_one_epoch_of_warm_up_has_no_cosine(
        self, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = ["--data", str(archive), "--backbone", "nano", "--out", str(tmp_path / "x"), "--dry-run"]
        assert main(["train", *options, "--epochs", "1"]) == 0
        assert "; warm-up over 1 epoch, which is the whole run: it ends at the peak\n" in capsys.readouterr().out

    def test_the_plan_leaves_the_run_as_it_was(self, archive: Path, tmp_path: Path) -> None:
        from mien.training.finetune import prepared
        from mien.training.plan import plan_lines

        config = TrainConfig(data=str(archive), out=str(tmp_path / "x"), backbone="nano", batch_size=16, device="cpu")
        tuning = prepared(config, dry=True)
        import torch

        weights_before = {name: value.clone() for name, value in tuning.network.state_dict().items()}
        state = torch.get_rng_state()
        plan_lines(tuning)
        assert all(torch.equal(weights_before[name], value) for name, value in tuning.network.state_dict().items())
        assert torch.equal(state, torch.get_rng_state())

    def test_a_system_that_does_not_count_memory_has_a_plan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        from mien.training import plan

        monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
        monkeypatch.delitem(sys.modules, "mien.training.plan")
        importlib.import_module("mien.training.plan")
        assert list(plan._time_lines(90, "1 s a step", torch.device("cpu"))) == [
            "time: about 2 minutes on cpu (1 s a step)"
        ]
        assert next(iter(plan._time_lines(60, "1 s a step", torch.device("cpu")))).startswith("time: about 1 minute on")

    def test_activations_grow_with_the_network(self) -> None:
        import torch

        from mien.training.plan import activation_bytes

        network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        pixels = torch.zeros(2, 8)
        # Kept for the backward pass, in float32: the input, and the output of the ReLU.
        assert activation_bytes(network, lambda: network(pixels), "fp32") == 4 * (2 * 8 + 2 * 16)

    def test_nothing_of_the_measured_pass_is_left(self) -> None:
        import torch

        from mien.training.plan import activation_bytes

        network, results = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU()), []

        def forward() -> torch.Tensor:
            output: torch.Tensor = network(torch.zeros(2, 8))
            results.append(weakref.ref(output))
            return output

        activation_bytes(network, forward, "fp32")
        # A result that holds its own pass would stay, and with it the stream on which the pass began.
        assert results[0]() is None

    def test_pretraining_has_a_plan(
        self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        options = ["--data", str(archive), "--preset", "nano", "--epochs", "2", "--batch-size", "16", "--device", "cpu"]
        assert main(["pretrain", *options, "--dry-run"]) == 0
        output = capsys.readouterr().out
        assert "plan: 2 epochs, 4 steps of 16 an epoch; 70 images train, 75% of each hidden" in output
        assert "864,384 of 871,488 train, 64,960 of them in the decoder" in output and "time: about" in output
        assert list(tmp_path.iterdir()) == []


class TestBeforeTorch:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--backbone", "mini", "--freeze.blocks", "4"], "whose weights are random at the start"),
            (["--backbone", "mini", "--config", "baseline"], "whose weights are random at the start"),
            (["--backbone", "nano", "--freeze.blocks", "9", "--freeze.random-weights"], "expected at most 4"),
            (["--image-size", "50"], "expected a multiple of 6"),
            (["--backbone", "runs/none/model/x"], "no such folder"),
            (["--teacher", "nowhere"], "--teacher nowhere: no such folder"),
            (["--data", "nowhere.zip"], "--data nowhere.zip: there is no such file"),
        ],
    )
    def test_a_mistake_is_reported_before_torch_is_imported(
        self, arguments: list[str], message: str, archive: Path, tmp_path: Path
    ) -> None:
        arguments = ["train", "--data", str(archive), "--out", "run", *arguments]
        code = f"import sys, mien.cli; print(mien.cli.main({arguments!r}), 'torch' in sys.modules)"
        completed = run_python(code, tmp_path)
        assert completed.stdout == "2 False\n", completed.stdout + completed.stderr
        assert message in completed.stderr and completed.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []

    def test_pretraining_too(self, tmp_path: Path) -> None:
        (tmp_path / "d.zip").touch()
        arguments = ["pretrain", "--data", "d.zip", "--out", "o", "--image-size", "50", "--mask-ratio", "0.75"]
        code = f"import sys, mien.cli; print(mien.cli.main({arguments!r}), 'torch' in sys.modules)"
        completed = run_python(code, tmp_path)
        assert completed.stdout == "2 False\n" and "expected a multiple of 6, a patch of tiny" in completed.stderr

    def test_a_hub_that_is_out_of_reach_is_reported_within_seconds(self, archive: Path, tmp_path: Path) -> None:
        arguments = ["train", "--data", str(archive), "--out", "run", "--backbone", "nobody/no-such-vit-mae"]
        code = (
            "import sys, time, mien.cli; import huggingface_hub; started = time.monotonic()\n"
            f"print(mien.cli.main({arguments!r}), 'torch' in sys.modules, time.monotonic() - started < 5)"
        )
        environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache")}
        completed = run_python(code, tmp_path, environment=environment)
        assert completed.stdout == "2 False True\n", completed.stdout + completed.stderr
        assert "no connection to http://127.0.0.1:9" in completed.stderr and "run `hf download" in completed.stderr


class TestHub:
    def test_each_answer_of_the_hub_has_its_words(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        import threading
        from http.server import BaseHTTPRequestHandler, HTTPServer

        from mien.model.hub import ensure_at_hand

        class Hub(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                if "slow" in self.path:
                    time.sleep(4)
                self.send_response({"there": 200, "gone": 404, "secret": 401}.get(self.path.rpartition("/")[2], 500))
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        server = HTTPServer(("127.0.0.1", 0), Hub)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert ensure_at_hand("a/there", "--backbone") is False
        for name, message in (("gone", "no such model"), ("secret", "no such model"), ("odd", "answered 500")):
            with pytest.raises(MienError, match=message):
                ensure_at_hand(f"a/{name}", "--backbone")
        started = time.monotonic()
        with pytest.raises(MienError, match="no connection"):
            ensure_at_hand("a/slow", "--backbone")
        assert time.monotonic() - started < 3
        server.shutdown()

    def test_a_cached_model_needs_no_connection(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from mien.model.hub import ensure_at_hand, is_cached

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        snapshot = tmp_path / "models--a--b" / "snapshots" / "c0ffee"
        snapshot.mkdir(parents=True)
        (tmp_path / "models--a--b" / "refs").mkdir()
        (tmp_path / "models--a--b" / "refs" / "main").write_text("c0ffee")
        (snapshot / "config.json").write_text("{}")
        assert not is_cached("a/b")
        (snapshot / "model.safetensors").write_text("")
        assert is_cached("a/b") and ensure_at_hand("a/b", "--backbone")


class TestResume:
    @pytest.fixture
    def folder(
        self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Path:
        """A working folder with a finished run of two epochs in runs/nano, a name that nobody typed."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "drawn.zip").write_bytes(archive.read_bytes())
        options = [
            "--backbone",
            "nano",
            "--epochs",
            "2",
            "--batch-size",
            "16",
            "--warmup-epochs",
            "25%",
            "--device",
            "cpu",
        ]
        assert main(["train", "--data", "drawn.zip", *options]) == 0
        return tmp_path

    def test_a_run_goes_on_from_its_folder_alone(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = folder / "runs" / "nano"
        weights = (run / "model" / "model.safetensors").read_bytes()
        assert "the run goes to runs/nano" in capsys.readouterr().err
        assert main(["train", "--resume", "runs/nano"]) == 0
        assert main(["train", "--resume", "--out", "runs/nano"]) == 0
        assert (run / "model" / "model.safetensors").read_bytes() == weights
        saved = yaml.safe_load((run / "config.yaml").read_text())
        assert (saved["data"], saved["epochs"], saved["warmup_epochs"], saved["lr"]) == ("drawn.zip", 2, 0.5, None)
        config = read_settings(TrainConfig, ["--config", "runs/nano/config.yaml"])[0]
        assert (config.backbone, config.warmup_epochs) == ("nano", 0.5)
        capsys.readouterr()
        assert main(["train", "--resume", "runs/nano", "--epochs", "4"]) == 2
        stderr = capsys.readouterr().err
        assert "epochs: 2 -> 4" in stderr and "--backbone runs/nano" in stderr and stderr.count("\n") == 1
        assert main(["train", "--resume", "runs/nano", "--warmup-epochs", "25%", "--epochs", "2"]) == 0
        capsys.readouterr()
        assert main(["pretrain", "--resume", "runs/nano"]) == 2
        assert "is a run of `mien train`, not of `mien pretrain`" in capsys.readouterr().err
        (folder / "drawn.zip").unlink()
        assert main(["train", "--resume", "runs/nano"]) == 2
        stderr = capsys.readouterr().err
        assert (
            "drawn.zip, on which the run in runs/nano was trained, is gone" in stderr
            and "a value is missing" not in stderr
        )

    def test_what_is_no_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["train", "--resume", str(tmp_path)]) == 2
        stderr = capsys.readouterr().err
        assert "holds no run that can go on (state.safetensors is missing)" in stderr and stderr.count("\n") == 1
        (tmp_path / "state.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
        assert main(["train", "--resume", str(tmp_path)]) == 2
        assert "is damaged or no state of a run" in capsys.readouterr().err
        for command in ("train", "pretrain"):
            assert main([command, "--resume"]) == 2
            assert capsys.readouterr().err.endswith("no run is named, give its folder, like --resume runs/first\n")

    def test_a_run_that_saved_no_state_is_started_anew(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "config.yaml").write_text("epochs: 3\n")
        assert main(["train", "--resume", str(tmp_path)]) == 2
        advice = f"start it anew by `mien train --config {tmp_path / 'config.yaml'} --out {tmp_path}`"
        assert f"was stopped before it saved a state; {advice}" in capsys.readouterr().err

    def test_a_backbone_that_is_gone_is_no_model_of_the_hub(
        self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from mien.training.folder import Progress, save_state

        monkeypatch.chdir(tmp_path)
        out = Path("runs/first")
        out.mkdir(parents=True)
        config = TrainConfig(data=str(archive), out=str(out), backbone="runs/mae")
        save_state(out, config, "fingerprint", Progress(), {})
        assert main(["train", "--resume", "./runs/first"]) == 2
        stderr = capsys.readouterr().err
        assert "runs/mae, with which the run in ./runs/first began, is gone; put it back" in stderr
        assert main(["train", "--data", str(archive), "--backbone", "runs/mae", "--out", "runs/second"]) == 2
        assert "--backbone runs/mae: no such folder, and neither a preset" in capsys.readouterr().err


class TestFolds:
    @pytest.mark.parametrize(("command", "targets"), [("folds", []), ("train", ["--targets", "none.safetensors"])])
    def test_all_mistakes_are_named_before_torch_is_loaded(
        self, command: str, targets: list[str], tmp_path: Path
    ) -> None:
        arguments = [command, "--data", "none.zip", "--backbone", "nano", "--teacher", "none", *targets]
        code = f"import sys\nfrom mien.cli import main\ncode = main({arguments})\nprint(code, 'torch' in sys.modules)"
        completed = run_python(code, tmp_path)
        assert completed.stdout == "2 False\n", completed.stderr
        missing = ["--targets none.safetensors: no such"] if targets else []
        for option in ("--data none.zip: there is", "--teacher none: no such", *missing):
            assert option in completed.stderr
        assert completed.stderr.count("\n") == 1

    def test_answers_out_of_fold_cannot_teach_a_fold(self, tmp_path: Path) -> None:
        completed = run_python(
            "from mien.cli import main\nprint(main(['folds', '--data', 'none.zip', '--targets', 'a.safetensors']))",
            tmp_path,
        )
        assert completed.stdout == "2\n" and "--targets: got 'a.safetensors', expected none" in completed.stderr

    def test_they_go_on_without_resume(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["folds", "--resume", "runs/folds"]) == 2
        assert "`mien folds` goes on by itself; type the same command again" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["folds", "--help"])
        output = " ".join(capsys.readouterr().out.split())
        assert "--resume" not in output and "--seed SEED decides which training images are cut off" in output


class TestNames:
    def test_a_list_that_is_given_twice_loses_nothing_in_silence(self) -> None:
        with pytest.raises(MienError, match="--teacher: is given twice, give all its values behind one"):
            read_settings(TrainConfig, ["--data", "d", "--teacher", "a", "--teacher", "b"])
        assert read_settings(TrainConfig, ["--data", "d", "--teacher", "a", "b"])[0].teacher == ["a", "b"]

    def test_defaults_are_new_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

        def out(*arguments: str, schema: type = TrainConfig) -> str:
            return str(read_settings(schema, ["--data", "d", *arguments])[0].out)

        assert out() == "runs/tiny"
        Path("runs/tiny").mkdir(parents=True)
        assert out() == "runs/tiny-2"
        assert out("--config", "baseline") == "runs/baseline"
        assert out("--backbone", "runs/mae/model") == "runs/mae"
        assert out("--backbone", "facebook/vit-mae-base") == "runs/vit-mae-base"
        assert out(schema=PretrainConfig) == "runs/mae-tiny"
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(MienError, match="--out: is missing"):
            out()

    def test_explain_writes_beside_the_working_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from skimage import data

        monkeypatch.chdir(tmp_path)
        Image.fromarray(data.astronaut()[:256, 100:356]).save("photo.jpg")
        assert main(["explain", "photo.jpg"]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith("photo-explained.png: 1 face") and captured.err == ""
        bytes_before = Path("photo-explained.png").read_bytes()
        assert main(["explain", "photo.jpg"]) == 0
        assert Path("photo-explained-2.png").is_file() and Path("photo-explained.png").read_bytes() == bytes_before

    @pytest.mark.parametrize("options", [[], ["--timeout", "60"]])
    def test_explain_says_that_of_several_pictures_in_a_file_it_takes_the_first(
        self, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        pages = [Image.new("L", (48, 48), level) for level in (90, 180)]
        pages[0].save("a.gif", save_all=True, append_images=pages[1:])
        pages[0].save("b.gif")
        for name, count in (("a.gif", 1), ("b.gif", 0)):
            assert main(["explain", name, "--model", "nano", "--detector", "none", *options]) == 0
            sentence = f"mien: {name}: holds several pictures, of which only the first is explained\n"
            assert capsys.readouterr().err.count(sentence) == count

    def test_evaluate_names_the_report_and_takes_the_model_as_predict_does(
        self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        arguments = ["--data", str(archive), "--split", "test"]
        assert main(["evaluate", "--model", "nano", *arguments]) == 0
        output = capsys.readouterr().out
        assert "report: reports/nano/report.html" in output and "metrics.json" in output and "predictions.csv" in output
        assert main(["evaluate", "nano", *arguments, "--no-tta"]) == 0
        assert "report: reports/nano-2/report.html" in capsys.readouterr().out

    def test_the_card_of_a_shipped_model(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["card", "mini"]) == 0
        assert "Mien mini" in capsys.readouterr().out
        assert main(["card", "mini-int8"]) == 2
        assert "only its ONNX file" in capsys.readouterr().err


class TestInputs:
    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("https://example.org/a.jpg", "is an address, and Mien opens no connection; download it first"),
            ("rtsp://camera/1", "is a live stream, and Mien opens no connection; record a part of it first"),
            ("file:///tmp/a.jpg", "is an address, expected a path; give /tmp/a.jpg"),
            ("s3://bucket/a.jpg", "is an address, and Mien opens no connection"),
            ("data:image/png;base64,AAAA", "is a picture in an address, expected a file"),
            ("*.jpg", "no file has such a name; check the pattern"),
            ("98", "camera 98: cannot be opened"),
            ("/dev/video98", "camera 98: cannot be opened"),
        ],
    )
    def test_what_is_no_file_says_what_is_possible(
        self, argument: str, message: str, simple_engine: Mean, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["predict", argument]) == 3
        captured = capsys.readouterr()
        assert message in captured.out and captured.out.count("\n") == 1 and captured.err == ""

    def test_a_pattern_that_the_shell_left_alone(self, simple_engine: Mean, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("a.png", "b.png"):
            Path(name).write_bytes(encoded(picture([255])))
        assert main(["predict", "*.png", "--json"]) == 0
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [record["input"] for record in records] == ["a.png", "b.png"]

    @pytest.mark.parametrize("argument", ["-", "/dev/stdin"])
    def test_a_picture_from_standard_input(self, argument: str, tmp_path: Path) -> None:
        Image.fromarray(np.full((48, 48), 90, np.uint8)).save(tmp_path / "face.png")
        code = (
            f"import sys, mien.cli; sys.exit(mien.cli.main(['predict', {argument!r}, '--detector', 'none', '--json', "
            "'--annotate', 'marked']))"
        )
        with (tmp_path / "face.png").open("rb") as stream:
            completed = run_python(code, tmp_path, stdin=stream)
        record = json.loads(completed.stdout)
        assert (completed.returncode, record["input"], record["status"], len(record["faces"])) == (0, argument, "ok", 1)
        assert os.listdir(tmp_path / "marked") == ["stdin.png"]
        with (tmp_path / "face.png").open("rb") as stream:
            stream.read()
            completed = run_python(code, tmp_path, stdin=stream)
        assert completed.returncode == 3 and "standard input is empty" in json.loads(completed.stdout)["error"]

    def test_a_broken_picture_from_standard_input(self, tmp_path: Path) -> None:
        code = (
            "import sys, mien.cli; sys.exit(mien.cli.main(['predict', '-', '--detector', 'none', '--timeout', '60']))"
        )
        completed = run_python(code, tmp_path, input="no picture")
        assert completed.returncode == 3 and completed.stdout.startswith("error: -: is not a picture that can be read")
        code = "import sys, mien.cli; sys.exit(mien.cli.main(['explain', '-', '--detector', 'none']))"
        completed = run_python(code, tmp_path, input="no picture")
        assert completed.returncode == 2 and "error: -: is not a picture that can be read" in completed.stderr

    def test_heic_is_read_with_the_extra_and_named_without_it(
        self, simple_engine: Mean, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pillow_heif = pytest.importorskip("pillow_heif")
        pixels = np.dstack([picture([255])] * 3)
        pillow_heif.from_pillow(Image.fromarray(pixels)).save("photo.heic", quality=-1)
        assert main(["predict", "photo.heic", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert (record["status"], record["width"], record["height"]) == ("ok", pixels.shape[1], pixels.shape[0])
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        assert main(["predict", "photo.heic"]) == 3
        assert "is a HEIC picture, as iPhones take them; pip install 'mien[heif]'" in capsys.readouterr().out

    def test_jpeg_2000_is_named(self, simple_engine: Mean, capsys: pytest.CaptureFixture[str]) -> None:
        Image.fromarray(picture([255])).save("a.jp2")
        Path("b.dat").write_bytes(Path("a.jp2").read_bytes())
        assert main(["predict", "a.jp2", "b.dat"]) == 3
        assert capsys.readouterr().out.count("is a JPEG 2000 picture, which Mien does not read") == 2


class TestRemarks:
    def test_an_error_is_told_once(self, simple_engine: Mean, capsys: pytest.CaptureFixture[str]) -> None:
        Path("a.png").write_bytes(b"no picture")
        assert main(["predict", "a.png"]) == 3
        captured = capsys.readouterr()
        assert captured.out.count("is not a picture") == 1 and captured.err == ""
        Path("b.png").write_bytes(encoded(picture([255])))
        assert main(["predict", "a.png", "b.png"]) == 3
        captured = capsys.readouterr()
        assert captured.out.count("is not a picture") == 1 and captured.err == "mien: 1 of 2 could not be read\n"

    def test_crops_without_a_face_hint_at_the_detector(
        self, simple_engine: Mean, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hint = "if the pictures are face crops already, add --detector none"
        Image.fromarray(np.zeros((48, 48), np.uint8)).save("crop.png")
        Image.fromarray(np.zeros((300, 500), np.uint8)).save("landscape.png")
        assert main(["predict", "crop.png"]) == 0
        assert hint in capsys.readouterr().err
        assert main(["predict", "landscape.png"]) == 0
        assert hint not in capsys.readouterr().err
        Path("face.png").write_bytes(encoded(picture([255])))
        assert main(["predict", "crop.png", "face.png"]) == 0
        assert hint not in capsys.readouterr().err

    def test_written_files_are_listed_and_a_second_run_says_what_doubles(
        self, simple_engine: Mean, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("a.png").write_bytes(encoded(picture([255])))
        assert main(["predict", "a.png", "--annotate", "marked", "--csv", "a.csv"]) == 0
        captured = capsys.readouterr()
        assert captured.out == "a.csv: 1 record, 1 face\nmarked: 1 annotated copy\n" and captured.err == ""
        assert main(["predict", "a.png", "--annotate", "marked", "--json"]) == 0
        err = capsys.readouterr().err
        assert "mien: marked: 1 annotated copy\n" in err
        assert "1 name was taken by earlier copies, so that beside a.png there is now a-2.png; remove" in err
        Path("a-3.png").write_bytes(Path("a.png").read_bytes())
        assert main(["predict", "a-3.png", "--annotate", "marked", "--json"]) == 0
        assert capsys.readouterr().err == "mien: marked: 1 annotated copy\n", "it has its own name"
        Image.open("a.png").save("b.gif")
        assert main(["predict", "b.gif", "b.gif", "--annotate", "other", "--json"]) == 0
        assert "taken by earlier copies" not in capsys.readouterr().err
        assert main(["predict", "b.gif", "--annotate", "other", "--json"]) == 0
        assert "1 name was taken by earlier copies, so that beside b.gif.png there is" in capsys.readouterr().err

    def test_uncertain_is_explained_once(self, simple_engine: Mean, capsys: pytest.CaptureFixture[str]) -> None:
        Path("a.png").write_bytes(encoded(picture([204, 204])))
        assert main(["predict", "a.png", "a.png"]) == 0
        captured = capsys.readouterr()
        assert captured.out.count("uncertain") == 4 and captured.err.count("uncertain: 4 of 4 faces") == 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a class folder of faces, the model ``good``, and copies of it that lack or damage a file."""
    import shutil

    from mien.labels import FER2013
    from mien.model.classifier import Classifier
    from mien.model.vit import build

    place = tmp_path_factory.mktemp("models")
    network, preprocessing = build("nano", FER2013, grey=True)
    Classifier(network, preprocessing, FER2013).save(place / "good", {"names": list(FER2013)})
    for name, file, content in (
        ("weights", "model.safetensors", "cut"),
        ("record", "meta.json", "[]"),
        ("size", "preprocessor_config.json", "{}"),
    ):
        shutil.copytree(place / "good", place / name)
        (place / name / file).write_text(content)
    (place / "faces" / "happy").mkdir(parents=True)
    (place / "text.safetensors").write_text("hello, hello")
    return place


class TestBeforeTheData:
    """What is wrong whatever the data is, is told before the data is read, which may take minutes."""

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("pack good --reading-crop 0.7", "--reading-crop: needs --calibrate"),
            ("pack good --reading-crop nan --calibrate", "--reading-crop: got nan, expected 0.5 to 1"),
            ("pack good", "its meta.json does not say what it was trained on"),
            ("pack weights", "weights: the weights cannot be read"),
            ("export weights", "weights: the weights cannot be read"),
            ("export size", "preprocessor_config.json: "),
            ("evaluate weights --split test", "weights: the weights cannot be read"),
            ("evaluate record --split test", "record/meta.json: expected a JSON object"),
            ("evaluate good --split test --train-data none.zip", "none.zip: there is no such file"),
            ("train --backbone nano --out faces/first", "--out faces/first: lies in faces"),
            ("pretrain --preset nano --out faces/first", "--out faces/first: lies in faces"),
            ("train --backbone weights", "weights: the weights cannot be read"),
            ("train --backbone record --freeze.blocks 0", "record/meta.json: expected a JSON object"),
            ("train --backbone good --freeze.blocks 0 --image-size 50", "image_size: got 50"),
            ('train --backbone timm:resnet18 --network-args {"foo":1}', "unexpected keyword argument 'foo'"),
            ("train --backbone nano --teacher weights", "weights: the weights cannot be read"),
            ("train --backbone nano --teacher good --distill.features 1", "every --teacher is a ViT"),
            ("train --backbone nano --start-share 0.5", "start_share: got 0.5, but nano is no trained classifier"),
            ("train --backbone nano --targets text.safetensors --distill.targets-weight 1", "no file of `mien folds`"),
            ("folds --backbone nano --device cuda:99", "device: got cuda:99"),
            ("folds --backbone timm:nosuch", "has no such network"),
            ("folds --backbone nano --teacher weights", "weights: the weights cannot be read"),
        ],
    )
    def test_it_is_told(
        self,
        models: Path,
        command: str,
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(models)
        monkeypatch.setattr("mien.data.cache.cached", lambda *_: pytest.fail("read the data"))
        words = command.split()
        out = [] if "--out" in words else ["--out", "new"]
        assert main([*words, "--data", "faces", *out]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
        assert not Path("new").exists() and not Path("faces/first").exists()
