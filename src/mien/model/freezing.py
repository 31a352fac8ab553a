"""What is frozen, what trains, and at which rate.

The encoder counts as a stack of units: the embeddings, then each block. Freezing keeps a prefix of the stack: nothing,
or the embeddings and the first k blocks. Frozen parameters are in no optimizer and hold no gradient; since nothing
below them needs one either, the frozen prefix runs without storing activations. A timm network is no such stack and
trains whole.
"""

from __future__ import annotations

from typing import Any

from mien.config import FreezeConfig
from mien.errors import MienError
from mien.model.networks import Network, fix_positions, parts, units


def frozen_units(config: FreezeConfig, epoch: int) -> int:
    """How many units are frozen in an epoch.

    Args:
        config: with ``blocks`` resolved to a number.
        epoch: the first is 1.

    Returns:
        0 for nothing, 1 for the embeddings alone, 1 + k for the embeddings and k blocks.
    """
    whole = 1 + config.blocks if config.blocks else 0
    if config.release_epoch is None or epoch < config.release_epoch:
        return whole
    if not config.gradual:
        return 0
    return max(0, whole - 1 - (epoch - config.release_epoch))


def check_freezing(config: FreezeConfig, network: Network, *, fresh: bool, by_default: bool = False) -> None:
    """Refuses what cannot be meant.

    Args:
        config: with ``blocks`` resolved to a number.
        network: what would be frozen.
        fresh: its weights are random.
        by_default: nobody said how many blocks; then at least one stays free.

    Raises:
        MienError: more blocks than there are, or all of them unasked; random weights would be frozen without being
            asked for by name.
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
            "--backbone, or freeze.random_weights=true if that is what you want"
        )


def freeze(network: Network, count: int) -> None:
    """Freezes the first ``count`` units and makes the rest trainable; fixed positions never train."""
    network.requires_grad_(True)
    for _, unit in units(network)[:count]:
        unit.requires_grad_(False)
    fix_positions(network)


def training_mode(network: Network, count: int) -> None:
    """Training mode for what trains; the first ``count`` units stay in evaluation mode (no drop path)."""
    network.train()
    for _, unit in units(network)[:count]:
        unit.eval()


def table(network: Network, groups: list[dict[str, Any]]) -> str:
    """What is frozen, what trains, and at which peak rate, a line a part.

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
