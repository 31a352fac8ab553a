"""Reading weights with transformers: safetensors only, and without its report, which the callers assert instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers.utils import logging

from mien.model.networks import MODEL_TYPES, Network, NetworkConfig


def load_network(source: str | Path, config: NetworkConfig) -> tuple[Network, dict[str, Any]]:
    """Fills a classifier from a checkpoint.

    Args:
        source: a folder or a hub id.
        config: the architecture to fill.

    Returns:
        The network, and transformers' loading report: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        return cast(
            tuple[Network, dict[str, Any]],
            MODEL_TYPES[config.model_type][1].from_pretrained(
                source, config=config, use_safetensors=True, output_loading_info=True
            ),
        )
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
