"""Filling the blocks of an HTML file, everything escaped, so that no HTML stands in Python code."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from string import Template
from typing import Any

_BLOCK = re.compile(r"<!-- block (\w+) -->\n(.*?)\n?<!-- end -->", re.DOTALL)


class Markup(str):
    """Text that is HTML already and is not escaped again."""


class Blocks:
    """The blocks of a packaged HTML file: what stands between ``<!-- block NAME -->`` and ``<!-- end -->``.

    Each is a ``string.Template`` whose ``${fields}`` are escaped when they are filled.
    """

    def __init__(self, package: str, file: str) -> None:
        text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
        self._templates = {name: Template(body) for name, body in _BLOCK.findall(text)}

    def fill(self, name: str, /, **values: Any) -> Markup:
        """One block with its fields filled in.

        Raises:
            KeyError: there is no such block, or a field has no value.
        """
        safe = {key: value if isinstance(value, Markup) else html.escape(str(value)) for key, value in values.items()}
        return Markup(self._templates[name].substitute(safe))

    def each(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Markup:
        """The block once for each row of values, one after the other."""
        return Markup("\n".join(self.fill(name, **row) for row in rows))
