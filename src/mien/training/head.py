"""Linear probing: fits the head of a trained network to classes that are new to it, before the rest trains.

Rows of a head that start at random need thousands of steps at the small rates of fine-tuning, and until then send noise
into good features; a few own faces make some dozen steps. Fitted first, the head reads at once what the features tell
(Kumar et al. 2022, arXiv:2202.10054: linear probing, then fine-tuning).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from mien.config import TrainConfig
from mien.data.faces import FaceSet
from mien.data.twins import groups
from mien.errors import MienError
from mien.labels import has_every_class
from mien.model.backbone import Backbone
from mien.model.classifier import Classifier
from mien.model.networks import heads
from mien.training.validation import cut_folds

PENALTIES: tuple[float, ...] = (1000, 300, 100, 30, 10, 3)
"""Penalties to choose from. The loss is the sum of the pictures' cross-entropies and half the penalty times the squared
weights and biases, on inputs of unit variance."""

PENALTY = 30.0
"""Taken if a class has too few pictures to choose; cross-validation chose 3 to 100 with ten of each (LOG.md)."""

FOLDS = 5
MOST_PICTURES = 10_000
"""Most pictures that the head is fitted to, drawn from larger sets."""


def fits_head(config: TrainConfig, backbone: Backbone, names: Sequence[str]) -> bool:
    """Whether the rows of new classes are fitted first, given or by default.

    Args:
        config: see ``TrainConfig``.
        backbone: of the run.
        names: the classes of the data.

    Raises:
        MienError: they shall be, and there are none.
    """
    knows_all = has_every_class(backbone.names, names)
    if config.linear_probe and knows_all:
        raise MienError(
            f"linear_probe: got true, but {backbone.name} knows all classes of the data ({', '.join(names)}), whose "
            "rows of the head stay; leave it out"
        )
    return bool(backbone.names) and not knows_all if config.linear_probe is None else config.linear_probe


@torch.no_grad()
def fit_head(classifier: Classifier, train: FaceSet, trained_names: Sequence[str], seed: int) -> None:
    """Fits the rows of new classes in place: logistic regression on the head's inputs, in which known rows stay.

    Each picture counts as it is and mirrored. The penalty is that of ``PENALTIES`` with the lowest cross-entropy in
    cross-validation, in which near-identical pictures share a fold.

    Args:
        classifier: with rows from ``mien.model.networks.carry_rows``; only rows of new classes change.
        train: faces to fit to, with the classes of the classifier.
        trained_names: classes of the backbone, whose rows the head has kept: all pictures of a large set taught them,
            and a few other ones would spoil them (LOG.md, "The head first").
        seed: of the folds, and of the pictures that are drawn.
    """
    if len(train) > MOST_PICTURES:
        train = train.select(np.sort(np.random.default_rng(seed).permutation(len(train))[:MOST_PICTURES]))
    folds = _folds(train, seed)
    new = [index for index, name in enumerate(classifier.names) if not has_every_class(trained_names, [name])]
    for layer in heads(classifier.network):
        regression = _Regression(_inputs(classifier, layer, train.images), train.labels, layer, new)
        penalty = PENALTY if folds is None else regression.best_penalty(folds)
        regression.write(layer, regression.fit(np.arange(len(train)), penalty))


def _folds(train: FaceSet, seed: int) -> np.ndarray | None:
    """The fold of each picture, int64 [N]; None if a class has too few photographs to cut any."""
    counts = np.bincount(train.labels)
    try:
        return cut_folds(groups(train.images), train.labels, max(2, min(FOLDS, counts[counts > 0].min())), seed)
    except MienError:
        return None


def _inputs(classifier: Classifier, layer: nn.Linear | nn.Conv2d, images: np.ndarray) -> np.ndarray:
    """What a head reads of each picture and of its mirror image, float64 [N, 2, width]."""
    parts: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        # A convolution that answers has one pixel, or its outputs are averaged over the pixels, as its inputs are here.
        parts.append(inputs[0] if inputs[0].ndim == 2 else inputs[0].flatten(2).mean(2))

    with layer.register_forward_pre_hook(keep):
        for flip in (False, True):
            classifier.logits(images, flip=flip, quiet=True)
    return torch.cat(parts).double().cpu().numpy().reshape(2, len(images), -1).swapaxes(0, 1)


class _Regression:
    """Logistic regression of some rows of a layer, which start at 0.

    Args:
        inputs: float64 [N, 2, width], two views of each picture.
        labels: int64 [N].
        layer: whose other rows stay.
        rows: those to fit.
    """

    def __init__(
        self, inputs: np.ndarray, labels: np.ndarray, layer: nn.Linear | nn.Conv2d, rows: Sequence[int]
    ) -> None:
        weight = layer.weight.flatten(1).double().cpu().numpy()
        bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.double().cpu().numpy()
        self.rows, self.labels = list(rows), labels
        self.offsets = inputs @ weight.T + bias
        self.offsets[..., self.rows] = 0
        self.mean = np.zeros(inputs.shape[-1]) if layer.bias is None else inputs.mean((0, 1))
        self.scale = float(np.sqrt(((inputs - self.mean) ** 2).mean())) or 1.0
        # The bias is the weight of a further input.
        further = np.full((*inputs.shape[:2], 1), float(layer.bias is not None))
        self.inputs = np.concatenate([(inputs - self.mean) / self.scale, further], axis=-1)

    def best_penalty(self, folds: np.ndarray) -> float:
        """The penalty with the lowest cross-entropy on pictures of other folds."""
        losses = np.zeros(len(PENALTIES))
        for number in range(folds.max() + 1):
            held_back, weights = np.flatnonzero(folds == number), None
            for index, penalty in enumerate(PENALTIES):  # from the strongest on, each fit begins with the former one
                weights = self.fit(np.flatnonzero(folds != number), penalty, weights)
                likelihoods = self._log_probabilities(held_back, weights)
                losses[index] -= likelihoods[np.arange(len(held_back)), :, self.labels[held_back]].sum()
        return PENALTIES[int(losses.argmin())]

    def fit(self, pictures: np.ndarray, penalty: float, start: np.ndarray | None = None) -> np.ndarray:
        """The weights of the rows, float64 [rows, width + 1], that fit some of the pictures."""
        from scipy.optimize import minimize

        shape = (len(self.rows), self.inputs.shape[-1])
        views = self.inputs[pictures].reshape(-1, shape[1])
        targets = np.eye(self.offsets.shape[-1])[self.labels[pictures]][:, None]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            weights = flat.reshape(shape)
            likelihoods = self._log_probabilities(pictures, weights)
            errors = (np.exp(likelihoods) - targets)[..., self.rows].reshape(-1, shape[0]) / 2
            gradient = errors.T @ views + penalty * weights
            return float(penalty / 2 * (weights**2).sum() - (likelihoods * targets).sum() / 2), gradient.ravel()

        first = np.zeros(shape) if start is None else start
        return np.asarray(minimize(loss, first.ravel(), jac=True, method="L-BFGS-B").x.reshape(shape))

    def write(self, layer: nn.Linear | nn.Conv2d, weights: np.ndarray) -> None:
        """Writes fitted weights into the rows of the layer, for its inputs as they are."""
        weight, bias = weights[:, :-1] / self.scale, weights[:, -1]
        layer.weight[self.rows] = torch.from_numpy(weight).view_as(layer.weight[self.rows]).to(layer.weight)
        if layer.bias is not None:
            layer.bias[self.rows] = torch.from_numpy(bias - weight @ self.mean).to(layer.bias)

    def _log_probabilities(self, pictures: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """float64 [pictures, 2, classes]."""
        from scipy.special import log_softmax

        logits = self.offsets[pictures]
        logits[..., self.rows] += self.inputs[pictures] @ weights.T
        return np.asarray(log_softmax(logits, axis=-1))
