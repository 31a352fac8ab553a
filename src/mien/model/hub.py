"""Asks the Hugging Face hub for a model, with an answer within seconds: cached, there, unknown, or no connection.

transformers tries a hub that does not answer again and again, for half a minute and longer. Nothing here loads torch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mien.errors import MienError, one_line

TIMEOUT_S = 2.5
"""Seconds within which the hub must answer; a longer wait is reported as a missing connection."""

NOT_FOR_YOU: tuple[int, ...] = (401, 403, 404)
"""Answers of the hub for a model that it does not have, or does not show to this user."""

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

    answers: list[int | Exception] = []

    def head() -> None:
        try:
            address = f"{constants.ENDPOINT}/api/models/{model}"
            answers.append(get_session().head(address, headers=build_hf_headers(), timeout=seconds).status_code)
        except Exception as error:  # the HTTP client raises many kinds
            answers.append(error)

    # On a thread of its own, as looking up the hub's name may hang longer than the client's limit.
    thread = threading.Thread(target=head, daemon=True, name="mien hub")
    thread.start()
    thread.join(seconds + 0.2)
    return answers[0] if answers else TimeoutError(f"no answer in {seconds:g} s")


def reason(error: Exception) -> str:
    """Returns what went wrong, in one line."""
    return one_line(str(error))[:200] or type(error).__name__
