"""Checks that a tag may become a release: ``python scripts/release.py v0.1.0``.

The tag names the version of the package, CITATION.cff and CHANGELOG.md have the same version, and CHANGELOG.md says no
longer that it is unreleased.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def faults(tag: str, version: str, citation: str, changelog: str) -> list[str]:
    """Returns what stands against a release, a sentence each.

    Args:
        tag: such as ``v0.1.0``.
        version: that of the package.
        citation: content of CITATION.cff.
        changelog: content of CHANGELOG.md.
    """
    sentences = []
    if tag != f"v{version}":
        sentences.append(f"the tag is {tag}, expected v{version}, the version in src/mien/version.py")
    cited = re.search(r"^version: *\"?([^\"\s]+)", citation, re.MULTILINE)
    if cited is None or cited[1] != version:
        sentences.append(f"CITATION.cff has version {cited[1] if cited else 'none'}, expected {version}")
    heading = re.search(rf"^## {re.escape(version)}\b(.*)$", changelog, re.MULTILINE)
    if heading is None:
        sentences.append(f"CHANGELOG.md has no heading '## {version}'")
    elif "unreleased" in heading[1]:
        sentences.append(f"CHANGELOG.md says that {version} is unreleased; write the date instead")
    return sentences


def main(arguments: list[str]) -> int:
    """Prints the faults; returns 1 if there are any."""
    if len(arguments) != 1:
        print("release.py: expected one argument, the tag, such as v0.1.0", file=sys.stderr)
        return 2
    version = re.search(r'"(.+)"', (ROOT / "src/mien/version.py").read_text(encoding="utf-8").split("__version__")[1])
    assert version is not None, "src/mien/version.py sets __version__"
    texts = ((ROOT / name).read_text(encoding="utf-8") for name in ("CITATION.cff", "CHANGELOG.md"))
    sentences = faults(arguments[0], version[1], *texts)
    for sentence in sentences:
        print(f"release.py: {sentence}", file=sys.stderr)
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
