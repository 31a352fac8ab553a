"""Builds networks of timm inside transformers' wrapper, so that other tools open their folders like a ViT's."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import timm
from torch import nn
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from mien.config import TIMM
from mien.errors import MienError, first_line
from mien.model.networks import channels_can_change, heads, reads, sizes
from mien.model.preprocessing import FER2013_MEAN, FER2013_STD, Preprocessing


def build_timm(
    backbone: str,
    names: tuple[str, ...],
    *,
    grey: bool,
    image_size: int | None = None,
    arguments: dict[str, Any] | None = None,
    drop_path: float = 0.0,
) -> tuple[TimmWrapperForImageClassification, Preprocessing]:
    """Builds a timm network with a new head and timm's initial or pretrained weights.

    Args:
        backbone: ``timm:NAME`` for random weights, ``timm:NAME.TAG`` for the pretrained weights of that tag.
        names: the classes, in the order of the logits.
        grey: whether the training images have one channel; the network then reads one channel too, unless it
            rearranges its input: then each of three channels reads the grey picture.
        image_size: height and width of the network's input, in pixels; by default timm's for this network.
        arguments: further arguments of ``timm.create_model``.
        drop_path: stochastic depth rate; see ``TrainConfig.drop_path``.

    Raises:
        MienError: there is no such network, it does not accept the arguments or the size, its weights cannot be
            downloaded, or its last layer is not linear.
    """
    check_name(backbone)
    architecture, _, tag = backbone.removeprefix(TIMM).partition(".")
    default = timm.get_pretrained_cfg(architecture)
    size = image_size or (default.input_size if default else (3, 224, 224))[-1]
    saved_arguments = dict(arguments or {})
    training_arguments = {"num_classes": len(names)} | ({"drop_path_rate": drop_path} if drop_path else {})
    if default is not None and default.fixed_input_size and _takes_size(backbone, architecture, saved_arguments, size):
        saved_arguments["img_size"] = size
    if grey:
        saved_arguments["in_chans"] = 1
    network = _wrapped(backbone, architecture, names, saved_arguments, training_arguments, size)
    if grey and not channels_can_change(network):
        del saved_arguments["in_chans"]
        network = _wrapped(backbone, architecture, names, saved_arguments, training_arguments, size)
    if tag:
        network.timm_model = _pretrained(backbone, {**saved_arguments, **training_arguments})
    heads(network)
    if not reads(network, size):
        raise MienError(
            f"image_size: got {size}, which {architecture} does not read; give another --image-size, or --network-args "
            "that suit this size"
        )
    return network, _preprocessing(network, size, pretrained=bool(tag), grey=grey)


def resize_timm(
    network: TimmWrapperForImageClassification, preprocessing: Preprocessing, image_size: int | None
) -> Preprocessing:
    """Sets another input size for a trained network, in its preprocessing (returned) and its configuration.

    Args:
        network: its configuration is changed in place.
        preprocessing: of the network so far.
        image_size: height and width of the network's input, in pixels; by default as before.

    Raises:
        MienError: the network does not read that size.
    """
    size = image_size or preprocessing.image_size
    if not reads(network, size):
        raise MienError(
            f"image_size: got {size}, expected {sizes(network)}; give another --image-size, or leave it out"
        )
    network.config.pretrained_cfg = {**(network.config.pretrained_cfg or {}), "input_size": [3, size, size]}
    return dataclasses.replace(preprocessing, image_size=size)


def check_name(backbone: str) -> None:
    """Checks that timm has the network, and the weights, of ``timm:NAME`` or ``timm:NAME.TAG``.

    Raises:
        MienError: there is no such network, or no weights of that tag.
    """
    architecture, dot, tag = backbone.removeprefix(TIMM).partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        hint = f"did you mean {TIMM}{close[0]}?" if close else "timm.list_models() names them all"
        raise MienError(f"--backbone {backbone}: timm {timm.__version__} has no such network; {hint}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if dot and tag not in tags:
        choices = f"there is {', '.join(tags)}" if tags else "there are none"
        raise MienError(
            f"--backbone {backbone}: timm {timm.__version__} has no weights of the tag {tag or repr(tag)}; {choices}"
        )


def _takes_size(backbone: str, architecture: str, arguments: dict[str, Any], size: int) -> bool:
    """Whether the network accepts ``img_size``; some networks of a fixed size do not."""
    try:
        _create(backbone, architecture, {**arguments, "img_size": size})
    except MienError as error:
        if isinstance(error.__cause__, TypeError) and "img_size" in str(error.__cause__):
            return False
        raise
    return True


def _create(backbone: str, architecture: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(architecture, **arguments)
    except Exception as error:  # networks raise many kinds of errors for arguments that they do not accept
        raise MienError(
            f"--backbone {backbone}: cannot be built ({first_line(error)}); change --network-args or --image-size"
        ) from error


def _wrapped(
    backbone: str,
    architecture: str,
    names: tuple[str, ...],
    saved_arguments: dict[str, Any],
    training_arguments: dict[str, Any],
    size: int,
) -> TimmWrapperForImageClassification:
    """Builds a network in transformers' wrapper, whose configuration gets ``saved_arguments`` only."""
    inner = _create(backbone, architecture, {**saved_arguments, **training_arguments})
    config = TimmWrapperConfig(
        architecture=architecture,
        model_args=dict(saved_arguments),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    wrapper = TimmWrapperForImageClassification(config)
    # The wrapper draws the weights of every layer anew from one normal distribution; timm's own are kept instead.
    wrapper.timm_model = inner
    return wrapper


def _pretrained(backbone: str, arguments: dict[str, Any]) -> nn.Module:
    """Builds a network with pretrained weights; for grey, timm sums the first convolution over the three channels."""
    try:
        return timm.create_model(backbone.removeprefix(TIMM), pretrained=True, **arguments)
    except Exception as error:  # timm and the hub raise many kinds for a missing connection or weights that do not fit
        raise MienError(
            f"--backbone {backbone}: the pretrained weights could not be fetched, or do not fit ({first_line(error)}); "
            "where there is a connection, run it once and copy the hub's cache (HF_HOME) here, or give "
            f"{backbone.partition('.')[0]}, whose weights are random"
        ) from error


def _preprocessing(
    network: TimmWrapperForImageClassification, size: int, *, pretrained: bool, grey: bool
) -> Preprocessing:
    """FER2013's statistics for random weights, else those of pretraining; also written into the configuration.

    For grey pictures every channel gets the luma of these, so that a grey picture stays grey.
    """
    preprocessing = Preprocessing(size, (FER2013_MEAN,) * 3, (FER2013_STD,) * 3)
    if pretrained:
        own = network.timm_model.pretrained_cfg
        preprocessing = Preprocessing(size, tuple(own["mean"]), tuple(own["std"]))
    if grey and pretrained:
        preprocessing = Preprocessing(size, (preprocessing.grey_mean,) * 3, (preprocessing.grey_std,) * 3)
    network.config.pretrained_cfg = {
        "input_size": [3, size, size],
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    # With this field in config.json, transformers prepares pictures by preprocessor_config.json and not as timm does,
    # whose resizing differs by up to a grey level.
    network.config.image_processor_type = type(preprocessing.processor()).__name__
    return preprocessing
