"""Builds the classifier that training starts with: from a preset, a ViTMAE, a trained classifier or timm.

``transformers.ViTMAEModel`` hides three quarters of the patches in every forward pass, also in evaluation. The
classifier is therefore a ``ViTForImageClassification`` with the weights of the MAE's encoder: every patch is visible
and the answer is the same each time.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.layers import DropPath, resample_abs_pos_embed, resample_patch_embed
from transformers import PreTrainedConfig, ViTConfig, ViTForImageClassification, ViTMAEConfig

from mien.config import TIMM
from mien.errors import MienError, first_line
from mien.log import warn
from mien.model.backbone import Backbone
from mien.model.channels import to_colour, to_grey, undo_colour
from mien.model.classifier import Classifier
from mien.model.configuration import VIT_FIELDS, read_mae_config
from mien.model.hub import ensure_at_hand
from mien.model.networks import Network, as_timm, as_vit, carry_rows, fix_positions, load_network
from mien.model.preprocessing import FER2013_MEAN, FER2013_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mien.model.presets import SHAPES, Preset, size_problem
from mien.model.start import initialise
from mien.model.timm_backbone import build_timm, resize_timm

C = TypeVar("C", bound=PreTrainedConfig)

HEAD_KEYS: frozenset[str] = frozenset({"classifier.weight", "classifier.bias"})


def build(
    backbone: str,
    names: tuple[str, ...],
    *,
    grey: bool,
    image_size: int | None = None,
    patch_size: int | None = None,
    network_args: dict[str, Any] | None = None,
    drop_path: float = 0.0,
) -> tuple[Network, Preprocessing]:
    """Builds a network with a head for the classes; a trained classifier keeps the rows of the classes that it has.

    Args:
        backbone: the name of a preset, the Hugging Face id of a ViTMAE, the folder of a ViTMAE, of a run or of a
            trained classifier, or timm:NAME.
        names: the classes, in the order of the logits.
        grey: whether the training images have one channel; the network then reads one channel too.
        image_size: height and width of the network's input, in pixels; by default the backbone's own.
        patch_size: height and width of a ViT's patches, in pixels; by default its own.
        network_args: further arguments of ``timm.create_model``.
        drop_path: stochastic depth rate of the last block, in [0, 1).

    Raises:
        MienError: the checkpoint is missing, incomplete, of another kind or out of reach, or a size does not fit.
    """
    if backbone.startswith(TIMM):
        return build_timm(
            backbone, names, grey=grey, image_size=image_size, arguments=network_args, drop_path=drop_path
        )
    if backbone in SHAPES:
        network, preprocessing = _from_preset(backbone, names, grey, image_size, patch_size)
    else:
        start = Backbone(backbone)
        start.check()
        source = str(start.folder)
        if start.is_classifier:
            if start.is_timm_classifier:
                return _from_timm_classifier(source, names, grey, image_size, patch_size, drop_path)
            network, preprocessing = _from_classifier(source, names, image_size, patch_size)
        else:
            network, preprocessing = _from_mae(source, names, image_size, patch_size)
        if grey and network.config.num_channels == 3:
            to_grey(network, preprocessing)
        elif not grey and network.config.num_channels == 1:
            to_colour(network, preprocessing)
    fix_positions(network)
    add_drop_path(network, drop_path)
    return network, preprocessing


def _from_preset(
    preset: str, names: tuple[str, ...], grey: bool, image_size: int | None, patch_size: int | None
) -> tuple[ViTForImageClassification, Preprocessing]:
    shape = SHAPES[preset]
    shape = dataclasses.replace(
        shape, image_size=image_size or shape.image_size, patch_size=patch_size or shape.patch_size
    )
    check_sizes(shape.image_size, shape.patch_size)
    network = ViTForImageClassification(_named(_vit_config(shape, 1 if grey else 3), names))
    initialise(network)
    return network, Preprocessing(shape.image_size, (FER2013_MEAN,) * 3, (FER2013_STD,) * 3)


def _vit_config(shape: Preset, num_channels: int) -> ViTConfig:
    """transformers' configuration, with an MLP four times as wide as the stream (Dosovitskiy et al. 2020)."""
    return ViTConfig(
        image_size=shape.image_size,
        patch_size=shape.patch_size,
        num_channels=num_channels,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden_size,
    )


