"""Optimizer and schedule: AdamW in layer-wise groups, linear warm-up and cosine annealing per step."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from transformers import ViTForImageClassification

from mien.config import TrainConfig

NO_DECAY: tuple[str, ...] = ("vit.embeddings.cls_token", "vit.embeddings.position_embeddings")
"""Exempt from weight decay beside every bias and norm."""


def parameter_groups(network: ViTForImageClassification, config: TrainConfig) -> list[dict[str, Any]]:
    """The trainable parameters, grouped by layer and by whether weight decay applies; the head with its own rate.

    Args:
        network: after ``mien.model.freezing.freeze``; frozen parameters come into no group.
        config: with every default resolved.
    """
    network.__dict__["group_matcher"] = _group_matcher  # where timm looks for it
    groups = param_groups_layer_decay(
        network, weight_decay=config.weight_decay, no_weight_decay_list=NO_DECAY, layer_decay=config.layer_decay
    )
    head = {id(parameter) for parameter in network.classifier.parameters()}
    for group in groups:
        group["lr"] = config.head_lr if id(group["params"][0]) in head else config.lr
    return groups


def _group_matcher(coarse: bool) -> dict[str, Any]:
    """Which layer a parameter belongs to, as timm's own ViT tells it; the final norm goes with the last block."""
    return {
        "stem": r"^vit\.embeddings",
        "blocks": [(r"^vit\.layers\.(\d+)", None), (r"^vit\.layernorm", (99999,))],
    }


def build_optimizer(network: ViTForImageClassification, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over ``parameter_groups``."""
    device = next(network.parameters()).device
    groups = parameter_groups(network, config)
    return torch.optim.AdamW(groups, lr=config.lr or 0.0, fused=device.type in ("cpu", "cuda"))


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then one cosine down to ``min_lr`` times the peak (Loshchilov and Hutter 2017), by steps."""
    return CosineLRScheduler(
        optimizer,
        t_initial=config.epochs * steps_per_epoch,
        lr_min=config.min_lr * (config.lr or 0.0),
        warmup_t=round(config.warmup_epochs * steps_per_epoch),
        warmup_lr_init=0.0,
        t_in_epochs=False,
    )


def moments(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state by parameter name: ``NAME/exp_avg``, ``NAME/exp_avg_sq``, ``NAME/step``."""
    return {
        f"{name}/{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_moments(network: torch.nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, torch.Tensor]) -> None:
    """Puts the state that ``moments`` gave into a new optimizer; parameters that had none start afresh."""
    fused = {id(p): bool(group.get("fused")) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        state = {key: saved[f"{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in saved}
        if state and id(parameter) in fused:
            # Only the fused kernels keep the step counter on the device.
            optimizer.state[parameter] = {
                key: value.to("cpu" if key == "step" and not fused[id(parameter)] else parameter.device).clone()
                for key, value in state.items()
            }
