"""The plan of a run in words: what trains when, how fast it learns, what it needs. It changes nothing in the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import ViTMAEForPreTraining

from mien.config import FreezeConfig, PretrainConfig, TrainConfig
from mien.model.freezing import freeze, frozen_units
from mien.model.mae import count_patches
from mien.model.networks import Network, logits, num_channels, units
from mien.text import counted
from mien.training.loop import Loop

Tuning = Loop[TrainConfig, Network]
Pretraining = Loop[PretrainConfig, ViTMAEForPreTraining]

TIMED_STEPS = 3
"""Steps that are timed at each speed, after one that warms up."""

LONGEST_TIMING_S = 30.0
"""Seconds after which no further step is timed."""

PROBED_IMAGES = 2
"""Images by which the memory of the activations is measured; it grows linearly with the batch."""


def plan_lines(tuning: Tuning) -> list[str]:
    """Returns the plan of fine-tuning, a line a subject; nothing is timed.

    Args:
        tuning: prepared, before its first step.
    """
    config, network = tuning.config, tuning.network
    count, validation = len(tuning.images), len(tuning.validation)
    length = _length(config.epochs, config.minutes)
    rates = f"encoder {config.lr:.2e}, head {config.head_lr:.2e}"
    decay = "" if config.layer_decay == 1 else f", from block to block times {config.layer_decay}"
    then = f"then a cosine to {config.min_lr * (config.lr or 0):.2e}"
    if config.minutes is None and round(config.warmup_epochs * tuning.steps) >= config.epochs * tuning.steps:
        then = "which is the whole run: it ends at the peak"
    return [
        f"plan: {length}, {counted(tuning.steps, 'step')} of {config.batch_size} an epoch; {count:,} images train, "
        f"{validation:,} validate",
        f"frozen: {frozen_line(network, config.freeze, _last_epoch(config))}",
        f"parameters: {_trained_line(network, config)}",
        f"learning rate: {rates}{decay}; warm-up over {config.warmup_epochs:g} "
        f"epoch{'' if config.warmup_epochs == 1 else 's'}, {then}",
        _tuning_memory_line(tuning),
    ]


def _last_epoch(config: TrainConfig) -> int:
    """Returns the last epoch; a number that no run reaches if minutes end it."""
    return config.epochs if config.minutes is None else sys.maxsize


def frozen_line(network: Network, config: FreezeConfig, epochs: int) -> str:
    """Returns in words which parts are frozen, and at which epoch they are released."""
    first, names = frozen_units(config, 1), [name for name, _ in units(network)]
    if not first:
        return "nothing" if config.release_epoch is None else "nothing, so that freeze.release_epoch changes nothing"
    parts = names[0] if first == 1 else f"{names[0]} and blocks 0 to {first - 2}"
    if config.release_epoch is None:
        return f"{parts}, to the end"
    how = "released one block an epoch from" if config.gradual else "released at"
    late = f", after the last of {epochs}" if config.release_epoch > epochs else ""
    return f"{parts}; {how} epoch {config.release_epoch}{late}"


def _trained_line(network: Network, config: TrainConfig) -> str:
    """Returns how many parameters train at first and, if that changes, at the end."""
    total = sum(parameter.numel() for parameter in network.parameters())
    first, last = frozen_units(config.freeze, 1), frozen_units(config.freeze, _last_epoch(config))
    at_first = f"{_trained(network, first):,} of {total:,} train"
    return at_first if last == first else f"{at_first}, at the end {_trained(network, last):,}"


def _trained(network: Network, frozen: int) -> int:
    """Returns the number of parameters that train while the first ``frozen`` units are frozen."""
    freeze(network, frozen)
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _length(epochs: int, minutes: float | None) -> str:
    if minutes is not None:
        return "1 minute" if minutes == 1 else f"{minutes:g} minutes"
    return counted(epochs, "epoch")


def _tuning_memory_line(tuning: Tuning) -> str:
    """Estimates the memory of fine-tuning at its fullest: when the fewest parts are frozen."""
    config, network = tuning.config, tuning.network
    trained = _trained(network, frozen_units(config.freeze, _last_epoch(config)))
    pixels = _pixels(tuning, num_channels(network))
    copies = ["weights", *(["their average"] * bool(config.ema)), *(["those of the start"] * bool(config.start_share))]
    line = _memory_line(tuning, lambda: logits(network, pixels), trained, copies)
    freeze(network, frozen_units(config.freeze, 1))
    return f"{line}, and the teachers ({len(config.teacher)})" if config.teacher else line


def _pixels(loop: Loop[Any, Any], channels: int) -> torch.Tensor:
    """Returns ``PROBED_IMAGES`` blank pictures for the network of a run."""
    side = loop.preprocessing.image_size
    return torch.zeros(PROBED_IMAGES, channels, side, side, device=loop.accelerator.device)


def _memory_line(loop: Loop[Any, Any], forward: Callable[[], Any], trained: int, copies: list[str]) -> str:
    """Estimates the memory of a run.

    Args:
        loop: the run, prepared.
        forward: a pass of ``PROBED_IMAGES``.
        trained: number of parameters that train; each has a gradient and two moments.
        copies: names of the sets of weights that are held.
    """
    total = sum(parameter.numel() for parameter in loop.network.parameters())
    fixed, images = 4 * (total * len(copies) + 3 * trained), loop.images.nbytes
    probed_bytes = activation_bytes(loop.network, forward, loop.precision)
    activations = probed_bytes / PROBED_IMAGES * loop.config.batch_size / loop.accelerator.num_processes
    return (
        f"memory: about {_shown(fixed + images + activations)}: {', '.join(copies)}, gradients and moments "
        f"{_shown(fixed)}, images {_shown(images)}, activations of a batch {_shown(activations)}"
    )


def _shown(size: float) -> str:
    """Returns a number of bytes in words, in MiB below one GiB."""
    return f"{size / 2**20:,.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"


def activation_bytes(network: nn.Module, forward: Callable[[], Any], precision: str) -> int:
    """Returns the bytes that a forward pass keeps for the backward pass; parameters do not count.

    Args:
        network: left in evaluation mode, so that nothing random and no running statistic changes.
        forward: the pass.
        precision: bf16 or fp32.
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        # Kept as it is, a result would hold the pass that computed it, and be held by it for ever. What is left of a
        # pass stays on the stream where it ran, so that the training step could not be recorded as a CUDA graph.
        return tensor.detach()

    network.eval()
    device = next(network.parameters()).device.type
    with (
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"),
    ):
        output = forward()  # noqa: F841 - what it keeps must live until all is counted
    return sum(sizes.values())


