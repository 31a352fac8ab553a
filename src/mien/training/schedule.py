"""How far a run is and how fast it learns there: its budget in steps or minutes, a warm-up and a cosine."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from accelerate import Accelerator
from timm.scheduler import CosineLRScheduler

from mien.config import TrainConfig

LOOKS_EVERY = 20
"""Steps between two looks at the clock, after the first few steps: in between, a GPU never waits for the host."""

TICKS = 100_000
"""Fineness of the schedule: a run, however long, is cut into so many ticks."""


class Budget:
    """What is spent of a run.

    By steps, what is spent is a function of the step alone. By minutes, it is what the clock said at the last look, and
    in between each step counts as long as the steps before it took on average.

    Args:
        steps: the number of updates, or None where minutes decide.
        minutes: the number of minutes, or None where updates decide.
    """

    def __init__(self, steps: int | None, minutes: float | None) -> None:
        if (steps is None) == (minutes is None):
            raise ValueError("expected either steps or minutes")
        self.steps, self.minutes = steps, minutes
        self.looked_at, self.share, self.share_a_step = 0, 0.0, 0.0

    def look(self, update: int, seconds: float, accelerator: Accelerator, *, after_a_pause: bool = False) -> None:
        """Looks at the clock after an update, where it is time to; to be called by every process after each update.

        Args:
            update: the first is 1.
            seconds: of training so far.
            accelerator: of this run; the processes agree on a mean.
            after_a_pause: something else than steps took time since the last look, which says nothing of their pace.
        """
        if self.minutes is None:
            return
        if not after_a_pause and self.looked_at >= LOOKS_EVERY and update < self.looked_at + LOOKS_EVERY:
            return
        mean = accelerator.reduce(torch.tensor(seconds, device=accelerator.device), "mean").item()
        share = mean / (60 * self.minutes)
        if update > self.looked_at and not after_a_pause:
            self.share_a_step = (share - self.share) / (update - self.looked_at)
        self.looked_at, self.share = update, share

    def spent(self, updates: int) -> float:
        """The share of the run that is over after so many updates, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, updates / self.steps)
        return min(1.0, self.share + max(0, updates - self.looked_at) * self.share_a_step)

    def ticks(self, update: int) -> int:
        """Where the schedule stands at an update (the first is 1), in [0, ``TICKS``]."""
        return round(self.spent(update) * TICKS)


class Schedule(Protocol):
    """Drives the learning rates of an optimizer."""

    def step_update(self, num_updates: int, /) -> Any:
        """Sets the rates for an update; the first is 1."""


def build_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int, budget: Budget | None = None
) -> CosineLRScheduler | ClockSchedule:
    """Linear warm-up by steps, then one cosine down to ``min_lr`` times ``lr`` (Loshchilov and Hutter 2017).

    All groups end at the same rate, also the head, whose peak may be another.

    The cosine follows the steps or, if ``config.minutes`` is set, the clock of the run's ``budget``.
    """
    lr, warmup = config.lr or 0.0, round(config.warmup_epochs * steps_per_epoch)
    if budget is not None and config.minutes is not None:
        return ClockSchedule(optimizer, lr, config.min_lr, warmup, budget)
    return warmup_and_cosine(optimizer, config.epochs * steps_per_epoch, warmup, config.min_lr * lr)


def warmup_and_cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: int, end: float) -> CosineLRScheduler:
    """A schedule that rises from 0 to the peak, the rate of each group, and falls to ``end`` at ``steps``."""
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, steps - warmup),
        lr_min=end,
        warmup_t=warmup,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )


class BudgetSchedule:
    """Linear warm-up, then one cosine (Loshchilov and Hutter 2017), by the share of the run that is spent.

    Args:
        optimizer: whose groups are driven.
        lr: the peak.
        min_lr: the end for all groups, as a share of lr.
        warmup: share of the run that warms up.
        budget: of the run.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, lr: float, min_lr: float, warmup: float, budget: Budget
    ) -> None:
        self.budget = budget
        self.cosine = warmup_and_cosine(optimizer, TICKS, round(warmup * TICKS), min_lr * lr)

    def step_update(self, update: int) -> None:
        """Sets the learning rates for an update; the first is 1."""
        self.cosine.step_update(self.budget.ticks(update))


class ClockSchedule:
    """Linear warm-up by steps, then one cosine by the share of the run that is spent.

    Args:
        optimizer: whose groups are driven.
        lr: the peak.
        min_lr: the end for all groups, as a share of lr.
        warmup: steps of warm-up.
        budget: of the run.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float, min_lr: float, warmup: int, budget: Budget) -> None:
        self.optimizer, self.warmup = optimizer, max(1, warmup)
        self.cosine = BudgetSchedule(optimizer, lr, min_lr, 0.0, budget)

    def step_update(self, update: int) -> None:
        """Sets the learning rates for an update; the first is 1."""
        self.cosine.step_update(update)
        for group in self.optimizer.param_groups:
            group["lr"] *= min(1.0, update / self.warmup)
