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
