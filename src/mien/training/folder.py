"""The folder of a run: its settings, its saved state, and whether a new or a resumed run may write there.

Importing it loads no torch, so that settings can be checked before; only what reads or writes tensors does.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mien.config import WITHOUT_EFFECT_ON_WEIGHTS, RunConfig, differences, flat, to_dict
from mien.errors import MienError, first_line
from mien.files import atomic_file, write_text

if TYPE_CHECKING:
    import torch

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


def _header(out: Path) -> dict[str, Any]:
    """Returns what the state of a run says of it: its settings (``config``) and more; raises many kinds of errors."""
    with state_path(out).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, _LARGEST_HEADER)))
    return dict(json.loads(header["__metadata__"]["mien"]))


def recorded(out: Path, *, pretraining: bool) -> dict[str, Any]:
    """Returns the settings that the state of a run holds, by dotted names.

    Raises:
        MienError: the state is damaged, or the run is of the other command.
    """
    path = state_path(out)
    try:
        settings = flat(_header(out)["config"])
    except (OSError, struct.error, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise MienError(
            f"{path}: is damaged or no state of a run ({first_line(error)}); start anew in another --out"
        ) from error
    if ("mask_ratio" in settings) != pretraining:
        command, asked = ("mien train", "mien pretrain") if pretraining else ("mien pretrain", "mien train")
        raise MienError(f"--resume {out}: is a run of `{command}`, not of `{asked}`; type `{command} --resume {out}`")
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
    message = (
        f"--resume: the configuration differs from the run in {out}: {', '.join(changed)}, leave them out to go on "
        f"with it, or start a new run from its weights by --backbone {out} and another --out"
    )
    return [message] if changed else []


def write_config(out: Path, config: RunConfig) -> None:
    """Writes the settings of a run to ``config.yaml``; ``--config`` reads them back.

    Args:
        out: the folder of the run.
        config: as it was given, before defaults are filled in.
    """
    import yaml

    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_text(out / CONFIG, f"# The settings of this run; --config {CONFIG} --out FOLDER repeats it.\n{text}")


# The state of a run is one safetensors file, written atomically, whose header carries the counters as JSON. Order,
# augmentation, mixing, drop path and learning rate are functions of (seed, step), so weights, averages, moments and
# counters are enough to resume as if training had never stopped.

Parts: TypeAlias = "dict[str, dict[str, torch.Tensor]]"
"""The tensors of a state, by part (``network``, ``moments``, ...) and name."""


@dataclass
class Progress:
    """The counters of a run.

    Attributes:
        epoch: the current epoch, the first is 1.
        step: steps done in it.
        loss_sum: sum over these steps of the mean training loss.
        best_accuracy: of the best model so far, by ``mien.training.validation.score_of``; -1 before the first.
        best_epoch: its epoch; 0 for the classifier that training began with.
        seconds: training time so far, over all resumptions.
        history: a row per finished epoch.
    """

    epoch: int = 1
    step: int = 0
    loss_sum: float = 0.0
    best_accuracy: float = -1.0
    best_epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Saved:
    """A state that ``load_state`` read: counters, and tensors by name (``network/``, ``average/``, ``moments/``)."""

    progress: Progress
    tensors: dict[str, torch.Tensor]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose name starts with ``prefix/``, without it."""
        return {name.removeprefix(f"{prefix}/"): t for name, t in self.tensors.items() if name.startswith(f"{prefix}/")}


def saved_reading_crop(out: Path) -> float | None:
    """The reading crop of the saved run in a folder; 1 if it began before this setting existed.

    None if there is no state or it is damaged, which ``load_state`` reports later.
    """
    try:
        return float(_header(out)["config"].get("reading_crop", 1.0))
    except (OSError, struct.error, KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return None


def save_state(out: Path, config: RunConfig, fingerprint: str, progress: Progress, parts: Parts) -> None:
    """Writes the state of a run, atomically.

    Raises:
        MienError: the state cannot be written, for example on a full disk; the former one stays.
    """
    from safetensors.torch import save_file

    tensors = {f"{part}/{name}": t.detach().cpu().contiguous() for part, ts in parts.items() for name, t in ts.items()}
    header = {"config": to_dict(config), "fingerprint": fingerprint, "progress": asdict(progress)}
    with atomic_file(state_path(out)) as temporary:
        save_file(tensors, temporary, metadata={"mien": json.dumps(header)})


def load_state(out: Path, config: RunConfig, fingerprint: str) -> Saved:
    """Reads the state of a run and checks that it belongs to this configuration and this data.

    Raises:
        MienError: there is no state, it is damaged, or the configuration or the data differ.
    """
    from safetensors import SafetensorError, safe_open

    path = state_path(out)
    if not path.is_file():
        raise MienError(f"{out}: has no state to resume (expected {path.name}); start it without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["mien"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        saved_config, progress = header["config"], Progress(**header["progress"])
        saved_fingerprint = header["fingerprint"]
        if not isinstance(saved_config, dict) or not isinstance(progress.history, list):
            raise TypeError("its configuration or its history is of another kind")
        if not all(type(getattr(progress, name)) is int for name in ("epoch", "step", "best_epoch")):
            raise TypeError("its counters are no whole numbers")
    except (SafetensorError, KeyError, TypeError, OSError, ValueError, RecursionError) as error:
        raise MienError(
            f"{path}: is damaged or no state of a run ({first_line(error)}); start anew in another --out"
        ) from error
    try:
        changed = differences(saved_config, config)
    except (AttributeError, TypeError, ValueError) as error:
        raise MienError(
            f"{path}: its configuration is damaged ({first_line(error)}); start anew in another --out"
        ) from error
    if changed:
        raise MienError(
            f"the configuration differs from the run in {out}: {', '.join(changed)}; give the settings that it has, or "
            "start anew in another --out"
        )
    if saved_fingerprint != fingerprint:
        raise MienError(
            f"--resume: the data differs from what the run in {out} was trained on; give the same --data (to `mien "
            "folds`, the same --folds as well), or start anew in another --out"
        )
    return Saved(progress, tensors)
