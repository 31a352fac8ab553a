"""The order of the house: no ring of imports, and walls between folders; imports inside functions count as well."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "mien"
WITH_TORCH = {"recognition.torch_engine", "machine"}
"""Modules outside training, model, evaluation and export that may import torch."""
TORCH = {"torch", "torchvision", "transformers", "timm", "accelerate"}


def name_of(path: Path) -> str:
    """The name of a module without ``mien.``; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: dict[str, Path] = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_for_types_alone(node: ast.AST) -> bool:
    """Whether the statement is ``if TYPE_CHECKING:``, whose imports are never executed."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_of(node: ast.AST, *, with_types: bool = False) -> set[str]:
    """Full names of everything that is imported below a node, at its top or in a function."""
    names: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if is_for_types_alone(child) and not with_types:
            continue
        if isinstance(child, ast.Import):
            names |= {alias.name for alias in child.names}
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports name the whole module"
            names |= {f"{child.module}.{alias.name}" for alias in child.names}
        names |= imports_of(child, with_types=with_types)
    return names


def module_of(name: str) -> str | None:
    """The module of Mien that an imported name lies in, without ``mien.``; None for other packages."""
    if name.split(".")[0] != "mien":
        return None
    parts = name.split(".")[1:]
    while ".".join(parts) not in MODULES:
        parts = parts[:-1]
    return ".".join(parts)


IMPORTS: dict[str, set[str]] = {
    module: imports_of(ast.parse(path.read_text(encoding="utf-8"))) for module, path in MODULES.items()
}
OWN: dict[str, set[str]] = {
    module: {target for name in names if (target := module_of(name)) is not None} - {module}
    for module, names in IMPORTS.items()
}


def test_the_reader_of_imports_sees_those_in_functions() -> None:
    code = "import a\nif TYPE_CHECKING:\n    import b\ndef f():\n    from c.d import e\n"
    assert imports_of(ast.parse(code)) == {"a", "c.d.e"}
    assert imports_of(ast.parse(code), with_types=True) == {"a", "b", "c.d.e"}
    assert module_of("mien.recognition.recognizer.Recognizer") == "recognition.recognizer"
    assert module_of("numpy.linalg") is None
    assert "training.finetune" in OWN["cli.training"]


def test_imports_make_no_ring() -> None:
    try:
        TopologicalSorter(OWN).prepare()
    except CycleError as error:
        pytest.fail("ring of imports: " + " <- ".join(error.args[1]))


def test_recognition_has_no_ring_even_with_imports_for_types_alone() -> None:
    dependencies = {
        module: {target for name in imports_of(ast.parse(path.read_text(encoding="utf-8")), with_types=True)
                 if (target := module_of(name)) is not None} - {module}
        for module, path in MODULES.items()
        if module.split(".")[0] == "recognition"
    }  # fmt: skip
    assert "recognition.film.pixels" in dependencies["recognition.film.cuts"]  # which only types need
    try:
        TopologicalSorter(dependencies).prepare()
    except CycleError as error:
        pytest.fail("ring of imports: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize(
    ("folder", "forbidden_folders"),
    [
        ("recognition", {"training", "evaluation", "export", "cli", "web"}),
        ("data", {"model", "training", "evaluation", "export", "recognition", "cli"}),
        ("model", {"training", "evaluation", "export", "recognition", "cli"}),
        ("evaluation", {"training", "export", "recognition", "cli"}),
        ("training", {"export", "recognition", "cli"}),
        ("export", {"cli", "web"}),
        ("web", {"training", "evaluation", "cli"}),
        ("lab", {"cli", "web"}),
    ],
)
def test_a_folder_imports_nothing_of_those_above_it(folder: str, forbidden_folders: set[str]) -> None:
    modules = {module: targets for module, targets in OWN.items() if module.split(".")[0] == folder}
    assert modules
    violations = [
        f"{module} -> {target}"
        for module, targets in modules.items()
        for target in targets
        if target.split(".")[0] in forbidden_folders
    ]
    assert not violations


def test_torch_is_imported_where_it_is_expected() -> None:
    torch_modules = {module for module, names in IMPORTS.items() if {name.split(".")[0] for name in names} & TORCH}
    modules_elsewhere = {
        module for module in torch_modules if module.split(".")[0] not in ("model", "training", "evaluation", "export")
    }
    assert modules_elsewhere == WITH_TORCH


def test_the_extra_gpu_brings_all_that_reading_by_torch_imports() -> None:
    modules: set[str] = set()
    waiting = ["recognition.torch_engine"]
    while waiting:
        module = waiting.pop()
        if module not in modules:
            modules.add(module)
            waiting += OWN[module]
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["gpu"]
    packages = {re.split(r"[<>=]", line)[0].lower() for line in lines}
    imports = {name.split(".")[0] for module in modules for name in IMPORTS[module]} - set(sys.stdlib_module_names)
    assert "torch" in imports and imports - {"mien", "huggingface_hub"} <= packages  # transformers brings the latter
