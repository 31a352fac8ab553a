"""Downloads FER2013 from Kaggle, or says how to get it by hand."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from mien.connection import answers
from mien.data.layouts import list_pictures
from mien.data.sources import FolderEntries
from mien.errors import MienError, one_line
from mien.files import atomic_file, ensure_writable
from mien.log import warn
from mien.text import shown

HANDLE = "msambare/fer2013"
PAGE = f"https://www.kaggle.com/datasets/{HANDLE}"

API = "https://api.kaggle.com"
"""The server that kagglehub asks."""

_IN_KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_DATA_PROXY_URL"}


def fetch(destination: Path) -> Path:
    """Downloads FER2013 and packs it into one archive that ``read_faces`` reads in place.

    kagglehub (``pip install "mien[kaggle]"``) leaves an unpacked copy in its own cache, ``~/.cache/kagglehub``, which
    may be deleted afterwards.

    Args:
        destination: path of the archive; in a folder, ``archive.zip`` is written.

    Returns:
        Path of the archive.

    Raises:
        MienError: the archive exists already or cannot be written; or kagglehub is missing or the download failed, then
            the message names the page to open, the file to download and the command to run.
    """
    target = destination / "archive.zip" if destination.is_dir() else destination
    if target.exists():
        raise MienError(f"{target}: exists already; use it with `mien data inspect {target}`, or give another path")
    ensure_writable(target.parent)
    try:
        import kagglehub
    except ImportError as error:
        raise MienError(f'kagglehub is not installed (pip install "mien[kaggle]"); {_by_hand(target)}') from error
    # Kaggle's notebooks reach its data without a connection to the network.
    if not os.environ.keys() & _IN_KAGGLE and not answers(API):
        raise MienError(f"{_no_connection()}; connect to the network, {_by_hand(target)}")
    try:
        folder = Path(kagglehub.dataset_download(HANDLE))
    except Exception as error:  # requests, urllib3, kagglehub and kagglesdk raise errors of their own.
        raise MienError(f"{_refusal(error)}; {_by_hand(target)}") from error
    paths = list_pictures(FolderEntries(folder)).paths
    root = folder.resolve()
    outside = {path for path in paths if not (folder / path).resolve().is_relative_to(root)}
    if outside:
        warn(f"left out {len(outside):,} links that lead out of the download, the first is {shown(min(outside))}")
    with (
        atomic_file(target, spare_newcomer=True) as temporary,
        zipfile.ZipFile(temporary, "w", strict_timestamps=False) as archive,
    ):
        for path in paths:
            if path not in outside:
                archive.write(folder / path, path)
    return target


def _no_connection() -> str:
    return f"{HANDLE}: no connection to {urlsplit(API).hostname}"


def _refusal(error: BaseException) -> str:
    """Says in one line why Kaggle did not give the data; the texts of HTTP clients about connections are no help."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"ConnectionError", "Timeout", "TimeoutError"}:
        return f"{_no_connection()}, or it broke off"
    return f"Kaggle did not give {HANDLE} ({one_line(str(error))[:200] or type(error).__name__})"


def _by_hand(target: Path) -> str:
    return (
        f"or by hand: open {PAGE}, sign in, press Download, save the file as {target}, "
        f"then run `mien data inspect {target}`"
    )
