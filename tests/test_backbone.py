"""What a run's backbone and teachers had learnt before: it counts as seen, in the clean part, the cut and the folds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import synthetic_faces
from test_own_faces import classifier
from test_training import small

from mien.config import FoldsConfig, FreezeConfig, TrainConfig
from mien.data.clean import Sketches, sketch, trained_on, twins_in_training
from mien.data.drawn import draw_faces
from mien.data.faces import FaceSet
from mien.data.twins import cut_validation
from mien.errors import MienError
from mien.evaluation.evaluate import evaluate
from mien.files import read_json_object, write_json
from mien.model.backbone import Backbone
from mien.model.classifier import Classifier
from mien.training import finetune, folds
from mien.training.finetune import train
from mien.training.folds import answer_folds
from mien.training.validation import Validator, calibrate_model


def read(faces: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (finetune, folds):
        monkeypatch.setattr(module, "read_faces", lambda source: faces)


class TestCleanPart:
    """Drawn faces are the first set, with twins in its own validation split; noise is what is learnt afterwards."""

    @pytest.fixture
    def first(self) -> FaceSet:
        faces = draw_faces(28, 14, 14, seed=0)
        images = faces.images.copy()
        rows = {split: np.flatnonzero(faces.splits == split) for split in ("train", "validation")}
        images[rows["validation"][:5]] = images[rows["train"][:5]]
        return replace(faces, images=images, fingerprint="first")

    @pytest.fixture
    def second(self, first: FaceSet) -> FaceSet:
        noise = synthetic_faces({"train": 21, "validation": 7}, names=first.names, size=48, seed=3)
        return replace(noise, fingerprint="second")

    @pytest.fixture
    def model(self, first: FaceSet, second: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Classifier:
        """Trained on the first set, then on the second."""
        for number, faces in enumerate((first, second)):
            read(faces, monkeypatch)
            backbone = "nano" if number == 0 else str(tmp_path / "run-0")
            train(TrainConfig(data="x", out=str(tmp_path / f"run-{number}"), backbone=backbone, epochs=1, batch_size=7,
                              warmup_epochs=0.0, device="cpu", freeze=FreezeConfig(blocks=0)))  # fmt: skip
        return Classifier.load(tmp_path / "run-1")

    def test_twins_in_the_first_set_count(self, model: Classifier, first: FaceSet, second: FaceSet) -> None:
        assert [data["fingerprint"] for data in model.meta()["learnt_before"]] == ["first"]
        sketches = model.sketches()
        assert sketches is not None and len(sketches) == 21 and [len(part) for part in sketches.earlier] == [28]
        for faces, exact in ((first, [1]), (second, [0]), (replace(first, fingerprint="other"), [])):
            sets = trained_on(faces, model)
            assert sets is not None and [k for k, part in enumerate(sets) if isinstance(part, np.ndarray)] == exact
            assert len(sets) == 2
        result = evaluate(model, first, "validation", training=trained_on(first, model), quiet=True)
        assert result.twins is not None and result.twins[:5].all() and result.approximate
        assert result.clean is not None and result.clean["n"] == 14 - result.twins.sum()
        on_training = evaluate(model, first, "train", training=trained_on(first, model), quiet=True)
        assert on_training.clean is None and on_training.clean_reason == "the model was trained on these very pictures"

    def test_without_its_sketches_nothing_is_called_clean(
        self, model: Classifier, first: FaceSet, second: FaceSet, tmp_path: Path
    ) -> None:
        own = sketch(second.part("train").images)
        model.save(tmp_path / "forgetful", model.meta(), own)
        forgetful = Classifier.load(tmp_path / "forgetful")
        assert trained_on(replace(first, fingerprint="other"), forgetful) is None, "first is neither here nor sketched"
        assert trained_on(first, forgetful) is not None and twins_in_training(first.images, None) is None
        result = evaluate(forgetful, first, "validation", training=None, quiet=True)
        assert result.clean is None

    def test_a_third_set_adds_to_both(
        self, model: Classifier, second: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        third = replace(second, fingerprint="third")
        backbone = Backbone(str(tmp_path / "run-1"))
        found = backbone.learnt_before(third)
        assert [data["fingerprint"] for data, _ in found] == ["second", "first"]
        assert [len(part) for _, part in found if isinstance(part, Sketches)] == [21, 28]
        assert [data["fingerprint"] for data, _ in backbone.learnt_before(second)] == ["first"]

    def test_stated_data_takes_nothing_away(
        self, model: Classifier, first: FaceSet, second: FaceSet, tmp_path: Path
    ) -> None:
        """As by --train-data: what the folder knows stays known, and what it does not know stays unknown."""
        third = replace(synthetic_faces({"train": 9}, names=first.names, size=48, seed=9), fingerprint="third")
        for stated, exact in ((second, [0]), (first, [1]), (third, [2])):
            sets = trained_on(replace(first, fingerprint="scored"), model, stated)
            assert sets is not None and [k for k, part in enumerate(sets) if isinstance(part, np.ndarray)] == exact
            assert len(sets) == 2 + (stated is third)
        model.save(tmp_path / "forgetful", model.meta(), sketch(second.part("train").images))
        assert trained_on(first, Classifier.load(tmp_path / "forgetful"), second) is not None, "first is at hand"
        assert trained_on(third, Classifier.load(tmp_path / "forgetful"), second) is None
        model.save(tmp_path / "bare", {})
        assert trained_on(first, Classifier.load(tmp_path / "bare")) is None
        (stated_alone,) = trained_on(first, Classifier.load(tmp_path / "bare"), second) or []
        assert isinstance(stated_alone, np.ndarray) and np.array_equal(stated_alone, second.part("train").images)

    def test_a_temperature_is_not_called_clean_either(
        self, model: Classifier, first: FaceSet, second: FaceSet, tmp_path: Path
    ) -> None:
        validation, train = second.part("validation"), second.part("train").images
        assert model.meta()["calibration"]["twins_left_out"] is not None
        record = {name: value for name, value in model.meta().items() if name != "calibration"}
        model.save(tmp_path / "run" / "model", record, sketch(train))
        calibrate_model(tmp_path / "run", validation, train, "cpu")
        assert read_json_object(tmp_path / "run" / "model" / "meta.json")["calibration"]["twins_left_out"] is None

    def test_what_other_tools_trained_is_unknown(self, tmp_path: Path) -> None:
        classifier(tmp_path / "foreign", "nano")
        (tmp_path / "foreign" / "meta.json").unlink()
        ours, others = (synthetic_faces({"train": 4}, names=names) for names in (("calm", "new"), ("dog", "cat")))
        backbone = Backbone(str(tmp_path / "foreign"))
        assert backbone.learnt_before(ours) == [({"source": str(tmp_path / "foreign")}, None)]
        assert backbone.learnt_before(others) == Backbone("nano").learnt_before(ours) == []

    def test_a_damaged_record_is_one_line(self, model: Classifier, second: FaceSet, tmp_path: Path) -> None:
        assert model.folder is not None
        path = model.folder / "meta.json"
        write_json(path, {**read_json_object(path), "learnt_before": ["first"]})
        with pytest.raises(MienError, match=r"is not as `mien train` wrote it \(learnt_before\)"):
            Backbone(str(tmp_path / "run-1")).learnt_before(second)


class TestCut:
    def test_the_backbones_validation_pictures_stay_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        faces = synthetic_faces({"train": 40}, names=("calm", "sour"))
        read(faces, monkeypatch)
        train(TrainConfig(data="x", out=str(tmp_path / "first"), backbone="nano", image_size=16, epochs=1, batch_size=8,
                          warmup_epochs=0.0, device="cpu", freeze=FreezeConfig(blocks=0)))  # fmt: skip
        message = r"seed, validation_fraction: got 1 and 0\.1, but .*first has learnt from this data with 0 and 0\.1"
        with pytest.raises(MienError, match=message):
            train(small(tmp_path / "next", tmp_path / "first", seed=1))
        assert not (tmp_path / "next").exists()
        train(small(tmp_path / "next", tmp_path / "first", epochs=1))
        validation = synthetic_faces({"train": 20, "validation": 6}, names=("calm", "sour"))
        read(validation, monkeypatch)
        train(small(tmp_path / "other", tmp_path / "first", seed=1, epochs=1))  # it has a validation split of its own

    def test_a_teacher_that_knows_validation_pictures_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        read(synthetic_faces({"train": 40}, names=("calm", "sour")), monkeypatch)
        common: dict[str, Any] = {"data": "x", "backbone": "nano", "image_size": 16, "epochs": 1, "batch_size": 8,
                                  "warmup_epochs": 0.0, "device": "cpu", "freeze": FreezeConfig(blocks=0)}  # fmt: skip
        train(TrainConfig(**common, out=str(tmp_path / "first")))
        assert "--teacher" not in capsys.readouterr().err
        for seed in (0, 1):
            train(TrainConfig(**common, out=str(tmp_path / f"{seed}"), teacher=[str(tmp_path / "first")], seed=seed))
            message = (
                "first: has learnt from this data with 0 and 0.1, so that it knows validation pictures of this run"
            )
            assert (message in capsys.readouterr().err) == (seed == 1)

    def test_rare_classes_are_corrected_for_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        read(synthetic_faces({"train": 24, "validation": 6}, names=("calm", "sour")), monkeypatch)
        common: dict[str, Any] = {"data": "x", "backbone": "nano", "image_size": 16, "epochs": 1, "batch_size": 8,
                                  "warmup_epochs": 0.0, "device": "cpu", "class_weights": True}  # fmt: skip
        for resample in (0.0, 0.5):
            train(TrainConfig(**common, out=str(tmp_path / str(resample)), resample=resample))
            is_told = "class_weights: corrects for rare classes a second time" in capsys.readouterr().err
            assert is_told == (resample > 0)

    def test_through_another_set_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = (synthetic_faces({"train": 40}, names=("calm", "sour"), seed=seed) for seed in (0, 1))
        common: dict[str, Any] = {"data": "x", "epochs": 1, "batch_size": 8, "warmup_epochs": 0.0, "device": "cpu",
                                  "freeze": FreezeConfig(blocks=0)}  # fmt: skip
        read(first, monkeypatch)
        train(TrainConfig(**common, out=str(tmp_path / "a"), backbone="nano", image_size=16, seed=1))
        read(second, monkeypatch)
        train(TrainConfig(**common, out=str(tmp_path / "b"), backbone=str(tmp_path / "a"), seed=2))
        read(first, monkeypatch)
        with pytest.raises(MienError, match=r"b has learnt from this data with 1 and 0\.1, so that"):
            train(TrainConfig(**common, out=str(tmp_path / "c"), backbone=str(tmp_path / "b"), seed=2))
        train(TrainConfig(**common, out=str(tmp_path / "c"), backbone=str(tmp_path / "b"), seed=1))

    def test_pictures_that_the_backbone_knows_choose_no_epoch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A folder grows, and its validation split is cut anew: some of it is what the first run learnt from."""
        grown = draw_faces(70, 7, 7, seed=0)
        former = replace(grown, splits=np.where(np.arange(len(grown)) % 3 == 0, "train", "test"), fingerprint="former")
        scored: list[int] = []
        common: dict[str, Any] = {"data": "x", "epochs": 1, "batch_size": 8, "warmup_epochs": 0.0, "device": "cpu",
                                  "freeze": FreezeConfig(blocks=0), "validation_fraction": 0.2}  # fmt: skip
        read(former, monkeypatch)
        train(TrainConfig(**common, out=str(tmp_path / "a"), backbone="nano"))
        knows = cut_validation(former, 0.2, 0).part("train").images
        flat = replace(grown, splits=np.full(len(grown), "train"), fingerprint="grown")
        read(flat, monkeypatch)
        validation = cut_validation(flat, 0.2, 0).part("validation")
        seen = sum((picture == knows).all(axis=(1, 2)).any() for picture in validation.images)
        assert 0 < seen < len(validation)
        original = Validator.scores

        def scores(self: Validator, network: Any) -> dict[str, float]:
            scored.append(len(self.validation))
            return original(self, network)

        monkeypatch.setattr(Validator, "scores", scores)
        capsys.readouterr()
        train(TrainConfig(**common, out=str(tmp_path / "b"), backbone=str(tmp_path / "a")))
        warning = capsys.readouterr().err
        assert f"of the {len(validation)} validation pictures (" in warning and "the others choose the epoch" in warning
        assert len(set(scored)) == 1 and len(validation) / 4 < scored[0] <= len(validation) - seen
        metrics = Classifier.load(tmp_path / "b").meta()["metrics"]
        assert (metrics["n"], metrics["split_n"]) == (scored[0], len(validation))


