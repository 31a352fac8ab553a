"""Models of the Hugging Face hub: asks for one with an answer within seconds, and reads or downloads it.

transformers tries a hub that does not answer again and again, for half a minute and longer. Nothing here loads torch.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from mien.connection import PATIENCE_S, within
from mien.errors import MienError, one_line
from mien.files import expanded
from mien.log import warn

NOT_FOR_YOU: tuple[int, ...] = (401, 403, 404)
"""Answers of the hub for a model that it does not have, or does not show to this user."""

CHECKPOINT: tuple[str, ...] = ("config.json", "model.safetensors")
"""The files of a backbone that must lie in the cache for it to be used without a connection."""

RECORD = "meta.json"
"""The file with the calibration, which is downloaded last: a cached model that holds it is whole."""

FILES: tuple[str, ...] = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.onnx",
    "model.int8.onnx",
    RECORD,
)
"""The only files that are downloaded: weights as safetensors or ONNX, never pickles or code."""

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

    A model that is whole in the cache is not looked up again; ``hf download user/model`` brings a newer version. Other
    programs, such as transformers, cache only the files that they read, and a download may break off: what is missing
    then is downloaded. If the hub cannot be reached, the model is taken as it is, with a warning.

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
    from huggingface_hub import constants, try_to_load_from_cache

    cached = _in_cache(name)
    # It is not None either if the cache notes that the hub has no such file, as of models that others made.
    if cached is not None and try_to_load_from_cache(name, RECORD, cache_dir=constants.HF_HUB_CACHE) is not None:
        return cached
    try:
        _check_on_hub(name, name)
        return _download(name)
    except MienError:
        if cached is None:
            raise
        warn(
            f"{name}: the hub's cache holds only a part of it (no {RECORD}), and the rest could not be downloaded now, "
            f"so that no answer may be marked as uncertain; `hf download {name}` brings the rest"
        )
        return cached


def _download(name: str) -> Path:
    """Downloads the files of a model that are not in the cache, ``RECORD`` last; returns its folder.

    Raises:
        MienError: the download broke off.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        files = [file for file in FILES if file != RECORD]
        folder = Path(snapshot_download(name, allow_patterns=files, etag_timeout=PATIENCE_S))
        with suppress(RemoteEntryNotFoundError):  # the client notes that in the cache
            hf_hub_download(name, RECORD, revision=folder.name, etag_timeout=PATIENCE_S)
    except Exception as error:  # huggingface_hub and its HTTP client raise many kinds
        raise MienError(
            f"{name}: the download from the Hugging Face hub broke off ({_reason(error)}); try again"
        ) from error
    return folder


def ensure_at_hand(name: str, option: str) -> bool:
    """Checks within ``PATIENCE_S`` seconds that a backbone of the hub can be had.

    Args:
        name: its id, like ``facebook/vit-mae-base``.
        option: how the user named it, for messages, like ``--backbone``.

    Returns:
        True if it is cached, so that no connection is needed; False if it has to be downloaded.

    Raises:
        MienError: it is not cached, and there is no connection, no such model, or none that this user may read.
    """
    if is_cached(name):
        return True
    _check_on_hub(name, f"{option} {name}")
    return False


def is_cached(name: str) -> bool:
    """True if the ``CHECKPOINT`` of a backbone lies in the cache of huggingface_hub (``HF_HUB_CACHE``)."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cache = constants.HF_HUB_CACHE
        return all(isinstance(try_to_load_from_cache(name, file, cache_dir=cache), str) for file in CHECKPOINT)
    except HFValidationError:
        return False


def _in_cache(name: str) -> Path | None:
    """Returns the folder of a model in the hub's cache; None if it is not there, or has no weights."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
    except (OSError, ValueError):
        return None
    has_weights = any((folder / file).is_file() for file in FILES if not file.endswith(".json"))
    return folder if has_weights else None


def _check_on_hub(name: str, where: str) -> None:
    """Asks the hub once whether it has a model that is not cached, with a short wait and no second try.

    Args:
        name: ``user/model``.
        where: the beginning of messages.

    Raises:
        MienError: it has not, or it cannot be reached.
    """
    from huggingface_hub import constants

    elsewhere = (
        f"on a machine with a connection, run `hf download {name}` and copy the hub's cache (HF_HOME) here, or give a "
        "folder"
    )
    if constants.HF_HUB_OFFLINE:
        raise MienError(
            f"{where}: no such folder, and not in the hub's cache, and HF_HUB_OFFLINE forbids a connection; {elsewhere}"
        )
    answer = _ask(name)
    if isinstance(answer, Exception):
        raise MienError(
            f"{where}: no such folder, and not in the hub's cache, and no connection to {constants.ENDPOINT} "
            f"({_reason(answer)}); {elsewhere}"
        ) from answer
    if answer in NOT_FOR_YOU:
        raise MienError(
            f"{where}: no such folder, and no such model on the Hugging Face hub, or one that only its owners may "
            "read; check the name, or log in with `hf auth login`"
        )
    if answer >= 400:
        raise MienError(f"{where}: no such folder, and {constants.ENDPOINT} answered {answer}; try again later")


def _ask(name: str) -> int | Exception:
    """Asks the hub for a model; returns the status of HTTP, or what went wrong with the connection."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    def head() -> int:
        address = f"{constants.ENDPOINT}/api/models/{name}"
        return int(get_session().head(address, headers=build_hf_headers(), timeout=PATIENCE_S).status_code)

    answer = within(PATIENCE_S + 0.2, head)  # a little longer than the HTTP client, which says what went wrong
    return TimeoutError(f"no answer in {PATIENCE_S:g} s") if answer is None else answer


def _reason(error: Exception) -> str:
    return one_line(str(error))[:200] or type(error).__name__
