"""README and docs/: commands parse, options and files exist, links resolve, and a score is the same on every page."""

from __future__ import annotations

import ast
import json
import re
import shlex
import struct
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mien.cli import COMMANDS, main
from mien.cli import training as training_commands
from mien.cli.parser import Parser

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
WITH_COMMANDS = [*PAGES, ROOT / "CONTRIBUTING.md"]
WITH_LINKS = [*WITH_COMMANDS, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]
DATA_COMMANDS = ("inspect", "fetch", "draw", "crop")
MOST_LINES = 160
COMMON = ("--help", "--quiet", "--verbose", "--debug", "--version")


class Parsed(BaseException):
    """Ends a command after its arguments were parsed; no ``Exception``, so that ``main`` lets it pass."""


class Line(NamedTuple):
    """A command line of a page.

    Attributes:
        page: its file, from the root.
        words: as a shell splits them.
    """

    page: str
    words: tuple[str, ...]


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def inline_codes(text: str) -> list[str]:
    """The inline code of a page, on one line each; code blocks are left out."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", outside)]


@cache
def block_lines() -> tuple[Line, ...]:
    """Every command of the shell blocks of all pages, without comments, each part of ``a && b`` alone."""
    lines = []
    for page in WITH_COMMANDS:
        for block in blocks(page.read_text(encoding="utf-8"), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split(" && "):
                    words = tuple(shlex.split(part, comments=True))
                    if words:
                        lines.append(Line(str(page.relative_to(ROOT)), words))
    return tuple(lines)


@cache
def inline_lines() -> tuple[Line, ...]:
    """Every inline code of all pages that names a command or an option."""
    starts = ("mien ", "python benchmarks/", "python scripts/", "python -m ", "torchrun ", "make ", "--")
    return tuple(
        Line(str(page.relative_to(ROOT)), tuple(code.split()))
        for page in WITH_COMMANDS
        for code in inline_codes(page.read_text(encoding="utf-8"))
        if code.startswith(starts)
    )


def mien_arguments(words: Sequence[str]) -> tuple[str, ...] | None:
    """What comes after ``mien``, or after ``-m mien`` of torchrun; None for other commands."""
    if words[0] == "mien":
        return tuple(words[1:])
    if "-m" in words and words[words.index("-m") + 1 :][:1] == ["mien"]:
        return tuple(words[words.index("-m") + 2 :])
    return None


def options_in(words: Sequence[str]) -> list[str]:
    """The long options among words, without values."""
    return [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]


def stand_in_run(folder: Path) -> None:
    """Writes ``runs/first``, as far as a command looks at it while it parses, and the data that it recorded."""
    run = folder / "runs" / "first"
    run.mkdir(parents=True)
    (folder / "archive.zip").touch()
    (run / "config.yaml").write_text("data: archive.zip\nout: runs/first\n")
    config = {"data": "archive.zip", "out": "runs/first", "epochs": 3}
    header = json.dumps({"__metadata__": {"mien": json.dumps({"config": config})}}).encode()
    (run / "state.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.fixture(scope="module")
def only_parse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands parse what they were called with, and stop."""
    folder = tmp_path_factory.mktemp("pages")
    stand_in_run(folder)

    def parse(self: Parser, arguments: Sequence[str]) -> Any:
        whole_parse(self, arguments)
        raise Parsed

    def read(*arguments: Any) -> Any:
        whole_read(*arguments)
        raise Parsed

    whole_parse, whole_read = Parser.parse, training_commands.read_settings
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Parser, "parse", parse)
        patch.setattr(training_commands, "read_settings", read)
        yield


@cache
def options_of(command: str) -> frozenset[str]:
    """Every option of a command, such as ``predict`` or ``data crop``."""
    parsers = training_commands.PARSERS
    if command in parsers:
        return frozenset(name for action in parsers[command]()._actions for name in action.option_strings)
    with pytest.MonkeyPatch.context() as patch:
        options: list[str] = []

        def note(self: Parser, arguments: Sequence[str]) -> Any:
            options.extend(self.option_names())
            raise Parsed

        patch.setattr(Parser, "parse", note)
        with pytest.raises(Parsed):
            main(command.split())
    return frozenset(options)


def has_option(name: str, command: str) -> bool:
    """Whether a command has an option, by dashes or underscores."""
    options = options_of(command)
    return name in options or name.replace("_", "-") in options or name in COMMON


def all_commands() -> list[str]:
    return [*(name for name in COMMANDS if name != "data"), *(f"data {name}" for name in DATA_COMMANDS)]


@pytest.mark.parametrize("line", [line for line in block_lines() if mien_arguments(line.words) is not None], ids=str)
def test_a_command_of_a_page_parses(line: Line, only_parse: None, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = mien_arguments(line.words)
    assert arguments is not None
    try:
        code = main(arguments)
    except Parsed:
        return
    pytest.fail(f"{line.page}: mien {shlex.join(arguments)}: exit code {code}: {capsys.readouterr().err}")


def test_a_wrong_command_does_not_parse(only_parse: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "photo.jpg", "--modle", "nano"]) == 2
    assert main(["train", "--data", "archive.zip", "--out", "run", "--epoch", "3"]) == 2
    assert main(["evaluate", "nano", "--data", "archive.zip"]) == 2
    stderr = capsys.readouterr().err
    assert "--model?" in stderr and "epochs" in stderr and "--split" in stderr


