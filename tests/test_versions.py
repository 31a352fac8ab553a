"""What is written down of software and machine."""

from __future__ import annotations

from pathlib import Path

import mien
from mien.machine import _processor, machine, versions


def test_versions_name_what_is_installed_alone() -> None:
    found = versions()
    assert found["mien"] == mien.__version__ and found["python"].count(".") == 2
    assert all(found.values())


def test_the_processor_is_the_first_model_name(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nmodel name\t: another\n", encoding="utf-8")
    assert _processor(told) == "Some CPU @ 3 GHz"
    assert _processor(tmp_path / "missing")


def test_the_machine_has_cores() -> None:
    found = machine()
    assert isinstance(found["cores"], int) and found["cores"] >= 1
