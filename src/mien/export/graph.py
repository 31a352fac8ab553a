"""Writing a classifier as an ONNX file, with its preprocessing and the names of its classes inside."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

import mien
from mien.errors import MienError, first_line
from mien.files import sha256_of
from mien.model.channels import grey_weights, reads_luma, undo_colour
from mien.model.classifier import Classifier
from mien.model.networks import num_channels
from mien.model.preprocessing import Preprocessing
from mien.recognition.torch_engine import Reading, certainty


def onnx_model(classifier: Classifier) -> onnx.ModelProto:
    """Converts a classifier to ONNX.

    The input ``faces`` is luma, uint8 [N, S, S], if the network reads only luma (``mien.model.channels``), else RGB,
    uint8 [N, S, S, 3]. The outputs are ``probabilities``, float32 [N, C], calibrated as the classifier is, and
    ``embedding``, float32 [N, D]: the [CLS] vector after the last norm, or the pooled features of a timm network before
    its head. N may be 0. The model holds ``metadata``, each value as JSON.

    Args:
        classifier: on the CPU. Its network may be changed; load it again to use it further.

    Raises:
        MienError: torch cannot trace the network.
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
    """The metadata of an exported file; JSON-ready.

    Returns:
        ``names``, ``image_size``, ``face_size`` (to which a whole face is resized before its middle is cropped),
        ``grey``, ``mean`` and ``std`` (shares of white, of red, green and blue), ``threshold`` and ``stated_accuracy``
        (None if validation gave none), ``mien_version``, and ``weights_sha256``, the SHA-256 of ``model.safetensors``
        (None if the model has no folder).
    """
    threshold, stated = certainty(classifier.meta())
    weights = None if classifier.folder is None else classifier.folder / "model.safetensors"
    return {
        "names": list(classifier.names),
        "image_size": classifier.preprocessing.image_size,
        "face_size": classifier.preprocessing.face_size,
        "grey": reads_luma(classifier.network, classifier.preprocessing),
        "mean": list(classifier.preprocessing.mean),
        "std": list(classifier.preprocessing.std),
        "threshold": threshold,
        "stated_accuracy": stated,
        "mien_version": mien.__version__,
        "weights_sha256": None if weights is None else sha256_of(weights),
    }


class _FromFaces(nn.Module):
    """The module that is traced: uint8 faces to probabilities and embeddings."""

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
        return self.reading(planes.float() * self.scale + self.shift)