@pytest.mark.parametrize("line", inline_lines(), ids=str)
def test_a_command_or_option_in_a_sentence_exists(line: Line) -> None:
    words, options = line.words, options_in(line.words)
    if words[0].startswith("--"):
        commands = [name for name in all_commands() if all(has_option(option, name) for option in options)]
        assert commands, f"{line.page}: no command has {' '.join(options)}"
        return
    arguments = mien_arguments(words)
    if arguments is not None:
        command = " ".join(arguments[:2]) if arguments[0] == "data" and len(arguments) > 1 else arguments[0]
        assert command in [*all_commands(), "data"], f"{line.page}: there is no `mien {command}`"
        missing = [option for option in options_in(arguments) if not has_option(option, command)]
        assert not missing, f"{line.page}: mien {command} has no {', '.join(missing)}"


def make_and_python() -> list[Line]:
    return [line for line in (*block_lines(), *inline_lines()) if line.words[0] in ("make", "python")]


@pytest.mark.parametrize("line", make_and_python(), ids=str)
def test_a_script_or_make_target_of_a_page_exists(line: Line) -> None:
    if line.words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert line.words[1] in targets, f"{line.page}: there is no target {line.words[1]}"
        return
    if line.words[1] == "-m":
        assert find_spec(line.words[2]), f"{line.page}: there is no module {line.words[2]}"
        return
    script = ROOT / line.words[1]
    assert script.is_file(), f"{line.page}: there is no {line.words[1]}"
    source = script.read_text(encoding="utf-8")
    missing = [option for option in options_in(line.words) if f'"{option}"' not in source]
    assert not missing, f"{line.page}: {line.words[1]} has no {', '.join(missing)}"


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", WITH_LINKS, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    broken_links = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken_links.append(target)
    assert not broken_links


def test_readme_is_short_and_links_to_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    links = set(re.findall(r"\]\((docs/[^)#\s]+\.md)", text))
    assert links == {str(page.relative_to(ROOT)) for page in PAGES if page != README}


def test_every_row_of_the_readmes_results_stands_in_the_results() -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|") and "%" in line]
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    scores = [re.findall(r"[\d.]+ %\**(?: \([\d.]+ to [\d.]+\))", row) for row in rows]
    assert [len(of_row) for of_row in scores[1:]] == [2, 2, 2]
    for of_row in scores[1:]:
        assert any(all(score in line for score in of_row) for line in results), of_row


def test_folders_of_the_tree_exist() -> None:
    text = README.read_text(encoding="utf-8")
    tree = text[text.index("## Where things are") : text.index("## Credit and licence")]
    entries = re.findall(r"^    ( *)(\S+) ", tree, re.MULTILINE)
    assert len(entries) > 10
    for indent, name in entries:
        assert (ROOT / ("src/mien" if indent else "") / name).exists(), name
    packages = {f"{path.parent.name}/" for path in (ROOT / "src" / "mien").glob("*/__init__.py")}
    assert packages <= {name for indent, name in entries if indent}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.read_text(encoding="utf-8"), "python")])
def test_python_examples_compile(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        compile(block, page.name, "exec")


def test_the_readmes_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image
    from skimage import data

    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()).save("photo.jpg")
    (block,) = blocks(README.read_text(encoding="utf-8"), "python")
    exec(compile(block, README.name, "exec"), {})
    assert " happy " in capsys.readouterr().out
    assert Image.open("marked.jpg").size == (512, 512)


def test_the_example_without_mien_answers_as_mien_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image
    from skimage import data

    from mien import Recognizer
    from mien.model.places import SHIPPED

    (tmp_path / "exported/first").mkdir(parents=True)
    (tmp_path / "exported/first/model.onnx").write_bytes((SHIPPED / "nano/model.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()[60:180, 170:270]).save("face.png")
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (block,) = [text for text in blocks(page, "python") if "onnxruntime" in text]
    exec(compile(block, "models.md", "exec"), {})
    (face,) = Recognizer("exported/first", detector="none").recognize("face.png")
    assert ast.literal_eval(capsys.readouterr().out) == pytest.approx(face.probabilities, abs=0.005)


def test_the_answer_that_photos_shows_is_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mien import Recognizer
    from mien.cli.output import print_lines

    monkeypatch.chdir(ROOT)
    codes = inline_codes((ROOT / "docs" / "photos.md").read_text(encoding="utf-8"))
    shown = codes.index("mien predict docs/astronaut.jpg")
    print_lines(Recognizer().recognize("docs/astronaut.jpg"))
    assert capsys.readouterr().out.strip() == codes[shown + 1]