class TestFolds:
    @pytest.mark.parametrize("role", ["backbone", "teacher"])
    def test_who_knows_the_pictures_does_not_answer(
        self, role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        faces = synthetic_faces({"train": 24, "validation": 6}, names=("calm", "glad", "sour"))
        read(faces, monkeypatch)
        knows = classifier(tmp_path / "knows", "nano")
        knows.save(tmp_path / "knows", {"data": {"fingerprint": faces.fingerprint}})
        roles: dict[str, Any] = {"backbone": "nano", "teacher": [], role: str(tmp_path / "knows")}
        roles["teacher"] = [roles["teacher"]] if isinstance(roles["teacher"], str) else []
        config = FoldsConfig(data="x", out=str(tmp_path / "folds"), folds=2, epochs=1, device="cpu", **roles)
        config = replace(config, freeze=FreezeConfig(blocks=0))
        with pytest.raises(MienError, match=rf"--{role} .*knows: was trained on this data, so that it knows"):
            answer_folds(config)
        knows.save(
            tmp_path / "knows", {"data": {"fingerprint": "x"}, "learnt_before": [{"fingerprint": faces.fingerprint}]}
        )
        with pytest.raises(MienError, match="was trained on this data"):
            answer_folds(config)

    def test_nor_does_who_knows_most_of_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A picture was added to a folder since the backbone learnt from it, which makes another set of it."""
        faces = draw_faces(30, 7, 7, seed=0)
        known = faces.part("train").images[:28]
        model = classifier(tmp_path / "knows", "nano")
        model.save(tmp_path / "knows", {"data": {"fingerprint": "former", "source": "faces"}}, sketch(known))
        config = FoldsConfig(data="x", out=str(tmp_path / "folds"), backbone=str(tmp_path / "knows"), folds=2)
        with pytest.raises(MienError, match=r"--backbone .*knows: was trained on (28|29|30) of the 30 training pictu"):
            folds.check_unseen(config, faces)
        noise = synthetic_faces({"train": 300}, names=("calm", "glad", "sour"), size=48)
        few = replace(noise, images=np.concatenate([known[:9], noise.images[9:]]))
        folds.check_unseen(config, few)
        assert "was trained on 9 of the 300 training pictures, by its sketches" in capsys.readouterr().err
        folds.check_unseen(config, noise)
        assert capsys.readouterr().err == ""