def timed_lines(tuning: Tuning, enter_stage: Callable[[int], None]) -> Iterator[str]:
    """Takes a few steps of fine-tuning at each speed, and yields how long the run will take; the weights change.

    Args:
        tuning: prepared, before its first step.
        enter_stage: freezes so many units of its network and builds the optimizer of the rest.
    """
    config = tuning.config
    counts = [frozen_units(config.freeze, epoch) for epoch in range(1, config.epochs + 1)]
    seconds: dict[int, float] = {}
    for frozen in dict.fromkeys((counts[0], counts[-1])):
        enter_stage(frozen)
        seconds[frozen] = step_seconds(tuning)
    # A forward pass takes about a third of a step.
    validation = len(tuning.validation) / config.batch_size / 3 / config.validate_epochs
    total = sum(_between(count, seconds) * (tuning.steps + validation) for count in counts)
    speeds = ", ".join(
        f"{value:.2f} s a step with {f'{count} parts frozen' if count else 'nothing frozen'}"
        for count, value in seconds.items()
    )
    yield from _time_lines(60 * config.minutes if config.minutes else total, speeds, tuning.accelerator.device)


def _between(count: int, seconds: dict[int, float]) -> float:
    """Returns the seconds of a step with ``count`` frozen units, interpolated between those that were timed."""
    if count in seconds:
        return seconds[count]
    (low, fast), (high, slow) = sorted(seconds.items())
    return fast + (slow - fast) * (count - low) / (high - low)


def step_seconds(loop: Loop[Any, Any]) -> float:
    """Takes a few steps of a run; the weights change.

    Returns:
        Mean seconds of a step, without the first one, unless that took long.
    """
    steps, device = loop.steps, loop.accelerator.device

    def seconds(number: int) -> float:
        loop.steps, loop.state.step, loop.state.loss_sum = number, 0, 0.0
        started = time.perf_counter()
        loop.train_epoch(1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    first = seconds(1)
    number = min(TIMED_STEPS, steps, max(0, int(LONGEST_TIMING_S / max(first, 1e-9))))
    mean = seconds(number) / number if number else first
    loop.steps = steps
    return mean


def _time_lines(total: float, speeds: str, device: torch.device) -> Iterator[str]:
    """Yields the time of a run, and the memory that the timed steps took at most."""
    shown = f"{total / 3600:.1f} hours" if total >= 5400 else counted(max(1, round(total / 60)), "minute")
    shown = f"{max(1, round(total))} s" if total < 60 else shown
    yield f"time: about {shown} on {device} ({speeds})"
    if device.type == "cuda":
        yield f"measured memory: at most {_shown(torch.cuda.max_memory_allocated(device))} on {device}"
        return
    try:
        import resource
    except ImportError:  # Windows
        return
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    yield f"measured memory: at most {_shown(most)} in this process, libraries and data included"


def pretraining_lines(pretraining: Pretraining) -> list[str]:
    """Returns the plan of pretraining, a line a subject; nothing is timed."""
    config, network = pretraining.config, pretraining.network
    length = counted(config.steps, "step") if config.steps else _length(config.epochs, config.minutes)
    total = sum(parameter.numel() for parameter in network.parameters())
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    decoder = sum(parameter.numel() for parameter in network.decoder.parameters())
    pixels = _pixels(pretraining, network.config.num_channels)
    noise = torch.zeros(PROBED_IMAGES, count_patches(network), device=pixels.device)
    return [
        f"plan: {length}, {counted(pretraining.steps, 'step')} of {config.batch_size} an epoch; "
        f"{len(pretraining.images):,} images train, {config.mask_ratio:.0%} of each hidden",
        "frozen: nothing",
        f"parameters: {trained:,} of {total:,} train, {decoder:,} of them in the decoder",
        f"learning rate: {config.lr:.2e}; warm-up over {config.warmup:.0%} of the run, then a cosine to "
        f"{config.min_lr:.0%} of it",
        _memory_line(pretraining, lambda: network(pixel_values=pixels, noise=noise).loss, trained, ["weights"]),
    ]


def timed_pretraining_lines(pretraining: Pretraining) -> Iterator[str]:
    """Takes a few steps of pretraining, and yields how long the run will take; the weights change."""
    config, seconds = pretraining.config, step_seconds(pretraining)
    steps = config.steps or config.epochs * pretraining.steps
    total = 60 * config.minutes if config.minutes else seconds * steps
    yield from _time_lines(total, f"{seconds:.2f} s a step, probes not counted", pretraining.accelerator.device)
