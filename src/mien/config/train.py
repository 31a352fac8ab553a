"""The settings of fine-tuning."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from mien.config.augment import AugmentConfig
from mien.config.problems import ABOVE_ZERO, AT_LEAST_ONE, AT_LEAST_ZERO, SHARE, SHARE_BELOW_ONE, Problems
from mien.config.run import check_run

TIMM = "timm:"
"""What a backbone of timm starts with."""

SET_BY_MIEN: dict[str, str] = {
    "img_size": "image_size",
    "in_chans": "data",
    "num_classes": "data",
    "drop_path_rate": "drop_path",
    "pretrained": "backbone",
}
"""Arguments of ``timm.create_model`` that do not belong in ``network_args``, and the field that decides each."""

PRESETS: tuple[str, ...] = ("nano", "mini", "tiny", "small", "base")


def is_fresh(backbone: str) -> bool:
    """Whether a backbone is a preset, or a timm network without a tag: its weights are random."""
    return backbone in PRESETS or (backbone.startswith(TIMM) and "." not in backbone)


@dataclass(frozen=True)
class FreezeConfig:
    """What of the encoder is kept as it came.

    Attributes:
        blocks: the embeddings and this many first blocks are frozen; 0 freezes nothing. By default 4 for a pretrained
            backbone (which must have more) and 0 for a fresh one.
        release_epoch: from this epoch on (1 is the first) nothing is frozen any more; by default frozen to the end.
        gradual: with release_epoch, release one block an epoch from the top, the embeddings last.
        random_weights: allow freezing a fresh backbone, whose weights are random.
    """

    blocks: int | None = None
    release_epoch: int | None = None
    gradual: bool = False
    random_weights: bool = False


@dataclass(frozen=True)
class DistillConfig:
    """How much is learnt from teachers, where there are any (Hinton et al. 2015, arXiv:1503.02531, section 2).

    Attributes:
        weight: share of the loss that the teachers have, in [0, 1]; the labels have the rest.
        temperature: both sides' logits are divided by it, which lets the teachers' smaller probabilities count.
        features: weight of the distance between the patches of a ViT after its middle block and the feature maps of
            teachers that are CNNs, added to the loss; 0 turns it off (Romero et al. 2015, arXiv:1412.6550).
        mirror: teachers read every second picture mirrored. Over the epochs a student so learns the average of their
            answers to a face and to its mirror image, which is better than either, in the time of one.
    """

    weight: float = 0.5
    temperature: float = 2.0
    features: float = 0.0
    mirror: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run. The same configuration and seed give the same weights.

    Attributes:
        data: archive.zip, an unpacked folder, a folder with a sub-folder a class, or a FER2013 CSV file.
        out: the folder of the run; the model lands in OUT/model.
        backbone: a fresh preset (nano, mini, tiny, small, base), a Hugging Face id of a ViTMAE
            (facebook/vit-mae-base), a folder that holds one, the folder of a run, whose network then goes on (classes
            of the same name keep their rows of the head), or a network of timm: timm:resnet18 with random weights,
            timm:resnet18.a1_in1k with the pretrained weights of that tag.
        image_size: side of the pictures that the network reads, in pixels; by default the preset's or checkpoint's own,
            and the data's for a timm network. A ViTMAE's positions are resampled.
        patch_size: side of a patch of a preset or ViTMAE, in pixels; by default its own. A ViTMAE's patch embedding is
            resampled (Beyer et al. 2023, FlexiViT).
        network_args: arguments of timm.create_model for a timm network, as YAML or JSON, like {"layers": [1, 1, 1, 1]}.
        epochs: passes over the training images.
        batch_size: images a step, over all processes together; a smaller set is seen whole in every step.
        optimizer: adamw, or muon, which moves the weight matrices between patch embedding and head along their
            orthogonalised momentum (Jordan et al. 2024) and the rest by AdamW; fresh networks learn faster by it.
        lr: peak learning rate of the encoder; by default 3e-5 for a pretrained backbone, 3e-4 for a fresh preset (1e-3
            by muon), and 1e-3 for a fresh timm network.
        head_lr: peak learning rate of the classification head; by default five times lr for a pretrained backbone,
            or lr.
        min_lr: learning rate at the end of the cosine, as a share of the peak, in [0, 1].
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        weight_decay: decoupled weight decay; norms, biases, positions and [CLS] are exempt.
        layer_decay: factor on the learning rate from each block to the one below it, in (0, 1]; 1 turns it off
            (Bao et al. 2021, BEiT).
        clip_grad: largest L2 norm of the gradient; 0 turns clipping off.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        class_weights: weight the loss by N / (classes * images of the class).
        drop_path: stochastic depth rate of the last block, rising linearly from 0 (Huang et al. 2016), in [0, 1).
        small_size: side of the pictures in the first epochs, in pixels, a multiple of the patch size; by default every
            epoch sees them at full size (progressive resizing, Tan and Le 2021).
        small_until: share of the epochs that see small pictures, in [0, 1), where small_size is given.
        ema: decay of the averaged weights that are evaluated and kept, in [0, 1); 0 turns averaging off. The decay is
            warmed up, so that the average does not remember the random start.
        validation_fraction: share of training images cut off as validation where the data has no validation split,
            in (0, 0.5]; copies of a photograph stay on one side.
        seed: decides initial weights, order, augmentation and drop path.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 on a GPU that has it, else fp32), fp32 or bf16.
        checkpoint_seconds: seconds between two saved states within an epoch; each epoch's end is saved too.
        tensorboard: also write OUT/tensorboard.
        teacher: model folders of trained classifiers to learn from as well (distillation); they see the same augmented
            pictures, and their probabilities are averaged.
        distill: how much is learnt from the teachers.
        freeze: what of the encoder is kept as it came.
        augment: augmentation of training images.
    """

    data: str
    out: str
    backbone: str = "tiny"
    image_size: int | None = None
    patch_size: int | None = None
    network_args: dict[str, Any] | None = None
    epochs: int = 30
    batch_size: int = 64
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float | None = None
    head_lr: float | None = None
    min_lr: float = 0.01
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    clip_grad: float = 1.0
    label_smoothing: float = 0.1
    class_weights: bool = False
    drop_path: float = 0.0
    small_size: int | None = None
    small_until: float = 0.7
    ema: float = 0.999
    validation_fraction: float = 0.1
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    checkpoint_seconds: float = 300.0
    tensorboard: bool = False
    teacher: list[str] = field(default_factory=list)
    distill: DistillConfig = field(default_factory=DistillConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        problems = Problems()
        self._check(problems)
        check_run(self, problems)
        problems.raise_if_any()

    def _check(self, problems: Problems) -> None:
        check, f, d = problems.check, self.freeze, self.distill
        check("epochs", self.epochs, self.epochs >= 1, AT_LEAST_ONE)
        check("head_lr", self.head_lr, self.head_lr is None or self.head_lr > 0, ABOVE_ZERO)
        check("warmup_epochs", self.warmup_epochs, 0 <= self.warmup_epochs <= self.epochs, "between 0 and epochs")
        check("layer_decay", self.layer_decay, 0 < self.layer_decay <= 1, "a factor in (0, 1]")
        check("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, SHARE_BELOW_ONE)
        check("drop_path", self.drop_path, 0 <= self.drop_path < 1, "a rate in [0, 1)")
        check("ema", self.ema, 0 <= self.ema < 1, "a decay in [0, 1)")
        check("image_size", self.image_size, self.image_size is None or self.image_size >= 1, AT_LEAST_ONE)
        check("patch_size", self.patch_size, self.patch_size is None or self.patch_size >= 1, AT_LEAST_ONE)
        check("small_size", self.small_size, self.small_size is None or self.small_size >= 1, AT_LEAST_ONE)
        check("small_until", self.small_until, 0 <= self.small_until < 1, SHARE_BELOW_ONE)
        check("teacher", self.teacher, all(self.teacher), "the names of model folders")
        check("distill.weight", d.weight, 0 <= d.weight <= 1, SHARE)
        check("distill.temperature", d.temperature, d.temperature > 0, ABOVE_ZERO)
        check("distill.features", d.features, d.features >= 0, AT_LEAST_ZERO)
        check("freeze.blocks", f.blocks, f.blocks is None or f.blocks >= 0, "a whole number of at least 0")
        check("freeze.release_epoch", f.release_epoch, f.release_epoch is None or f.release_epoch >= 2, "at least 2")
        check(
            "freeze.gradual", f.gradual, not f.gradual or f.release_epoch is not None, "freeze.release_epoch beside it"
        )
        if not self.teacher:
            given = [field.name for field in dataclasses.fields(d) if getattr(d, field.name) != field.default]
            told = ", ".join(f"distill.{name}" for name in given)
            check("teacher", self.teacher, not told, f"the folder of one beside {told}")
        if self.augment.mixes and self.batch_size % 2:
            problems.add(f"batch_size: got {self.batch_size}, expected an even number where mixup or cutmix is on")
        if self.is_timm:
            self._check_timm(problems)
        elif self.network_args is not None:
            problems.add(f"network_args: got {self.network_args} for {self.backbone}, expected a backbone timm:NAME")

    def _check_timm(self, problems: Problems) -> None:
        """What a timm network does not take, or takes from other fields."""
        if self.backbone == TIMM:
            problems.add(f"backbone: got {TIMM!r}, expected a name after it, like timm:resnet18")
        if self.distill.features:
            problems.add(f"distill.features: got {self.distill.features} for {self.backbone}, expected 0: only ViTs")
        if self.patch_size is not None:
            problems.add(f"patch_size: got {self.patch_size} for {self.backbone}, expected it in network_args")
        if self.freeze.blocks:
            problems.add(f"freeze.blocks: got {self.freeze.blocks} for {self.backbone}, expected 0: only ViTs freeze")
        for name in sorted(SET_BY_MIEN.keys() & (self.network_args or {}).keys()):
            problems.add(f"network_args: got {name}, which {SET_BY_MIEN[name]} decides, expected others")

    @property
    def is_timm(self) -> bool:
        """Whether the backbone is a network of timm."""
        return self.backbone.startswith(TIMM)

    @property
    def is_fresh(self) -> bool:
        """Whether its weights are random at the start."""
        return is_fresh(self.backbone)

    def resolved(self) -> TrainConfig:
        """The configuration with every default that depends on the backbone filled in."""
        fresh_lr = 1e-3 if self.is_timm or self.optimizer == "muon" else 3e-4
        lr = self.lr if self.lr is not None else (fresh_lr if self.is_fresh else 3e-5)
        head_lr = self.head_lr if self.head_lr is not None else (lr if self.is_fresh else 5 * lr)
        by_default = 0 if self.is_fresh or self.is_timm else 4
        blocks = self.freeze.blocks if self.freeze.blocks is not None else by_default
        return dataclasses.replace(self, lr=lr, head_lr=head_lr, freeze=dataclasses.replace(self.freeze, blocks=blocks))
