"""Where training runs: one CPU or GPU, or several processes under torchrun, through accelerate."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from mien.config import RunConfig
from mien.errors import MienError
from mien.versions import machine


def resolve_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps`` means here.

    Raises:
        MienError: there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MienError(f"device: got {name}, expected auto, cpu, cuda, cuda:N or mps") from error
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= present.get(device.type, 0):
        here = ", ".join(f"{count} {kind}" for kind, count in present.items() if count)
        raise MienError(f"device: got {name}, which this machine does not have (it has: {here}); use auto or cpu")
    return device


def machine_of(device: torch.device) -> dict[str, str | int]:
    """``processor``, ``cores``, and the ``gpu`` where that is the device, for ``meta.json``."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return {**machine(), **gpu}


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
