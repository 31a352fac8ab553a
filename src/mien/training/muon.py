"""Muon: the weight matrices of a network move along the orthogonalised momentum, everything else by AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.optim.muon import zeropower_via_newtonschulz

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
        for group in self.param_groups:
            if group.get("muon"):
                self._move(group)
        super().step()
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        """Moves the matrices of a group, those of one shape together."""
        shapes: dict[torch.Size, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            momentum = self.state[parameter]["momentum"]
            momentum.lerp_(parameter.grad, 1 - MOMENTUM)
            wanted = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's look ahead
            shapes.setdefault(wanted.shape, []).append((parameter, wanted))
            parameter.grad = None  # AdamW passes by what has no gradient
        for shape, members in shapes.items():
            stacked = torch.stack([wanted for _, wanted in members])
            steps = zeropower_via_newtonschulz(stacked, STEPS, COEFFICIENTS, dtype=self.dtype)
            for (parameter, _), step in zip(members, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                step = step.to(parameter.dtype).view_as(parameter)
                parameter.add_(step, alpha=-group["lr"] * max(shape) ** 0.5)
