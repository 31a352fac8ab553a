"""What is wrong with a configuration, gathered so that everything is told at once."""

from __future__ import annotations

import math
from typing import Any

from mien.errors import MienError

AT_LEAST_ONE = "a whole number of at least 1"
AT_LEAST_ZERO = "a number of at least 0"
ABOVE_ZERO = "a number above 0"
SHARE = "a share in [0, 1]"
SHARE_BELOW_ONE = "a share in [0, 1)"
PROBABILITY = "a probability in [0, 1]"
LARGEST_SEED = 2**31 - 1


class Problems:
    """Gathers every value that is out of its range, as ``field: got VALUE, expected RANGE``."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def check(self, name: str, value: Any, fine: bool, expected: str) -> None:
        """Notes a value that is not ``fine``, or not finite; None stands for a field that is left open."""
        finite = not isinstance(value, float) or math.isfinite(value)
        if value is not None and not (finite and fine):
            self.found.append(f"{name}: got {value!r}, expected {expected}")

    def add(self, problem: str) -> None:
        """Notes what concerns more than one field."""
        self.found.append(problem)

    def raise_if_any(self) -> None:
        """Raises MienError with every problem, or does nothing."""
        if self.found:
            raise MienError("; ".join(self.found))
