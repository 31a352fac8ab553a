"""Uploading a packed folder: what is refused before any work, what the Hub gets, and a token that is never shown."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants

from mien import connection
from mien.cli import main
from mien.errors import MienError
from mien.export import push as push_module
from mien.export.pack import FILES
from mien.export.push import check_push, push

TOKEN = "hf_secret"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a token, and no proxies."""
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(connection, "getproxies", dict)


class Hub:
    """Stands for ``HfApi``: remembers what it was asked, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.error, self.calls = error, list[dict[str, Any]]()
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: self)

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append({"repo_id": repo_id, **options})

    def upload_folder(self, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(options)


def test_the_folder_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch)
    address = push(tmp_path, "user/model", token=TOKEN, private=True)
    assert address == f"{constants.ENDPOINT}/user/model"
    create_call, upload_call = hub.calls
    assert create_call == {"repo_id": "user/model", "private": True, "exist_ok": True, "repo_type": "model"}
    assert (upload_call["repo_id"], upload_call["folder_path"]) == ("user/model", str(tmp_path))


def test_an_upload_replaces_the_package_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the client of the Hub itself, whose connection alone is replaced."""
    monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False)  # it has a connection of its own
    client, commits = huggingface_hub.HfApi(token=TOKEN), list[dict[str, Any]]()
    for request in ("create_repo", "_validate_yaml"):
        monkeypatch.setattr(client, request, lambda *arguments, **options: None)
    monkeypatch.setattr(client, "create_commit", lambda **options: commits.append(options))
    former_files = [*FILES, "notes.md", "figures/README.md", ".gitattributes"]
    monkeypatch.setattr(client, "list_repo_files", lambda **options: former_files)
    packed_files = FILES - {"model.int8.onnx", "fingerprints.safetensors"}
    for name in packed_files:
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: client)
    push(tmp_path, "user/model", token=TOKEN)
    (commit,) = commits
    operations = {type(step): set[str]() for step in commit["operations"]}
    for step in commit["operations"]:
        operations[type(step)].add(step.path_in_repo)
    assert operations == {
        CommitOperationAdd: packed_files,
        CommitOperationDelete: {"model.int8.onnx", "fingerprints.safetensors"},
    }


def test_what_to_type_after_a_failed_upload_deletes_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(monkeypatch, RuntimeError("503"))
    for name in FILES - {"model.int8.onnx", "fingerprints.safetensors"}:
        (tmp_path / name).touch()
    with pytest.raises(MienError) as error:
        push(tmp_path, "user/model", token=TOKEN)
    command = f"`hf upload user/model {tmp_path} . --delete fingerprints.safetensors --delete model.int8.onnx`"
    assert command in str(error.value)


def test_what_to_type_keeps_a_private_model_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, RuntimeError("503"))
    folder = tmp_path / "my model"
    folder.mkdir()
    with pytest.raises(MienError, match=rf"`hf upload user/model '{folder}' \. --private --delete"):
        push(folder, "user/model", token=TOKEN, private=True)


def test_a_refusal_is_one_line_without_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, RuntimeError(f"403 Forbidden\nAuthorization: Bearer {TOKEN}"))
    with pytest.raises(MienError) as error:
        push(tmp_path, "user/model", token=TOKEN)
    message = str(error.value)
    assert TOKEN not in message and "\n" not in message and error.value.__cause__ is None
    assert "403 Forbidden" in message and f"hf upload user/model {tmp_path}" in message


@pytest.mark.parametrize("name", ["model", "a/b/c", "user/mo del", "../x", "user/", ""])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(MienError, match="expected the name of a repository on the Hub, like user/model"):
        check_push(name)


def test_without_a_token_or_offline_by_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(MienError, match=r"no token of the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN"):
        check_push("user/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MienError, match="HF_HUB_OFFLINE is set"):
        check_push("user/model")


def test_a_hub_that_is_silent_is_told_within_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over, has_ended = threading.Event(), threading.Event()

    def silent(*address: object, **options: object) -> None:
        is_over.wait(30)
        has_ended.set()
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    start = time.monotonic()
    with pytest.raises(MienError, match=r"does not answer within 2.4 seconds; connect to the network, or leave --push"):
        check_push("user/model")
    assert time.monotonic() - start < 3 and not has_ended.is_set()
    is_over.set()
    assert has_ended.wait(5)


def test_a_hub_that_answers_and_one_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert check_push("user/model") == TOKEN
        monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
        monkeypatch.setattr(connection, "getproxies", lambda: {"https": address})
        assert check_push("user/model") == TOKEN


def test_nothing_is_packed_if_it_cannot_be_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(push_module, "answers", lambda endpoint: False)
    out = tmp_path / "packed"
    arguments = ["pack", str(tmp_path), "--data", "no.zip", "--out", str(out), "--push", "user/model"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "does not answer" in error and error.count("\n") == 1 and TOKEN not in error and not out.exists()
    assert main([*arguments[:-2], "--private"]) == 2
    assert "--private: is for --push USER/MODEL, which is missing" in capsys.readouterr().err
