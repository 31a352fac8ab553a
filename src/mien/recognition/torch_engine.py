"""The engine on PyTorch; needs the packages for training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mien.errors import MienError
from mien.machine import resolve_device
from mien.model.channels import reads_luma
from mien.model.classifier import Classifier
from mien.model.networks import Network, num_channels
from mien.model.preprocessing import tensor
from mien.recognition.engine import Answers, batches, check_crops, joined, sure_from


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

    @property
    def path(self) -> Path | None:
        """The folder of the model; None for one that was not loaded from a folder."""
        return self.classifier.folder

    def __repr__(self) -> str:
        return f"TorchEngine({str(self.path)!r}, device={self.provider!r}, threads={torch.get_num_threads()})"

    @classmethod
    def load(cls, folder: Path, device: str = "auto", threads: int | None = None) -> TorchEngine:
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
        classifier = Classifier.load(folder, resolve_device(_of_torch(device)))
        try:
            return cls(classifier, *certainty(classifier.meta()))
        except (AttributeError, TypeError, ValueError) as error:
            raise MienError(
                f"{classifier.folder}/meta.json: calibration: expected a threshold and a stated accuracy from 0 to 1; "
                "copy the whole folder again"
            ) from error

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
