"""What each preset costs: parameters, arithmetic, images a second in training and in prediction, memory.

All networks are ViT classifiers of grey 48x48 faces with random weights, fed with noise that lies ready in memory: the
input pipeline is measured elsewhere (input_pipeline.py). One GFLOP is 10^9 floating-point operations, a multiply-add
counts as two. All is measured on the CPU in fp32. A training step is forward, backward and AdamW. Prediction is a
forward pass, by torch and by ONNX Runtime; the two answer the same to 1e-4, or there is no table. Rates are those of
the median step. Memory, weights included, is how far the process's peak rises over what the libraries take; each way
is measured in a process of its own. Believe the ratios, in brackets, before the numbers.

    python benchmarks/presets.py
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from process import in_fresh_process, resident
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mien.config import PRESETS
from mien.labels import FER2013
from mien.machine import machine, versions
from mien.model.presets import SHAPES
from mien.model.vit import build

REFERENCE = "tiny"
"""The preset that ratios refer to."""

PARITY = 1e-4
"""Largest difference between the logits of torch and of ONNX Runtime."""

RATES: tuple[str, ...] = ("training", "prediction", "onnxruntime")


@dataclass(frozen=True)
class Setup:
    """How a preset is measured.

    Attributes:
        preset: one of ``mien.config.PRESETS``.
        batch_size: images a step.
        seconds: how long steps are timed, at least three of them.
        threads: threads of torch and of ONNX Runtime within an operation.
    """

    preset: str
    batch_size: int
    seconds: float
    threads: int


class Logits(nn.Module):
    """A preset's classifier from pixels, float32 [B, 1, S, S], to logits, float32 [B, 7]."""

    def __init__(self, preset: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network, _ = build(preset, FER2013, grey=True)
        # A fresh head is zero, and so would be every logit and every difference between two of them.
        nn.init.normal_(self.network.get_parameter("classifier.weight"), std=SHAPES[preset].hidden_size ** -0.5)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.network(pixel_values=pixel_values).logits


def size_of(preset: str) -> dict[str, float]:
    """Parameters of a preset, and GFLOP of one face on its way forward; nothing is computed."""
    with torch.device("meta"):
        model = Logits(preset)
        face = torch.empty(1, 1, SHAPES[preset].image_size, SHAPES[preset].image_size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(face)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflop": counter.get_total_flops() / 1e9,
    }


def training(setup: Setup) -> dict[str, float]:
    """Images a second and peak memory (MiB) of training steps."""
    torch.set_num_threads(setup.threads)
    before = resident("VmRSS")
    model = Logits(setup.preset).train()
    pixels, labels = _noise(setup)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(pixels), labels).backward()
        optimizer.step()

    return {"training": _rate(step, setup), "training_memory": resident("VmHWM") - before}


def prediction(setup: Setup) -> dict[str, float]:
    """Images a second and peak memory (MiB) of torch's forward passes."""
    torch.set_num_threads(setup.threads)
    before = resident("VmRSS")
    model = Logits(setup.preset).eval()
    pixels = _noise(setup)[0]
    with torch.inference_mode():
        rate = _rate(lambda: model(pixels), setup)
    return {"prediction": rate, "prediction_memory": resident("VmHWM") - before}


def export(setup: Setup, file: Path) -> dict[str, float]:
    """Writes a preset as ONNX with a free batch size, and holds it to torch's logits.

    Raises:
        ValueError: the two differ by more than ``PARITY``.
    """
    torch.set_num_threads(setup.threads)
    model = Logits(setup.preset).eval()
    pixels = _noise(setup)[0]
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
    torch.onnx.export(
        model, (pixels[:2],), file, dynamo=True, external_data=False, dynamic_shapes=shapes, verbose=False
    )
    with torch.inference_mode():
        expected = model(pixels).numpy()
    logits = _session(file, setup.threads).run(None, {"pixel_values": pixels.numpy()})[0]
    difference = float(np.abs(logits - expected).max())
    if difference > PARITY:
        raise ValueError(f"{setup.preset}: ONNX Runtime's logits are off by {difference:.1e}, expected {PARITY}")
    return {"difference": difference}


