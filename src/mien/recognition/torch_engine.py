"""What recognition does with PyTorch: its engine, and explanations from inside a Vision Transformer.

Both need the packages for training and a model folder with its weights.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import ViTForImageClassification

from mien.errors import MienError
from mien.machine import resolve_device
from mien.model.channels import reads_luma
from mien.model.classifier import Classifier
from mien.model.networks import Network, num_channels
from mien.model.preprocessing import tensor
from mien.recognition.engine import Answers, batches, check_crops, joined, loaded_again, sure_from


class Reading(nn.Module):
    """Module that returns a network's probabilities and the embedding that they are computed from.

    Args:
        network: the network of a classifier, in evaluation mode.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps normalised pixels, float32 [N, channels, S, S], to probabilities [N, C] and embeddings [N, D]."""
        network: Any = self.network
        if hasattr(network, "timm_model"):
            features = network.timm_model.forward_features(pixels)
            embedding = network.timm_model.forward_head(features, pre_logits=True).flatten(1)
            logits = network.timm_model.forward_head(features)
        else:
            embedding = network.vit(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
            logits = network.classifier(embedding)
        return logits.softmax(-1), embedding


class TorchEngine:
    """Reads crops with a classifier in PyTorch.

    Args:
        classifier: a trained classifier, on its device.
        threshold: probability in [0, 1] below which an answer is uncertain; None if validation gave none: with a
            ``stated_accuracy``, every answer is then uncertain.
        stated_accuracy: accuracy on validation of the answers at or above the threshold; None if not calibrated.
    """

    def __init__(
        self, classifier: Classifier, threshold: float | None = None, stated_accuracy: float | None = None
    ) -> None:
        self.classifier, self.stated_accuracy = classifier, stated_accuracy
        self.threshold = sure_from(threshold, stated_accuracy)
        self.names = classifier.names
        self.image_size = classifier.preprocessing.image_size
        self.face_size = classifier.preprocessing.face_size
        self.grey = reads_luma(classifier.network, classifier.preprocessing)
        self._reading = Reading(classifier.network).eval()
        self.provider = str(classifier.device)
        self._arguments: tuple[str, str, int | None] | None = None

    def __reduce__(self) -> tuple[Any, ...] | str:
        """Copies and pickles of a model that was loaded from a folder are loaded from it again."""
        return super().__reduce__() if self._arguments is None else (loaded_again, (TorchEngine.load, *self._arguments))

    @property
    def path(self) -> Path | None:
        """The folder of the model; None for one that was not loaded from a folder."""
        return self.classifier.folder

    def __repr__(self) -> str:
        return f"TorchEngine({str(self.path)!r}, device={self.provider!r}, threads={torch.get_num_threads()})"

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", threads: int | None = None) -> TorchEngine:
        """Loads a model folder.

        Args:
            folder: a folder that ``mien train`` wrote.
            device: auto, cpu, gpu (CUDA or else mps), cuda, cuda:N or mps.
            threads: number of torch's threads in the whole process; None to leave it unchanged.

        Raises:
            MienError: the folder is not a model, or there is no such device.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        classifier = Classifier.load(Path(folder), resolve_device(_of_torch(device)))
        try:
            engine = cls(classifier, *certainty(classifier.meta()))
        except (AttributeError, TypeError, ValueError) as error:
            raise MienError(
                f"{classifier.folder}/meta.json: calibration: expected a threshold and a stated accuracy from 0 to 1; "
                "copy the whole folder again"
            ) from error
        engine._arguments = (os.path.abspath(folder), device, threads)
        return engine

    @torch.inference_mode()
    def read(self, crops: np.ndarray) -> Answers:
        """Reads crops; see ``mien.recognition.engine.Engine``.

        Raises:
            MienError: the crops have another type or size, or an answer is NaN or infinity.
        """
        crops = check_crops(crops, self.image_size, self.grey)
        device, channels = self.classifier.device, num_channels(self.classifier.network)
        parts = []
        for batch in batches(crops):
            pixels = self.classifier.preprocessing.of_crops(tensor(batch).to(device), channels)
            probabilities, embedding = self._reading(pixels)
            parts.append((probabilities.float().cpu().numpy(), embedding.float().cpu().numpy()))
        return joined(parts, len(crops), self.classifier.folder or "the model", len(self.names))


def _of_torch(device: str) -> str:
    """Returns torch's name of a device: ``gpu`` is CUDA, or else Apple's GPU.

    Raises:
        MienError: there is no GPU, or torch has no such device.
    """
    if device in ("coreml", "directml", "openvino"):
        raise MienError(f"device: got {device}, which ONNX Runtime may have, but torch has not; take cpu, cuda or mps")
    if device != "gpu":
        return device
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    raise MienError("device: got gpu, and torch has none here; use cpu, or check the driver")


