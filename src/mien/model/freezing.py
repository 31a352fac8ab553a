"""Freezing: keeps the first parts of a network from training.

The encoder is a stack of units: the embeddings, then each block. Frozen are none of them, or the embeddings and the
first k blocks. Frozen parameters are in no optimizer and have no gradient; since nothing below them needs a gradient
either, the frozen units run without storing activations. A timm network has no such units and trains as a whole.
"""

from __future__ import annotations

from typing import Any

from mien.config import FreezeConfig
from mien.errors import MienError
from mien.model.networks import Network, fix_positions, parts, units


def frozen_units(config: FreezeConfig, epoch: int) -> int:
    """Number of units that are frozen in an epoch.

    Args:
        config: with ``blocks`` resolved to a number.
        epoch: the first is 1.

    Returns:
        0 if all train, 1 for the embeddings, 1 + k for the embeddings and k blocks.
    """
    whole = 1 + config.blocks if config.blocks else 0
    if config.release_epoch is None or epoch < config.release_epoch:
        return whole
    if not config.gradual:
        return 0
    return max(0, whole - 1 - (epoch - config.release_epoch))


def frozen_for_good(config: FreezeConfig) -> int:
    """Returns the number of blocks that never train."""
    return (config.blocks or 0) if config.release_epoch is None else 0


def check_freezing(config: FreezeConfig, network: Network, *, fresh: bool, by_default: bool = False) -> None:
    """Validates the freezing settings.

    Args:
        config: with ``blocks`` resolved to a number.
        network: the network to freeze.
        fresh: whether its weights are random.
        by_default: whether ``blocks`` is the default, which must leave a block to train.

    Raises:
        MienError: ``blocks`` exceeds the number of blocks, the default would freeze all of them, or random weights
            would be frozen without ``random_weights``.
    """
    depth = max(0, len(units(network)) - 1)
    if by_default and config.blocks and config.blocks >= depth:
        raise MienError(
            f"freeze.blocks: {config.blocks} by default would freeze all {depth} blocks of this backbone; say "
            f"--freeze.blocks {depth // 2}, or 0 to train it whole"
        )
    if config.blocks and config.blocks > depth:
        raise MienError(f"freeze.blocks: got {config.blocks}, expected at most {depth}, the blocks of this backbone")
    if config.blocks and fresh and not config.random_weights:
        raise MienError(
            f"freeze.blocks: got {config.blocks} with a fresh backbone, whose weights are random; give a pretrained "
            "--backbone, or --freeze.random-weights if that is what you want"
        )


def freeze(network: Network, count: int) -> None:
    """Freezes the first ``count`` units and unfreezes the others; fixed positions never train."""
    network.requires_grad_(True)
    for _, unit in units(network)[:count]:
        unit.requires_grad_(False)
    fix_positions(network)


def training_mode(network: Network, count: int) -> None:
    """Sets training mode, but for the first ``count`` units, which stay in evaluation mode (no drop path)."""
    network.train()
    for _, unit in units(network)[:count]:
        unit.eval()


def table(network: Network, groups: list[dict[str, Any]]) -> str:
    """A table of the parts of a network: parameters, frozen or training, peak learning rate.

    Args:
        network: after ``freeze``.
        groups: the optimizer's parameter groups, before the first step of the schedule.
    """
    rates = {id(p): group["lr"] * group.get("lr_scale", 1.0) for group in groups for p in group["params"]}
    lines = [f"{'part':<12} {'parameters':>12}  {'state':<8} {'peak rate':>10}"]
    for name, parameters in parts(network):
        count = sum(p.numel() for p in parameters)
        trained = [rates[id(p)] for p in parameters if p.requires_grad]
        state, rate = ("trains", f"{max(trained):.2e}") if trained else ("frozen", "-")
        lines.append(f"{name:<12} {count:>12,}  {state:<8} {rate:>10}")
    total = sum(p.numel() for p in network.parameters())
    training = sum(p.numel() for p in network.parameters() if p.requires_grad)
    lines.append(f"{'all':<12} {total:>12,}  {training:,} train ({training / total:.1%})")
    return "\n".join(lines)
