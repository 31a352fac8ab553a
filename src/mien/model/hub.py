"""Models of the Hugging Face hub: asks for one with an answer within seconds, and reads or downloads it.

transformers tries a hub that does not answer again and again, for half a minute and longer. Nothing here loads torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mien.connection import within
from mien.errors import MienError, one_line
from mien.files import expanded

TIMEOUT_S = 2.5
"""Seconds within which the hub must answer; a longer wait is reported as a missing connection."""

NOT_FOR_YOU: tuple[int, ...] = (401, 403, 404)
"""Answers of the hub for a model that it does not have, or does not show to this user."""

CHECKPOINT: tuple[str, ...] = ("config.json", "model.safetensors")
"""The files of a hub model that must lie in the cache for it to be used without a connection."""

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


def is_cached(model: str, files: Sequence[str] = CHECKPOINT) -> bool:
    """True if these files of a hub model lie in the cache of huggingface_hub (``HF_HUB_CACHE``).

    Args:
        model: its id, like ``facebook/vit-mae-base``.
        files: names of the files.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cache = constants.HF_HUB_CACHE
        return all(isinstance(try_to_load_from_cache(model, name, cache_dir=cache), str) for name in files)
    except HFValidationError:
        return False


def ensure_at_hand(model: str, option: str, files: Sequence[str] = CHECKPOINT, remedy: str = "") -> bool:
    """Checks within ``TIMEOUT_S`` seconds that a hub model can be had.

    Args:
        model: its id, like ``facebook/vit-mae-base``.
        option: how the user named it, for messages, like ``--backbone``.
        files: the files that are needed.
        remedy: what to do without a connection; by default, to copy a checkpoint into a folder.

    Returns:
        True if the files are cached, so that no connection is needed; False if they have to be downloaded.

    Raises:
        MienError: it is not cached, and there is no connection, no such model, or none that this user may read.
    """
    if is_cached(model, files):
        return True
    problem = _problem(model)
    if problem is None:
        return False
    remedy = remedy or (
        "on a machine with a connection, download config.json, preprocessor_config.json and model.safetensors of "
        f"{model} into a folder, copy it here, and give that folder as {option}"
    )
    raise MienError(f"{option} {model}: {problem}; {remedy}")


def _problem(model: str) -> str | None:
    """Asks the hub; returns in words why a model cannot be had, None if it is there."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "is not in the cache, and HF_HUB_OFFLINE forbids a connection"
    answer = ask(model, TIMEOUT_S)
    if isinstance(answer, Exception):
        return f"no connection to {constants.ENDPOINT} ({reason(answer)})"
    if answer in NOT_FOR_YOU:
        return "no such model on the Hugging Face hub, or one that only its owners may read (HF_TOKEN)"
    return f"{constants.ENDPOINT} answered {answer}" if answer >= 400 else None


def ask(model: str, seconds: float) -> int | Exception:
    """Asks the hub once whether it has a model, without a second try.

    Args:
        model: its id, like ``facebook/vit-mae-base``.
        seconds: longest wait for the answer.

    Returns:
        The status of HTTP, or what went wrong with the connection.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    def head() -> int:
        address = f"{constants.ENDPOINT}/api/models/{model}"
        return int(get_session().head(address, headers=build_hf_headers(), timeout=seconds).status_code)

    answer = within(seconds + 0.2, head)  # a little longer than the HTTP client, which says more about what went wrong
    return TimeoutError(f"no answer in {seconds:g} s") if answer is None else answer


def reason(error: Exception) -> str:
    """Returns what went wrong, in one line."""
    return one_line(str(error))[:200] or type(error).__name__


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
