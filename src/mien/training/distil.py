"""Distillation: a student that also learns what trained classifiers make of the very pictures it sees.

The loss is (1 - w) CE + w T^2 KL(teachers || student), both sides' probabilities at the temperature T; the factor T^2
keeps the share of the gradient that w names, whatever T is (Hinton et al. 2015, arXiv:1503.02531, section 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from mien.config.train import DistillConfig
from mien.errors import MienError
from mien.files import sha256_of
from mien.labels import positions
from mien.model.classifier import Classifier, model_folder
from mien.model.networks import logits, num_channels
from mien.model.preprocessing import Preprocessing
from mien.training.state import Saved


@dataclass(frozen=True)
class Teacher:
    """A trained classifier to learn from, frozen.

    Attributes:
        classifier: in evaluation mode, on the student's device.
        columns: int64 [C], for each of the student's classes the teacher's, matched by name; on the device.
        sha256: hexadecimal, of the file of its weights.
    """

    classifier: Classifier
    columns: torch.Tensor
    sha256: str


def load_teachers(folders: Sequence[str], names: tuple[str, ...], device: torch.device) -> list[Teacher]:
    """Reads the teachers of a run.

    Args:
        folders: model folders, or folders of runs.
        names: the student's classes, in the order of its logits.
        device: where the student trains.

    Raises:
        MienError: a folder is no classifier, or one of the student's classes is not among a teacher's.
    """
    teachers = []
    for given in folders:
        folder = model_folder(Path(given))
        classifier = Classifier.load(folder, device)
        classifier.network.requires_grad_(False)
        where = f"--teacher {given}: cannot teach the classes {', '.join(names)}"
        columns = torch.tensor(positions(names, classifier.names, where), device=device)
        teachers.append(Teacher(classifier, columns, sha256_of(folder / "model.safetensors")))
    return teachers


class Distillation:
    """The teachers' part of the loss.

    Args:
        config: weight and temperature, and whether every second picture is read mirrored.
        teachers: at least one.
        student: by which the pictures that the student sees are normalised.
        precision: bf16 or fp32, in which the teachers compute.
    """

    def __init__(
        self, config: DistillConfig, teachers: Sequence[Teacher], student: Preprocessing, precision: str
    ) -> None:
        self.config, self.teachers, self.student, self.precision = config, teachers, student, precision

    def __call__(self, loss: torch.Tensor, student_logits: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Blends the loss against the labels with the divergence from the teachers.

        Args:
            loss: float32 [], against the labels.
            student_logits: [B, C].
            pixels: float32 [B, 1 or 3, S, S], augmented and mixed, normalised for the student.

        Returns:
            float32 [].
        """
        temperature, weight = self.config.temperature, self.config.weight
        divergence = soft_divergence(self.probabilities(pixels), student_logits, temperature)
        return (1 - weight) * loss + weight * temperature**2 * divergence

    @torch.no_grad()
    def probabilities(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the teachers make of the student's pictures, float32 [B, C] at the temperature, averaged."""
        faces = self.student.denormalise(pixels)
        found = [self._logits(teacher, faces) for teacher in self.teachers]
        return torch.stack([(values / self.config.temperature).softmax(1) for values in found]).mean(0)

    def _logits(self, teacher: Teacher, faces: torch.Tensor) -> torch.Tensor:
        preprocessing, network = teacher.classifier.preprocessing, teacher.classifier.network
        view = preprocessing.read(preprocessing.resize(faces), num_channels(network))
        view = half_mirrored(view) if self.config.mirror else view
        with torch.autocast(faces.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return logits(network, view).float()[:, teacher.columns]


def half_mirrored(batch: torch.Tensor) -> torch.Tensor:
    """Every second picture, or map, [B, C, H, W], turned left to right; once more, and all are as they were."""
    found = batch.clone()
    found[1::2] = batch[1::2].flip(-1)
    return found


def soft_divergence(probabilities: torch.Tensor, student_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(probabilities || softmax(student_logits / temperature)) in nats, the mean over a batch.

    Args:
        probabilities: float32 [B, C], rows sum to 1.
        student_logits: [B, C].
        temperature: above 0.
    """
    return F.kl_div((student_logits.float() / temperature).log_softmax(1), probabilities, reduction="batchmean")


def teacher_state(teachers: Sequence[Teacher]) -> dict[str, torch.Tensor]:
    """The teachers' fingerprints as a part of a run's state: uint8 [32] by number."""
    return {
        str(number): torch.tensor(list(bytes.fromhex(teacher.sha256)), dtype=torch.uint8)
        for number, teacher in enumerate(teachers)
    }


def check_teachers(teachers: Sequence[Teacher], saved: Saved) -> None:
    """Holds the teachers to those that a saved run learnt from.

    Raises:
        MienError: there are more or fewer, or the weights of one differ.
    """
    known, found = saved.part("teachers"), teacher_state(teachers)
    if len(known) != len(found):
        raise MienError(f"--resume: the run has {len(known)} teachers, got {len(found)}; give the same --teacher")
    for number, teacher in enumerate(teachers):
        if not torch.equal(known[str(number)], found[str(number)]):
            raise MienError(
                f"--resume: the weights of the teacher {teacher.classifier.folder} differ from those that the run "
                "learnt from; give the same --teacher in the same order"
            )
