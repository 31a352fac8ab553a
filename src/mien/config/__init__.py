"""The settings of pretraining and fine-tuning, each with its bounds and its default beside it."""

from __future__ import annotations

from mien.config.fields import PRESETS, SettingsError, expected, field_types, in_epochs, shown_value
from mien.config.pretrain import PretrainConfig
from mien.config.run import (
    WITHOUT_EFFECT_ON_WEIGHTS,
    AugmentConfig,
    RunConfig,
    completed,
    differences,
    flat,
    to_dict,
)
from mien.config.train import TIMM, DistillConfig, FoldsConfig, FreezeConfig, TrainConfig, is_fresh

__all__ = [
    "PRESETS", "TIMM", "WITHOUT_EFFECT_ON_WEIGHTS", "AugmentConfig", "DistillConfig", "FoldsConfig", "FreezeConfig",
    "PretrainConfig", "RunConfig", "SettingsError", "TrainConfig", "completed", "differences", "expected",
    "field_types", "flat", "in_epochs", "is_fresh", "shown_value", "to_dict",
]  # fmt: skip
