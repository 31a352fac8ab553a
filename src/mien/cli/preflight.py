"""Reports what is wrong with a run before torch is imported: whatever settings and folders decide alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mien.config import RunConfig, TrainConfig
from mien.data.read import locate
from mien.errors import MienError
from mien.files import refuse_inputs
from mien.model.hub import ensure_at_hand
from mien.model.places import check_source, is_hub_backbone, model_folder, run_model
from mien.training.folder import check_new


def check_before_torch(config: RunConfig, resume: bool, *, dry: bool = False) -> None:
    """Checks the places that the settings of a run name, which takes no torch.

    Args:
        config: the settings; each is right for itself, and they fit each other.
        resume: whether a run shall go on.
        dry: whether nothing is written, so that ``out`` does not matter.

    Raises:
        MienError: everything that is wrong, in one line.
    """
    problems = list(_problems(config, resume, dry))
    if problems:
        raise MienError("; ".join(problems))


def _problems(config: RunConfig, resume: bool, dry: bool) -> Iterator[str]:
    try:
        locate(config.data)
    except MienError as error:
        yield f"--data {error}"
    if not dry:
        try:
            check_new(Path(config.out), resume)
            if Path(config.data).is_dir():
                refuse_inputs(Path(config.out), [Path(config.data)], may_hold=True)
        except MienError as error:
            yield str(error)
    yield from config.missing_trackers()
    if isinstance(config, TrainConfig):
        for teacher in config.teacher:
            try:
                model_folder(teacher)
            except MienError as error:
                yield f"--teacher {error}"
        if config.targets is not None and not Path(config.targets).is_file():
            yield f"--targets {config.targets}: no such file; give one that `mien folds` wrote"
        yield from _of_backbone(config)


def _of_backbone(config: TrainConfig) -> Iterator[str]:
    """Yields what is wrong with the place of a backbone, and with the number of blocks that shall be frozen."""
    if config.is_timm or config.is_fresh:
        return
    try:
        check_source(config.backbone)
        if is_hub_backbone(config.backbone):
            ensure_at_hand(config.backbone, "--backbone")
    except MienError as error:
        yield str(error)
        return
    architecture, blocks = _architecture(Path(config.backbone)), config.freeze.blocks
    depth = architecture.get("num_hidden_layers")
    if blocks and architecture.get("model_type") == "timm_wrapper":
        yield f"--freeze.blocks: got {blocks} for {config.backbone}, which holds a network of timm, expected 0"
    elif blocks and isinstance(depth, int) and blocks > depth:
        yield f"--freeze.blocks: got {blocks}, expected at most {depth}, the blocks of {config.backbone}"


def _architecture(folder: Path) -> dict[str, Any]:
    """Returns ``config.json`` of a backbone as it stands; empty if there is none that can be read."""
    try:
        values = json.loads((run_model(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
