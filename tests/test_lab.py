"""``mien.lab``: ten names from pictures to a report, loaded when they are used."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mien.lab
from mien.data.faces import FaceSet
from mien.errors import MienError

pytest.importorskip("torch")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mien.lab.draw_faces(tmp_path_factory.mktemp("lab") / "drawn.zip", train=70, validation=21, test=7, seed=1)


@pytest.fixture(scope="module")
def faces(archive: Path) -> FaceSet:
    return mien.lab.read_faces(archive)


def settings(archive: Path, out: Path) -> mien.lab.TrainConfig:
    return mien.lab.TrainConfig(
        data=str(archive), out=str(out), backbone="nano", epochs=1, warmup_epochs=0, batch_size=35
    )


def test_there_are_ten_names_and_the_notebook_uses_them_all() -> None:
    assert len(mien.lab.__all__) == 10
    assert all(callable(getattr(mien.lab, name)) for name in mien.lab.__all__)
    cells = json.loads((ROOT / "notebooks" / "FER_ViT.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    tree = ast.parse(code.replace("%matplotlib inline", ""))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    of_mien = {alias.name for node in imports if str(node.module).startswith("mien") for alias in node.names}
    assert of_mien == set(mien.lab.__all__)
    assert {node.module for node in imports if str(node.module).startswith("mien")} == {"mien.lab"}


def test_nothing_heavy_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, mien.lab\nprint([name for name in ('torch', 'pydantic', 'matplotlib', 'sklearn', 'numpy') "
        "if name in sys.modules])\nfrom mien.lab import TrainConfig\nprint('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert completed.stdout == "[]\nFalse\n", completed.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'mien.lab' has no attribute 'fit'"):
        mien.lab.fit  # noqa: B018
    assert set(mien.lab.__all__) <= set(dir(mien.lab))


def test_a_set_is_described_by_its_counts(faces: FaceSet) -> None:
    text = mien.lab.describe(faces)
    assert [line.split() for line in text.splitlines() if line.startswith("total")] == [["total", "70", "21", "7"]]


def test_a_run_is_described_by_what_is_frozen(archive: Path, tmp_path: Path) -> None:
    config = settings(archive, tmp_path)
    assert "frozen" not in mien.lab.describe(config)
    frozen: Any = {"blocks": 2, "random_weights": True}
    partly_frozen = mien.lab.TrainConfig(data=config.data, out=config.out, backbone="nano", freeze=frozen)
    rows = [line.split() for line in mien.lab.describe(partly_frozen).splitlines()]
    states = {" ".join(row[:-3]): row[-2] for row in rows[1:-1]}
    assert [name for name, state in states.items() if state == "frozen"] == ["embeddings", "block 0", "block 1"]
    assert states["block 2"] == "trains"


def test_what_training_refuses_is_not_described(archive: Path, mae_folder: Path, tmp_path: Path) -> None:
    config = mien.lab.TrainConfig(data=str(archive), out=str(tmp_path / "run"), backbone=str(mae_folder))
    with pytest.raises(MienError, match="by default would freeze all 3 blocks"):
        mien.lab.describe(config)


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="takes a FaceSet, a TrainConfig or an Evaluation, got str"):
        mien.lab.describe("archive.zip")  # type: ignore[arg-type]


def test_pictures_are_shown_as_stored_and_as_trained_on(archive: Path, faces: FaceSet, tmp_path: Path) -> None:
    def shown(*arguments: object, **options: object) -> np.ndarray:
        figure = mien.lab.plot_faces(faces, *arguments, **options)  # type: ignore[arg-type]
        return np.stack([np.asarray(axes.images[0].get_array()) for axes in figure.axes])

    stored_pictures = shown()
    training = faces.part("train").images
    assert stored_pictures.shape == (12, 48, 48) and all(
        (training == image).all((1, 2)).any() for image in stored_pictures
    )
    config = settings(archive, tmp_path)
    first_epoch, first_epoch_again, second_epoch = shown(config), shown(config), shown(config, epoch=2)
    assert first_epoch.dtype == np.uint8 and np.array_equal(first_epoch, first_epoch_again)
    assert not np.array_equal(first_epoch, second_epoch) and not np.array_equal(first_epoch, stored_pictures)
    assert not np.array_equal(shown(seed=1), stored_pictures)


def test_scores_are_those_of_mien_evaluate(faces: FaceSet, tmp_path: Path) -> None:
    """A model that was trained on a flat folder has its own validation pictures, and its own twins."""
    from mien.data.clean import sketch
    from mien.data.twins import cut_validation
    from mien.model.classifier import Classifier
    from mien.model.vit import build

    network, preprocessing = build("nano", faces.names, grey=True)
    flat = replace(faces, splits=np.full(len(faces), "train"), fingerprint="flat")
    config = {"validation_fraction": 0.2, "seed": 3}
    model = Classifier(network.eval(), preprocessing, faces.names)
    model.save(tmp_path / "own", {"data": {"fingerprint": "flat"}, "config": config})
    evaluation = mien.lab.evaluate(tmp_path / "own", flat, "validation")
    assert set(evaluation.ids) == set(cut_validation(flat, 0.2, 3).part("validation").ids)
    model.save(tmp_path / "other", {"data": {"fingerprint": "other"}}, sketch(faces.images))
    evaluation = mien.lab.evaluate(tmp_path / "other", faces, "validation")
    assert evaluation.approximate and evaluation.twins is not None and evaluation.twins.all()


@pytest.mark.slow
def test_a_run_is_trained_scored_and_reported(archive: Path, faces: FaceSet, tmp_path: Path) -> None:
    model = mien.lab.train(settings(archive, tmp_path / "run"))
    evaluation = mien.lab.evaluate(model, faces, "validation", out=tmp_path / "report")
    assert evaluation.probabilities.shape == (21, 7)
    mien.lab.evaluate(tmp_path / "run", faces, "validation", out=tmp_path / "of-the-run")
    assert (tmp_path / "of-the-run" / "curves.png").is_file()
    text = mien.lab.describe(evaluation)
    assert f"whole: accuracy {evaluation.whole['accuracy']:.2%}, macro-F1" in text and "macro avg" in text
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.html", "metrics.json", "curves.png"} <= names
    assert "validation chose by accuracy: epoch 1, accuracy" in (tmp_path / "report" / "report.html").read_text("utf-8")
    matrix = mien.lab.plot_confusion(evaluation).axes[0].images[0].get_array()
    assert matrix is not None and matrix.shape == (7, 7)
    assert mien.lab.plot_reliability(evaluation).axes and mien.lab.plot_run(tmp_path / "run").axes