def _traced(classifier: Classifier) -> onnx.ModelProto:
    """Lets torch export a network of timm, or a ViT that ``vit_graph`` cannot write."""
    network, preprocessing, size = classifier.network, classifier.preprocessing, classifier.preprocessing.image_size
    undo_colour(network, preprocessing)
    channels = num_channels(network)
    # With the default memory layout the trace contains no transpositions.
    module = _FromFaces(Reading(network), preprocessing, channels).eval()
    module.to(memory_format=torch.contiguous_format)
    faces = torch.zeros((2, size, size) if channels == 1 else (2, size, size, 3), dtype=torch.uint8)
    try:
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
    except (MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:  # torch.export raises many kinds for what it cannot trace
        reason = first_line(error)[:200]
        raise MienError(
            f"{classifier.folder or 'the model'}: PyTorch cannot write this network as ONNX ({reason}); read it with "
            "PyTorch, as `mien predict --model` does with its folder"
        ) from error
    assert program is not None
    return program.model_proto


# A ViT is not traced: its ONNX graph is written from its weights, and everything that does not depend on the picture is
# computed beforehand. This saves work that a trace repeats for each picture: normalisation, positions and [CLS] become
# one table that is added once; the affine part of each norm moves into the layer after it; values need no bias, since
# the weights of attention sum to 1 and the bias can be added after them; the last block computes only [CLS], since the
# head reads nothing else. The graph uses standard ONNX operators only.

OPSET = 20
"""The first version with Gelu; ONNX Runtime supports it since 1.17."""

INPUT, PROBABILITIES, EMBEDDING = "faces", "probabilities", "embedding"


def can_be_written(network: nn.Module) -> bool:
    """Whether ``vit_graph`` can write the network; it can for every preset and every ViTMAE."""
    return isinstance(network, ViTForImageClassification) and network.config.hidden_act == "gelu"


@torch.no_grad()
def vit_graph(network: ViTForImageClassification, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Writes a ViT classifier as an ONNX graph.

    Args:
        network: a ViT with C classes and width D; ``can_be_written`` is true of it.
        preprocessing: size S and normalisation of its input.

    Returns:
        A model with the input ``faces``, uint8 [N, S, S] if the network reads only luma, else uint8 [N, S, S, 3] (RGB),
        and the outputs ``probabilities``, float32 [N, C], and ``embedding``, float32 [N, D].
    """
    config, size = network.config, preprocessing.image_size
    grey = grey_weights(network, preprocessing)
    graph = _Graph()
    states = _embed(graph, network, preprocessing, None if grey is None else grey[0])
    for index, layer in enumerate(network.vit.layers):
        last = index == len(network.vit.layers) - 1
        states = _block(graph, f"block{index}", states, layer, config, last=last)
    head: Any = network.classifier
    norm: Any = network.vit.layernorm
    pooled = graph.add("Squeeze", states, graph.weight("axis1", np.array([1])))
    scale, shift = (graph.weight(name, _array(value)) for name, value in norm.named_parameters(prefix="norm"))
    graph.add("LayerNormalization", pooled, scale, shift, to=EMBEDDING, axis=-1, epsilon=config.layer_norm_eps)
    weight, bias = graph.weight("head.weight", _array(head.weight)), graph.weight("head.bias", _array(head.bias))
    logits = graph.add("Gemm", EMBEDDING, weight, bias, name="head", transB=1)
    graph.add("Softmax", logits, to=PROBABILITIES, axis=-1)
    shape = ["N", size, size] if grey is not None else ["N", size, size, 3]
    return graph.model(shape, len(head.weight), config.hidden_size)


def normalisation(preprocessing: Preprocessing, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each channel, or of luma for one channel: float64 [1, channels, 1, 1], shares of white."""
    means = preprocessing.mean if channels == 3 else (preprocessing.grey_mean,)
    stds = preprocessing.std if channels == 3 else (preprocessing.grey_std,)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (means, stds))
    return mean, std


class _Graph:
    """Collects the nodes and weights of an ONNX graph; values are passed on by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def weight(self, name: str, value: np.ndarray) -> str:
        """Adds a constant as float32 or int64 and returns its name; a name that exists is not added again."""
        if name not in self.weights:
            array = value.astype(np.float32) if value.dtype.kind == "f" else value.astype(np.int64)
            self.weights[name] = numpy_helper.from_array(np.require(array, requirements="C"), name)
        return name

    def add(self, kind: str, *inputs: str, name: str | None = None, to: str | None = None, **attributes: Any) -> str:
        """Adds an operator and returns the name of its output."""
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [to or f"{name}.out"], name=name, **attributes))
        return to or f"{name}.out"

    def linear(self, name: str, values: str, weight: np.ndarray, bias: np.ndarray | None) -> str:
        """Adds a linear layer and returns the name of its output; ``weight`` is [out, in] as in torch."""
        product = self.add("MatMul", values, self.weight(f"{name}.weight", weight.T), name=name)
        return product if bias is None else self.add("Add", product, self.weight(f"{name}.bias", bias))

    def model(self, shape: list[Any], classes: int, width: int) -> onnx.ModelProto:
        """The finished model, checked by ONNX."""
        inputs = [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, shape)]
        outputs = [
            helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["N", classes]),
            helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", width]),
        ]
        graph = helper.make_graph(self.nodes, "mien", inputs, outputs, list(self.weights.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def _embed(
    graph: _Graph, network: ViTForImageClassification, preprocessing: Preprocessing, grey: torch.Tensor | None
) -> str:
    """Adds the embeddings: faces to the states before the first block, [N, 1 + patches, D]."""
    embeddings, width = network.vit.embeddings, network.config.hidden_size
    projection = embeddings.patch_embeddings.projection
    weight = projection.weight.double().cpu() if grey is None else grey
    channels, patch = weight.shape[1], weight.shape[2]
    means, stds = normalisation(preprocessing, channels)
    bias = _bias(projection, width) - (weight * means / stds).sum((1, 2, 3)).numpy()
    table = _positions(network, preprocessing.image_size)
    table[0] += _array(embeddings.cls_token)[0, 0]
    table[1:] += bias
    side = preprocessing.image_size // patch
    colours = [] if channels == 1 else [channels]
    # A 0 keeps the size of that axis, here the number of faces, which may itself be 0.
    split = graph.weight("embed.split", np.array([0, side, patch, side, patch, *colours]))
    merged = graph.weight("embed.merged", np.array([0, side * side, patch * patch * channels]))
    pixels = graph.add("Reshape", INPUT, split)
    pixels = graph.add("Transpose", pixels, perm=[0, 1, 3, 2, 4, *([5] if colours else [])])
    pixels = graph.add("Reshape", pixels, merged)
    # A black patch in front stands for [CLS]: its product with the weights is 0, so only its row of the table counts.
    pixels = graph.add("Pad", pixels, graph.weight("embed.pads", np.array([0, 1, 0, 0, 0, 0])))
    pixels = graph.add("CastLike", pixels, graph.weight("zero", np.zeros(())))
    scaled = (weight / (255 * stds)).permute(0, 2, 3, 1).reshape(width, -1).numpy()
    patches = graph.linear("embed", pixels, scaled, None)
    return graph.add("Add", patches, graph.weight("embed.table", table))


def _block(graph: _Graph, name: str, states: str, layer: Any, config: ViTConfig, *, last: bool) -> str:
    """Adds a block: states [N, tokens, D] to the same shape, or in the last block to the state of [CLS], [N, 1, D]."""
    attention = layer.attention
    weights, biases = _after_norm(layer.layernorm_before, [attention.q_proj, attention.k_proj, attention.v_proj])
    normed = _standardise(graph, states, config)
    read = normed
    if last:
        first = graph.weight("first", np.array([0]))
        states, read = graph.add("Gather", states, first, axis=1), graph.add("Gather", normed, first, axis=1)
    root = (config.hidden_size // config.num_attention_heads) ** 0.5
    query = graph.linear(f"{name}.query", read, weights[0] / root, biases[0] / root)
    # The bias of the keys adds the same number to the scores of all keys, which softmax cancels.
    key = graph.linear(f"{name}.key", normed, weights[1], None)
    value = graph.linear(f"{name}.value", normed, weights[2], None)
    mixed = _attend(graph, query, key, value, config)
    output = _array(attention.o_proj.weight)
    bias = _bias(attention.o_proj, config.hidden_size) + output @ biases[2]
    states = graph.add("Add", states, graph.linear(f"{name}.output", mixed, output, bias))
    (weight,), (bias,) = _after_norm(layer.layernorm_after, [layer.mlp.fc1])
    wide = graph.linear(f"{name}.widen", _standardise(graph, states, config), weight, bias)
    narrow = layer.mlp.fc2
    hidden = graph.add("Gelu", wide)
    bias = _bias(narrow, config.hidden_size)
    return graph.add("Add", states, graph.linear(f"{name}.narrow", hidden, _array(narrow.weight), bias))


def _attend(graph: _Graph, query: str, key: str, value: str, config: ViTConfig) -> str:
    """Adds the attention of all heads: a query [N, T, D], key and value [N, tokens, D] to [N, T, D]."""
    heads, width = config.num_attention_heads, config.hidden_size
    split = graph.weight("heads", np.array([0, 0, heads, width // heads]))
    queries = graph.add("Transpose", graph.add("Reshape", query, split), perm=[0, 2, 1, 3])
    keys = graph.add("Transpose", graph.add("Reshape", key, split), perm=[0, 2, 3, 1])
    values = graph.add("Transpose", graph.add("Reshape", value, split), perm=[0, 2, 1, 3])
    shares = graph.add("Softmax", graph.add("MatMul", queries, keys), axis=-1)
    mixed = graph.add("Transpose", graph.add("MatMul", shares, values), perm=[0, 2, 1, 3])
    return graph.add("Reshape", mixed, graph.weight("joined", np.array([0, 0, width])))


def _standardise(graph: _Graph, states: str, config: ViTConfig) -> str:
    """Adds a layer norm without its affine part, which ``_after_norm`` moves into the next layers."""
    ones = graph.weight("ones", np.ones(config.hidden_size))
    return graph.add("LayerNormalization", states, ones, axis=-1, epsilon=config.layer_norm_eps)


def _after_norm(norm: Any, layers: list[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights and biases of layers after a norm, with the affine part of the norm multiplied in."""
    scale, shift = _array(norm.weight), _array(norm.bias)
    weights = [_array(layer.weight) for layer in layers]
    biases = [_bias(layer, len(weight)) for layer, weight in zip(layers, weights, strict=True)]
    moved = [bias + weight @ shift for weight, bias in zip(weights, biases, strict=True)]
    return [weight * scale for weight in weights], moved


def _positions(network: ViTForImageClassification, size: int) -> np.ndarray:
    """Positions, float64 [1 + patches, D], interpolated as the network does if ``size`` is not its own."""
    embeddings = network.vit.embeddings
    side = size // int(embeddings.patch_embeddings.projection.kernel_size[0])
    tokens = torch.zeros(1, 1 + side * side, network.config.hidden_size)
    return _array(embeddings.interpolate_pos_encoding(tokens, size, size))[0].copy()


def _bias(layer: Any, width: int) -> np.ndarray:
    return np.zeros(width) if layer.bias is None else _array(layer.bias)


def _array(values: torch.Tensor) -> np.ndarray:
    """A tensor as a float64 array; weights are combined in this precision."""
    return values.detach().double().cpu().numpy()
