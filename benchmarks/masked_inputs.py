"""What masking costs: the same weights on the same pictures, every patch visible, and three quarters hidden.

``transformers.ViTMAEModel`` hides 75 % of the patches in every forward pass, also in evaluation. A notebook that takes
it as it comes therefore tests on a quarter of each face. This measures a classifier of ours in both ways, and how many
answers change from one masked call to the next. The arm ``masked`` of recipes.py trains in that way too.

    python benchmarks/masked_inputs.py runs/first --data archive.zip
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers.models.vit.modeling_vit import ViTEmbeddings

from mien.data.read import read_faces
from mien.labels import positions
from mien.model.classifier import Classifier
from mien.model.networks import as_vit

MASK_RATIO = 0.75
"""Share of the patches that ``transformers.ViTMAEConfig`` hides unless told otherwise."""


def hide(tokens: torch.Tensor, ratio: float) -> torch.Tensor:
    """Keeps [CLS] and a random share of the patches, as ``ViTMAEEmbeddings.random_masking`` does.

    Args:
        tokens: [B, 1 + patches, width], [CLS] first.
        ratio: share of the patches that go, in [0, 1].

    Returns:
        [B, 1 + visible, width], other patches for each picture, from torch's global random state.
    """
    batch, count, width = tokens.shape
    noise = torch.rand(batch, count - 1, device=tokens.device)
    visible = noise.argsort(dim=1)[:, : int((count - 1) * (1 - ratio))] + 1
    index = torch.cat([torch.zeros(batch, 1, dtype=torch.int64, device=tokens.device), visible], dim=1)
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, width))


@contextmanager
def hidden_patches(ratio: float = MASK_RATIO) -> Iterator[None]:
    """While it lasts, every ViT of this process sees but a share of the patches, in training and in evaluation."""

    def take(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return hide(output, ratio) if isinstance(module, ViTEmbeddings) and ratio > 0 else output

    handle = register_module_forward_hook(take)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def main() -> None:
    """Prints a line for each way, and one of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder or the folder of a run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    classifier = Classifier.load(options.model)
    as_vit(classifier.network)
    part = read_faces(options.data).part("validation")
    labels = torch.tensor(positions(part.names, classifier.names, options.data))[torch.from_numpy(part.labels)].numpy()
    answers = []
    for ratio in (0.0, MASK_RATIO, MASK_RATIO):
        with hidden_patches(ratio):
            answers.append(classifier.logits(part.images).argmax(axis=1))
    accuracies = [float((answer == labels).mean()) for answer in answers]
    changed = float((answers[1] != answers[2]).mean())
    print(f"validation, {len(labels):,} pictures, {options.model}")
    print(f"every patch visible:       accuracy {accuracies[0]:.2%}")
    print(f"{MASK_RATIO:.0%} of patches hidden:     accuracy {accuracies[1]:.2%}, a second time {accuracies[2]:.2%}")
    print(f"answers that differ between the two masked calls: {changed:.2%}")
    report = {"visible": accuracies[0], "masked": accuracies[1:], "changed": changed, "mask_ratio": MASK_RATIO}
    print(json.dumps({"benchmark": "masked_inputs", "n": len(labels), "seed": options.seed, **report}))


if __name__ == "__main__":
    main()
