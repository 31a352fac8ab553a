"""What masking costs: the same weights on the same pictures, every patch visible, and three quarters hidden.

``transformers.ViTMAEModel`` hides 75 % of the patches in every forward pass, also in evaluation. A notebook that takes
it as it comes therefore tests on a quarter of each face. This measures a classifier of ours in both ways, and how many
answers change from one masked call to the next.

    python benchmarks/masked_inputs.py runs/first --data archive.zip
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from mien.data.faces import SPLITS
from mien.data.read import read_faces
from mien.labels import positions
from mien.model.classifier import Classifier
from mien.model.networks import as_vit


class Mask:
    """Hides a random share of the patches from the encoder, as ``ViTMAEEmbeddings.random_masking`` does."""

    def __init__(self, classifier: Classifier) -> None:
        self.ratio = 0.0
        as_vit(classifier.network).vit.embeddings.register_forward_hook(self._hide)

    def _hide(self, module: torch.nn.Module, inputs: object, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, width = tokens.shape
        if self.ratio == 0:
            return tokens
        kept = torch.rand(batch, count - 1).argsort(dim=1)[:, : int((count - 1) * (1 - self.ratio))] + 1
        index = torch.cat([torch.zeros(batch, 1, dtype=torch.int64), kept], dim=1)
        return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, width))


def main() -> None:
    """Prints a line for each way, and one of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder or the folder of a run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="validation", choices=SPLITS)
    parser.add_argument("--mask-ratio", type=float, default=0.75)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    classifier = Classifier.load(given.model)
    part = read_faces(given.data).part(given.split)
    labels = torch.tensor(positions(part.names, classifier.names, given.data))[torch.from_numpy(part.labels)].numpy()
    mask = Mask(classifier)
    answers = []
    for ratio in (0.0, given.mask_ratio, given.mask_ratio):
        mask.ratio = ratio
        answers.append(classifier.logits(part.images).argmax(axis=1))
    accuracies = [float((answer == labels).mean()) for answer in answers]
    changed = float((answers[1] != answers[2]).mean())
    print(f"{given.split}, {len(labels):,} pictures, {given.model}")
    print(f"every patch visible:       accuracy {accuracies[0]:.2%}")
    print(
        f"{given.mask_ratio:.0%} of patches hidden:     accuracy {accuracies[1]:.2%}, a second time {accuracies[2]:.2%}"
    )
    print(f"answers that differ between the two masked calls: {changed:.2%}")
    report = {"visible": accuracies[0], "masked": accuracies[1:], "changed": changed, "mask_ratio": given.mask_ratio}
    print(json.dumps({"benchmark": "masked_inputs", "n": len(labels), "seed": given.seed, **report}))


if __name__ == "__main__":
    main()
