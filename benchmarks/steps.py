"""Counts the operations that a training step sends to the device, and names the largest groups.

A small network leaves a GPU idle while Python starts one operation after the other, so their number decides how long a
step takes. Three steps are counted, each after two others: ``mini`` that learns answers and maps of two teachers, its
masked autoencoder, and ``face_cnn`` of 11 million parameters. All train by Muon on faces of noise, with the attention
and the padding of a GPU. Views and reservations of memory are counted apart, since a device never sees them. A CUDA
graph, which is the default on a GPU, sends all of forward and backward pass at once; here nothing is recorded.

    python benchmarks/steps.py
    python benchmarks/steps.py --only mini --precision fp32 --seconds     # and how long a step takes here
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mien.config import AugmentConfig, DistillConfig, FreezeConfig, PretrainConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.machine import machine_of, resolve_device, versions
from mien.model.classifier import Classifier
from mien.model.mae import build_autoencoder
from mien.model.networks import lay_out
from mien.model.vit import build
from mien.training.augment import Augment
from mien.training.finetune import FineTuning
from mien.training.optim import Muon
from mien.training.pretrain import Pretraining
from mien.training.run import start_accelerator
from mien.training.step import Pass
from mien.training.teachers import load_teachers

NAMES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
LARGE: dict[str, Any] = {"channels": [128, 256, 512], "layers": [2, 2, 2], "drop_rate": 0.3}
TEACHERS: tuple[dict[str, Any], ...] = (
    {"channels": [96, 192, 384], "layers": [1, 2, 2]},
    {"channels": [96, 192, 384], "layers": [2, 3, 2]},
)
NARROWER = 8
"""The CNNs are so many times narrower while operations are counted, which changes no count."""

ALLOCATIONS: tuple[str, ...] = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
"""Operations that only reserve memory."""

UNSEEN: tuple[str, ...] = ("_unsafe_view", "_record_function_enter_new", "_record_function_exit")
"""Operations that torch does not mark as views, though they start nothing on a device."""

SHOWN = 12
"""Groups that the table names."""


class Operations(TorchDispatchMode):
    """Counts the operations that reach a device inside a ``with`` block.

    Attributes:
        counts: by name, without views.
        views: number of views and reservations of memory.
        recordable: number of the operations that a CUDA graph replays in one call (``mien.training.step``).
        within: whether such operations run now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.views = self.recordable = 0
        self.within = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts one operation and runs it."""
        name = func.overloadpacket.__name__
        if func.is_view or name in ALLOCATIONS + UNSEEN:
            self.views += 1
        else:
            self.counts[name] += 1
            self.recordable += self.within
        return func(*args, **(kwargs or {}))


def noise_faces(count: int) -> FaceSet:
    """Grey pictures of noise, 48x48, of seven classes; half of them for training."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 48, 48), dtype=np.uint8)
    splits = np.array(["train", "validation"])[np.arange(count) * 2 // count]
    labels = np.arange(count) % len(NAMES)
    return FaceSet(images, labels, splits, np.arange(count).astype(str), NAMES, "noise", "0" * 64)


def finetuning(folder: Path, options: argparse.Namespace, large_cnn: bool) -> FineTuning:
    """A run of fine-tuning, in its only stage: ``mini`` with two teachers, or ``face_cnn`` alone."""
    common: dict[str, Any] = {
        "data": "noise", "out": str(folder / "run"), "batch_size": options.batch_size, "optimizer": "muon",
        "device": options.device, "precision": options.precision, "compile": options.compile,
        "freeze": FreezeConfig(blocks=0),
        "augment": AugmentConfig(contrast=0.3, erasing=0.15),
    }  # fmt: skip
    if large_cnn:
        config = TrainConfig(**common, backbone="timm:face_cnn", network_args=narrowed(LARGE, options), image_size=48)
    else:
        names = [
            str(write_teacher(folder / f"teacher-{n}", narrowed(arguments, options)))
            for n, arguments in enumerate(TEACHERS)
        ]
        distill = DistillConfig(weight=0.8, features=2.0, mirror=True)
        config = TrainConfig(**common, backbone="mini", teacher=names, distill=distill)
    config = config.resolved()
    accelerator = start_accelerator(config)
    torch.manual_seed(0)
    network, preprocessing = build(
        config.backbone, NAMES, grey=True, image_size=config.image_size, network_args=config.network_args
    )
    network = lay_out(network.to(accelerator.device))
    if not large_cnn:
        network.set_attn_implementation(options.attention)
    teachers = load_teachers(config.teacher, NAMES, accelerator.device)
    classifier = Classifier(network, preprocessing, NAMES)
    run = FineTuning(config, classifier, noise_faces(4 * options.batch_size), accelerator, teachers=teachers)
    run.enter_stage(0)
    cast(Muon, run.optimizer).pads = not options.seconds or options.device != "cpu"
    return run


def narrowed(arguments: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a CNN, with fewer channels if only operations are counted."""
    if options.seconds:
        return arguments
    return {**arguments, "channels": [channels // NARROWER for channels in arguments["channels"]],
            "stem_width": 32 // NARROWER}  # fmt: skip


def write_teacher(folder: Path, arguments: dict[str, Any]) -> Path:
    """A CNN with random weights, as a model folder."""
    network, preprocessing = build("timm:face_cnn", NAMES, grey=True, image_size=48, network_args=arguments)
    Classifier(network.eval(), preprocessing, NAMES).save(folder, {})
    return folder


def pretraining(folder: Path, options: argparse.Namespace) -> Pretraining:
    """A run of pretraining ``mini``."""
    config = PretrainConfig(
        data="noise", out=str(folder / "mae"), preset="mini", batch_size=options.batch_size, optimizer="muon",
        device=options.device, precision=options.precision, compile=options.compile,
    ).resolved()  # fmt: skip
    accelerator = start_accelerator(config)
    torch.manual_seed(0)
    network, preprocessing = build_autoencoder(config, grey=True)
    network = lay_out(network.to(accelerator.device))
    network.set_attn_implementation(options.attention)
    run = Pretraining(config, network, preprocessing, noise_faces(4 * options.batch_size), accelerator)
    cast(Muon, run.optimizer).pads = not options.seconds or options.device != "cpu"
    return run


def steps(folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """By name, a function that trains an epoch of two steps."""

    def of_classifier(large_cnn: bool) -> Callable[[], object]:
        run = finetuning(folder, options, large_cnn)

        def epoch() -> None:
            run.state.step = 0
            run.train_epoch(1)

        return epoch

    def of_autoencoder() -> Callable[[], object]:
        run = pretraining(folder, options)

        def epoch() -> None:
            run.state.step = 0
            run.train_epoch(1)

        return epoch

    makers = {
        "mini": lambda: of_classifier(False),
        "autoencoder": of_autoencoder,
        "cnn": lambda: of_classifier(True),
    }
    return {name: makers[name]() for name in options.only}


def count(epoch: Callable[[], object]) -> Operations:
    """The operations of an epoch of two steps, after another one."""
    with contextlib.redirect_stderr(io.StringIO()):
        epoch()
        with Operations() as operations, marked(operations, Pass, "eager"), marked(operations, Augment, "__call__"):
            epoch()
    return operations


@contextlib.contextmanager
def marked(operations: Operations, owner: type, method: str) -> Iterator[None]:
    """Within it, operations of a method count as recordable."""
    original = getattr(owner, method)

    def marking(*arguments: Any) -> Any:
        operations.within = True
        try:
            return original(*arguments)
        finally:
            operations.within = False

    setattr(owner, method, marking)
    try:
        yield
    finally:
        setattr(owner, method, original)


def main() -> None:
    """Prints a table for each step and one line of JSON."""
    options = parse()
    options.device = str(resolve_device(options.device))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        for name, epoch in steps(Path(folder), options).items():
            operations = count(epoch)
            # An epoch has two steps; its order, its random numbers and its last check are few and counted with them.
            total, views = sum(operations.counts.values()) / 2, operations.views / 2
            beside_graphs = total - operations.recordable / 2
            result: dict[str, Any] = {"operations": total, "views": views, "beside_graphs": beside_graphs}
            result["groups"] = operations.counts.most_common()
            views_text = f"{views:,.0f} views and reservations ({beside_graphs:,.0f} beside two CUDA graphs)"
            print(f"\n{name}: {total:,.0f} operations a step, and {views_text}; the largest groups:")
            print("\n".join(f"  {number / 2:7.1f}  {group}" for group, number in result["groups"][:SHOWN]))
            if options.seconds:
                result["seconds"] = seconds(epoch)
                print(f"  {1000 * result['seconds']:.1f} ms a step of {options.batch_size} images")
            results[name] = result
    settings = {name: value for name, value in vars(options).items() if name != "only"}
    machine = machine_of(torch.device(options.device))
    print(json.dumps({"benchmark": "steps", **settings, "steps": results, "machine": machine, "versions": versions()}))


def seconds(epoch: Callable[[], object], rounds: int = 7) -> float:
    """The median time of a step in seconds."""
    times = []
    with contextlib.redirect_stderr(io.StringIO()):
        for _ in range(rounds):
            start = time.perf_counter()
            epoch()
            times.append((time.perf_counter() - start) / 2)
    return statistics.median(times)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["mini", "autoencoder", "cnn"]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="which steps (all)")
    parser.add_argument("--batch-size", type=int, default=4, help="images a step; changes no count (4)")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="(bf16)")
    parser.add_argument("--device", default="cpu", help="(cpu)")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="sdpa, as on a GPU (sdpa)")
    parser.add_argument("--compile", choices=["auto", "graph", "on", "off"], default="off", help="(off)")
    parser.add_argument("--seconds", action="store_true", help="also measure the time of a step")
    return parser.parse_args()


if __name__ == "__main__":
    main()
