"""How weights move: AdamW or Muon in layer-wise groups, the rates over a run's budget, the average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import param_groups_layer_decay
from timm.optim.muon import zeropower_via_newtonschulz
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from mien.config import TrainConfig
from mien.model.networks import Network, first_convolutions, heads, layered
from mien.training.run import resolve_precision

STATE: tuple[str, ...] = ("step", "exp_avg", "exp_avg_sq", "momentum")
"""State of a parameter in an optimizer: the first three of AdamW, the last of Muon."""

LOOKS_EVERY = 20
"""Steps between two looks at the clock, after the first few steps: in between, a GPU never waits for the host."""

TICKS = 100_000
"""Fineness of the schedule: a run, however long, is cut into so many ticks."""


def parameter_groups(network: Network, config: TrainConfig) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by layer and by whether weight decay applies; the head with its own rate.

    Args:
        network: after ``mien.model.freezing.freeze``; frozen parameters are in no group.
        config: with every default resolved.
    """
    module, exempt = layered(network)
    groups = param_groups_layer_decay(
        module, weight_decay=config.weight_decay, no_weight_decay_list=exempt, layer_decay=config.layer_decay
    )
    of_head = {id(parameter) for layer in heads(network) for parameter in layer.parameters()}
    # timm may put the norm before the head into one group with it.
    return _split(groups, of_head, inside={"lr": config.head_lr}, outside={"lr": config.lr})


def _split(
    groups: list[dict[str, Any]], members: set[int], *, inside: dict[str, Any], outside: dict[str, Any]
) -> list[dict[str, Any]]:
    """Splits each group in two: parameters whose ids are ``members`` get the options ``inside``, others ``outside``."""
    split_groups = []
    for group in groups:
        for options, is_member in ((outside, False), (inside, True)):
            parameters = [parameter for parameter in group["params"] if (id(parameter) in members) is is_member]
            if parameters:
                split_groups.append({**group, "params": parameters, **options})
    return split_groups


def build_optimizer(network: Network, config: TrainConfig) -> torch.optim.AdamW:
    """The optimizer of fine-tuning: ``config.optimizer`` over ``parameter_groups``."""
    ends, groups = [*first_convolutions(network), *heads(network)], parameter_groups(network, config)
    precision = resolve_precision(config.precision, network.device)
    return start_optimizer(config.optimizer, network, groups, ends, config.lr or 0.0, precision=precision)


