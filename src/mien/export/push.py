"""Uploads a packed folder to the Hugging Face Hub; a missing connection or token is reported before any work."""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import urlsplit

from mien.connection import PATIENCE_S, answers
from mien.errors import MienError, one_line
from mien.export.pack import FILES


def check_push(repo: str) -> str:
    """Checks, before any work, that a repository can be pushed to as far as that is known.

    Args:
        repo: ``user/model``.

    Returns:
        The token of the user, from ``hf auth login`` or HF_TOKEN.

    Raises:
        MienError: the name is not one, there is no token, or the Hub does not answer within ``PATIENCE_S``.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
        is_name = repo.count("/") == 1
    except HFValidationError:
        is_name = False
    if not is_name:
        raise MienError(f"--push: got {repo!r}, expected the name of a repository on the Hub, like user/model")
    if constants.HF_HUB_OFFLINE:
        raise MienError("--push: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or leave --push out")
    token = get_token()
    if not token:
        raise MienError("--push: no token of the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN")
    if not answers(constants.ENDPOINT):
        raise MienError(
            f"--push: {urlsplit(constants.ENDPOINT).hostname} does not answer within {PATIENCE_S:g} seconds; connect "
            "to the network, or leave --push out"
        )
    return token


def push(folder: Path, repo: str, *, token: str, private: bool = False) -> str:
    """Uploads a packed folder and returns its address.

    One commit replaces the package that the repository has: a file that only the former one had (an int8 file,
    sketches) would be read as part of the new one, so it is deleted. Files that no package holds stay.

    Args:
        folder: that ``mien pack`` wrote.
        repo: ``user/model``; it is made if it does not exist.
        token: of the user; it appears in no message.
        private: make a new repository private.

    Raises:
        MienError: the Hub refuses it, or the connection breaks; the folder stays.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private or None, exist_ok=True, repo_type="model")
        api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            commit_message="Packed by Mien",
            repo_type="model",
            delete_patterns=sorted(FILES),  # of these, the client keeps what the folder holds
        )
    except Exception as error:  # of the Hub, of the network, of its client
        reason = one_line(str(error)).replace(token, "***") or type(error).__name__
        flags = " --private" if private else ""
        flags += "".join(f" --delete {name}" for name in sorted(FILES) if not (folder / name).exists())
        raise MienError(
            f"--push {repo}: the upload failed ({reason}); the packed folder is in {folder}, upload it by "
            f"`hf upload {repo} {shlex.quote(str(folder))} .{flags}`"
        ) from None
    return f"{constants.ENDPOINT}/{repo}"
