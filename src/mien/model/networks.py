"""The two kinds of network of a classifier, transformers' ViT and timm's, and everything in which they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.layers import Conv2dSame
from torch import nn
from transformers import (
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEForPreTraining,
)
from transformers.utils import logging

from mien.errors import MienError
from mien.labels import canonical

Network = ViTForImageClassification | TimmWrapperForImageClassification
NetworkConfig = ViTConfig | TimmWrapperConfig
N = TypeVar("N", ViTForImageClassification, TimmWrapperForImageClassification, Network, ViTMAEForPreTraining)

MODEL_TYPES: dict[str, type[Network]] = {
    "vit": ViTForImageClassification,
    "timm_wrapper": TimmWrapperForImageClassification,
}
"""The network for each ``model_type`` of a ``config.json``."""

NO_DECAY: tuple[str, ...] = ("vit.embeddings.cls_token", "vit.embeddings.position_embeddings")
"""Parameters of a ViT without weight decay, besides every bias and norm."""


def as_vit(network: nn.Module) -> ViTForImageClassification:
    """The network as a ViT.

    Raises:
        MienError: it is a timm network.
    """
    if not isinstance(network, ViTForImageClassification):
        raise MienError(f"got a {type(network).__name__}, expected a ViT; give a model of a preset or of a ViTMAE")
    return network


def as_timm(network: nn.Module) -> TimmWrapperForImageClassification:
    """The network as one of timm.

    Raises:
        MienError: it is a ViT of transformers.
    """
    if not isinstance(network, TimmWrapperForImageClassification):
        raise MienError(f"got a {type(network).__name__}, expected a network of timm; give a model of one")
    return network


def logits(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Runs a network.

    Args:
        model: the network, or a wrapper of ``Accelerator.prepare_model`` that holds it as ``module``.
        pixels: float32 [B, C, S, S], normalised. A ViT interpolates its positions if S is not its own size.

    Returns:
        [B, classes], float32, or the type of autocast.
    """
    network = getattr(model, "module", model)
    options = {"interpolate_pos_encoding": True} if isinstance(network, ViTForImageClassification) else {}
    scores: torch.Tensor = model(pixel_values=pixels, **options).logits
    return scores


