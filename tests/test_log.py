"""The logger ``mien``: a library that is silent by itself, and a command line that prints as before."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys

import pytest

from mien import log
from mien.log import LOGGER, to_console


def test_the_library_is_silent_and_leaves_the_root_logger_alone() -> None:
    code = (
        "import logging, mien; from mien import log\n"
        "log.warn('careful'); log.say('a thing'); log.report('a score')\n"
        "print(sorted(name for name in logging.root.manager.loggerDict if name.startswith('mien')))\n"
        "print(logging.root.handlers, logging.root.level)"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (completed.stdout, completed.stderr) == ("['mien']\n[] 30\n", "")


def test_a_program_routes_it_as_any_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mien"):
        log.warn("two\n  lines")
        log.say("happens")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "two lines"), ("INFO", "happens"),
    ]  # fmt: skip


def test_the_console_has_results_on_stdout_and_the_rest_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    level = LOGGER.level
    with to_console(), to_console():
        log.report("epoch 1")
        log.say("a table\nof two lines\x1b")
        log.warn("careful %s\x1b")
    assert capsys.readouterr() == ("epoch 1\n", "a table\nof two lines\\x1b\nwarning: careful %s\\x1b\n")
    assert LOGGER.level == level


def test_show_prints_from_then_on_and_only_once() -> None:
    code = "from mien import log\nlog.show(); log.show(); log.report('a score'); log.say('a thing')"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (completed.stdout, completed.stderr) == ("a score\n", "a thing\n")


def test_quantisation_leaves_the_root_logger_alone(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    from mien.export.parity import _quiet

    importlib.import_module("onnxruntime.quantization")
    tool = sys.modules["onnxruntime.quantization.quantize"]
    root = logging.getLogger()
    level_and_handlers = root.level, list(root.handlers)
    with _quiet():
        assert (root.level, list(root.handlers)) == level_and_handlers
        tool.logging.warning("Please consider pre-processing before quantization")
        logging.getLogger("another.library").warning("heard")
    assert tool.logging is logging and (root.level, list(root.handlers)) == level_and_handlers
    assert [record.getMessage() for record in caplog.records] == ["heard"]
