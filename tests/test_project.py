"""The project's own files: workflows, forms for issues, citation, oldest versions, release, picture."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import release
from oldest import FILE, for_users, oldest
from picture import PHOTO, PICTURE, picture
from PIL import Image

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def loaded(path: Path) -> dict[Any, Any]:
    """The content of a YAML file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    workflow_jobs: dict[str, dict[str, Any]] = loaded(path)["jobs"]
    return workflow_jobs


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job.get("steps", [])]


def commands(path: Path) -> list[list[str]]:
    """Every command of a workflow, split into words."""
    lines = [line for step in steps(path) for line in str(step.get("run", "")).splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_exists(path: Path) -> None:
    assert {path.name for path in WORKFLOWS} == {"ci.yml", "release.yml"}
    for words in commands(path):
        if words[:2] == ["npm", "ci"]:
            assert (ROOT / "package-lock.json").is_file()
            continue
        assert words[0] == "python", f"{words}: make and shell scripts are not on every system"
        if words[1] == "-m":
            assert find_spec(words[2]) or words[2] in ("build", "twine"), f"there is no module {words[2]}"
        else:
            script = ROOT / words[1]
            assert script.is_file(), f"there is no {words[1]}"
            source = script.read_text(encoding="utf-8")
            assert all(f'"{word}"' in source for word in words[2:] if word.startswith("--")), words
        for word in words:
            if re.fullmatch(r"[\w.-]+\.txt", word):
                assert (ROOT / word).is_file(), f"there is no {word}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_takes_no_more_rights_than_it_needs(path: Path) -> None:
    assert loaded(path)["permissions"] == {"contents": "read"}
    assert "secrets." not in path.read_text(encoding="utf-8")
    for step in steps(path):
        assert ("run" in step) != ("uses" in step), step
        assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", step["uses"]), step
    assert all("timeout-minutes" in job for job in jobs(path).values() if "uses" not in job)


def test_the_demo_explains_itself_before_it_works(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: demo.py" in done.stdout and not any(tmp_path.iterdir())


def test_ci_runs_what_the_house_runs() -> None:
    text = "\n".join(" ".join(words) for words in commands(ROOT / ".github" / "workflows" / "ci.yml"))
    for command in (
        "pip install -r requirements.txt",
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "pytest",
        "scripts/demo.py",
        "mkdocs build --strict",
        "scripts/fresh_install.py",
        "scripts/fresh_install.py --oldest",
    ):
        assert command in text, command


def test_the_classifiers_claim_what_ci_runs() -> None:
    names = {"ubuntu": "POSIX :: Linux", "macos": "MacOS", "windows": "Microsoft :: Windows"}
    matrix = jobs(ROOT / ".github" / "workflows" / "ci.yml")["check"]["strategy"]["matrix"]
    systems = {f"Operating System :: {names[name.split('-')[0]]}" for name in matrix["os"]}
    pythons = {*matrix["python"], *(entry["python"] for entry in matrix["include"])}
    classifiers = set(PROJECT["classifiers"])
    assert {line for line in classifiers if line.startswith("Operating System")} == systems
    versions = {f"Programming Language :: Python :: {version}" for version in pythons}
    assert {line for line in classifiers if re.search(r":: Python :: 3\.", line)} == versions
    assert PROJECT["requires-python"] == f">={min(pythons, key=lambda version: int(version.split('.')[1]))}"


def test_a_release_is_published_after_every_check_without_a_password() -> None:
    path = ROOT / ".github" / "workflows" / "release.yml"
    of_release = jobs(path)
    assert of_release["check"]["uses"] == "./.github/workflows/ci.yml"
    assert of_release["build"]["needs"] == "check" and of_release["publish"]["needs"] == "build"
    assert of_release["publish"]["permissions"] == {"id-token": "write"}
    assert loaded(path)[True] == {"push": {"tags": ["v*"]}}, "YAML reads the word 'on' as true"
    assert "workflow_call" in loaded(ROOT / ".github" / "workflows" / "ci.yml")[True]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_asks_for_something(path: Path) -> None:
    form = loaded(path)
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    ids = [field["id"] for field in fields]
    assert len(set(ids)) == len(ids) and all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
    assert {field["type"] for field in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def test_the_citation_is_of_this_version() -> None:
    citation = loaded(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation), "the keys that version 1.2.0 requires"
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    (seed,) = [entry for entry in citation["references"] if entry["title"] == "DeepProject"]
    assert seed["url"] in PROJECT["urls"].values()


def test_no_address_of_the_project_is_made_up() -> None:
    known_addresses = ("https://github.com/Hila-Levi/DeepProject", "https://arxiv.org/")
    assert all(url.startswith(known_addresses) for url in PROJECT["urls"].values())


def test_the_oldest_versions_are_those_of_pyproject() -> None:
    assert FILE.read_text(encoding="utf-8") == oldest((ROOT / "pyproject.toml").read_text(encoding="utf-8")), (
        "run python scripts/oldest.py"
    )


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    pyproject = (
        '[project]\ndependencies = ["b>=2,<3", "a>=1.5"]\n'
        '[project.optional-dependencies]\nx = ["c[y]>=0.1", "b>=2,<3"]\ndev = ["d"]\n'
    )
    assert oldest(pyproject).splitlines()[2:] == ["a==1.5", "b==2", "c==0.1"]
    assert for_users(pyproject) == ["x"]
    with pytest.raises(ValueError, match="d: has no lower bound"):
        oldest(pyproject.replace("dev =", "z ="))


@pytest.mark.parametrize(
    ("tag", "citation", "changelog", "expected_faults"),
    [
        ("v1.2.3", 'version: "1.2.3"\n', "## 1.2.3 (1 May 2026)\n", []),
        ("1.2.3", 'version: "1.2.3"\n', "## 1.2.3 (1 May 2026)\n", ["the tag is 1.2.3, expected v1.2.3"]),
        ("v1.2.3", "version: 1.2.4\n", "## 1.2.3 (1 May 2026)\n", ["CITATION.cff has version 1.2.4"]),
        ("v1.2.3", 'version: "1.2.3"\n', "## 1.2.3 (unreleased)\n", ["CHANGELOG.md says that 1.2.3 is unreleased"]),
        ("v1.2.3", "", "## 1.2.30\n", ["CITATION.cff has version none", "CHANGELOG.md has no heading"]),
    ],
)
def test_a_tag_that_may_not_become_a_release(
    tag: str, citation: str, changelog: str, expected_faults: list[str]
) -> None:
    sentences = release.faults(tag, "1.2.3", citation, changelog)
    assert len(sentences) == len(expected_faults)
    assert all(sentence.startswith(start) for sentence, start in zip(sentences, expected_faults, strict=True))


def test_this_version_would_be_refused_under_another_tag(capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["v99.0.0"]) == 1
    assert "the tag is v99.0.0, expected v" in capsys.readouterr().err
    assert release.main([]) == 2


def test_the_picture_is_what_its_script_makes(capfd: pytest.CaptureFixture[str]) -> None:
    new_picture = picture(PHOTO)
    with Image.open(PICTURE) as stored_picture:
        assert stored_picture.size == new_picture.size
        difference = np.abs(np.asarray(stored_picture, np.int16) - np.asarray(new_picture, np.int16))
    assert difference.mean() < 4, "run python scripts/picture.py"
    assert PICTURE.stat().st_size < 200_000
    assert f"]({PICTURE.relative_to(ROOT).as_posix()})" in (ROOT / "README.md").read_text(encoding="utf-8")
