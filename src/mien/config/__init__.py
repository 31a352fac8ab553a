"""The settings of a run: every field documented, frozen, checked all at once."""

from mien.config.augment import AugmentConfig
from mien.config.pretrain import PretrainConfig
from mien.config.run import RunConfig, differences, to_dict
from mien.config.train import PRESETS, DistillConfig, FreezeConfig, TrainConfig

__all__ = [
    "PRESETS",
    "AugmentConfig",
    "DistillConfig",
    "FreezeConfig",
    "PretrainConfig",
    "RunConfig",
    "TrainConfig",
    "differences",
    "to_dict",
]
