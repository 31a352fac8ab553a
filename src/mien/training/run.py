"""How a run begins: its folder, its data and batches, its processes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from mien.config import PretrainConfig, RunConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.data.twins import cut_validation
from mien.errors import MienError
from mien.files import ensure_writable, recover_folder, refuse_inputs, remove_leftovers
from mien.log import say, warn
from mien.machine import resolve_device
from mien.text import counted
from mien.training.folder import Saved, check_new, load_state

C = TypeVar("C", TrainConfig, PretrainConfig)


def open_run(config: RunConfig, fingerprint: str, resume: bool) -> Saved | None:
    """Checks the folder of a run and reads the state to resume from; None for a new run.

    Removes what a killed run left half-written.

    Raises:
        MienError: the folder holds a run and ``resume`` is False, or one that cannot be resumed; it cannot be written
            to; or a package that the configuration needs is not installed.
    """
    out = Path(config.out)
    ensure_writable(out)
    if Path(config.data).is_dir():
        refuse_inputs(out, [Path(config.data)], may_hold=True)
    for message in config.missing_trackers():
        raise MienError(message)
    check_new(out, resume)
    if on_main():
        recover_folder(out / "model")
        remove_leftovers(out)
    return load_state(out, config, fingerprint) if resume else None


def prepare_faces(faces: FaceSet, config: RunConfig) -> FaceSet:
    """The data with a validation split; if it has none, a part of training becomes one, twins kept together.

    Raises:
        MienError: there is no training image, or there are too few for two splits.
    """
    faces.part("train")
    if not faces.has("validation"):
        faces = cut_validation(faces, config.validation_fraction, config.seed)
        if on_main():
            count = counted(len(faces.part("validation")), "training image")
            say(f"no validation split: {count} became one, twins kept together")
    return faces


def fit_batch(config: C, faces: FaceSet, processes: int) -> C:
    """The configuration, with a smaller ``batch_size`` if the training split has fewer images.

    A step then reads all of them, or as many as the processes can share evenly (``RunConfig.batch_unit``).

    Raises:
        MienError: a process would get too few.
    """
    count, shared_by = int((faces.splits == "train").sum()), processes * config.batch_unit
    if count >= config.batch_size:
        return config
    if count < shared_by:
        raise MienError(
            f"{faces.source}: has {counted(count, 'training image')}, expected at least {shared_by}, so that every "
            "process has some, two if mixup or cutmix is on, and one for each teacher that reads a part of a batch; "
            "add images"
        )
    rest = count % shared_by
    if on_main():
        seen = f"{count - rest} of them, as many as can be shared evenly" if rest else "them all"
        say(f"{counted(count, 'training image')}, fewer than --batch-size {config.batch_size}: every step sees {seen}")
    return dataclasses.replace(config, batch_size=count - rest)


def resolve_precision(name: str, device: torch.device) -> str:
    """``bf16`` or ``fp32``; ``auto`` is bf16 on a GPU that supports it, where it is several times faster."""
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def warn_of_slow_bf16(precision: str, device: torch.device) -> None:
    """Warns if a processor has to compute bf16 by other instructions: a CNN then took five times as long (LOG.md)."""
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # the oldest torch has none
    is_slow = has.get("architecture") == "x86_64" and not (has.get("avx512_bf16") or has.get("amx_bf16"))
    if precision == "bf16" and device.type == "cpu" and is_slow and on_main():
        warn("this processor has no instructions for bf16, which can take several times as long as fp32 here; add "
             "--precision fp32")  # fmt: skip


def start_accelerator(config: RunConfig) -> Accelerator:
    """Connects the processes of this run and gives each its device.

    Raises:
        MienError: the device is missing, or the processes cannot share a batch evenly.
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
    if rest or per_process % config.batch_unit:
        unit = config.batch_unit
        each = f" times {unit}, for mixup, cutmix and teachers that split a batch" if unit > 1 else ""
        raise MienError(f"batch_size: got {config.batch_size}, expected a multiple of the {processes} processes{each}")
    return accelerator


def on_main() -> bool:
    """Whether this is the main process, which alone writes and prints."""
    return bool(PartialState().is_main_process)


def gather_rows(accelerator: Accelerator, rows: torch.Tensor, total: int) -> torch.Tensor:
    """Gathers the rows that the processes computed; the process of rank r has rows r, r + P, r + 2 P, ...

    Args:
        accelerator: of this run, with P processes.
        rows: [M, ...], this process's share.
        total: N, the number of rows of all processes.

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