def _from_mae(
    source: str, names: tuple[str, ...], image_size: int | None, patch_size: int | None
) -> tuple[ViTForImageClassification, Preprocessing]:
    cached = Path(source).is_dir() or ensure_at_hand(source, "--backbone")
    config = _mae_config(source, cached)
    shared = {name: getattr(config, name) for name in VIT_FIELDS if not name.endswith("dropout_prob")}
    try:
        network, info = load_network(source, _named(ViTConfig(**shared), names), only_local=cached)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable(source, error) from error
    assert_keys(source, info)
    preprocessing = _mae_preprocessing(source, config)
    return _resized(as_vit(network), preprocessing, image_size, patch_size or _square(source, config, "patch_size"))


def _from_classifier(
    source: str, names: tuple[str, ...], image_size: int | None, patch_size: int | None
) -> tuple[ViTForImageClassification, Preprocessing]:
    classifier = Classifier.load(Path(source))
    network = as_vit(classifier.network)
    carry_rows(network, classifier.names, names)
    network.num_labels = len(names)
    _named(network.config, names)
    size = patch_size or _square(source, network.config, "patch_size")
    return _resized(network, classifier.preprocessing, image_size, size)


def _from_timm_classifier(
    source: str, names: tuple[str, ...], grey: bool, image_size: int | None, patch_size: int | None, drop_path: float
) -> tuple[Network, Preprocessing]:
    for field, value in (("patch_size", patch_size), ("drop_path", drop_path)):
        if value:
            raise MienError(f"{field}: got {value} for {source}, which holds a network of timm; leave it out")
    classifier = Classifier.load(Path(source))
    network = as_timm(classifier.network)
    if grey:  # three channels would learn as much each, and then read another grey of a photo than its luma
        undo_colour(network, classifier.preprocessing)
    carry_rows(network, classifier.names, names)
    network.num_labels = network.timm_model.num_classes = len(names)
    _named(network.config, names)
    return network, resize_timm(network, classifier.preprocessing, image_size)


def _resized(
    network: ViTForImageClassification, preprocessing: Preprocessing, image_size: int | None, patch_size: int
) -> tuple[ViTForImageClassification, Preprocessing]:
    size = image_size or preprocessing.image_size
    return resample(network, size, patch_size), dataclasses.replace(preprocessing, image_size=size)


def assert_keys(source: str, info: dict[str, Any]) -> None:
    """Checks the loading report of an MAE encoder: only the head may be missing, only a decoder may be left over.

    Raises:
        MienError: encoder weights are missing, foreign weights are present, or shapes differ.
    """
    missing = set(info["missing_keys"]) - HEAD_KEYS
    foreign = {key for key in info["unexpected_keys"] if not key.startswith("decoder.")}
    foreign |= HEAD_KEYS - set(info["missing_keys"])  # an autoencoder has no head
    mismatched = [
        f"{name}, {list(shape)} instead of {list(expected)}"
        for name, shape, expected in info.get("mismatched_keys", ())
    ]
    problems = [
        f"{len(keys)} {what} (first: {sorted(keys)[0]})"
        for what, keys in (("weights missing", missing), ("foreign weights", foreign), ("shapes differ", mismatched))
        if keys
    ]
    if problems:
        raise MienError(f"{source}: is not a complete ViTMAE checkpoint: {', '.join(problems)}; give another backbone")


def _mae_config(source: str, cached: bool) -> ViTMAEConfig:
    if Path(source).is_dir():
        return read_mae_config(Path(source))
    try:
        values, _ = ViTMAEConfig.get_config_dict(source, local_files_only=cached)
    except OSError as error:
        raise _unreachable(source, error) from error
    if values.get("model_type") != "vit_mae":
        model_type = values.get("model_type", "no model_type")
        raise MienError(f"--backbone {source}: is of another architecture ({model_type}), expected a ViTMAE (vit_mae)")
    return ViTMAEConfig.from_dict(values)


