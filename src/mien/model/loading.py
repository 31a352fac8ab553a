"""Reading weights: of a folder by safetensors alone, of the hub with transformers; both without its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers.utils import logging

from mien.model.networks import MODEL_TYPES, Network, NetworkConfig

WEIGHTS = "model.safetensors"
"""The one file of weights that is read of a folder, whatever its ``config.json`` says."""


def load_network(source: str | Path, config: NetworkConfig) -> tuple[Network, dict[str, Any]]:
    """Fills a classifier from a checkpoint.

    Of a folder, ``model.safetensors`` is read here and handed over by value: neither another file nor the hub is asked.

    Args:
        source: a folder or a hub id.
        config: the architecture to fill, of a folder by ``mien.model.configuration``.

    Returns:
        The network, in float32, and transformers' loading report: ``missing_keys``, ``unexpected_keys``,
        ``mismatched_keys``.

    Raises:
        OSError: the weights are missing or damaged, or the hub is out of reach.
        RuntimeError: a shape differs.
        ValueError: the configuration fits no network, or would need more weights than the file holds.
    """
    options: dict[str, Any] = {"config": config, "use_safetensors": True, "output_loading_info": True}
    folder, weights = Path(source), str(source)
    if folder.is_dir():
        options |= {"state_dict": _read_weights(folder / WEIGHTS, config), "dtype": torch.float32}
        weights = cast(str, None)  # transformers looks at no path then
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        return cast(
            tuple[Network, dict[str, Any]], MODEL_TYPES[config.model_type][1].from_pretrained(weights, **options)
        )
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _read_weights(path: Path, config: NetworkConfig) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise OSError(f"{path.name} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            layers, width = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
            if layers * width * width > path.stat().st_size:  # each layer has 4 W x W and more, in 2 bytes or 4 each
                raise ValueError(f"{layers} layers of a width of {width} would not fit into its {WEIGHTS}")
            del file
        return load_file(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
