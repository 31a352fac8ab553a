"""Models of the hub: from its cache without a connection, a clear line soon where there is neither."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mien.cli import main
from mien.errors import MienError
from mien.model import hub
from mien.model.hub import FILES, PATIENCE_S, hub_folder, is_hub_id
from mien.model.places import SHIPPED, find
from mien.recognition.recognizer import Recognizer

huggingface_hub = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and an address at which nobody answers."""
    folder = tmp_path / "hub"
    for name, value in (("HF_HUB_CACHE", str(folder)), ("ENDPOINT", "http://127.0.0.1:9")):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.chdir(tmp_path)
    return folder


def put(cache: Path, name: str, files: dict[str, bytes]) -> Path:
    """Puts a model into a cache as the hub's client does: blobs, and a snapshot of links to them."""
    model = cache / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / COMMIT
    for folder in (model / "blobs", model / "refs", snapshot):
        folder.mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    for index, (file, data) in enumerate(files.items()):
        (model / "blobs" / f"{index:040x}").write_bytes(data)
        (snapshot / file).symlink_to(model / "blobs" / f"{index:040x}")
    return snapshot


def test_a_model_of_the_cache_is_read_without_a_connection(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_ask", lambda name: pytest.fail("asked the hub"))
    files = {file.name: file.read_bytes() for file in (SHIPPED / "nano").iterdir() if file.name in FILES}
    snapshot = put(cache, "somebody/nano", {**files, "pytorch_model.bin": b"a pickle", "model.py": b"code"})
    assert find("somebody/nano").onnx == snapshot / "model.onnx"
    recognizer = Recognizer("somebody/nano")
    assert repr(recognizer).startswith("Recognizer('somebody/nano', engine='onnx'")
    assert recognizer.names == Recognizer("nano").names


def test_an_autoencoder_of_the_hub_keeps_its_normalisation(cache: Path) -> None:
    vit = pytest.importorskip("mien.model.vit")
    config = vit.ViTMAEConfig(image_size=16)
    record = {"size": 16, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    put(cache, "somebody/mae", {"preprocessor_config.json": json.dumps(record).encode()})
    preprocessing = vit._mae_preprocessing("somebody/mae", config)
    assert (preprocessing.mean, preprocessing.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    put(cache, "facebook/mae", {"config.json": b"{}"})
    note = cache / "models--facebook--mae" / ".no_exist" / COMMIT / "preprocessor_config.json"
    note.parent.mkdir(parents=True)
    note.touch()  # so the client notes that the hub has no such file
    assert vit._mae_preprocessing("facebook/mae", config).mean == vit.IMAGENET_MEAN


def test_a_normalisation_that_the_cache_lacks_is_downloaded_or_warned_of(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vit = pytest.importorskip("mien.model.vit")
    config = vit.ViTMAEConfig(image_size=16)
    snapshot = put(cache, "somebody/mae", {"config.json": b"{}", "model.safetensors": b""})

    def unreachable(name: str, file: str) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(vit, "hf_hub_download", unreachable)
    assert vit._mae_preprocessing("somebody/mae", config).mean == vit.IMAGENET_MEAN
    assert "its preprocessor_config.json is not in the hub's cache, and the hub cannot be" in capsys.readouterr().err

    def download(name: str, file: str) -> str:
        record = {"size": 16, "image_mean": [0.1] * 3, "image_std": [0.4] * 3}
        (snapshot / file).write_text(json.dumps(record))
        return str(snapshot / file)

    monkeypatch.setattr(vit, "hf_hub_download", download)
    assert vit._mae_preprocessing("somebody/mae", config).mean == (0.1, 0.1, 0.1)


def test_the_command_line_reads_a_model_of_the_hub(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(
        cache, "somebody/nano", {file: (SHIPPED / "nano" / file).read_bytes() for file in ("model.onnx", "config.json")}
    )
    Image.new("L", (48, 48), 128).save("face.png")
    for model in ("somebody/nano", "nano"):
        assert main(["predict", "face.png", "--detector", "none", "--model", model, "--json"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert main(["predict", "face.png", "--model", "somebody/no-such-model"]) == 2
    assert "somebody/no-such-model: no such folder, and not in the hub's cache" in capsys.readouterr().err


def test_without_connection_and_cache_there_is_a_clear_line_within_three_seconds() -> None:
    started = time.monotonic()
    with pytest.raises(MienError) as error:
        Recognizer("somebody/no-such-model")
    assert time.monotonic() - started < 3
    text = str(error.value)
    problem = "no such folder, and not in the hub's cache, and no connection to http://127.0.0.1:9 ("
    assert text.startswith(f"somebody/no-such-model: {problem}")
    assert "run `hf download somebody/no-such-model` and copy the hub's cache" in text


def test_a_hub_that_hangs_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PATIENCE_S", 0.1)
    slow_session = SimpleNamespace(head=lambda *args, **options: time.sleep(5))
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: slow_session)
    started = time.monotonic()
    with pytest.raises(MienError, match=r"no connection to http://127.0.0.1:9 \(no answer in 0\.1 s\)"):
        hub_folder("somebody/model")
    assert time.monotonic() - started < 3 and PATIENCE_S + 0.5 < 3


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "no such model .* check the name"), (401, "only its owners may read"), (503, "9 answered 503; try again")],
)
def test_an_answer_of_the_hub_is_told_from_no_answer(
    status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = SimpleNamespace(head=lambda *args, **options: SimpleNamespace(status_code=status))
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: session)
    with pytest.raises(MienError, match=message):
        hub_folder("somebody/model")


def test_only_weights_and_settings_are_downloaded_and_the_record_last(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[list[str]] = []

    def download(name: str, **options: Any) -> str:
        if options.get("local_files_only"):
            raise FileNotFoundError(name)
        calls.append(options["allow_patterns"])
        return str(tmp_path)

    monkeypatch.setattr(hub, "_ask", lambda name: 200)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file, **options: calls.append([file]))
    assert hub_folder("somebody/model") == tmp_path
    assert calls == [list(FILES[:-1]), ["meta.json"]] and FILES[-1] == "meta.json"
    assert {Path(file).suffix for file in FILES} == {".json", ".safetensors", ".onnx"}


def test_what_another_program_has_cached_of_a_model_is_completed(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = {file.name: file.read_bytes() for file in (SHIPPED / "nano").iterdir() if file.name in FILES}
    record = files.pop("meta.json")
    snapshot = put(cache, "somebody/nano", files)  # as transformers.pipeline leaves it, which reads no meta.json
    assert hub_folder("somebody/nano") == snapshot  # no connection: as it is
    assert caplog.messages == [
        "somebody/nano: the hub's cache holds only a part of it (no meta.json), and the rest could not be downloaded "
        "now, so that no answer may be marked as uncertain; `hf download somebody/nano` brings the rest"
    ]
    from_cache = huggingface_hub.snapshot_download
    monkeypatch.setattr(hub, "_ask", lambda name: 200)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: from_cache(name, local_files_only=True)
    )
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda name, file, **options: (snapshot / file).write_bytes(record)
    )
    assert hub_folder("somebody/nano") == snapshot and (snapshot / "meta.json").is_file()
    monkeypatch.setattr(hub, "_ask", lambda name: pytest.fail("asked the hub"))
    assert hub_folder("somebody/nano") == snapshot and len(caplog.messages) == 1


def test_a_model_without_a_record_on_the_hub_is_not_looked_up_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hub, "_ask", lambda name: pytest.fail("asked the hub"))
    snapshot = put(cache, "somebody/vit", {"config.json": b"{}", "model.safetensors": b"weights"})
    absent = cache / "models--somebody--vit" / ".no_exist" / COMMIT / "meta.json"  # as the client notes it
    absent.parent.mkdir(parents=True)
    absent.touch()
    assert hub_folder("somebody/vit") == snapshot and not caplog.messages


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.utils.get_session", lambda: pytest.fail("asked the hub"))
    with pytest.raises(MienError, match="HF_HUB_OFFLINE forbids a connection"):
        hub_folder("somebody/model")


def test_a_cached_model_that_is_not_whole_is_not_taken(cache: Path) -> None:
    put(cache, "somebody/half", {"config.json": b"{}"})
    with pytest.raises(MienError, match="not in the hub's cache"):
        hub_folder("somebody/half")


def test_paths_are_no_names_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert is_hub_id("somebody/model-1.0")
    for name in ("runs/frist", "mini", "a/b/c", "./model", "/a/b", "~/b", "a/model.onnx", "a/b c", "../b"):
        assert not is_hub_id(name), name
    with pytest.raises(MienError, match="runs/frist: no such folder, and no model of this installation"):
        find("runs/frist")


def test_without_the_client_a_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(MienError, match=r"somebody/model: no such folder; if .* pip install 'mien\[hub\]' brings"):
        find("somebody/model")
