"""Probes of a pretrained encoder: the accuracy of k nearest neighbours and of a linear model on its features.

The encoder itself is not trained here. Both probes learn from a part of the training faces and are scored on validation
faces, twins of training faces included. They show during pretraining whether it still improves the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import ViTMAEForPreTraining

from mien.data.faces import FaceSet
from mien.model.mae import count_patches, every_patch_visible
from mien.model.preprocessing import Preprocessing, tensor

NEIGHBOURS = 20
"""Neighbours that vote, as in Wu et al. 2018 (arXiv:1805.01978) for sets of this size."""

VOTE_TEMPERATURE = 0.07
"""A neighbour's vote is exp(cosine / this), as in Wu et al. 2018."""

INVERSE_PENALTY = 0.1
"""Inverse strength of the penalty of the linear probe (scikit-learn's C), on standardised features."""


@dataclass(frozen=True)
class ProbeScores:
    """Accuracy of both probes on validation faces, in [0, 1]."""

    knn: float
    linear: float


@torch.inference_mode()
def features(
    network: ViTMAEForPreTraining, preprocessing: Preprocessing, images: np.ndarray, batch_size: int = 256
) -> np.ndarray:
    """Features of images: the mean of the encoder's patch tokens, with every patch visible.

    The [CLS] token is left out, because masked autoencoding does not train it.

    Args:
        network: in evaluation mode, on any device.
        preprocessing: of its input.
        images: uint8 [N, H, W] or [N, H, W, 3].
        batch_size: images per forward pass.

    Returns:
        float32 [N, width].
    """
    device, batches = network.device, []
    order = torch.arange(count_patches(network), dtype=torch.float32, device=device)
    with every_patch_visible(network):
        for start in range(0, len(images), batch_size):
            batch = tensor(images[start : start + batch_size]).to(device)
            pixels = preprocessing(batch, network.config.num_channels)
            hidden = network.vit(pixel_values=pixels, noise=order.expand(len(pixels), -1)).last_hidden_state
            batches.append(hidden[:, 1:].mean(dim=1).float().cpu().numpy())
    return np.concatenate(batches)


def probe(
    network: ViTMAEForPreTraining, preprocessing: Preprocessing, train: FaceSet, validation: FaceSet
) -> ProbeScores:
    """Scores k-NN (votes by ``vote_weights``) and logistic regression on the features.

    Args:
        network: in evaluation mode.
        preprocessing: of its input.
        train: the faces to learn from.
        validation: the faces to score on.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train_features, validation_features = (
        features(network, preprocessing, part.images) for part in (train, validation)
    )
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(train_features)), metric="cosine", weights=vote_weights)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000))
    scores = [
        float(model.fit(train_features, train.labels).score(validation_features, validation.labels))
        for model in (neighbours, linear)
    ]
    return ProbeScores(*scores)


def vote_weights(distances: np.ndarray) -> np.ndarray:
    """Votes of neighbours at these cosine distances (1 - cosine), of the same shape, up to a common factor.

    scikit-learn's ``weights="distance"`` gives a copy of a picture an infinite vote, which rewards a set with twins.
    """
    return np.asarray(np.exp(-distances / VOTE_TEMPERATURE))
