"""Writing a classifier as an ONNX file, with its preprocessing and the names of its classes inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

import mien
from mien.export.vit_graph import EMBEDDING, INPUT, OPSET, PROBABILITIES, can_be_written, normalisation, vit_graph
from mien.files import sha256_of
from mien.model.classifier import Classifier
from mien.model.luma import grey_weights, reads_luma
from mien.model.networks import first_convolutions, num_channels, set_channels
from mien.model.preprocessing import Preprocessing
from mien.recognition.engines.torch_engine import Reading, certainty


def onnx_model(classifier: Classifier) -> onnx.ModelProto:
    """A classifier as ONNX.

    The input ``faces`` is uint8 [N, S, S], luma, where the network reads luma alone (``mien.model.luma``), else
    uint8 [N, S, S, 3], RGB. The outputs are ``probabilities``, float32 [N, C], calibrated as the classifier is, and
    ``embedding``, float32 [N, D]: the [CLS] vector after the last norm, or what a timm network pools before its head.
    N may be 0. ``metadata`` is noted in it, each value as JSON.

    Args:
        classifier: on the CPU. Its network may be changed; load it anew to go on with it.
    """
    about = metadata(classifier)
    if can_be_written(classifier.network):
        model = vit_graph(classifier.network, classifier.preprocessing)  # type: ignore[arg-type]
    else:
        model = _traced(classifier)
    model.producer_name, model.producer_version = "mien", mien.__version__
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    return model


def metadata(classifier: Classifier) -> dict[str, Any]:
    """What an exported file says of itself; JSON-ready.

    Returns:
        ``names``, ``image_size``, ``grey``, ``mean`` and ``std`` (shares of white, of red, green and blue),
        ``threshold`` and ``stated_accuracy`` (null where validation gave none), ``mien_version``, and the SHA-256 of
        the files it was made from, ``weights_sha256`` and ``meta_sha256`` (null where there is none).
    """
    threshold, stated = certainty(classifier.meta())
    folder = classifier.folder
    return {
        "names": list(classifier.names),
        "image_size": classifier.preprocessing.image_size,
        "grey": reads_luma(classifier.network, classifier.preprocessing),
        "mean": list(classifier.preprocessing.mean),
        "std": list(classifier.preprocessing.std),
        "threshold": threshold,
        "stated_accuracy": stated,
        "mien_version": mien.__version__,
        "weights_sha256": _sha256(folder and folder / "model.safetensors"),
        "meta_sha256": _sha256(folder and folder / "meta.json"),
    }


class _FromFaces(nn.Module):
    """From uint8 faces to probabilities and embeddings, for a trace."""

    def __init__(self, reading: Reading, preprocessing: Preprocessing, channels: int) -> None:
        super().__init__()
        self.reading = reading
        mean, std = normalisation(preprocessing, channels)
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        planes = faces.unsqueeze(1) if faces.ndim == 3 else faces.permute(0, 3, 1, 2)
        probabilities, embedding = self.reading(planes.float() * self.scale + self.shift)
        return probabilities, embedding


def _traced(classifier: Classifier) -> onnx.ModelProto:
    """A network of timm, or a ViT of an uncommon kind, as torch writes it."""
    network, preprocessing, size = classifier.network, classifier.preprocessing, classifier.preprocessing.image_size
    grey = grey_weights(network, preprocessing)
    if grey is not None and num_channels(network) == 3:
        for layer, weight in zip(first_convolutions(network), grey, strict=True):
            assert isinstance(layer, nn.Conv2d)
            layer.weight = nn.Parameter(weight.float())
            layer.in_channels = 1
        set_channels(network, 1)
    # In the plain order of memory the trace holds no transpositions.
    module = _FromFaces(Reading(network), preprocessing, num_channels(network)).eval()
    module.to(memory_format=torch.contiguous_format)
    faces = torch.zeros((2, size, size) if grey is not None else (2, size, size, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        module,
        (faces,),
        dynamo=True,
        external_data=False,
        input_names=[INPUT],
        output_names=[PROBABILITIES, EMBEDDING],
        dynamic_shapes={"faces": {0: torch.export.Dim("N")}},
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _sha256(path: Path | None) -> str | None:
    return sha256_of(path) if path is not None and path.is_file() else None
