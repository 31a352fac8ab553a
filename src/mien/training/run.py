"""What a run of pretraining and one of fine-tuning have in common: their folder, their saved state, their clock."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mien.config import PretrainConfig, RunConfig, TrainConfig, differences, to_dict
from mien.data.faces import FaceSet
from mien.data.twins import cut_validation
from mien.errors import MienError
from mien.files import atomic_file, ensure_writable, recover_folder, refuse_inputs, remove_leftovers
from mien.machine import resolve_device
from mien.training.history import require_tensorboard, write_history, write_tensorboard

C = TypeVar("C", TrainConfig, PretrainConfig)

STEPS_BETWEEN_CHECKS = 20
"""How often the loss is looked at and a state may be saved; in between, a GPU never waits for the host."""

Parts = dict[str, dict[str, torch.Tensor]]
"""What a state holds beside the counters: tensors by part and name."""


def open_run(config: RunConfig, fingerprint: str, resume: bool) -> Saved | None:
    """The state to go on from, or None for a new run; what a killed run left half-written goes.

    Raises:
        MienError: a run is there and is not to be resumed, or cannot be; the folder cannot be written to; or something
            that the configuration asks for is not installed.
    """
    out = Path(config.out)
    ensure_writable(out)
    if Path(config.data).is_dir():
        refuse_inputs(out, [Path(config.data)], may_hold=True)
    if config.tensorboard:
        require_tensorboard()
    has_state = state_path(out).exists()
    if (out / "model").exists() and not has_state:
        raise MienError(
            f"--out {out}: holds a model but no {state_path(out).name}, as its run ended before it first saved one, or "
            "it was removed; such a run cannot be resumed: remove the folder, or choose another --out"
        )
    if has_state and not resume:
        raise MienError(f"--out {out}: already holds a run; continue it with --resume, or choose another folder")
    if on_main():
        recover_folder(out / "model")
        remove_leftovers(out)
    return load_state(out, config, fingerprint) if resume else None


def prepare_faces(faces: FaceSet, config: RunConfig) -> FaceSet:
    """The data with a validation split: where it has none, a part of training becomes one, twins kept together.

    Raises:
        MienError: there is no training image, or there are too few to cut from.
    """
    faces.part("train")
    if not faces.has("validation"):
        faces = cut_validation(faces, config.validation_fraction, config.seed)
        if on_main():
            count = len(faces.part("validation"))
            print(f"no validation split: {count:,} training images became one, twins kept together", file=sys.stderr)
    return faces


def fit_batch(config: C, faces: FaceSet, processes: int) -> C:
    """The configuration, with fewer images a step if the training split has fewer than ``batch_size``.

    A step then sees them all, or as many as the processes can share evenly, in pairs where mixup or cutmix is on.

    Raises:
        MienError: there are too few even for that.
    """
    count, shared_by = len(faces.part("train")), processes * (2 if config.augment.mixes else 1)
    if count >= config.batch_size:
        return config
    if count < shared_by:
        raise MienError(
            f"{faces.source}: has {count} training images, expected at least {shared_by}, so that every process has "
            "some, and two where mixup or cutmix is on; add images"
        )
    if on_main():
        print(f"{count} training images, fewer than --batch-size {config.batch_size}: every step sees them all",
              file=sys.stderr)  # fmt: skip
    return dataclasses.replace(config, batch_size=count - count % shared_by)


class Run:
    """A run under way.

    Args:
        config: with every default resolved.
        fingerprint: of the data.
        accelerator: device and processes.
        saved: the state to go on from, or None.
    """

    def __init__(self, config: RunConfig, fingerprint: str, accelerator: Accelerator, saved: Saved | None) -> None:
        self.config, self.fingerprint, self.accelerator = config, fingerprint, accelerator
        self.out = Path(config.out)
        self.state = saved.progress if saved else Progress()
        self.clock = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time so far, over all resumptions."""
        return self.state.seconds + time.monotonic() - self.clock

    def looks_at(self, step: int, steps: int) -> bool:
        """Whether the loss is looked at after a step of an epoch of so many."""
        return step % STEPS_BETWEEN_CHECKS == 0 or step == steps

    def check(self, loss_sum: torch.Tensor) -> bool:
        """Takes the mean over the processes of the loss so far into the state; whether it is time to save.

        Raises:
            MienError: the loss is NaN or infinite; the last saved state is from before.
        """
        due = on_main() and time.monotonic() - self.clock > self.config.checkpoint_seconds
        both = torch.stack([loss_sum, torch.full_like(loss_sum, float(due))])
        state = self.state
        state.loss_sum, anybody_due = self.accelerator.reduce(both, "mean").tolist()
        self.require_finite("the loss", state.loss_sum)
        return anybody_due > 0

    def require_finite(self, what: str, value: float) -> None:
        """Stops training where a number, named by ``what``, is NaN or infinite.

        Raises:
            MienError: it is; the last saved state is from before.
        """
        if math.isfinite(value):
            return
        kept = (
            f"the last good state is kept in {self.out}" if state_path(self.out).exists() else "no state was saved yet"
        )
        raise MienError(
            f"{what} became {value} in epoch {self.state.epoch}, step {self.state.step}: training stopped, {kept}; "
            "start anew in another --out with a lower --lr or --precision fp32"
        )

    def finish_epoch(self, row: dict[str, Any], images: int, trained: float) -> None:
        """Completes the row of an epoch with time and rate, and turns to the next epoch.

        Args:
            row: what was measured.
            images: how many were seen.
            trained: ``seconds`` when the last step was done, so that the rate is that of training alone.

        Raises:
            MienError: a loss is NaN or infinite, as after a last update that broke the weights; to be called before
                anything of the epoch is saved.
        """
        state = self.state
        self.require_finite("the loss", row["loss"])
        if row["val_loss"] is not None:
            self.require_finite("the validation loss", row["val_loss"])
        row["seconds"] = round(self.seconds, 2)
        before = state.history[-1]["seconds"] if state.history else 0.0
        row["images_per_second"] = round(images / max(trained - before, 0.01), 1)
        state.history.append(row)
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0

    def tell(self, line: str) -> None:
        """Writes the history and prints a line; to be called by the main process alone."""
        write_history(self.out, self.state.history)
        if self.config.tensorboard:
            write_tensorboard(self.out, self.state.history[-1])
        print(line, flush=True)

    def save(self, parts: Callable[[], Parts]) -> None:
        """Writes the state, from the main process.

        Raises:
            MienError: a weight or a moment is NaN or infinite, or the disk is full; the former state is still there.
        """
        now = time.monotonic()
        self.state.seconds += now - self.clock
        self.clock = now
        if on_main():
            found = parts()
            for name, tensor in ((name, tensor) for part in found.values() for name, tensor in part.items()):
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    self.require_finite(name, float(tensor[~tensor.isfinite()][0]))
            save_state(self.out, self.config, self.fingerprint, self.state, found)


