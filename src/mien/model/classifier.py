"""A trained classifier: network, preprocessing and class names, saved in a folder that other tools can open too."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mien.data.clean import BITS, Sketches
from mien.errors import MienError, first_line
from mien.files import atomic_folder, read_json_object, write_json
from mien.model.channels import to_colour
from mien.model.configuration import check_record, read_config
from mien.model.networks import (
    Network,
    NetworkConfig,
    first_convolutions,
    heads,
    lay_out,
    load_network,
    logits,
    num_channels,
)
from mien.model.places import FINGERPRINTS, model_folder
from mien.model.preprocessing import Preprocessing, tensor
from mien.progress import progress

SHARED_FINGERPRINTS = "fingerprints-{}.safetensors"
"""The same file, shared by the model folders beside it; named by the first 16 digits of the data's fingerprint."""


@dataclass(frozen=True)
class Classifier:
    """A network that classifies the expressions of face crops.

    Attributes:
        network: transformers' ViT with a linear head on [CLS], or its wrapper around a network of timm, in evaluation
            mode.
        preprocessing: size and normalisation of its input.
        names: the classes, in the order of the logits.
        folder: the folder that it was loaded from; None for a new one.
    """

    network: Network
    preprocessing: Preprocessing
    names: tuple[str, ...]
    folder: Path | None = None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def logits(
        self, images: np.ndarray, *, batch_size: int = 256, flip: bool = False, quiet: bool = False
    ) -> np.ndarray:
        """Computes the logits of face crops.

        Args:
            images: uint8 [N, H, W] (grey) or [N, H, W, 3] (RGB).
            batch_size: images a forward pass.
            flip: use the mirror images instead.
            quiet: show no progress.

        Returns:
            float32 [N, C], in the order of ``names``.
        """
        self.network.eval()
        parts = [np.zeros((0, len(self.names)), np.float32)]
        with progress("reading faces", len(images), "images", quiet=quiet) as advance:
            for start in range(0, len(images), batch_size):
                batch = tensor(images[start : start + batch_size]).to(self.device)
                pixels = self.preprocessing(batch, num_channels(self.network))
                pixels = pixels.flip(-1) if flip else pixels
                parts.append(logits(self.network, pixels).float().cpu().numpy())
                advance(len(batch))
        return np.concatenate(parts)

    def save(self, folder: Path, meta: dict[str, Any], sketches: Sketches | None = None, *, half: bool = False) -> None:
        """Writes the model folder atomically: weights, configuration, preprocessing, ``meta.json``, fingerprints.

        Args:
            folder: replaced as a whole.
            meta: the record of how the model was trained; JSON-ready.
            sketches: of the training images.
            half: write the weights in half precision, except for the layers that read the pixels, whose channels would
                no longer add up to the luma, and the head, whose temperature would be rounded. The configuration still
                says float32, so that tools compute in it: on a CPU, half precision is slow.
        """
        with atomic_folder(folder) as temporary:
            self.write(temporary, meta, sketches, half=half)

    def write(
        self, folder: Path, meta: dict[str, Any], sketches: Sketches | None = None, *, half: bool = False
    ) -> None:
        """Writes the files of ``save`` into a folder that exists, one after the other."""
        from safetensors.numpy import save_file

        network = copy.deepcopy(self.network).cpu().float()
        if num_channels(network) == 1:
            to_colour(network, self.preprocessing)
        if half:
            _halve(network)
        network.save_pretrained(folder)
        if half:
            config = read_json_object(folder / "config.json")
            write_json(folder / "config.json", {**config, "dtype": "float32"})
        self.preprocessing.processor().save_pretrained(folder)
        write_json(folder / "meta.json", meta)
        if sketches is not None:
            tensors = {}
            for suffix, one_set in zip(_suffixes(), [sketches, *sketches.earlier], strict=False):
                tensors[f"codes{suffix}"] = np.ascontiguousarray(one_set.codes)
                tensors[f"offsets{suffix}"] = one_set.offsets
            save_file(tensors, folder / FINGERPRINTS)

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Classifier:
        """Loads a classifier from a model folder or from the folder of a run.

        Reads weights from ``model.safetensors`` only, whatever the configuration says; unpickles nothing and contacts
        no host.

        Raises:
            MienError: there is no model in the folder, its architecture is unsupported, a setting is out of range, or
                weights are missing, foreign or of another shape.
        """
        folder = model_folder(folder)
        config = read_config(folder)
        preprocessing = Preprocessing.load(folder)
        network = _read_network(folder, config)
        names = tuple(str(name) for name in (config.id2label or {}).values())  # in order, by read_config
        return cls(lay_out(network.eval().to(device)), preprocessing, names, folder)

    def meta(self) -> dict[str, Any]:
        """``meta.json`` of the folder that the classifier was loaded from; empty if there is none.

        Raises:
            MienError: the file is damaged, or a part that Mien uses is out of range.
        """
        if self.folder is None or not (self.folder / "meta.json").is_file():
            return {}
        return check_record(read_json_object(self.folder / "meta.json"), self.folder / "meta.json")

    def sketches(self) -> Sketches | None:
        """Sketches of the training images from this folder or beside it (``SHARED_FINGERPRINTS``), or None.

        Raises:
            MienError: the file is damaged.
        """
        return None if self.folder is None else read_sketches(self.folder, self.meta())


