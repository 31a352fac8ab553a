"""Writes constraints-oldest.txt, the oldest versions that pyproject.toml allows: ``python scripts/oldest.py``.

Only what users install counts: the base and every extra but ``docs`` and ``dev``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints-oldest.txt"
LEFT_OUT = ("docs", "dev")
HEADER = """\
# The oldest versions that pyproject.toml allows; `python scripts/oldest.py` writes this file.
# `python scripts/fresh_install.py --oldest` installs them and reads a photo and a film.
"""


def oldest(pyproject: str) -> str:
    """Returns constraints that hold each requirement of users to its lower bound, sorted by name.

    Args:
        pyproject: content of a pyproject.toml.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in extras if name not in LEFT_OUT for line in extras[name])]
    pins = []
    for line in lines:
        requirement = Requirement(line)
        bounds = [part.version for part in requirement.specifier if part.operator == ">="]
        if not bounds:
            raise ValueError(f"pyproject.toml: {line}: has no lower bound, expected one like {line}>=1.0; add it")
        pins.append(f"{requirement.name}=={bounds[0]}\n")
    return HEADER + "".join(sorted(set(pins), key=str.lower))


def for_users(pyproject: str) -> list[str]:
    """Returns the extras that users install, in the order of a pyproject.toml."""
    return [name for name in tomllib.loads(pyproject)["project"]["optional-dependencies"] if name not in LEFT_OUT]


def main() -> int:
    """Writes the file, or sees whether pip can install what it says; returns pip's exit code, or 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolve", action="store_true", help="let pip find such versions together; installs nothing")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    if parser.parse_args().resolve:
        requirement = f"{ROOT}[{','.join(for_users(pyproject))}]"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "-c", str(FILE), requirement]
        return subprocess.run(command, check=False).returncode
    FILE.write_text(oldest(pyproject), encoding="utf-8")
    print(f"{FILE.name}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