# The state of a run: one file, written atomically, from which training goes on as if it had never stopped.
#
# Order, augmentation, mixing, drop path and learning rate are functions of (seed, step), so weights, averages, moments
# and counters are all there is to save. The file is a safetensors file whose header carries the counters as JSON.


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


def saved_reading_crop(out: Path) -> float | None:
    """The reading crop of the run that a folder holds: 1 if it began before there was that setting.

    None if there is no state or it is damaged; ``load_state`` says so.
    """
    try:
        with safe_open(state_path(out), framework="pt") as file:
            return float(json.loads((file.metadata() or {})["mien"])["config"].get("reading_crop", 1.0))
    except (SafetensorError, KeyError, TypeError, OSError, ValueError, AttributeError, RecursionError):
        return None


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


def resolve_precision(name: str, device: torch.device) -> str:
    """``bf16`` or ``fp32``; ``auto`` takes bf16 on a GPU that computes in it, where it is several times faster."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def start_accelerator(config: RunConfig) -> Accelerator:
    """Joins the processes of this run, each with its device.

    Raises:
        MienError: the device is missing, or the batch cannot be shared evenly by the processes.
    """
    device = resolve_device(config.device)
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not distributed:
        # A process may train more than once (a notebook, a test); accelerate keeps one global state.
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    processes = accelerator.num_processes
    per_process, rest = divmod(config.batch_size, processes)
    if rest or (config.augment.mixes and per_process % 2):
        even = ", an even number for each where mixup or cutmix is on" if config.augment.mixes else ""
        raise MienError(f"batch_size: got {config.batch_size}, expected a multiple of the {processes} processes{even}")
    return accelerator


def on_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return bool(PartialState().is_main_process)


def gather_rows(accelerator: Accelerator, rows: torch.Tensor, total: int) -> torch.Tensor:
    """Puts together what the processes computed of rows rank, rank + P, rank + 2 P, ...

    Args:
        accelerator: of this run, with P processes.
        rows: [M, ...], this process's share.
        total: N, over all processes.

    Returns:
        [N, ...] in the original order, on every process.
    """
    processes = accelerator.num_processes
    if processes == 1:
        return rows
    longest = -(-total // processes)
    padding = rows.new_zeros(longest - len(rows), *rows.shape[1:])
    gathered = accelerator.gather(torch.cat([rows, padding]).to(accelerator.device))
    return gathered.view(processes, longest, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)[:total]
