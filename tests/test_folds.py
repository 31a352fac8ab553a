"""Out-of-fold answers: no network answers what it has seen, copies stay together, files are checked, students learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from safetensors.numpy import load_file

from mien.config import AugmentConfig, DistillConfig, FoldsConfig, TrainConfig
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.model.backbone import Backbone
from mien.model.classifier import Classifier
from mien.training import finetune, folds
from mien.training.folder import load_state
from mien.training.folds import answer_folds, without
from mien.training.objective import Objective, StoredAnswers, check_targets, training_fingerprint, write_answers
from mien.training.validation import cut_folds

COMMON = {"data": "synthetic", "backbone": "nano", "image_size": 16, "batch_size": 8, "device": "cpu",
          "warmup_epochs": 0.0, "epochs": 1}  # fmt: skip


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch) -> FaceSet:
    data = synthetic_faces({"train": 24, "validation": 6})
    for module in (finetune, folds):
        monkeypatch.setattr(module, "read_faces", lambda source: data)
    return data


def test_copies_stay_in_one_fold_and_classes_are_shared_out() -> None:
    labels = np.arange(60) % 3
    group = np.arange(60)
    group[57] = group[0]
    fold = cut_folds(group, labels, 5, seed=0)
    assert fold[57] == fold[0]
    assert sorted(np.unique(fold)) == [0, 1, 2, 3, 4]
    assert all(3 <= (labels[fold == number] == name).sum() <= 5 for number in range(5) for name in range(3))
    assert not np.array_equal(fold, cut_folds(group, labels, 5, seed=1))


@pytest.mark.filterwarnings("error")
def test_a_class_of_fewer_pictures_than_folds_is_cut_without_a_remark_of_another_library() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    fold = cut_folds(np.arange(10), labels, 4, seed=0)
    assert len(np.unique(fold[labels == 1])) == 2 and len(np.unique(fold)) == 4


def test_a_class_of_copies_alone_cannot_be_held_back() -> None:
    with pytest.raises(MienError, match="copies of one photograph"):
        cut_folds(np.array([0, 0, 0, 1, 2, 3, 4]), np.array([0, 0, 0, 1, 1, 1, 1]), 2, seed=0)


def test_all_cuts_are_made_before_the_first_run_and_name_the_class(
    faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "train", lambda *_, **__: pytest.fail("in vain"))
    monkeypatch.setattr(folds, "groups", lambda images: np.where(faces.labels[: len(images)] == 1, 99, np.arange(24)))
    with pytest.raises(MienError, match=f"class {faces.names[1]} are copies of one photograph"):
        answer_folds(FoldsConfig(**COMMON, out=str(tmp_path), folds=2, seeds=[0]))  # type: ignore[arg-type]
    seeds = list[int]()

    def cut(group: np.ndarray, labels: np.ndarray, count: int, seed: int, names: tuple[str, ...]) -> np.ndarray:
        seeds.append(seed)
        if seed:
            raise MienError("no such cut")
        return np.arange(len(labels)) % count

    monkeypatch.setattr(folds, "cut_folds", cut)
    with pytest.raises(MienError, match="no such cut"):
        answer_folds(FoldsConfig(**COMMON, out=str(tmp_path), folds=2, seeds=[0, 1]))  # type: ignore[arg-type]
    assert seeds == [0, 1]


def test_what_is_held_back_is_gone_and_the_rest_stays(faces: FaceSet) -> None:
    remaining = without(faces, np.array([1, 5]))
    assert len(remaining.part("train")) == 22 and len(remaining.part("validation")) == 6
    assert {"face 1", "face 5"}.isdisjoint(remaining.ids)
    assert remaining.fingerprint != faces.fingerprint


def test_each_picture_is_answered_by_networks_that_have_not_seen_it(
    faces: FaceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "folds"
    config = FoldsConfig(**COMMON, out=str(out), folds=2, seeds=[0, 1])  # type: ignore[arg-type]
    path = answer_folds(config, command="mien folds ...")
    probabilities, train = load_file(path)["probabilities"], faces.part("train")
    expected = np.zeros((24, 3))
    for seed in (0, 1):
        fold = cut_folds(np.arange(24), train.labels, 2, seed)
        for number in (0, 1):
            rows = np.flatnonzero(fold == number)
            classifier = Classifier.load(out / f"seed-{seed}-fold-{number + 1}")
            assert classifier.meta()["data"]["images"]["train"] == 24 - len(rows)
            for flip in (False, True):
                logits = torch.from_numpy(classifier.logits(train.images[rows], flip=flip))
                expected[rows] += logits.softmax(1).numpy() / 4
    assert np.allclose(probabilities, expected, atol=1e-6)
    record = json.loads((out / "folds.json").read_text())
    assert record["scores"]["accuracy"] == pytest.approx((expected.argmax(1) == train.labels).mean())
    output = capsys.readouterr().out
    assert "by networks that have not seen them: accuracy" in output
    assert f"ECE {record['scores']['ece']:.2%} (mean confidence" in output
    # Again: every run is finished, so nothing is trained.
    monkeypatch.setattr(finetune.FineTuning, "train_epoch", lambda *args: pytest.fail("trained again"))
    bytes_before = path.read_bytes()
    assert answer_folds(config, command="mien folds ...").read_bytes() == bytes_before
    with pytest.raises(MienError, match="to `mien folds`, the same --folds as well"):
        answer_folds(replace(config, folds=3))
    with pytest.raises(MienError, match=r"^the configuration differs .*: epochs: . -> 9; give the settings"):
        answer_folds(replace(config, epochs=9))


def test_of_several_processes_the_main_one_answers_and_writes(
    faces: FaceSet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "on_main", lambda: False)
    monkeypatch.setattr(folds, "answer", lambda *_: pytest.fail("read twice"))
    path = answer_folds(FoldsConfig(**COMMON, out=str(tmp_path), folds=2, seeds=[0]))  # type: ignore[arg-type]
    assert path == tmp_path / "answers.safetensors" and not path.exists()
    assert (tmp_path / "seed-0-fold-2" / "model").is_dir() and "held back" not in capsys.readouterr().out


def stored(path: Path, faces: FaceSet, probabilities: np.ndarray | None = None) -> Path:
    train = faces.part("train")
    if probabilities is None:
        probabilities = np.full((len(train), 3), 1 / 3)
    record = {"names": list(train.names), "training": training_fingerprint(train)}
    write_answers(path, probabilities, np.zeros(len(train)), record)
    return path


def test_other_pictures_are_refused(faces: FaceSet, tmp_path: Path) -> None:
    path = stored(tmp_path / "answers.safetensors", faces)
    with pytest.raises(MienError, match=r"made from other training pictures or labels.*its --seed and --val"):
        StoredAnswers.load(path, synthetic_faces({"train": 24}, seed=1))
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(MienError, match="is damaged or no file of `mien folds`"):
        StoredAnswers.load(path, faces)
    with pytest.raises(MienError, match="no such file"):
        StoredAnswers.load(tmp_path / "nothing", faces)
    with pytest.raises(MienError, match="or values that are none"):
        StoredAnswers.load(stored(tmp_path / "wrong", faces, np.full((24, 3), 0.5)), faces)


def test_a_student_learns_from_stored_answers_and_resumes_with_the_same(faces: FaceSet, tmp_path: Path) -> None:
    # Answers that contradict the labels: with all weight on them, the student believes them.
    labels = faces.part("train").labels
    swapped_answers = np.eye(3)[[1, 2, 0]][labels] * 0.94 + 0.02
    path = stored(tmp_path / "answers.safetensors", faces, swapped_answers)
    settings = {**COMMON, "epochs": 15, "optimizer": "muon", "ema": 0.0, "select": "loss", "validate_epochs": 15,
                "targets": str(path), "distill": DistillConfig(targets_weight=1.0)}  # fmt: skip
    config = TrainConfig(**settings, out=str(tmp_path / "run"))  # type: ignore[arg-type]
    finetune.train(config)
    answers = Classifier.load(tmp_path / "run").logits(faces.part("train").images).argmax(1)
    assert (answers == swapped_answers.argmax(1)).mean() > 0.6
    assert (answers == labels).mean() < 0.3
    stored(path, faces)
    with pytest.raises(MienError, match="differs from the stored answers"):
        finetune.train(config, resume=True)
    with pytest.raises(MienError, match="the run learns from stored answers; give the same --targets"):
        resolved = finetune.with_backbone_defaults(config, Backbone(config.backbone), True)
        check_targets(None, load_state(tmp_path / "run", resolved, faces.fingerprint))


def test_answers_are_mixed_as_the_pictures_are(faces: FaceSet, tmp_path: Path) -> None:
    train = faces.part("train")
    config = TrainConfig(**COMMON, out="", augment=AugmentConfig(mixup=1.0), label_smoothing=0.0).resolved()  # type: ignore[arg-type]
    network, preprocessing = finetune.build("nano", train.names, grey=True, image_size=16)
    answers = torch.eye(3)[torch.from_numpy(train.labels)]
    objective = Objective(config, Classifier(network, preprocessing, train.names), train, stored=answers)
    np.random.seed(3)
    rows = torch.arange(8)
    pixels = torch.rand(8, 1, 16, 16)
    _, targets, mixed_answers = objective.batch(pixels, torch.from_numpy(train.labels)[rows], rows)
    assert torch.allclose(mixed_answers, targets, atol=1e-6)
    assert ((mixed_answers > 0.01) & (mixed_answers < 0.99)).any()


def test_weights_beyond_the_whole_are_refused() -> None:
    with pytest.raises(MienError, match="expected at most 1 together"):
        TrainConfig(data="d", out="o", teacher=["t"], targets="f", distill=DistillConfig(0.8, targets_weight=0.3))
    with pytest.raises(MienError, match="targets: got null, expected a file"):
        TrainConfig(data="d", out="o", distill=DistillConfig(targets_weight=0.2))


def test_settings_that_folds_do_not_take() -> None:
    with pytest.raises(MienError, match=r"seeds: got \[1, 1\], expected each once.*targets: got 'f', expected none"):
        FoldsConfig(data="d", out="o", seeds=[1, 1], targets="f")


def test_answers_are_computed_on_the_device_of_the_runs(
    faces: FaceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: list[str] = []

    def load(run: Path, device: torch.device | str = "cpu") -> Classifier:
        devices.append(str(device))
        network, preprocessing = finetune.build("nano", faces.names, grey=True, image_size=16)
        return Classifier(network, preprocessing, faces.names)

    monkeypatch.setattr(folds, "train", lambda *_, **__: None)
    monkeypatch.setattr(folds, "resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(folds.Classifier, "load", load)
    answer_folds(FoldsConfig(**COMMON, out=str(tmp_path), folds=2))  # type: ignore[arg-type]
    assert devices == ["cuda", "cuda"]
