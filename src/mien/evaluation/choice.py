"""Which epoch of a run was kept, and by which score: neither can be told from the history alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LAST = "last"
"""``TrainConfig.select`` if no score decides: the weights of the last epoch are kept."""

CRITERIA: dict[str, str] = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "loss": "loss",
    "clean_loss": "loss without twins",
    LAST: "the order of the epochs",
}
"""The scores by which weights are kept (``TrainConfig.select``), in words."""


@dataclass(frozen=True)
class Choice:
    """What was kept.

    Attributes:
        epoch: the kept one; 0 for the classifier that training began with.
        select: the score that decided, of ``CRITERIA``.
    """

    epoch: int
    select: str

    @property
    def criterion(self) -> str:
        """The score that decided, in words."""
        return CRITERIA[self.select]


def choice_of(meta: Mapping[str, Any]) -> Choice | None:
    """The choice that a ``meta.json`` records; None if it records none, as that of a folder from elsewhere.

    Records from before ``select`` was a setting were chosen by accuracy.
    """
    metrics, config = meta.get("metrics"), meta.get("config")
    epoch = metrics.get("epoch") if isinstance(metrics, Mapping) else None
    select = config.get("select", "accuracy") if isinstance(config, Mapping) else None
    return Choice(epoch, select) if isinstance(epoch, int) and select in tuple(CRITERIA) else None
