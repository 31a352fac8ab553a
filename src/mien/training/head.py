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

from mien.data.faces import FaceSet
from mien.data.twins import groups
from mien.errors import MienError
from mien.labels import has_every_class
from mien.model.classifier import Classifier
from mien.model.networks import heads
from mien.training.validation import cut_folds

PENALTIES: tuple[float, ...] = (1000, 300, 100, 30, 10, 3)
"""Penalties to choose from. The loss is the sum of the pictures' cross-entropies and half the penalty times the squared
change of the weights, on inputs of unit variance."""

PENALTY = 100.0
"""Taken if a class has too few pictures to choose; at most 1.4 points below the best in LOG.md, "The head first"."""

FOLDS = 5
MOST_PICTURES = 10_000
"""Most pictures that the head is fitted to, drawn from larger sets."""


@torch.no_grad()
def fit_head(classifier: Classifier, train: FaceSet, known: Sequence[str], seed: int) -> None:
    """Fits the head in place: multinomial logistic regression on its inputs, pulled towards the rows of known classes.

    Rows of other classes are pulled towards 0. Each picture counts as it is and mirrored. The penalty is that of
    ``PENALTIES`` with the lowest cross-entropy in cross-validation, in which near-identical pictures share a fold.

    Args:
        classifier: with rows from ``mien.model.networks.carry_rows``; only its heads change.
        train: faces to fit to, with the classes of the classifier.
        known: classes of the backbone, whose rows the head has kept.
        seed: of the folds, and of the pictures that are drawn.
    """
    if len(train) > MOST_PICTURES:
        train = train.select(np.sort(np.random.default_rng(seed).permutation(len(train))[:MOST_PICTURES]))
    folds = _folds(train, seed)
    are_new = [not has_every_class(known, [name]) for name in classifier.names]
    for layer in heads(classifier.network):
        for parameter in layer.parameters():
            parameter[are_new] = 0
        regression = _Regression(_inputs(classifier, layer, train.images), train.labels, layer)
        penalty = PENALTY if folds is None else regression.best_penalty(folds)
        regression.fit(np.arange(len(train)), penalty)
        regression.write(layer)


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
    """Logistic regression that begins with the weights of a layer.

    Args:
        inputs: float64 [N, 2, width], two views of each picture.
        labels: int64 [N].
        layer: whose weights it begins with.
    """

    def __init__(self, inputs: np.ndarray, labels: np.ndarray, layer: nn.Linear | nn.Conv2d) -> None:
        weight = layer.weight.flatten(1).double().cpu().numpy()
        self.has_bias = layer.bias is not None
        self.mean = inputs.mean((0, 1)) if self.has_bias else np.zeros(inputs.shape[-1])
        centred = inputs - self.mean
        self.scale = float(np.sqrt((centred**2).mean())) or 1.0
        self.inputs, self.labels = centred / self.scale, labels
        self.offsets = inputs @ weight.T + (0 if layer.bias is None else layer.bias.double().cpu().numpy())
        self.change = np.zeros((len(weight), weight.shape[1] + 1))  # of the weights and, in the last column, the bias

    def best_penalty(self, folds: np.ndarray) -> float:
        """The penalty with the lowest cross-entropy on pictures of other folds."""
        losses = np.zeros(len(PENALTIES))
        for number in range(folds.max() + 1):
            held_back = np.flatnonzero(folds == number)
            self.change[:] = 0
            for index, penalty in enumerate(PENALTIES):  # from the strongest on, each fit begins with the former one
                self.fit(np.flatnonzero(folds != number), penalty)
                likelihoods = _log_probabilities(self.offsets[held_back], self.inputs[held_back], self.change)
                losses[index] -= likelihoods[np.arange(len(held_back)), :, self.labels[held_back]].sum()
        self.change[:] = 0
        return PENALTIES[int(losses.argmin())]

    def fit(self, rows: np.ndarray, penalty: float) -> None:
        """Fits the change of the weights to some of the pictures, from where it is."""
        from scipy.optimize import minimize

        shape, inputs, labels = self.change.shape, self.inputs[rows], self.labels[rows]
        offsets, targets = self.offsets[rows], np.eye(shape[0])[labels][:, None]
        both_views = inputs.reshape(-1, inputs.shape[-1])

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            change = flat.reshape(shape)
            weights, likelihoods = change[:, :-1], _log_probabilities(offsets, inputs, change)
            errors = (np.exp(likelihoods) - targets).reshape(len(both_views), -1) / 2
            gradient = np.column_stack((errors.T @ both_views + penalty * weights, self.has_bias * errors.sum(0)))
            return float(penalty / 2 * (weights**2).sum() - (likelihoods * targets).sum() / 2), gradient.ravel()

        self.change = minimize(loss, self.change.ravel(), jac=True, method="L-BFGS-B").x.reshape(shape)

    def write(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Adds the change to a layer's weights, on its inputs as they are."""
        weights = self.change[:, :-1] / self.scale
        layer.weight.add_(torch.from_numpy(weights).view_as(layer.weight).to(layer.weight))
        if layer.bias is not None:
            layer.bias.add_(torch.from_numpy(self.change[:, -1] - weights @ self.mean).to(layer.bias))


def _log_probabilities(offsets: np.ndarray, inputs: np.ndarray, change: np.ndarray) -> np.ndarray:
    """float64 [N, 2, classes], of logits [N, 2, classes] to which changed weights, [classes, width + 1], add."""
    from scipy.special import log_softmax

    return np.asarray(log_softmax(offsets + inputs @ change[:, :-1].T + change[:, -1], axis=-1))
