"""Images a second that training can be fed with: Mien's batched pipeline beside a plain torchvision loader.

Both turn grey 48x48 faces into augmented, normalised float batches, on the same cores in the same run. The plain
loader is what tutorials show: ``ImageFolder`` decodes a JPEG an image, transforms it by itself in one of two workers,
and stacks. Mien decodes a set once and keeps it in memory as uint8, then transforms a whole batch as a tensor, here
in one thread of one process. The rounds alternate, so that other work on the machine slows both; the ratio is the
median over the rounds.

    python benchmarks/input_pipeline.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from mien.config import AugmentConfig
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.model.preprocessing import FER2013_MEAN, FER2013_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mien.training.augment import Augment, random_table

SIZES = (48, 224)
"""Pixels a side of a face, and of a pretrained backbone."""

BATCH = 64
WORKERS = 2
CLASSES = 7


def write_noise(folder: Path, count: int) -> None:
    """Writes ``count`` grey 48x48 JPEGs, a sub-folder a class: blurred noise, which compresses about as faces do."""
    rng = np.random.default_rng(0)
    for index in range(count):
        place = folder / "train" / f"class{index % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12), dtype=np.uint8))
        coarse.resize((48, 48), Image.Resampling.BICUBIC).save(place / f"{index:05}.jpg", quality=90)


def plain_loader(folder: Path, size: int) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """The loader of a tutorial, with augmentation of the same kinds and strengths."""
    config = AugmentConfig()
    grey = size == 48
    steps = [
        *([transforms.Grayscale()] if grey else []),
        transforms.RandomResizedCrop(size, scale=(config.crop_scale**2, 1.0), ratio=(1.0, 1.0)),
        transforms.RandomHorizontalFlip(config.flip),
        transforms.RandomRotation(config.rotation, interpolation=transforms.InterpolationMode.BILINEAR),
        transforms.ColorJitter(brightness=config.brightness, contrast=config.contrast),
        transforms.ToTensor(),
        transforms.Normalize([FER2013_MEAN], [FER2013_STD])
        if grey
        else transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
    dataset = ImageFolder(str(folder / "train"), transforms.Compose(steps))
    return DataLoader(
        dataset, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, drop_last=True
    )


def our_batches(faces: FaceSet, size: int, epoch: int) -> Iterator[torch.Tensor]:
    """One epoch of what ``mien.training`` feeds the network with: native grey at 48 px, three channels at 224."""
    mean, std = ((FER2013_MEAN,) * 3, (FER2013_STD,) * 3) if size == 48 else (IMAGENET_MEAN, IMAGENET_STD)
    augment = Augment(AugmentConfig(), Preprocessing(size, mean, std), 1 if size == 48 else 3)
    images = torch.from_numpy(faces.images)
    random = random_table(len(images), 0, epoch)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
    for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
        yield augment(images[rows], random[rows])


def rate(batches: Iterator[torch.Tensor], channels: int, size: int) -> float:
    """Images a second over an epoch."""
    count, started = 0, time.perf_counter()
    for batch in batches:
        assert batch.shape == (BATCH, channels, size, size) and batch.dtype == torch.float32
        count += len(batch)
    return count / (time.perf_counter() - started)


def measure(folder: Path, faces: FaceSet, size: int, rounds: int) -> dict[str, float]:
    """Median rates of both and the median of their ratio; a first round of each warms up and is left out."""
    channels = 1 if size == 48 else 3
    loader = plain_loader(folder, size)
    plain_rates, our_rates = [], []
    for epoch in range(rounds + 1):
        plain_rates.append(rate((images for images, _ in loader), channels, size))
        our_rates.append(rate(our_batches(faces, size, epoch), channels, size))
    ratios = [our_rate / plain_rate for our_rate, plain_rate in zip(our_rates[1:], plain_rates[1:], strict=True)]
    return {
        "size": size,
        "torchvision": round(statistics.median(plain_rates[1:]), 1),
        "mien": round(statistics.median(our_rates[1:]), 1),
        "ratio": round(statistics.median(ratios), 2),
    }


def main() -> None:
    """Prints a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048, help="images an epoch (2048)")
    parser.add_argument("--rounds", type=int, default=3, help="epochs of each that count (3)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_noise(folder, options.images)
        faces = read_faces(folder, cache=False)
        results = [measure(folder, faces, size, options.rounds) for size in SIZES]
    print(f"{'size':>6} {'torchvision':>14} {'mien':>14} {'ratio':>8}   (images/s, batch {BATCH})")
    for row in results:
        print(f"{row['size']:>6} {row['torchvision']:>14,} {row['mien']:>14,} {row['ratio']:>8}")
    environment = {"cores": os.cpu_count(), "torch": torch.__version__, "workers": WORKERS, "images": options.images}
    print(json.dumps({**environment, "results": results}))


if __name__ == "__main__":
    main()