def certainty(meta: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Returns the threshold and the stated accuracy in a model's ``meta.json``; None if the model was not calibrated.

    Only the threshold is None if no threshold reached the stated accuracy on validation.

    Raises:
        AttributeError, TypeError, ValueError: the values have another type, or are not in [0, 1].
    """
    record = (meta.get("calibration") or {}).get("uncertain") or {}
    threshold, stated = record.get("threshold"), record.get("stated_accuracy")
    for value in (threshold, stated):
        if value is not None and not (type(value) in (int, float) and 0 <= value <= 1):
            raise ValueError(f"threshold {threshold!r}, stated accuracy {stated!r}")
    return (
        None if stated is None or threshold is None else float(threshold),
        None if stated is None else float(stated),
    )


# Explanations by attention: rollout, and attention weighted by gradients. Occlusion (``mien.recognition.explain``)
# needs no torch.


def rollout(classifier: Classifier, crop: np.ndarray, label: int) -> np.ndarray:
    """Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928, section 3), the row of [CLS].

    Args:
        classifier: a ViT.
        crop: uint8 [S, S] (grey) or [S, S, 3] (RGB), a face.
        label: position of the expression; unused, as attention does not depend on it.

    Returns:
        float32 [G, G], the share of the final [CLS] that flows from each patch, in [0, 1].

    Raises:
        MienError: the network is not a ViT.
    """
    with torch.no_grad():
        _, attentions = attend(classifier, crop)
        return grid(rolled_out([block[0] for block in attentions])[0, 1:])


def gradient(classifier: Classifier, crop: np.ndarray, label: int) -> np.ndarray:
    """Attention weighted by the gradient of the label's logit (Chefer et al. 2021, arXiv:2103.15679, section 3.1).

    Arguments and errors are those of ``rollout``; here the label matters.

    Returns:
        float32 [G, G], relevance of each patch for the label, at least 0, without a unit.
    """
    # The caller may be in inference mode, which records no gradients.
    with torch.inference_mode(False), torch.enable_grad():
        logits, attentions = attend(classifier, crop, differentiable=True)
        gradients = torch.autograd.grad(logits[label], attentions)
    with torch.no_grad():
        blocks, slopes = ([block[0] for block in tensors] for tensors in (attentions, gradients))
        return grid(propagated(blocks, slopes)[0, 1:])


ATTENTION: dict[str, Callable[[Classifier, np.ndarray, int], np.ndarray]] = {
    "rollout": rollout,
    "gradient": gradient,
}
"""The methods that use attention, by name."""


def rolled_out(attentions: Sequence[torch.Tensor]) -> torch.Tensor:
    """Multiplies the attention of all blocks, each averaged with the identity for the residual path.

    Args:
        attentions: float [H, T, T] for each block, from the first to the last; rows sum to 1.

    Returns:
        float [T, T]; rows sum to 1.
    """
    flow = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype, device=attentions[0].device)
    for attention in attentions:
        flow = (attention.mean(0) @ flow + flow) / 2
    return flow


def propagated(attentions: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Propagates the relevance of every token for every other through the blocks (equations 5 and 6 of the paper).

    Args:
        attentions: float [H, T, T] for each block, from the first to the last.
        gradients: gradients of a logit by these, of the same shapes.

    Returns:
        float [T, T], at least 0; it starts as the identity.
    """
    relevance = torch.eye(attentions[0].shape[-1], dtype=attentions[0].dtype, device=attentions[0].device)
    for attention, slope in zip(attentions, gradients, strict=True):
        relevance = relevance + (attention * slope).clamp(min=0).mean(0) @ relevance
    return relevance


def attend(
    classifier: Classifier, crop: np.ndarray, *, differentiable: bool = False
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Returns the logits [C] of a crop, and the attention [1, H, T, T] of each block; row t shows where token t looks.

    Raises:
        MienError: the network is not a ViT.
    """
    network = classifier.network
    if not isinstance(network, ViTForImageClassification):
        name = getattr(network.config, "architecture", type(network).__name__)
        raise MienError(f"got a network without [CLS] attention ({name}), expected a ViT; use the method occlusion")
    network.eval()
    images = tensor(crop[None]).to(classifier.device)
    pixels = classifier.preprocessing.of_crops(images, num_channels(network)).requires_grad_(differentiable)
    with _eager(network):
        output = network(pixel_values=pixels, interpolate_pos_encoding=True, output_attentions=True)
    return output.logits[0], list(output.attentions)


_SWITCHING = threading.Lock()
"""Held while a network is switched to eager attention. One for all, as classifiers may share a network."""


@contextmanager
def _eager(network: ViTForImageClassification) -> Iterator[None]:
    """Within the block, computes attention without the fused kernels, which do not return the weights.

    Other threads wait for the end of the block: they would switch the network back during it, or leave it eager.
    """
    with _SWITCHING:
        before = network.config._attn_implementation
        network.set_attn_implementation("eager")
        try:
            yield
        finally:
            network.set_attn_implementation(before)


def grid(patches: torch.Tensor) -> np.ndarray:
    """Arranges one number for each patch, [G * G], row by row as float32 [G, G]."""
    side = math.isqrt(len(patches))
    return patches.reshape(side, side).float().cpu().numpy()
