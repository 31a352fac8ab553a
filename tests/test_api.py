"""What ``import mien`` offers: names, laziness, types that a checker sees, and the snippets of docs/python.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_helpers import numbered
from recognition_helpers import encoded, recognizer

import mien

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
PUBLIC = ["BrokenModelError", "Face", "FilmRecognition", "MienError", "Recognition", "Recognitions", "Recognizer",
          "WrongTypeError", "__version__"]  # fmt: skip


def test_the_public_names() -> None:
    assert dir(mien) == PUBLIC == mien.__all__
    assert all(getattr(mien, name) is not None for name in PUBLIC)
    assert issubclass(mien.WrongTypeError, mien.MienError) and issubclass(mien.BrokenModelError, mien.MienError)
    from mien import Face, MienError, Recognition, Recognizer

    assert {Face.__name__, MienError.__name__, Recognition.__name__, Recognizer.__name__} <= set(PUBLIC)
    with pytest.raises(AttributeError, match="module 'mien' has no attribute 'Recogniser'"):
        mien.Recogniser  # noqa: B018
    with pytest.raises(ImportError):
        from mien import Recogniser  # noqa: F401


def test_importing_is_quick_and_reading_needs_no_torch() -> None:
    code = (
        "import sys, json, mien\n"
        "early = [n for n in ('numpy', 'PIL', 'onnxruntime', 'torch', 'av') if n in sys.modules]\n"
        "from mien import Recognizer, Recognition, Face, MienError\n"
        "import numpy as np; Recognizer('nano', detector='none').recognize(np.zeros((48, 48), np.uint8)).to_csv()\n"
        "late = [n for n in ('torch', 'av', 'pandas', 'huggingface_hub', 'font_source_sans_pro') if n in sys.modules]\n"
        "print(json.dumps([early, late]))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(completed.stdout) == [[], []]


@pytest.mark.slow
def test_a_type_checker_sees_wrong_names_of_options(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    right_lines = """
import io
from pathlib import Path
from mien import Face, Recognition, Recognizer
r = Recognizer("nano", detector="none", device=0, color="bgr", engine="onnx")
Recognizer(device="gpu"); Recognizer(device="cuda:1"); Recognizer(detector=Path("yunet.onnx"))
one: Recognition = r.recognize(io.BytesIO())
face: Face = one[0]
faces: list[Face] = list(one)
many: list[Recognition] = r.recognize(["a.jpg"], color="rgb")
r.recognize_film("film.mp4").write("marked.mp4")
"""
    wrong_lines = [
        'Recognizer(detector="mtcnn")',
        'Recognizer(device="gpux")',
        'Recognizer(color="bgrr")',
        'Recognizer(engine="tf")',
        'r.recognize("a.jpg", color="bgrr")',
        "r.recognize(3)",
    ]
    path = tmp_path / "snippet.py"
    path.write_text(right_lines + "\n".join(wrong_lines) + "\n")
    options = ["--no-error-summary", "--no-incremental", "--ignore-missing-imports", "--config-file="]
    completed = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(path)], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    lines = {int(line) for line in re.findall(r"snippet\.py:(\d+): error", completed.stdout)}
    first = right_lines.count("\n") + 1
    assert lines == set(range(first, first + len(wrong_lines))), completed.stdout + completed.stderr


def test_the_snippets_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((64, 64), np.uint8)
    pixels[16:48, 16:48] = 255
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        Path(name).write_bytes(encoded(pixels, "JPEG"))
    numbered(Path("film.mp4"), 4, "libx264")
    calls: list[dict[str, object]] = []

    def stand_in(model: object = None, **options: Any) -> mien.Recognizer:
        """A recognizer of bright squares, whatever model and device are asked for."""
        calls.append({"model": model, **options})
        return recognizer(**{name: value for name, value in options.items() if name == "color"})

    monkeypatch.setattr("mien.recognition.recognizer.Recognizer", stand_in)
    monkeypatch.setattr("mien.recognition.results.Recognition.__getitem__", lambda self, index: HAPPY)
    monkeypatch.setattr("logging.basicConfig", lambda **options: None)
    snippets = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    space: dict[str, object] = {"frame": np.dstack([pixels] * 3)}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), space)
    assert len(snippets) >= 6 and {"model": "user/model"} in calls and {"model": None, "device": 0} in calls
    for name in ("marked.jpg", "faces.csv", "marked/a.jpg", "marked.mp4", "film.png", "film.csv"):
        assert Path(name).is_file(), name


HAPPY = mien.Face((0.0, 0.0, 1.0, 1.0), "happy", 1.0, {"happy": 1.0})
