"""Asks the Hugging Face hub for a model, with an answer within seconds: cached, there, unknown, or no connection.

transformers tries a hub that does not answer again and again, for half a minute and longer. Nothing here loads torch.
"""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Sequence

from mien.errors import MienError

TIMEOUT_S = 2.5
"""Seconds within which the hub must answer; a longer wait is reported as a missing connection."""

CHECKPOINT: tuple[str, ...] = ("config.json", "model.safetensors")
"""The files of a hub model that must lie in the cache for it to be used without a connection."""


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
    answers: list[str | None] = []
    address = f"{constants.ENDPOINT}/api/models/{model}"
    # In a thread of its own, since looking up a name has no time limit.
    asking = threading.Thread(target=lambda: answers.append(_asked(address)), daemon=True)
    asking.start()
    asking.join(TIMEOUT_S)
    return answers[0] if answers else f"no connection: {constants.ENDPOINT} gave no answer within {TIMEOUT_S:g} s"


def _asked(address: str) -> str | None:
    from huggingface_hub import constants, get_token

    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(address, headers=headers, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            return "no such model on the Hugging Face hub, or one that only its owners may read (HF_TOKEN)"
        return f"{constants.ENDPOINT} answered {error.code} ({error.reason})"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"no connection to {constants.ENDPOINT} ({reason})"