def _mae_preprocessing(source: str, config: ViTMAEConfig) -> Preprocessing:
    """The normalisation beside a checkpoint, in its folder or on the hub; ImageNet's, as Meta's have, if there is none.

    If only this file is missing in the hub's cache and the hub cannot be reached, ImageNet's is used with a warning.
    """
    folder, file = Path(source), "preprocessor_config.json"
    if not folder.is_dir():
        path = try_to_load_from_cache(source, file)
        try:
            path = hf_hub_download(source, file) if path is None else path
            folder = Path(path).parent if isinstance(path, str) else folder  # it is a mark if the hub has no such file
        except LocalEntryNotFoundError:
            warn(
                f"{source}: its {file} is not in the hub's cache, and the hub cannot be reached; pictures are "
                "normalised as ImageNet's, as for Meta's ViTMAEs"
            )
        except EntryNotFoundError:
            pass
        except OSError as error:
            raise _unreachable(source, error) from error
    saved = Preprocessing.load(folder) if (folder / file).is_file() else None
    mean, std = (saved.mean, saved.std) if saved else (IMAGENET_MEAN, IMAGENET_STD)
    return Preprocessing(_square(source, config, "image_size"), mean, std)


def _square(source: str, config: ViTMAEConfig | ViTConfig, field: str) -> int:
    side = getattr(config, field)
    if not isinstance(side, int):
        raise MienError(f"--backbone {source}: expected a square {field} in config.json, got {side}")
    return side


def _named(config: C, names: tuple[str, ...]) -> C:
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    if hasattr(config, "label_names"):  # a timm wrapper that was read from a folder writes these
        config.label_names = list(names)
    return config


def _unreachable(source: str, error: Exception) -> MienError:
    reason = first_line(error)
    if Path(source).exists():
        return MienError(f"--backbone {source}: cannot be read ({reason}); expected config.json and model.safetensors")
    return MienError(
        f"--backbone {source}: could not be read from the Hugging Face hub ({reason}); download config.json, "
        f"preprocessor_config.json and model.safetensors of {source} into a folder, and give that folder as --backbone"
    )


POSITIONS = "vit.embeddings.position_embeddings"
PATCHES = "vit.embeddings.patch_embeddings.projection.weight"


@torch.no_grad()
def resample(network: ViTForImageClassification, image_size: int, patch_size: int) -> ViTForImageClassification:
    """Adapts a network to pictures and patches of other sizes.

    Positions are interpolated bicubically to the new grid. The new patch embedding is the one whose output on resized
    patches is nearest to the old embedding's on the original patches (Beyer et al. 2023, FlexiViT, arXiv:2212.08013,
    section 3.4).

    Args:
        network: for square pictures.
        image_size: height and width of the pictures, in pixels.
        patch_size: height and width of a patch, in pixels.

    Returns:
        A new network, or ``network`` itself if neither size changes.

    Raises:
        MienError: no whole number of patches fits.
    """
    check_sizes(image_size, patch_size)
    if (network.config.image_size, network.config.patch_size) == (image_size, patch_size):
        return network
    config = copy.deepcopy(network.config)
    config.image_size, config.patch_size = image_size, patch_size
    grid = image_size // patch_size
    weights = network.state_dict()
    weights[POSITIONS] = resample_abs_pos_embed(weights[POSITIONS], [grid, grid])
    weights[PATCHES] = resample_patch_embed(weights[PATCHES], [patch_size, patch_size])
    resampled = ViTForImageClassification(config)
    resampled.load_state_dict(weights)
    return resampled


def check_sizes(image_size: int, patch_size: int) -> None:
    """Checks that a whole number of patches fits along a side.

    Raises:
        MienError: ``image_size`` is no multiple of ``patch_size``.
    """
    problem = size_problem(image_size, patch_size)
    if problem:
        raise MienError(f"image_size: {problem}")


def add_drop_path(network: ViTForImageClassification, rate: float) -> None:
    """Stochastic depth, from 0 in the first block to ``rate`` in the last (Huang et al. 2016, arXiv:1603.09382)."""
    for layer, layer_rate in zip(network.vit.layers, np.linspace(0, rate, len(network.vit.layers)), strict=True):
        if layer_rate > 0:
            # transformers applies this module to both residual branches, just before it adds them.
            layer.dropout = DropPath(float(layer_rate))
