"""The settings of pretraining and fine-tuning, each with its bounds and its default beside it."""

from __future__ import annotations

from mien.config.fields import PRESETS, SettingsError, expected, field_types, share_of_epochs, shown_value
from mien.config.groups import AugmentConfig, DistillConfig, FreezeConfig
from mien.config.pretrain import PretrainConfig
from mien.config.run import (
    WITHOUT_EFFECT_ON_WEIGHTS,
    RunConfig,
    completed,
    differences,
    flat,
    to_dict,
)
from mien.config.train import TIMM, FoldsConfig, TrainConfig, is_fresh

__all__ = [
    "PRESETS", "TIMM", "WITHOUT_EFFECT_ON_WEIGHTS", "AugmentConfig", "DistillConfig", "FoldsConfig", "FreezeConfig",
    "PretrainConfig", "RunConfig", "SettingsError", "TrainConfig", "completed", "differences", "expected",
    "field_types", "flat", "is_fresh", "share_of_epochs", "shown_value", "to_dict",
]  # fmt: skip
