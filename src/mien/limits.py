"""Limits of networks, so that a short setting or a small file cannot ask for gigabytes of memory."""

from __future__ import annotations

import math
import re
from typing import Any

LARGEST_IMAGE = 1024
"""Pixels a side of the pictures that a network may read; one of 20,000 would take gigabytes for each face."""

MOST_LAYERS = 256
"""Blocks of an encoder or decoder, and any other number of layers or stages."""

LARGEST_WIDTH = 8192
"""Width of a Transformer's blocks."""

LARGEST_NUMBER = 65_536
"""Any other number among the arguments of a network."""

LONGEST_LIST = 64
"""Numbers in a list among the arguments of a network."""

MOST_CLASSES = 1000
"""Classes of a model and of a training set."""

LONGEST_CLASS_NAME = 100
"""Letters of a class's name."""

_DEPTHS = re.compile(r"(depth|layer|block|repeat|stage|num_)")


def number_fits(name: str, value: int | float) -> bool:
    """Whether a number may be the argument ``name`` of a timm network: finite and, as its name says, no bomb."""
    most = MOST_LAYERS if _DEPTHS.search(name) and name != "num_features" else LARGEST_NUMBER
    return math.isfinite(value) and abs(value) <= most


def argument_fits(name: str, value: Any) -> bool:
    """Whether every number in an argument of a timm network, at any depth of its lists and objects, fits."""
    if isinstance(value, dict):
        return all(argument_fits(f"{name}.{key}", item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return len(value) <= LONGEST_LIST and all(argument_fits(name, item) for item in value)
    return isinstance(value, bool) or not isinstance(value, int | float) or number_fits(name, value)