def onnx_prediction(setup: Setup, file: Path) -> dict[str, float]:
    """Images a second and growth of peak memory (MiB) of ONNX Runtime."""
    before = resident("VmRSS")
    session = _session(file, setup.threads)
    pixels = _noise(setup)[0].numpy()
    rate = _rate(lambda: session.run(None, {"pixel_values": pixels}), setup)
    return {"onnxruntime": rate, "onnxruntime_memory": resident("VmHWM") - before}


def measure(setup: Setup) -> dict[str, Any]:
    """Everything about a preset, each part in a fresh process, so that none sees the memory of another."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{setup.preset}.onnx"
        row: dict[str, Any] = {"preset": setup.preset, **size_of(setup.preset)}
        row |= in_fresh_process(training, setup)
        row |= in_fresh_process(prediction, setup)
        row |= in_fresh_process(export, setup, file)
        row |= in_fresh_process(onnx_prediction, setup, file)
    return row


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with each rate as a share of the reference's, where that was measured."""
    reference = next((row for row in rows if row["preset"] == REFERENCE), None)
    if reference is None:
        return rows
    return [{**row, **{f"{rate}_ratio": row[rate] / reference[rate] for rate in RATES}} for row in rows]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    heads = ["preset", "parameters", "GFLOP a face", "training, images/s", "prediction, torch", "ONNX Runtime"]
    heads += ["memory: training, MiB", "prediction", "ONNX Runtime"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for row in rows:
        cells = [row["preset"], f"{row['parameters']:,}", f"{row['gflop']:.3f}"]
        for rate in RATES:
            ratio = f" ({row[f'{rate}_ratio']:.2f}x)" if f"{rate}_ratio" in row else ""
            cells.append(f"{row[rate]:,.1f}{ratio}")
        cells += [f"{row[f'{rate}_memory']:,.0f}" for rate in RATES]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _noise(setup: Setup) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised pixels, float32 [B, 1, S, S], and labels, int64 [B]."""
    generator = torch.Generator().manual_seed(0)
    side = SHAPES[setup.preset].image_size
    pixels = torch.randn(setup.batch_size, 1, side, side, generator=generator)
    return pixels, torch.randint(len(FER2013), (setup.batch_size,), generator=generator)


def _rate(step: Callable[[], object], setup: Setup) -> float:
    """Images a second of the median step; the first one warms up and is left out."""
    times: list[float] = []
    step()
    while len(times) < 3 or sum(times) < setup.seconds:
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return setup.batch_size / statistics.median(times)


def _session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def main() -> int:
    """Prints what was measured where and how, a Markdown table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="which (all)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step (64)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads (as many as torch takes)")
    parser.add_argument("--quick", action="store_true", help="batches of 8 and three steps: shows that it runs")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists() or not all(find_spec(name) for name in ("onnx", "onnxscript")):
        parser.error("needs Linux, and the packages of export: pip install '.[train,export]'")
    batch_size, seconds = (8, 0.0) if options.quick else (options.batch_size, 10.0)
    rows = []
    for preset in options.presets:
        print(f"measuring {preset}", file=sys.stderr, flush=True)
        rows.append(measure(Setup(preset, batch_size, seconds, options.threads)))
    header = {
        "benchmark": "presets",
        "command": shlex.join(["python", *sys.argv]),
        "hardware": machine(),
        "threads": options.threads,
        "batch_size": batch_size,
        "versions": versions() | {name: metadata.version(name) for name in ("onnx", "onnxruntime", "onnxscript")},
    }
    for name, value in header.items():
        print(f"{name}: {value}")
    rows = with_ratios(rows)
    print(f"\n{table(rows)}\n\n{json.dumps({**header, 'rows': rows})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
