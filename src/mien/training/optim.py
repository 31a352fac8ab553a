"""Optimizer and schedule: AdamW or Muon in layer-wise groups, linear warm-up and cosine annealing per step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from timm.optim.muon import zeropower_via_newtonschulz
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn

from mien.config import TrainConfig
from mien.model.networks import Network, first_convolutions, heads, layered
from mien.training.run import resolve_precision

STATE: tuple[str, ...] = ("step", "exp_avg", "exp_avg_sq", "momentum")
"""What an optimizer keeps of a parameter: the first three AdamW, the last Muon."""


def parameter_groups(network: Network, config: TrainConfig) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by layer and by whether weight decay applies; the head with its own rate.

    Args:
        network: after ``mien.model.freezing.freeze``; frozen parameters come into no group.
        config: with every default resolved.
    """
    module, exempt = layered(network)
    groups = param_groups_layer_decay(
        module, weight_decay=config.weight_decay, no_weight_decay_list=exempt, layer_decay=config.layer_decay
    )
    last = {id(parameter) for layer in heads(network) for parameter in layer.parameters()}
    # timm may put the norm before the head into one group with it.
    return _split(groups, last, {"lr": config.lr}, {"lr": config.head_lr})


def _split(
    groups: list[dict[str, Any]], chosen: set[int], others: dict[str, Any], those: dict[str, Any]
) -> list[dict[str, Any]]:
    """Each group in two: with ``those`` values for the parameters of the chosen ids, with ``others`` for the rest."""
    found = []
    for group in groups:
        for values, is_chosen in ((others, False), (those, True)):
            parameters = [parameter for parameter in group["params"] if (id(parameter) in chosen) is is_chosen]
            if parameters:
                found.append({**group, "params": parameters, **values})
    return found


def build_optimizer(network: Network, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW or Muon, as the configuration says, over ``parameter_groups``."""
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
    """AdamW (Loshchilov and Hutter 2019) over parameter groups, or ``Muon``, for the matrices between both ends.

    Args:
        name: adamw or muon.
        network: whose parameters are in the groups.
        groups: as for AdamW.
        ends: the layers that read pixels, as far as they are known, and those that answer; they stay with AdamW, as
            vectors and tokens do.
        lr: for the groups that name none.
        betas: of AdamW.
        precision: bf16 or fp32, in which muon computes its steps.
    """
    device = next(network.parameters()).device
    fused = device.type in ("cpu", "cuda")
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused)
    at_ends = set(ends)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d) and layer not in at_ends]
    inner = {id(layer.weight) for layer in layers if getattr(layer, "groups", 1) == 1}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return Muon(_split(groups, inner, {"muon": False}, {"muon": True}), dtype=dtype, lr=lr, betas=betas, fused=fused)


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then one cosine down to ``min_lr`` times the peak (Loshchilov and Hutter 2017), by steps."""
    steps, warmup = config.epochs * steps_per_epoch, round(config.warmup_epochs * steps_per_epoch)
    return warmup_and_cosine(optimizer, steps, warmup, config.min_lr * (config.lr or 0.0))


def warmup_and_cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: int, end: float) -> CosineLRScheduler:
    """The rate rises from 0 to the peak, which is that of the optimizer's groups, and falls to ``end`` at ``steps``."""
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, steps - warmup),
        lr_min=end,
        warmup_t=warmup,
        warmup_lr_init=0.0,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name: ``NAME/exp_avg``, ``NAME/exp_avg_sq``, ``NAME/step``, or
    ``NAME/momentum``."""
    return {
        f"{name}/{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_moments(network: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
    """Puts the state that ``moments`` gave into a new optimizer; parameters that had none start afresh."""
    fused = {id(p): bool(group.get("fused")) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        state = {key: saved[f"{name}/{key}"] for key in STATE if f"{name}/{key}" in saved}
        if state and id(parameter) in fused:
            # Only the fused kernels keep the step counter on the device.
            optimizer.state[parameter] = {
                key: value.to("cpu" if key == "step" and not fused[id(parameter)] else parameter.device).clone()
                if key == "step"
                else torch.empty_like(parameter).copy_(value)  # laid out in memory as its parameter
                for key, value in state.items()
            }


class WeightAverage(ModelEmaV3):
    """timm's moving average of weights, in one operation a step if nothing but floats is averaged.

    timm asks both networks for their ``state_dict`` at every step, which makes a tensor of every weight. Weights keep
    their memory while a network is trained, so the lists are made once.
    """

    _averages: list[torch.Tensor] | None = None

    @torch.no_grad()
    def apply_update_(self, model: nn.Module, decay: float) -> None:
        """Moves the averages by ``1 - decay`` towards the weights of the network, and copies what is no float."""
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


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for the groups marked ``muon``, AdamW (Loshchilov and Hutter 2019) for the others.

    A matrix [out, in] moves by ``lr * sqrt(max(out, in))`` times its momentum with all singular values made one. The
    root mean square of the entries of such a step is ``lr``, as it is at most in AdamW, so one rate serves both (Liu et
    al. 2025, arXiv:2502.16982, section 2.2). Convolutions count as matrices [out, in * height * width].

    Args:
        groups: as for AdamW; those marked ``muon`` hold matrices and convolutions alone.
        dtype: in which a momentum is orthogonalised; bfloat16 is enough, where the processor is fast in it.
        options: of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], *, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        super().__init__(groups, **options)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update. The gradients of the groups marked ``muon`` are used up by it."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        self._move([group for group in self.param_groups if group.get("muon")])
        super().step()
        return loss

    def _move(self, groups: list[dict[str, Any]]) -> None:
        """Moves the matrices of all groups at once.

        A GPU spends a step of a small network waiting for Python to send it the next operation, so matrices of one
        shape are orthogonalised together whatever their groups are, and the rest is done for whole lists of them.
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
            parameter.grad = None  # AdamW passes by what has no gradient
        steps = self._orthogonalised(ahead)
        scales = [-group["lr"] * max(parameter.flatten(1).shape) ** 0.5 for parameter, group in members]
        torch._foreach_mul_(parameters, [1 - group["lr"] * group["weight_decay"] for _, group in members])
        torch._foreach_mul_(steps, scales)
        torch._foreach_add_(parameters, steps)

    def _orthogonalised(self, updates: list[torch.Tensor]) -> list[torch.Tensor]:
        """Matrices with all singular values near one, in the order, shapes and dtype of the updates."""
        rows_of: dict[torch.Size, list[int]] = {}
        for row, update in enumerate(updates):
            rows_of.setdefault(update.shape, []).append(row)
        steps = list(updates)
        for rows in rows_of.values():
            stacked = torch.stack([updates[row] for row in rows])
            moved = zeropower_via_newtonschulz(stacked.flatten(2), STEPS, COEFFICIENTS, dtype=self.dtype)
            for row, step in zip(rows, moved.to(stacked.dtype).view_as(stacked).unbind(), strict=True):
                steps[row] = step
        return steps
