"""The folder of a run: what it recorded, and whether a new or a resumed run may write there. Without torch."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mien.config import WITHOUT_EFFECT_ON_WEIGHTS, RunConfig, flat, to_dict
from mien.errors import MienError
from mien.files import write_text

CONFIG = "config.yaml"
"""The settings of a run, in its folder; ``--config`` reads them back."""

_LARGEST_HEADER = 64 * 2**20
"""Bytes of the longest header of a state that is read; those of long runs have some hundred thousand."""


def state_path(out: Path) -> Path:
    """Returns the file with the state of a run, in its folder."""
    return out / "state.safetensors"


def check_new(out: Path, resume: bool) -> None:
    """Checks that a folder holds no run, unless it shall be resumed.

    Raises:
        MienError: it holds a run, or a model without the state of its run.
    """
    has_state = state_path(out).exists()
    if (out / "model").exists() and not has_state:
        raise MienError(
            f"--out {out}: holds a model but no {state_path(out).name}, without which its run cannot be resumed; "
            "remove the folder, or choose another --out"
        )
    if has_state and not resume:
        raise MienError(f"--out {out}: already holds a run; continue it with --resume {out}, or choose another folder")


def recorded(out: Path, *, pretraining: bool) -> dict[str, Any]:
    """Returns the settings that the state of a run holds, by dotted names.

    Raises:
        MienError: the state is damaged, or the run is of the other command.
    """
    path = state_path(out)
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, _LARGEST_HEADER)))
        settings = flat(json.loads(header["__metadata__"]["mien"])["config"])
    except (OSError, struct.error, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise MienError(f"{path}: is damaged or no state of a run ({error}); start anew in another --out") from error
    if ("mask_ratio" in settings) != pretraining:
        command, other = ("mien train", "mien pretrain") if pretraining else ("mien pretrain", "mien train")
        raise MienError(f"--resume {out}: is a run of `{command}`, not of `{other}`; type `{command} --resume {out}`")
    return settings


def check_typed(out: Path, settings: Mapping[str, Any], typed: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with typed settings of a run that shall go on: those that decide its weights and differ.

    Args:
        out: the folder of the run.
        settings: as ``recorded`` gives them.
        typed: the typed settings, by dotted names.
    """
    changed = [
        f"{name}: {settings[name]} -> {value}"
        for name, value in typed.items()
        # A batch may be larger than the set; then the run recorded a smaller one.
        if name in settings and value is not None and name not in {*WITHOUT_EFFECT_ON_WEIGHTS, "batch_size"}
        if settings[name] != value
    ]
    return [differing(out, changed)] if changed else []


def differing(out: Path, changed: list[str]) -> str:
    """Describes settings that keep a run from going on, and what to do instead."""
    return (
        f"--resume: the configuration differs from the run in {out}: {', '.join(changed)}, leave them out to go on "
        f"with it, or start a new run from its weights by --backbone {out} and another --out"
    )


def write_config(out: Path, config: RunConfig) -> None:
    """Writes the settings of a run to ``config.yaml``; ``--config`` reads them back.

    Args:
        out: the folder of the run.
        config: as it was given, before defaults are filled in.
    """
    import yaml

    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_text(out / CONFIG, f"# The settings of this run; --config {CONFIG} --out FOLDER repeats it.\n{text}")
