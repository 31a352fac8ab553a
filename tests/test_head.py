"""The head is fitted first: as logistic regression fits it, pulled towards what it knows, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import synthetic_faces
from sklearn.linear_model import LogisticRegression
from test_own_faces import TIMM, classifier

from mien.data.faces import FaceSet
from mien.model.classifier import Classifier
from mien.model.networks import carry_rows, heads
from mien.training import head
from mien.training.head import _Regression, fit_head

KNOWN = ("calm", "glad", "sour")


def going_on(folder: Path, backbone: str, arguments: dict[str, Any] | None, faces: FaceSet) -> Classifier:
    """A classifier of calm, glad and sour as it starts on other classes."""
    former = classifier(folder, backbone, arguments)
    carry_rows(former.network, former.names, faces.names)
    return Classifier(former.network, former.preprocessing, faces.names)


@pytest.mark.parametrize(("backbone", "arguments"), [("nano", None), *TIMM])
def test_new_classes_are_read_at_once_and_only_the_head_changes(
    backbone: str, arguments: dict[str, Any] | None, tmp_path: Path
) -> None:
    faces = synthetic_faces({"train": 48, "validation": 24}, names=("calm", "new", "other"), size=32)
    network = going_on(tmp_path / "model", backbone, arguments, faces)
    before = {name: value.clone() for name, value in network.network.state_dict().items()}
    fit_head(network, faces.part("train"), KNOWN, seed=0)
    validation = faces.part("validation")
    assert (network.logits(validation.images, quiet=True).argmax(1) == validation.labels).mean() > 0.9
    changed = {name for name, value in network.network.state_dict().items() if not torch.equal(value, before[name])}
    of_heads = {id(parameter) for layer in heads(network.network) for parameter in layer.parameters()}
    assert changed == {name for name, value in network.network.named_parameters() if id(value) in of_heads}


def test_the_same_seed_gives_the_same_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = synthetic_faces({"train": 48}, names=("calm", "new"))
    monkeypatch.setattr(head, "MOST_PICTURES", 30)
    weights = []
    for seed in (0, 0, 1):
        network = going_on(tmp_path / "model", "nano", None, faces)
        fit_head(network, faces.part("train"), KNOWN, seed)
        weights.append(heads(network.network)[0].weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]), "other pictures were drawn"


def test_the_fit_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 3
    inputs = generator.normal(0, 3, (90, 2, 5)) + 2 * np.eye(5)[labels][:, None]
    layer = torch.nn.Linear(5, 3).requires_grad_(False)
    regression = _Regression(inputs, labels, layer, [0, 1, 2])
    regression.write(layer, regression.fit(np.arange(90), 7.0))
    views, scale = inputs.reshape(-1, 5), np.sqrt(((inputs - inputs.mean((0, 1))) ** 2).mean())
    scaled = np.column_stack(((views - views.mean(0)) / scale, np.ones(180)))
    expected = LogisticRegression(C=1 / 7, tol=1e-10, max_iter=10_000, fit_intercept=False)
    expected.fit(scaled, np.repeat(labels, 2), sample_weight=np.full(180, 0.5))  # two views of each picture
    logits = layer(torch.from_numpy(views).float()).softmax(1).numpy()
    assert logits == pytest.approx(expected.predict_proba(scaled), abs=1e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_known_classes_stay_and_their_logits_count(bias: bool) -> None:
    """The loss is lowest at the rows that are fitted, given the others: no step along a row's weights lowers it."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    inputs = generator.normal(0, 2, (60, 2, 4)) + 3 * np.eye(4)[labels][:, None]
    layer = torch.nn.Linear(4, 3, bias=bias).double().requires_grad_(False)
    before = layer.weight.clone()
    regression = _Regression(inputs, labels, layer, [1])
    regression.write(layer, regression.fit(np.arange(60), 1e-9))
    assert torch.equal(layer.weight[[0, 2]], before[[0, 2]]) and not torch.equal(layer.weight[1], before[1])
    layer.requires_grad_(True)
    views = torch.from_numpy(inputs).reshape(-1, 4)
    torch.nn.functional.cross_entropy(layer(views), torch.from_numpy(labels).repeat_interleave(2)).backward()
    assert layer.weight.grad is not None and layer.weight.grad[1].abs().max() < 1e-4
    assert layer.weight.grad[0].abs().max() > 1e-2


def test_a_class_with_one_photograph_is_fitted_without_a_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = synthetic_faces({"train": 24}, names=("glad", "new")).part("train")
    faces = train.select(np.flatnonzero((train.labels == 0) | (np.arange(24) == 1)))
    network = going_on(tmp_path / "model", "nano", None, faces)
    monkeypatch.setattr(_Regression, "best_penalty", None)
    before = network.logits(faces.images, quiet=True)
    fit_head(network, faces, KNOWN, seed=0)
    after = network.logits(faces.images, quiet=True)
    assert after[:, 0] == pytest.approx(before[:, 0], abs=1e-5), "glad is known"
    of_new = faces.labels == 1
    assert after[of_new, 1] > after[~of_new, 1].max()


def test_labels_that_the_inputs_do_not_tell_choose_the_strongest_penalty() -> None:
    generator = np.random.default_rng(1)
    inputs, labels = generator.normal(0, 1, (60, 2, 40)), np.arange(60) % 2
    regression = _Regression(inputs, labels, torch.nn.Linear(40, 2).requires_grad_(False), [0, 1])
    assert regression.best_penalty(np.arange(60) // 12) == head.PENALTIES[0]
