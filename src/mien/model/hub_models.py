"""Finds models of the Hugging Face hub in the hub's cache, or downloads them into it."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from mien.errors import MienError
from mien.files import expanded
from mien.model.hub import NOT_FOR_YOU, ask, reason

FILES: tuple[str, ...] = (
    "config.json",
    "preprocessor_config.json",
    "meta.json",
    "model.safetensors",
    "model.onnx",
    "model.int8.onnx",
)
"""The only files that are downloaded: weights as safetensors or ONNX, never pickles or code."""

PATIENCE_S = 2.0
"""Longest wait in seconds for the hub's first answer, so that a machine without a connection gets an error soon."""

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def is_hub_id(name: str | os.PathLike[str]) -> bool:
    """True if a name that is no path here may be a model of the hub, such as ``user/model``.

    ``runs/first`` is a mistyped path if there is a folder ``runs``: the hub is not asked then.
    """
    return (
        isinstance(name, str)
        and _HUB_ID.fullmatch(name) is not None
        and not name.lower().endswith((".onnx", ".safetensors"))
        and not os.path.lexists(expanded(name))
        and not os.path.lexists(name.partition("/")[0])
    )


def hub_folder(name: str) -> Path:
    """Returns the folder of a model of the hub: from the cache without a connection, or downloaded once.

    A model that is in the cache is not looked up again; ``hf download user/model`` brings a newer version.

    Args:
        name: ``user/model``.

    Raises:
        MienError: huggingface_hub is not installed, there is no such model, or the hub cannot be reached.
    """
    if find_spec("huggingface_hub") is None:
        raise MienError(
            f"{name}: no such folder; if it is a model of the Hugging Face hub, pip install 'mien[hub]' brings "
            "huggingface_hub, which reads it"
        )
    from huggingface_hub import snapshot_download

    cached = _in_cache(name)
    if cached is not None:
        return cached
    _ask_hub(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), etag_timeout=PATIENCE_S))
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds
        raise MienError(
            f"{name}: the download from the Hugging Face hub broke off ({reason(error)}); try again"
        ) from error


def _in_cache(name: str) -> Path | None:
    """Returns the folder of a model in the hub's cache; None if it is not there, or not whole."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
    except (OSError, ValueError):
        return None
    has_weights = any((folder / file).is_file() for file in FILES if not file.endswith(".json"))
    return folder if has_weights else None


def _ask_hub(name: str) -> None:
    """Asks the hub once whether it has a model, with a short wait and no second try.

    Raises:
        MienError: it does not, or it cannot be reached.
    """
    from huggingface_hub import is_offline_mode

    elsewhere = (
        f"on a machine with a connection, run `hf download {name}` and copy the hub's cache (HF_HOME) here, or give a "
        "folder"
    )
    if is_offline_mode():
        raise MienError(f"{name}: no such folder, and not in the hub's cache, and HF_HUB_OFFLINE is set; {elsewhere}")
    answer = ask(name, PATIENCE_S)
    if isinstance(answer, Exception):
        raise MienError(
            f"{name}: no such folder, and not in the hub's cache, and the Hugging Face hub cannot be reached "
            f"({reason(answer)}); {elsewhere}"
        ) from answer
    if answer in NOT_FOR_YOU:
        raise MienError(
            f"{name}: no such folder, and the Hugging Face hub has no such model, or not for you; check the name, or "
            "log in with `hf auth login`"
        )
    if answer >= 400:
        raise MienError(f"{name}: the Hugging Face hub answers with an error ({answer}); try again later")
