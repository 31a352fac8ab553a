"""How fast pretraining is beside what the machine can do, and where the rest of the time goes.

Whole steps of ``mien pretrain`` are timed on noise: picking images, augmentation, masks, forward, backward, clipping,
AdamW. Their arithmetic (torch.utils.flop_counter; a multiply-add counts as two) over their time is held against the
rate of one large matrix product in the same precision, measured in the same run. The operations that took the time
follow.

    python benchmarks/pretraining.py --preset tiny
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from mien.config import PRESETS, PretrainConfig
from mien.data.faces import FaceSet
from mien.machine import versions
from mien.model.mae import build_autoencoder, count_patches
from mien.training.pretrain import Pretraining
from mien.training.run import start_accelerator

MATRIX = 4096
"""Rows and columns of the matrices whose product tells what the machine can do."""

SHOWN = 12
"""Operations in the table."""


def noise_faces(count: int, size: int) -> FaceSet:
    """Grey noise in place of faces; what is in the pictures does not change the arithmetic."""
    images = np.random.default_rng(0).integers(0, 256, (count, size, size), dtype=np.uint8)
    splits = np.array(["train"] * count)
    return FaceSet(images, np.zeros(count, np.int64), splits, np.arange(count).astype(str), ("face",), "noise", "noise")


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 2.0) -> float:
    """FLOP a second of large matrix products."""
    left, right = (torch.randn(MATRIX, MATRIX, device=device).to(dtype) for _ in range(2))
    left @ right
    wait(device)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(1 if device.type == "cpu" else 50):
            left @ right
            count += 1
        wait(device)
    return count * 2 * MATRIX**3 / (time.perf_counter() - started)


def wait(device: torch.device) -> None:
    """Waits for a GPU to finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flop_per_image(work: Pretraining, size: int) -> float:
    """FLOP of one image, forward and backward."""
    pixels = torch.randn(8, work.network.config.num_channels, size, size, device=work.accelerator.device)
    noise = torch.rand(8, count_patches(work.network), device=pixels.device)
    with FlopCounterMode(display=False) as counter:
        work.network(pixel_values=pixels, noise=noise).loss.backward()
    work.optimizer.zero_grad()
    return counter.get_total_flops() / 8


def epoch(work: Pretraining, number: int) -> float:
    """Seconds of an epoch."""
    work.state.epoch, work.state.step, work.state.loss_sum = number, 0, 0.0
    started = time.perf_counter()
    work.train_epoch(number)
    wait(work.accelerator.device)
    return time.perf_counter() - started


def operations(work: Pretraining) -> list[dict[str, Any]]:
    """The operations of an epoch that took most of its time, with their share."""
    on_gpu = work.accelerator.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        epoch(work, 3)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events)
    return [{"operation": event.key, "share": getattr(event, key) / total} for event in events[:SHOWN]]


def main() -> None:
    """Prints the figures, the table of operations, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    options = parser.parse_args()
    config = PretrainConfig(
        data="noise", out=str(Path(os.devnull)), preset=options.preset, batch_size=options.batch_size,
        device=options.device, precision=options.precision, compile=options.compile, checkpoint_seconds=1e9,
    ).resolved()  # fmt: skip
    accelerator = start_accelerator(config)
    network, preprocessing = build_autoencoder(config, grey=True)
    faces = noise_faces(options.steps * options.batch_size, preprocessing.image_size)
    work = Pretraining(config, network.to(accelerator.device), preprocessing, faces, accelerator)
    epoch(work, 1)
    seconds = epoch(work, 2)
    rate = len(faces) / seconds
    dtype = torch.bfloat16 if work.precision == "bf16" else torch.float32
    peak, needed = matmul_rate(accelerator.device, dtype), flop_per_image(work, preprocessing.image_size)
    share = rate * needed / peak
    print(f"{options.preset}, batch {options.batch_size}, {work.precision}: {rate:,.0f} images/s")
    print(f"{needed / 1e9:.3f} GFLOP an image, {rate * needed / 1e9:,.0f} GFLOP/s: {share:.0%} of a matrix product's")
    print(f"{peak / 1e9:,.0f} GFLOP/s on {accelerator.device}, {torch.get_num_threads()} threads\n")
    slowest = operations(work)
    print("| operation | share of the time |\n|---|---:|")
    for row in slowest:
        print(f"| {row['operation']} | {row['share']:.1%} |")
    record = {"preset": options.preset, "images_per_second": rate, "gflop": needed / 1e9, "matmul_gflops": peak / 1e9}
    print(
        json.dumps(
            {"benchmark": "pretraining", **record, "share": share, "operations": slowest, "versions": versions()}
        )
    )


if __name__ == "__main__":
    main()