def start_optimizer(
    name: str,
    network: nn.Module,
    groups: list[dict[str, Any]],
    ends: Iterable[nn.Module],
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    precision: str = "fp32",
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), or ``Muon`` for the matrices between the first and the last layers.

    Args:
        name: adamw or muon.
        network: the groups hold its parameters.
        groups: as for AdamW.
        ends: the first layers, as far as they are known, and the heads; like vectors and tokens, they stay with AdamW.
        lr: for the groups without a rate of their own.
        betas: of AdamW.
        precision: bf16 or fp32, in which Muon computes its steps.
    """
    device = next(network.parameters()).device
    fused = device.type in ("cpu", "cuda")
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused)
    at_ends = set(ends)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d) and layer not in at_ends]
    inner = {id(layer.weight) for layer in layers if getattr(layer, "groups", 1) == 1}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    split_groups = _split(groups, inner, inside={"muon": True}, outside={"muon": False})
    return Muon(split_groups, dtype=dtype, lr=lr, betas=betas, fused=fused)


def moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name: ``NAME/exp_avg``, ``NAME/exp_avg_sq``, ``NAME/step``, or
    ``NAME/momentum``."""
    return {
        f"{name}/{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_moments(network: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
    """Puts the result of ``moments`` into a new optimizer; parameters without saved state start afresh."""
    fused = {id(p): bool(group.get("fused")) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        state = {key: saved[f"{name}/{key}"] for key in STATE if f"{name}/{key}" in saved}
        if state and id(parameter) in fused:
            # Only fused kernels keep the step counter on the device.
            optimizer.state[parameter] = {
                key: value.to("cpu" if key == "step" and not fused[id(parameter)] else parameter.device).clone()
                if key == "step"
                else torch.empty_like(parameter).copy_(value)  # laid out in memory as its parameter
                for key, value in state.items()
            }


class WeightAverage(ModelEmaV3):
    """timm's moving average of weights, with one operation per step for all of them.

    timm calls ``state_dict`` of both networks at every step, which makes a new tensor of every weight. Weights keep
    their memory within a stage of training, so the lists of tensors are made once a stage.
    """

    _averages: list[torch.Tensor] | None = None

    def start_stage(self) -> None:
        """Forgets where the weights lie: what prepares a network for several processes moves them in memory."""
        self._averages = None

    @torch.no_grad()
    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Moves the averages by ``1 - decay`` towards the weights of the network; copies integers, such as counters."""
        if self._averages is None:
            pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
            self._averages = [average for average, _ in pairs if average.is_floating_point()]
            self._weights = [weight for average, weight in pairs if average.is_floating_point()]
            self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        torch._foreach_lerp_(self._averages, self._weights, weight=1.0 - decay)
        for average, counter in self._counters:
            average.copy_(counter)


MOMENTUM = 0.95
STEPS, COEFFICIENTS = 5, [(3.4445, -4.7750, 2.0315)]
"""Newton-Schulz iterations that orthogonalise a momentum, and their polynomial (Jordan et al. 2024)."""


MOST_PADDING = 2.1
"""Matrices of as many rows are padded to the same shape if that multiplies their entries by less."""


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for the groups marked ``muon``, AdamW (Loshchilov and Hutter 2019) for the others.

    A matrix [out, in] moves by ``lr * sqrt(max(out, in))`` times its momentum with all singular values brought near 1.
    The root mean square of the entries of such a step is about 0.9 ``lr``, whatever the shape. With the factor of
    Jordan et al., ``sqrt(max(1, out / in))``, it would be about 0.9 ``lr / sqrt(in)``. Liu et al. (2025,
    arXiv:2502.16982, section 2.2) take 0.2 of the step here, since AdamW's steps usually have 0.2 to 0.4 ``lr``: at the
    same rate, Muon moves further here than AdamW does, so each optimizer needs its own rate. Convolutions count as
    matrices [out, in * height * width].

    Args:
        groups: as for AdamW; those marked ``muon`` hold only matrices and convolutions.
        dtype: in which a momentum is orthogonalised; bfloat16 is precise enough, and faster on a GPU.
        options: of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], *, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        super().__init__(groups, **options)
        self.dtype = dtype
        # Zero columns stay zero and change nothing. A GPU has the time for their arithmetic, a processor has not.
        self.pads = self.param_groups[0]["params"][0].device.type == "cuda"

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update, after which the groups marked ``muon`` have no gradients."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        self._move([group for group in self.param_groups if group.get("muon")])
        super().step()
        return loss

    def _move(self, groups: list[dict[str, Any]]) -> None:
        """Moves the matrices of all groups at once.

        With a small network, a GPU mostly waits for Python to start the next operation. Matrices of the same shape are
        therefore orthogonalised together, whatever their groups, and the other operations take whole lists.
        """
        members = [(p, group) for group in groups for p in group["params"] if p.grad is not None]
        if not members:
            return
        parameters = [parameter for parameter, _ in members]
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters]
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = list(torch._foreach_lerp(gradients, momenta, MOMENTUM))  # Nesterov's look ahead
        for parameter in parameters:
            parameter.grad = None  # AdamW skips parameters without a gradient
        steps = self._orthogonalised(ahead)
        scales = [-group["lr"] * max(parameter.flatten(1).shape) ** 0.5 for parameter, group in members]
        torch._foreach_mul_(parameters, [1 - group["lr"] * group["weight_decay"] for _, group in members])
        torch._foreach_mul_(steps, scales)
        torch._foreach_add_(parameters, steps)

    def _orthogonalised(self, updates: list[torch.Tensor]) -> list[torch.Tensor]:
        """Matrices with all singular values near one, in the order, shapes and dtype of the updates."""
        steps = list(updates)
        for rows in self._stacks([_wide_shape(update) for update in updates]):
            places = [updates[row] for row in rows]
            shapes = [_wide_shape(update) for update in places]
            stacked = places[0].new_zeros(len(rows), shapes[0][0], max(columns for _, columns in shapes))
            views = [_place(matrix, update) for matrix, update in zip(stacked, places, strict=True)]
            torch._foreach_copy_(views, places)
            moved = zeropower_via_newtonschulz(stacked, STEPS, COEFFICIENTS, dtype=self.dtype).to(stacked.dtype)
            for row, matrix in zip(rows, moved, strict=True):
                steps[row] = _place(matrix, updates[row])
        return steps

    def _stacks(self, shapes: list[tuple[int, int]]) -> list[list[int]]:
        """Which matrices are orthogonalised together: those of the same shape, or of as many rows if ``self.pads``."""
        by_shape: dict[tuple[int, int], list[int]] = {}
        for row, shape in enumerate(shapes):
            by_shape.setdefault(shape, []).append(row)
        if not self.pads:
            return list(by_shape.values())
        by_rows: dict[int, list[int]] = {}
        for row, (height, _) in enumerate(shapes):
            by_rows.setdefault(height, []).append(row)
        stacks = []
        for height, rows in by_rows.items():
            widths = [shapes[row][1] for row in rows]
            pays = len(rows) * max(widths) < MOST_PADDING * sum(widths)
            stacks += [rows] if pays else [of for shape, of in by_shape.items() if shape[0] == height]
        return stacks


def _wide_shape(update: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of a matrix or convolution [out, ...], the smaller number first."""
    rows, columns = len(update), update[0].numel()
    return min(rows, columns), max(rows, columns)


def _place(matrix: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """The part of a row of a stack that belongs to an update, seen in the update's shape."""
    rows, columns = len(update), update[0].numel()
    part = matrix[:rows, :columns] if rows <= columns else matrix[:columns, :rows].mT
    return part if update.ndim == 2 else part.unflatten(1, update.shape[1:])


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


class Schedule:
    """Linear warm-up, then one cosine (Loshchilov and Hutter 2017), at whose end all groups have the same rate.

    Args:
        optimizer: whose groups are driven, each from its own peak.
        end: the rate at the end.
        ticks: of the run.
        warmup: ticks of warm-up.
        tick: where the run stands at an update, in [0, ``ticks``]; by default the update itself.
        ramp: updates of a warm-up that no tick can count, since minutes end the run.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        end: float,
        ticks: int,
        warmup: int,
        tick: Callable[[int], int] = int,
        ramp: int = 1,
    ) -> None:
        self.optimizer, self.tick, self.ramp = optimizer, tick, ramp
        span = max(1, ticks - warmup)
        self.cosine = CosineLRScheduler(optimizer, span, end, warmup_t=warmup, warmup_prefix=True, t_in_epochs=False)

    def step_update(self, update: int) -> None:
        """Sets the learning rates for an update; the first is 1."""
        self.cosine.step_update(self.tick(update))
        for group in self.optimizer.param_groups:
            group["lr"] *= min(1.0, update / self.ramp)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int, budget: Budget
) -> Schedule:
    """The schedule of fine-tuning: warm-up by steps, then a cosine by steps or, if minutes end the run, by budget."""
    end, warmup = config.min_lr * (config.lr or 0.0), round(config.warmup_epochs * steps_per_epoch)
    if config.minutes is not None:
        return Schedule(optimizer, end, TICKS, 0, budget.ticks, ramp=max(1, warmup))
    return Schedule(optimizer, end, config.epochs * steps_per_epoch, warmup)
