"""Counts the operations that a training step sends to the device, and names the largest groups.

A small network leaves a GPU idle while Python starts one operation after the other, so their number decides how long a
step takes. Three steps are counted, each after two others: ``mini`` that learns answers and maps of two teachers, its
masked autoencoder, and ``face_cnn`` of 11 million parameters. All train by Muon on faces of noise, with the attention
and the padding of a GPU. Views and reservations of memory are counted apart, since a device never sees them. A CUDA
graph, which is the default on a GPU, sends all of forward and backward pass at once; here nothing is recorded.

    python benchmarks/steps.py
    python benchmarks/steps.py --only mini --precision fp32
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mien.config import AugmentConfig, DistillConfig, FreezeConfig, PretrainConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.machine import versions
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
NARROWER = 8
"""The CNNs are so many times narrower than those of a real run, which changes no count."""


def narrow(channels: list[int], layers: list[int]) -> dict[str, Any]:
    """The arguments of a ``face_cnn``, with fewer channels."""
    return {"channels": [width // NARROWER for width in channels], "layers": layers, "stem_width": 32 // NARROWER}


LARGE: dict[str, Any] = {**narrow([128, 256, 512], [2, 2, 2]), "drop_rate": 0.3}
TEACHERS = (narrow([96, 192, 384], [1, 2, 2]), narrow([96, 192, 384], [2, 3, 2]))
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
        "device": "cpu", "precision": options.precision, "compile": "off",
        "freeze": FreezeConfig(blocks=0),
        "augment": AugmentConfig(contrast=0.3, erasing=0.15),
    }  # fmt: skip
    if large_cnn:
        config = TrainConfig(**common, backbone="timm:face_cnn", network_args=LARGE, image_size=48)
    else:
        names = [str(write_teacher(folder / f"teacher-{n}", arguments)) for n, arguments in enumerate(TEACHERS)]
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
        network.set_attn_implementation("sdpa")  # as on a GPU
    teachers = load_teachers(config.teacher, NAMES, accelerator.device)
    classifier = Classifier(network, preprocessing, NAMES)
    run = FineTuning(config, classifier, noise_faces(4 * options.batch_size), accelerator, teachers=teachers)
    run.enter_stage(0)
    cast(Muon, run.optimizer).pads = True  # as on a GPU
    return run


def write_teacher(folder: Path, arguments: dict[str, Any]) -> Path:
    """A CNN with random weights, as a model folder."""
    network, preprocessing = build("timm:face_cnn", NAMES, grey=True, image_size=48, network_args=arguments)
    Classifier(network.eval(), preprocessing, NAMES).save(folder, {})
    return folder


def pretraining(folder: Path, options: argparse.Namespace) -> Pretraining:
    """A run of pretraining ``mini``."""
    config = PretrainConfig(
        data="noise", out=str(folder / "mae"), preset="mini", batch_size=options.batch_size, optimizer="muon",
        device="cpu", precision=options.precision, compile="off",
    ).resolved()  # fmt: skip
    accelerator = start_accelerator(config)
    torch.manual_seed(0)
    network, preprocessing = build_autoencoder(config, grey=True)
    network = lay_out(network.to(accelerator.device))
    network.set_attn_implementation("sdpa")  # as on a GPU
    run = Pretraining(config, network, preprocessing, noise_faces(4 * options.batch_size), accelerator)
    cast(Muon, run.optimizer).pads = True  # as on a GPU
    return run


def steps(folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """By name, a function that trains an epoch of two steps."""

    def epoch_of(run: FineTuning | Pretraining) -> Callable[[], object]:
        def epoch() -> None:
            run.state.step = 0
            run.train_epoch(1)

        return epoch

    makers = {
        "mini": lambda: epoch_of(finetuning(folder, options, large_cnn=False)),
        "autoencoder": lambda: epoch_of(pretraining(folder, options)),
        "cnn": lambda: epoch_of(finetuning(folder, options, large_cnn=True)),
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
            results[name] = result
    settings = {"batch_size": options.batch_size, "precision": options.precision}
    print(json.dumps({"benchmark": "steps", **settings, "steps": results, "versions": versions()}))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["mini", "autoencoder", "cnn"]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="which steps (all)")
    parser.add_argument("--batch-size", type=int, default=4, help="images a step; changes no count (4)")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16", help="(bf16)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
