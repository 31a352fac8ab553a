"""The state of a run: one file, written atomically, from which training goes on as if it had never stopped.

Order, augmentation, mixing, drop path and learning rate are functions of (seed, step), so weights, averages, moments
and counters are all there is to save. The file is a safetensors file whose header carries the counters as JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mien.config import RunConfig, differences, to_dict
from mien.errors import MienError
from mien.files import atomic_file


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        epoch: the epoch under way, the first is 1.
        step: steps done in it.
        loss_sum: sum over these steps of the mean training loss.
        best_accuracy: highest validation accuracy so far, in [0, 1]; -1 before the first.
        best_epoch: the epoch that reached it.
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
    """What ``load_state`` found: counters, and tensors by name (``network/``, ``average/``, ``moments/``)."""

    progress: Progress
    tensors: dict[str, torch.Tensor]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose name starts with ``prefix/``, without it."""
        return {name.removeprefix(f"{prefix}/"): t for name, t in self.tensors.items() if name.startswith(f"{prefix}/")}


def state_path(out: Path) -> Path:
    """Where a run keeps its state."""
    return out / "state.safetensors"


def save_state(
    out: Path, config: RunConfig, fingerprint: str, progress: Progress, parts: dict[str, dict[str, torch.Tensor]]
) -> None:
    """Writes the state of a run, atomically.

    Raises:
        MienError: the state cannot be written, as where the disk is full; the former one is still there.
    """
    tensors = {f"{part}/{name}": t.detach().cpu().contiguous() for part, ts in parts.items() for name, t in ts.items()}
    header = {"config": to_dict(config), "fingerprint": fingerprint, "progress": asdict(progress)}
    with atomic_file(state_path(out)) as temporary:
        save_file(tensors, temporary, metadata={"mien": json.dumps(header)})


def load_state(out: Path, config: RunConfig, fingerprint: str) -> Saved:
    """Reads the state of a run and holds it to what is about to go on.

    Raises:
        MienError: there is no state, it is damaged, or the configuration or the data differ.
    """
    path = state_path(out)
    if not path.is_file():
        raise MienError(f"{out}: has no state to resume (expected {path.name}); start it without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["mien"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        saved, told, progress = header["config"], header["fingerprint"], Progress(**header["progress"])
        if not isinstance(saved, dict) or not isinstance(progress.history, list):
            raise TypeError("its configuration or its history is of another kind")
        if not all(type(getattr(progress, name)) is int for name in ("epoch", "step", "best_epoch")):
            raise TypeError("its counters are no whole numbers")
    except (SafetensorError, KeyError, TypeError, OSError, ValueError, RecursionError) as error:
        raise MienError(f"{path}: is damaged or no state of a run ({error}); start anew in another --out") from error
    try:
        changed = differences(saved, config)
    except (AttributeError, TypeError, ValueError) as error:
        raise MienError(f"{path}: its configuration is damaged ({error}); start anew in another --out") from error
    if changed:
        raise MienError(
            f"--resume: the configuration differs from the run in {out}: {'; '.join(changed)}; give the same"
        )
    if told != fingerprint:
        raise MienError(f"--resume: the data differs from what the run in {out} was trained on; give the same --data")
    return Saved(progress, tensors)
