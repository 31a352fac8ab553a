"""Reads ``config.json`` of a model folder field by field; other fields never reach a library.

A configuration can make transformers and timm load other files of weights (also pickles), networks and compiled code
from the hub, or packages that unpack weights. A folder may come from anybody, so only plain numbers, flags, and the
names of classes, activations and timm's own networks are used, after a check of their ranges.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from transformers import TimmWrapperConfig, ViTConfig, ViTMAEConfig

from mien.errors import MienError, first_line
from mien.files import read_json_object
from mien.limits import (
    LARGEST_IMAGE,
    LARGEST_WIDTH,
    LONGEST_CLASS_NAME,
    LONGEST_LIST,
    MOST_CLASSES,
    MOST_LAYERS,
    number_fits,
)
from mien.model import face_cnn  # noqa: F401 - timm knows it from here on

_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "selu", "silu", "swish", "tanh")
_Check = tuple[Callable[[Any], bool], str]


def _whole(low: int, high: int) -> _Check:
    return lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high:,}"


def _number(low: float, high: float) -> _Check:
    def fits(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and low <= value <= high

    return fits, f"a number from {low:g} to {high:g}"


_CHANNELS: _Check = (lambda value: type(value) is int and value in (1, 3), "1 or 3")
_FLAG: _Check = (lambda value: type(value) is bool, "true or false")

VIT_FIELDS: dict[str, _Check] = {
    "hidden_size": _whole(1, LARGEST_WIDTH),
    "num_hidden_layers": _whole(1, MOST_LAYERS),
    "num_attention_heads": _whole(1, 256),
    "intermediate_size": _whole(1, 65536),
    "hidden_act": (lambda value: value in _ACTIVATIONS, f"one of {', '.join(_ACTIVATIONS)}"),
    "hidden_dropout_prob": _number(0, 1),
    "attention_probs_dropout_prob": _number(0, 1),
    "initializer_range": _number(0, 1),
    "layer_norm_eps": _number(0, 1),
    "image_size": _whole(1, LARGEST_IMAGE),
    "patch_size": _whole(1, LARGEST_IMAGE),
    "num_channels": _CHANNELS,
    "qkv_bias": _FLAG,
}
"""The fields of a ViT or a ViTMAE that are used, with their checks."""

_REAL = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps")

# Arguments of ``timm.create_model`` that are refused: they name files, weights or addresses, or change the result.
_OF_CREATE_MODEL = frozenset(
    {"model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir",
     "features_only", "scriptable", "exportable", "no_jit", "num_classes", "pretrained_strict", "pretrained_filter_fn",
     "kwargs_filter"}
)  # fmt: skip
_WORDS = ("global_pool", "act_layer", "norm_layer", "aa_layer", "attn_layer", "class_token", "pos_embed", "stem_type")
_OF_PICTURES = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def read_config(folder: Path) -> ViTConfig | TimmWrapperConfig:
    """Reads the configuration of a classifier's folder.

    Raises:
        MienError: ``config.json`` is not a JSON object, its architecture is unsupported, its probabilities do not add
            up to 1, or a field has a wrong type or is out of range.
    """
    path = folder / "config.json"
    values = read_json_object(path)
    model_type = values.get("model_type", "no model_type")
    if values.get("problem_type") == "multi_label_classification":
        raise MienError(
            f"{path}: problem_type: got multi_label_classification, a network that answers each class for itself, "
            "expected one whose probabilities add up to 1; give another model"
        )
    if model_type == "vit":
        return ViTConfig(**_vit_fields(path, values), **_labels(path, values))
    if model_type == "timm_wrapper":
        return _timm_config(path, values)
    raise MienError(
        f"{folder}: is of another architecture ({str(model_type)[:40]}), expected a classifier (vit or timm_wrapper); "
        "give a folder that `mien train` wrote"
    )


def read_mae_config(folder: Path) -> ViTMAEConfig:
    """Reads the configuration of a ViTMAE's folder, as far as a classifier uses it.

    Raises:
        MienError: as ``read_config``.
    """
    path = folder / "config.json"
    values = read_json_object(path)
    model_type = values.get("model_type", "no model_type")
    if model_type != "vit_mae":
        raise MienError(
            f"--backbone {folder}: is of another architecture ({str(model_type)[:40]}), expected a ViTMAE (vit_mae); "
            "give another backbone"
        )
    return ViTMAEConfig(**_vit_fields(path, values))


def check_names(names: Any, where: str | Path) -> tuple[str, ...]:
    """Checks the names of a model's classes and returns them.

    Raises:
        MienError: they are not a list of 2 to 1,000 different texts of 1 to 100 letters.
    """
    is_valid = isinstance(names, list | tuple) and 2 <= len(names) <= MOST_CLASSES
    is_valid = is_valid and all(
        isinstance(name, str) and 0 < len(name) <= LONGEST_CLASS_NAME and name.strip() for name in names
    )
    if not is_valid or len(set(names)) != len(names):
        raise MienError(
            f"{where}: the names of the classes are no list of 2 to {MOST_CLASSES:,} different texts; copy the whole "
            "folder again"
        )
    return tuple(names)


def check_record(meta: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """Checks types and ranges of the parts of ``meta.json`` that Mien uses, and returns it.

    Raises:
        MienError: ``release``, ``data``, its fingerprint, ``learnt_before``, ``balance``, ``calibration``, its
            temperature, its threshold or its stated accuracy has a wrong type or is out of range.
    """
    data, calibration = meta.get("data", {}), meta.get("calibration") or {}
    before = meta.get("learnt_before") or []
    balance = meta.get("balance") or {"tau": 0, "offsets": {}}
    uncertain = (calibration.get("uncertain") or {}) if isinstance(calibration, dict) else {}
    fits = {
        "release": isinstance(meta.get("release", {}), dict),
        "data": isinstance(data, dict) and isinstance(data.get("fingerprint", ""), str),
        "learnt_before": isinstance(before, list) and all(isinstance(entry, dict) for entry in before),
        "balance": isinstance(balance, dict)
        and _number(0, 10)[0](balance.get("tau"))
        and isinstance(balance.get("offsets"), dict)
        and all(_number(-100, 100)[0](offset) for offset in balance["offsets"].values()),
        "calibration": isinstance(calibration, dict)
        and isinstance(uncertain, dict)
        and _is_number_or_none(calibration.get("temperature"), 1e-3, 1e3)
        and all(_is_number_or_none(uncertain.get(name), 0, 1) for name in ("threshold", "stated_accuracy")),
    }
    wrong = [name for name, is_valid in fits.items() if not is_valid]
    if wrong:
        raise MienError(
            f"{where}: is not as `mien train` wrote it ({' and '.join(wrong)}); copy the whole folder again"
        )
    return meta


def _is_number_or_none(value: Any, low: float, high: float) -> bool:
    return value is None or _number(low, high)[0](value)


def _vit_fields(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    fields = {name: _checked(path, name, values[name], check) for name, check in VIT_FIELDS.items() if name in values}
    # Other tools write 0 for 0.0, which transformers refuses.
    fields |= {name: float(fields[name]) for name in _REAL if name in fields}
    width, heads = fields.get("hidden_size", 768), fields.get("num_attention_heads", 12)
    if width % heads:
        raise MienError(f"{path}: hidden_size is {width}, expected a multiple of num_attention_heads ({heads})")
    if fields.get("patch_size", 16) > fields.get("image_size", 224):
        raise MienError(f"{path}: patch_size is {fields['patch_size']}, expected at most image_size")
    return fields


def _timm_config(path: Path, values: dict[str, Any]) -> TimmWrapperConfig:
    architecture = values.get("architecture")
    if not isinstance(architecture, str) or not re.fullmatch(r"\w+", architecture) or not timm.is_model(architecture):
        raise MienError(
            f"{path}: architecture: got {str(architecture)[:60]!r}, expected the name of a network of timm "
            f"{timm.__version__}; give a folder that `mien train` wrote"
        )
    arguments = values.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise MienError(f"{path}: model_args: expected names and values, got {type(arguments).__name__}")
    for name, value in arguments.items():
        if name in _OF_CREATE_MODEL or not re.fullmatch(r"[a-z]\w*", name) or not _is_plain(name, value):
            raise MienError(
                f"{path}: model_args: {name[:60]}: got {str(value)[:60]!r}, expected a number, true or false, or a "
                "list of numbers, for an argument of the network itself"
            )
    _checked(path, "in_chans", arguments.get("in_chans", 3), _CHANNELS)
    pictures = values.get("pretrained_cfg") or {}
    fields = {name: pictures[name] for name in _OF_PICTURES if isinstance(pictures, dict) and name in pictures}
    config = TimmWrapperConfig(architecture=architecture, model_args=dict(arguments), **_labels(path, values))
    if all(_is_plain("interpolation", value) for value in fields.values()):
        config.pretrained_cfg = fields
    if isinstance(values.get("image_processor_type"), str):
        config.image_processor_type = "ViTImageProcessor"
    return config


def _is_plain(name: str, value: Any) -> bool:
    if value is None or type(value) is bool:
        return True
    if type(value) in (int, float):
        return number_fits(name, value)
    if isinstance(value, str):
        return name in (*_WORDS, "interpolation") and re.fullmatch(r"\w{0,40}", value) is not None
    if isinstance(value, list):
        return len(value) <= LONGEST_LIST and all(not isinstance(item, str) and _is_plain(name, item) for item in value)
    return False


def _labels(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """``id2label`` and ``label2id`` from ``id2label`` (numbers as text) or from timm's list ``label_names``."""
    names = values.get("label_names")
    table = values.get("id2label")
    if names is None and isinstance(table, dict):
        try:
            numbered = {int(index): name for index, name in table.items()}
        except ValueError as error:
            raise MienError(f"{path}: id2label: expected numbers and names ({first_line(error)})") from error
        names = [numbered.get(index) for index in range(len(numbered))]
    names = check_names(names, path)
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def _checked(path: Path, name: str, value: Any, check: _Check) -> Any:
    fits, expected = check
    if isinstance(value, list | dict) or not fits(value):
        raise MienError(f"{path}: {name}: got {str(value)[:60]}, expected {expected}; copy the whole folder again")
    return value