def read_sketches(folder: Path, meta: dict[str, Any]) -> Sketches | None:
    """Sketches of the training images of a model folder with this ``meta.json``, as ``Classifier.sketches``."""
    fingerprint = str((meta.get("data") or {}).get("fingerprint", ""))
    shared = folder.resolve().parent / SHARED_FINGERPRINTS.format(fingerprint[:16])
    for path in (folder / FINGERPRINTS, shared):
        if path.is_file():
            return _read_sketches(path)
    return None


def _suffixes() -> Iterator[str]:
    """Ends of the names of tensors in ``FINGERPRINTS``: of the own training set, and of ``Sketches.earlier``."""
    return itertools.chain([""], (f".{number}" for number in itertools.count(1)))


def _read_sketches(path: Path) -> Sketches:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    remedy = "copy the whole folder again, or remove the file"
    try:
        tensors = load_file(path)
        if "thumbnails" in tensors:
            raise MienError(
                f"{path}: holds thumbnails, as an older Mien wrote them, expected sketches; remove the file"
            )
        suffixes = itertools.islice(_suffixes(), max(1, len(tensors) // 2))
        own, *earlier = [Sketches(tensors[f"codes{suffix}"], tensors[f"offsets{suffix}"]) for suffix in suffixes]
    except (SafetensorError, KeyError, OSError, TypeError) as error:  # a type that NumPy lacks
        raise MienError(f"{path}: is damaged ({first_line(error)}); {remedy}") from error
    for sketches in (own, *earlier):
        codes, offsets = sketches.codes, sketches.offsets
        fits = codes.dtype == np.uint8 and codes.ndim == 2 and codes.shape[1] * 8 == BITS
        if not (fits and offsets.dtype == np.float32 and offsets.shape == (BITS,) and np.isfinite(offsets).all()):
            raise MienError(
                f"{path}: expected sketches of {BITS // 8} bytes and {BITS} medians, got {codes.dtype} "
                f"{list(codes.shape)} and {offsets.dtype} {list(offsets.shape)}; {remedy}"
            )
    return Sketches(own.codes, own.offsets, tuple(earlier))


def _halve(network: Network) -> None:
    """Halves the precision of all weights but those of the first and the last layers (``Classifier.save``)."""
    full_layers = [*first_convolutions(network), *heads(network)]
    full = {id(parameter) for layer in full_layers for parameter in layer.parameters()}
    for parameter in network.parameters():
        if id(parameter) not in full:
            parameter.data = parameter.data.half()


def _read_network(folder: Path, config: NetworkConfig) -> Network:
    if not (folder / "model.safetensors").is_file():
        raise MienError(f"{folder}: the weights are missing (model.safetensors); copy the whole folder again")
    try:
        network, info = load_network(folder, config)
    except Exception as error:
        reason = first_line(error)
        raise MienError(f"{folder}: the weights cannot be read ({reason}); copy the whole folder again") from error
    mismatched = [
        f"{name}, {list(shape)} instead of {list(expected)}" for name, shape, expected in info["mismatched_keys"]
    ]
    for what, keys in (
        ("missing", info["missing_keys"]),
        ("foreign", info["unexpected_keys"]),
        ("of another shape", mismatched),
    ):
        if keys:
            raise MienError(
                f"{folder}: {len(keys)} weights are {what} (first: {sorted(keys)[0]}); give another model folder"
            )
    return network