def logits_and_states(model: nn.Module, pixels: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The logits of a ViT, and its states [B, 1 + patches, width] before the first block and after each block."""
    output = model(pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    return output.logits, output.hidden_states


def lay_out(network: N) -> N:
    """Chooses the fastest way to compute a network on its device; returns the same network.

    Convolutions are fastest with the channels of a pixel side by side in memory. On a CPU a ViT uses plain attention:
    with the few patches of a face, torch's fused attention takes twice as long there in bf16 (LOG.md).
    """
    if isinstance(network, TimmWrapperForImageClassification):
        nn.Module.to(network, memory_format=torch.channels_last)
    elif network.device.type == "cpu":
        network.set_attn_implementation("eager")
    return network


def num_channels(network: Network) -> int:
    """Channels of the network's input, 1 or 3."""
    if isinstance(network, ViTForImageClassification):
        return int(network.config.num_channels)
    return int((network.config.model_args or {}).get("in_chans", 3))


def set_channels(network: Network, count: int) -> None:
    """Writes the number of channels of the first convolutions into the network's configuration."""
    if isinstance(network, ViTForImageClassification):
        network.vit.embeddings.patch_embeddings.num_channels = network.config.num_channels = count
    else:
        network.config.model_args = {**(network.config.model_args or {}), "in_chans": count}


def first_convolutions(network: Network) -> list[nn.Module]:
    """The layers that read the pixels: the patch embedding of a ViT, or those that timm's ``pretrained_cfg`` names.

    An empty list if ``network_args`` gave a timm network other first layers.
    """
    if isinstance(network, ViTForImageClassification):
        return [network.vit.embeddings.patch_embeddings.projection]
    names = network.timm_model.pretrained_cfg.get("first_conv") or ()
    try:
        return [network.timm_model.get_submodule(name) for name in ((names,) if isinstance(names, str) else names)]
    except AttributeError:
        return []


def channels_can_change(network: Network) -> bool:
    """Whether a change of the first convolutions' weights is enough to read another number of channels.

    It is not if the network rearranges the pixels before them, or normalises their weights in each forward pass.
    """
    count, layers = num_channels(network), first_convolutions(network)
    are_plain = [type(layer) in (nn.Conv2d, Conv2dSame) and layer.in_channels == count for layer in layers]
    return bool(are_plain) and all(are_plain)


def fix_positions(network: Network) -> None:
    """Excludes the sine-cosine positions of a ViT from training; a timm network learns its own."""
    if isinstance(network, ViTForImageClassification):
        network.vit.embeddings.position_embeddings.requires_grad_(False)


def units(network: Network) -> list[tuple[str, nn.Module]]:
    """The parts that can be frozen, from the input up: embeddings, block 0, block 1, ...; empty for a timm network."""
    if not isinstance(network, ViTForImageClassification):
        return []
    blocks = [(f"block {index}", layer) for index, layer in enumerate(network.vit.layers)]
    return [("embeddings", network.vit.embeddings), *blocks]


def parts(network: Network) -> list[tuple[str, list[nn.Parameter]]]:
    """All parameters by part, from the input up; the head comes last."""
    if isinstance(network, ViTForImageClassification):
        modules = [*units(network), ("norm", network.vit.layernorm)]
        named = [(name, parameter) for name, module in modules for parameter in module.parameters()]
    else:
        named = [(name.partition(".")[0], value) for name, value in network.timm_model.named_parameters()]
    head = [parameter for layer in heads(network) for parameter in layer.parameters()]
    ids_of_head = {id(parameter) for parameter in head}
    by_part: dict[str, list[nn.Parameter]] = {}
    for name, parameter in named:
        if id(parameter) not in ids_of_head:
            by_part.setdefault(name, []).append(parameter)
    return [*by_part.items(), ("head", head)]


def layered(network: Network) -> tuple[nn.Module, list[str]]:
    """The arguments of timm's layer decay: a module with a ``group_matcher``, and the names without weight decay."""
    if isinstance(network, ViTForImageClassification):
        network.__dict__["group_matcher"] = _group_matcher
        return network, list(NO_DECAY)
    inner = network.timm_model
    return inner, sorted(inner.no_weight_decay()) if hasattr(inner, "no_weight_decay") else []


def _group_matcher(coarse: bool) -> dict[str, Any]:
    """The layer of each parameter, as timm's own ViT has it; the final norm belongs to the last block."""
    return {
        "stem": r"^vit\.embeddings",
        "blocks": [(r"^vit\.layers\.(\d+)", None), (r"^vit\.layernorm", (99999,))],
    }


@torch.no_grad()
def reads(network: TimmWrapperForImageClassification, size: int) -> bool:
    """Tries whether a timm network reads pictures of a size."""
    inner, training = network.timm_model, network.training
    try:
        inner.eval()(torch.zeros(1, num_channels(network), size, size, device=network.device))
    except Exception:  # timm's networks refuse a size in many ways: assertions, shapes that differ, empty maps
        return False
    finally:
        inner.train(training)
    return True


def sizes(network: TimmWrapperForImageClassification) -> str:
    """Returns in words the sizes that ``reads`` accepts."""
    fixed = bool(network.timm_model.pretrained_cfg.get("fixed_input_size"))
    hint = ' (one alone, unless it takes {"dynamic_img_size": true} in network_args)' if fixed else ""
    return f"a size that {network.config.architecture} reads{hint}"


FRESH_DEVIATION = 0.02
"""Standard deviation of the weights of a new row, as in every ViT of transformers."""


def heads(network: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """The last layers of a classifier: their outputs are the logits, or the logits are their mean or sum.

    Nearly always there is one. Some networks of timm have one per branch, or a second that learns from a teacher.

    Args:
        network: a transformers ViT with ``classifier``, or a transformers wrapper around a timm network
            (``timm_model``).

    Raises:
        MienError: the last layers are not linear.
    """
    inner = getattr(network, "timm_model", None)
    ends = getattr(network, "classifier", None) if inner is None else inner.get_classifier()
    modules = [end for end in (ends if isinstance(ends, tuple) else (ends,)) if isinstance(end, nn.Module)]
    layers = [
        layer
        for module in modules
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and (inner is None or len(layer.weight) == inner.num_classes)
    ]
    if not layers:
        raise MienError(
            f"{type(network if inner is None else inner).__name__}: ends in {type(ends).__name__}, expected a linear "
            "head (torch.nn.Linear); choose another --backbone"
        )
    return layers


@torch.no_grad()
def scale_head(network: nn.Module, temperature: float) -> None:
    """Divides the logits of a classifier by a temperature: changes its heads' weights and biases in place.

    The order of the probabilities stays; a temperature above 1 makes the answers less certain (Guo et al. 2017,
    arXiv:1706.04599, section 4.2).

    Args:
        network: as for ``heads``.
        temperature: above 0.

    Raises:
        MienError: the last layers are not linear.
        ValueError: the temperature is not above 0.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature: got {temperature}, expected a finite number above 0")
    for layer in heads(network):
        for parameter in layer.parameters():
            parameter.div_(temperature)


@torch.no_grad()
def shift_head(network: nn.Module, offsets: torch.Tensor) -> None:
    """Adds to the logits of a classifier: changes the bias of its head in place.

    Args:
        network: as for ``heads``.
        offsets: float32 [C], a number for each class.

    Raises:
        MienError: the network has no linear head, several, or one without a bias.
    """
    layers = heads(network)
    if len(layers) > 1 or layers[0].bias is None:
        ending = f"{len(layers)} heads" if len(layers) > 1 else "a head without a bias"
        raise MienError(f"its network ends in {ending}, expected one linear head with a bias")
    layers[0].bias.add_(offsets.to(layers[0].bias))


@torch.no_grad()
def carry_rows(network: nn.Module, own: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Changes the classes of a classifier in place: classes that it has keep their rows of the heads, new ones start.

    The difference of two old classes' logits stays, so that a classifier of fewer classes answers as the old one does
    when the other classes are ruled out.

    Args:
        network: as for ``heads``.
        own: its classes, in the order of its logits.
        names: the new classes, in the order of the new logits; matched by ``labels.canonical``.

    Raises:
        MienError: the last layers are not linear.
    """
    order = {canonical(name): row for row, name in enumerate(own)}
    rows = [order.get(canonical(name)) for name in names]
    for layer in heads(network):
        weight = nn.init.trunc_normal_(layer.weight.new_empty(len(names), *layer.weight.shape[1:]), std=FRESH_DEVIATION)
        bias = None if layer.bias is None else layer.bias.new_zeros(len(names))
        for row, former in enumerate(rows):
            if former is not None:
                weight[row] = layer.weight[former]
                if bias is not None and layer.bias is not None:
                    bias[row] = layer.bias[former]
        layer.weight = nn.Parameter(weight)
        layer.bias = None if bias is None else nn.Parameter(bias)
        if isinstance(layer, nn.Conv2d):
            layer.out_channels = len(names)
        else:
            layer.out_features = len(names)


def rows_line(own: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The classes that ``carry_rows`` keeps, adds and leaves out, in one line."""
    old, new = {canonical(name) for name in own}, {canonical(name) for name in names}
    parts = {
        "kept": [name for name in names if canonical(name) in old],
        "new": [name for name in names if canonical(name) not in old],
        "left out": [name for name in own if canonical(name) not in new],
    }
    return "head: " + "; ".join(f"{what}: {', '.join(group)}" for what, group in parts.items() if group)


WEIGHTS = "model.safetensors"
"""The only file of weights that is read from a folder, whatever its ``config.json`` says."""


def load_network(
    source: str | Path, config: NetworkConfig, *, only_local: bool = False
) -> tuple[Network, dict[str, Any]]:
    """Builds a classifier and loads its weights from a checkpoint.

    In a folder, only ``model.safetensors`` is read; neither another file nor the hub is. A hub id is left to
    transformers, which also reads weights in parts, and safetensors that the hub's converter has only proposed.

    Args:
        source: a folder or a hub id.
        config: the architecture; for a folder, from ``mien.model.configuration``.
        only_local: read a hub id from the cache alone, without a connection.

    Returns:
        The network, in float32, and transformers' loading report: ``missing_keys``, ``unexpected_keys``, and
        ``mismatched_keys`` (name, shape in the file, shape in the network), whose weights are random.

    Raises:
        OSError: the weights are missing or damaged, or the hub cannot be reached.
        RuntimeError: transformers cannot use the weights.
        ValueError: no network fits the configuration, or it needs more weights than the file holds.
    """
    options: dict[str, Any] = {"config": config, "use_safetensors": True, "output_loading_info": True}
    options |= {"ignore_mismatched_sizes": True}  # they are in the report; the error of transformers names none
    options |= {"local_files_only": True} if only_local else {}
    folder, weights = Path(source), str(source)
    if folder.is_dir():
        options |= {"state_dict": _read_weights(folder / WEIGHTS, config), "dtype": torch.float32}
        weights = cast(str, None)  # transformers looks at no path then
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        return cast(tuple[Network, dict[str, Any]], MODEL_TYPES[config.model_type].from_pretrained(weights, **options))
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _read_weights(path: Path, config: NetworkConfig) -> dict[str, torch.Tensor]:
    """Reads the weights, unless the file is too small for the configuration, which could ask for any memory."""
    if not path.is_file():
        raise OSError(f"{path.name} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            layers, width = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
            if layers * width * width > path.stat().st_size:  # a layer has over 4 W x W weights, of 2 or 4 bytes each
                raise ValueError(f"{layers} layers of a width of {width} would not fit into its {WEIGHTS}")
            del file
        return load_file(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
