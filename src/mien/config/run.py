"""What the settings of pretraining and of fine-tuning have in common."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Protocol

from mien.config.augment import AugmentConfig
from mien.config.problems import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, LARGEST_SEED, SHARE, Problems

WITHOUT_EFFECT_ON_WEIGHTS: frozenset[str] = frozenset(
    {"out", "data", "teacher", "device", "tensorboard", "checkpoint_seconds"}
)
"""Fields that may differ between a run and its resumption: data and teachers are compared by their fingerprints."""


DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
"""What a device may be called; whether this machine has it is seen when a run starts."""


class RunConfig(Protocol):
    """The fields that every run has; ``TrainConfig`` and ``PretrainConfig`` document them."""

    @property
    def data(self) -> str: ...
    @property
    def out(self) -> str: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def lr(self) -> float | None: ...
    @property
    def min_lr(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip_grad(self) -> float: ...
    @property
    def validation_fraction(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def checkpoint_seconds(self) -> float: ...
    @property
    def tensorboard(self) -> bool: ...
    @property
    def augment(self) -> AugmentConfig: ...


def check_run(config: RunConfig, problems: Problems) -> None:
    """Adds every shared field that is out of its range."""
    check, c = problems.check, config
    check("batch_size", c.batch_size, c.batch_size >= 1, AT_LEAST_ONE)
    check("optimizer", c.optimizer, c.optimizer in ("adamw", "muon"), "adamw or muon")
    check("lr", c.lr, c.lr is None or c.lr > 0, ABOVE_ZERO)
    check("min_lr", c.min_lr, 0 <= c.min_lr <= 1, SHARE)
    check("weight_decay", c.weight_decay, c.weight_decay >= 0, AT_LEAST_ZERO)
    check("clip_grad", c.clip_grad, c.clip_grad >= 0, AT_LEAST_ZERO)
    check("validation_fraction", c.validation_fraction, 0 < c.validation_fraction <= 0.5, "a share in (0, 0.5]")
    check("seed", c.seed, 0 <= c.seed <= LARGEST_SEED, f"a whole number from 0 to {LARGEST_SEED}")
    check("device", c.device, DEVICE.fullmatch(c.device) is not None, "auto, cpu, cuda, cuda:N or mps")
    check("precision", c.precision, c.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16")
    check("checkpoint_seconds", c.checkpoint_seconds, c.checkpoint_seconds > 0, ABOVE_ZERO)
    c.augment.check(problems)


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain nested dictionaries, for JSON and YAML."""
    return dataclasses.asdict(config)


def differences(old: dict[str, Any], config: RunConfig) -> list[str]:
    """The fields, as ``name: old -> new``, that decide the weights and differ between a configuration and an older one.

    Args:
        old: as ``to_dict`` gave it; fields that came after it was written stand at their defaults.
        config: what is asked for now.
    """
    return _differences(_with_defaults(old, type(config)), to_dict(config))


def _with_defaults(old: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """``old``, and at their defaults the fields of ``kind`` that it does not know as they came after it was written.

    The default of a new field is what was done before there was one.
    """
    found = dict(old)
    for field in dataclasses.fields(kind):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            found[field.name] = _with_defaults(old.get(field.name, {}), type(default))
        elif default is not dataclasses.MISSING:
            found.setdefault(field.name, default)
    return found


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name in sorted(set(old) | set(new)):
        if not prefix and name in WITHOUT_EFFECT_ON_WEIGHTS:
            continue
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, f"{prefix}{name}.")
        elif before != after:
            found.append(f"{prefix}{name}: {before} -> {after}")
    return found
