"""Fine-tuning: trains a classifier on labelled faces, from a ViTMAE encoder, a timm network or random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn import functional as F

from mien.config import TrainConfig, to_dict
from mien.data.clean import Sketches, sketch
from mien.data.faces import SPLITS, FaceSet
from mien.data.read import read_faces
from mien.errors import MienError
from mien.evaluation.metrics import accuracy_and_macro_f1
from mien.files import read_json_object, write_json
from mien.labels import canonical
from mien.locks import holds_out
from mien.log import report, say
from mien.machine import machine_of, versions
from mien.model.classifier import Classifier
from mien.model.freezing import check_freezing, freeze, frozen_units, table, training_mode
from mien.model.networks import Network, lay_out, logits, logits_and_states, num_channels, rows_line
from mien.model.places import is_hub_backbone
from mien.model.preprocessing import tensor
from mien.model.vit import build, check_backbone, classes_of, holds_timm, reading_crop_of
from mien.progress import progress
from mien.training.augment import (
    Augment,
    build_mixup,
    class_weights,
    local_rows,
    random_table,
    seed_step,
    shuffled,
    soft_targets,
)
from mien.training.calibrate import calibrate_model
from mien.training.folder import write_config
from mien.training.history import epoch_line, write_curves
from mien.training.optim import WeightAverage, build_optimizer, build_schedule, moments, restore_moments
from mien.training.plan import plan_lines
from mien.training.run import (
    Parts,
    Run,
    Saved,
    fit_batch,
    gather_rows,
    on_main,
    open_run,
    prepare_faces,
    resolve_precision,
    saved_reading_crop,
    start_accelerator,
)
from mien.training.teachers import Distillation, Hints, Teacher, check_teachers, load_teachers, teacher_state

LEAST_GAIN = 2
"""An epoch replaces the classifier that training began with if it labels at least so many validation pictures more
correctly. One picture more of nine is luck as often as not (LOG.md); of thousands it makes no difference."""


@holds_out
def train(config: TrainConfig, *, resume: bool = False, command: str = "") -> Path:
    """Trains a classifier and writes its model folder.

    Args:
        config: see ``TrainConfig``.
        resume: continue from the state in ``config.out``.
        command: the command line, for ``meta.json``.

    Returns:
        ``config.out/model``: the weights with the highest validation accuracy.

    Raises:
        MienError: a setting, the data, the backbone, a teacher or the folder is wrong, or the loss became NaN; the last
            saved state stays.
    """
    tuning = prepared(config, resume=resume, command=command)
    if on_main():
        say("\n".join(plan_lines(tuning)))
    tuning.fit()
    tuning.accelerator.wait_for_everyone()
    return Path(config.out) / "model"


def prepared(config: TrainConfig, *, resume: bool = False, command: str = "", dry: bool = False) -> FineTuning:
    """Reads data, backbone and teachers of a run, and opens its folder.

    Args:
        config: see ``TrainConfig``.
        resume: continue from the state in ``config.out``.
        command: the command line, for ``meta.json``.
        dry: leave the folder of the run alone: neither read nor write there.

    Raises:
        MienError: as ``train``.
    """
    given, freezes_by_default = config, config.freeze.blocks is None
    check_backbone(config.backbone)
    config = with_backbone_defaults(config, resume)
    accelerator = start_accelerator(config)
    with accelerator.main_process_first():  # the main process fills the cache and clears the folder for the others
        faces = prepare_faces(read_faces(config.data), config)
        check_classes(faces)
        config = fit_batch(config, faces, accelerator.num_processes)
        saved = None if dry else open_run(config, faces.fingerprint, resume)
        if on_main() and not dry and not resume:
            write_config(Path(config.out), given)
    teachers = load_teachers(config.teacher, faces.names, accelerator.device)
    if saved:
        check_teachers(teachers, saved)
    torch.manual_seed(config.seed)
    if on_main() and is_hub_backbone(config.backbone):
        say(f"reading {config.backbone} from the Hugging Face hub or its cache")
    network, preprocessing = build(
        config.backbone,
        faces.names,
        grey=faces.is_grey,
        image_size=config.image_size or (faces.image_size if config.is_timm else None),
        patch_size=config.patch_size,
        network_args=config.network_args,
        drop_path=config.drop_path,
    )
    preprocessing = replace(preprocessing, crop=cast(float, config.reading_crop))
    check_freezing(config.freeze, network, fresh=config.is_fresh, by_default=freezes_by_default)
    classifier = Classifier(lay_out(network.to(accelerator.device)), preprocessing, faces.names)
    backbone_names = classes_of(config.backbone)
    return FineTuning(config, classifier, faces, accelerator, saved, command, teachers, backbone_names)


def with_backbone_defaults(config: TrainConfig, resume: bool) -> TrainConfig:
    """Fills in every default, also those that depend on the backbone or, when resuming, on the saved run."""
    freeze, crop = config.freeze, config.reading_crop
    if freeze.blocks is None and holds_timm(config.backbone):
        freeze = replace(freeze, blocks=0)
    if crop is None and resume:
        crop = saved_reading_crop(Path(config.out))
    if crop is None:
        crop = reading_crop_of(config.backbone)
    return replace(config, freeze=freeze, reading_crop=crop).resolved()


def check_classes(faces: FaceSet) -> None:
    """Checks that the data has at least two classes.

    Raises:
        MienError: it has one.
    """
    if len(faces.names) < 2:
        raise MienError(
            f"{faces.source}: has one class alone, {faces.names[0]}, expected two or more; give each expression its "
            "own folder, like faces/happy and faces/neutral (a table of labels beside the pictures is not read)"
        )


@dataclass
class Stage:
    """Consecutive epochs with the same frozen units, which share one optimizer.

    Attributes:
        frozen: number of frozen units (``mien.model.freezing.frozen_units``).
        model: the network, or its wrapper for several processes.
        optimizer: of the trainable parameters.
        schedule: of its learning rates.
    """

    frozen: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: CosineLRScheduler


class FineTuning:
    """The training loop. Everything random in it is a function of seed and step, so a run can stop and resume anywhere.

    Args:
        config: with every default resolved.
        classifier: on the device; its network is trained in place.
        faces: with a train and a validation split.
        accelerator: device, precision and processes.
        saved: the state to resume from, or None for a new run.
        command: the command line, for ``meta.json``.
        teachers: classifiers to distil from, on the device.
        backbone_names: the classes of the backbone if it is a trained classifier; empty if the head is new.
    """

    def __init__(
        self,
        config: TrainConfig,
        classifier: Classifier,
        faces: FaceSet,
        accelerator: Accelerator,
        saved: Saved | None = None,
        command: str = "",
        teachers: Sequence[Teacher] = (),
        backbone_names: tuple[str, ...] = (),
    ) -> None:
        self.config, self.classifier, self.faces, self.accelerator = config, classifier, faces, accelerator
        self.network, self.command, self.backbone_names = classifier.network, command, backbone_names
        self.run = Run(config, faces.fingerprint, accelerator, saved)
        self.out, self.state = self.run.out, self.run.state
        self.train_set, self.validation = faces.part("train"), faces.part("validation")
        self.images = tensor(self.train_set.images).to(accelerator.device)
        self.labels = torch.from_numpy(self.train_set.labels).to(accelerator.device)
        self.steps = len(self.images) // config.batch_size
        self.augment = Augment(config.augment, classifier.preprocessing, num_channels(self.network))
        self.mix = build_mixup(config, len(faces.names))
        self.weights = class_weights(self.train_set).to(accelerator.device) if config.class_weights else None
        self.precision = resolve_precision(config.precision, accelerator.device)
        self.teachers = teachers
        self.distil = Distillation(config.distill, teachers, classifier.preprocessing, self.precision)
        frozen = (config.freeze.blocks or 0) if config.freeze.release_epoch is None else 0
        self.hints = (
            Hints(self.network, teachers, frozen, mirror=config.distill.mirror) if config.distill.features else None
        )
        self.average = WeightAverage(self.network, decay=config.ema, use_warmup=True) if config.ema else None
        self.moments = saved.part("moments") if saved else {}
        if saved:
            self.network.load_state_dict(saved.part("network"))
            if self.average is not None:
                self.average.module.load_state_dict(saved.part("average"))

    def fit(self) -> None:
        """Trains up to the last epoch and calibrates the best model."""
        stage: Stage | None = None
        if on_main():
            self.write_missing_model()
        for epoch in range(self.state.epoch, self.config.epochs + 1):
            frozen = frozen_units(self.config.freeze, epoch)
            if stage is None or stage.frozen != frozen:
                stage = self.enter_stage(frozen, stage)
            if epoch == 1 and self.state.step == 0 and self.knows_every_class:
                self.evaluate_start(stage)
            self.train_epoch(epoch, stage)
            self.finish_epoch(epoch, stage)
        if on_main():
            write_curves(self.out, self.state.history)
            report(calibrate_model(self.out, self.validation, self.train_set.images, self.accelerator.device))

    def enter_stage(self, frozen: int, previous: Stage | None) -> Stage:
        """Freezes the first ``frozen`` units and builds an optimizer for the rest, which takes over the moments."""
        if previous is not None:
            self.moments = moments(self.network, previous.optimizer)
        freeze(self.network, frozen)
        optimizer = build_optimizer(self.network, self.config)
        if on_main():
            say(table(self.network, optimizer.param_groups))
            if self.backbone_names and previous is None:
                say(rows_line(self.backbone_names, self.faces.names))
        schedule = build_schedule(optimizer, self.config, self.steps)
        restore_moments(self.network, optimizer, self.moments)
        return Stage(frozen, self.accelerator.prepare_model(self.network), optimizer, schedule)

    @property
    def knows_every_class(self) -> bool:
        """Whether the backbone is a trained classifier that has every class of the data."""
        return {canonical(name) for name in self.faces.names} <= {canonical(name) for name in self.backbone_names}

    @property
    def margin(self) -> float:
        """Gain in accuracy above which an epoch is the new best: 0, or ``LEAST_GAIN`` pictures if the start is best."""
        start_is_best = self.state.best_epoch == 0 and self.state.best_accuracy >= 0
        # Half a picture less, so that rounding decides nothing.
        return (LEAST_GAIN - 0.5) / len(self.validation) if start_is_best else 0.0

    def evaluate_start(self, stage: Stage) -> None:
        """Scores the untrained classifier and saves it as epoch 0, the best until an epoch gains ``margin``."""
        scores = self.validate(self.network)
        self.state.best_accuracy, self.state.best_epoch = scores["val_accuracy"], 0
        self.save_state(stage)
        if on_main():
            self.save_model(self.network, {"epoch": 0, **scores})
            report(
                f"before training  validation: accuracy {scores['val_accuracy']:.2%}, loss {scores['val_loss']:.4f}; "
                "kept until an epoch does better"
            )

    def train_epoch(self, epoch: int, stage: Stage) -> None:
        """One pass over the training images, or the rest of a pass that was interrupted."""
        config, state, device = self.config, self.state, self.accelerator.device
        order = shuffled(len(self.images), config.seed, epoch).to(device)
        random = random_table(len(self.images), config.seed, epoch).to(device)
        training_mode(self.network, stage.frozen)
        loss_sum = torch.tensor(state.loss_sum, device=device)
        done, total, note = state.step * config.batch_size, self.steps * config.batch_size, ""
        with progress(f"epoch {epoch}", total, "images", done=done, quiet=not on_main()) as advance:
            for step in range(state.step, self.steps):
                update = (epoch - 1) * self.steps + step + 1
                seed_step(config.seed, update, self.accelerator.process_index)
                stage.schedule.step_update(update)
                rows = local_rows(order, step, self.accelerator, config.batch_size)
                loss = self.loss(stage.model, self.augment(self.images[rows], random[rows]), self.labels[rows])
                self.accelerator.backward(loss)
                if config.clip_grad:
                    self.accelerator.clip_grad_norm_(self.network.parameters(), config.clip_grad)
                stage.optimizer.step()
                stage.optimizer.zero_grad()
                if self.average is not None:
                    self.average.update(self.network, update)
                loss_sum += loss.detach()
                state.step = step + 1
                if self.run.is_check_due(state.step, self.steps):
                    is_save_due = self.run.check(loss_sum)
                    note = f"loss {state.loss_sum / state.step:.3f}"
                    if is_save_due and state.step < self.steps:
                        self.save_state(stage)
                advance(config.batch_size, note)

    def loss(self, model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy against the targets, blended with the teachers' part of the loss.

        Args:
            model: the network, or its wrapper.
            pixels: float32 [B, C, S, S], augmented and normalised.
            labels: int64 [B].

        Returns:
            float32 [].
        """
        if self.mix is not None:
            pixels, targets = self.mix(pixels, labels)
        else:
            targets = soft_targets(labels, len(self.faces.names), self.config.label_smoothing)
        states: tuple[torch.Tensor, ...] = ()
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.hints is None:
                answers = logits(model, pixels)
            else:
                answers, states = logits_and_states(model, pixels)
        loss = F.cross_entropy(answers.float(), targets, weight=self.weights)
        if self.teachers:
            loss = self.distil(loss, answers, pixels)
        return loss if self.hints is None else loss + self.config.distill.features * self.hints(states)

    def finish_epoch(self, epoch: int, stage: Stage) -> None:
        """Evaluates an epoch and saves history, state and, if it is the best so far, the model."""
        state, config, trained = self.state, self.config, self.run.seconds
        row = {"epoch": epoch, "loss": state.loss_sum / self.steps, **self.validate(self.averaged)}
        row["lr"] = max(group["lr"] for group in stage.optimizer.param_groups)
        best = row["val_accuracy"] > state.best_accuracy + self.margin
        if best:
            state.best_accuracy, state.best_epoch = row["val_accuracy"], epoch
        self.run.finish_epoch(row, self.steps * config.batch_size, trained)
        if on_main():
            self.run.report(epoch_line(row, config.epochs, best))
        self.save_state(stage)
        if best and on_main():
            self.save_model(self.averaged, row)

    @property
    def averaged(self) -> Network:
        """The network that is validated and saved: with averaged weights if ``config.ema`` is set."""
        return self.network if self.average is None else cast(Network, self.average.module)

    def write_missing_model(self) -> None:
        """Writes the best model if the run was killed after it saved that epoch's state and before it saved the model.

        The state then holds the weights of that epoch. A model of epoch 0 is written again by ``evaluate_start``.
        """
        state, path = self.state, self.out / "model" / "meta.json"
        if not state.history or state.step > 0 or state.history[-1]["epoch"] != state.best_epoch:
            return
        if not path.is_file() or (read_json_object(path).get("metrics") or {}).get("epoch") != state.best_epoch:
            self.save_model(self.averaged, state.history[-1])

    def validate(self, network: Network) -> dict[str, float]:
        """Scores a network on the validation split; every process reads its share."""
        # Each process has its own running statistics of batch norm; those of the main process are evaluated and saved.
        broadcast(list(network.buffers()))
        judge = Classifier(network, self.classifier.preprocessing, self.classifier.names)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        share = torch.from_numpy(judge.logits(self.validation.images[rank::processes], quiet=True))
        answers = gather_rows(self.accelerator, share, len(self.validation)).cpu()
        labels = torch.from_numpy(self.validation.labels)
        accuracy, macro_f1 = accuracy_and_macro_f1(answers.argmax(1).numpy(), labels.numpy(), answers.shape[1])
        loss = F.cross_entropy(answers, labels).item()
        return {"val_loss": loss, "val_accuracy": float(accuracy), "val_macro_f1": float(macro_f1)}

    def save_model(self, network: Network, row: dict[str, float]) -> None:
        """Writes ``OUT/model`` and, beside it, ``OUT/meta.json``."""
        meta = {
            "command": self.command,
            "names": list(self.classifier.names),
            "metrics": {"split": "validation", "accuracy": row["val_accuracy"], "macro_f1": row["val_macro_f1"],
                        "loss": row["val_loss"], "epoch": row["epoch"]},
            "data": {"source": self.faces.source, "fingerprint": self.faces.fingerprint,
                     "images": {name: len(self.faces.part(name)) for name in SPLITS if self.faces.has(name)}},
            "teachers": [{"folder": str(t.classifier.folder), "sha256": t.sha256} for t in self.teachers],
            "config": to_dict(self.config),
            "machine": machine_of(self.accelerator.device),
            "versions": versions(),
        }  # fmt: skip
        classifier = Classifier(network, self.classifier.preprocessing, self.classifier.names)
        classifier.save(self.out / "model", meta, self.sketches())
        write_json(self.out / "meta.json", meta)

    def sketches(self) -> Sketches:
        """Sketches of the training images, computed once."""
        if not hasattr(self, "_sketches"):
            self._sketches = sketch(self.train_set.images)
        return self._sketches

    def save_state(self, stage: Stage) -> None:
        """Writes the state of the run, from the main process."""
        self.run.save(lambda: self.parts(stage))

    def parts(self, stage: Stage) -> Parts:
        """The tensors of the state: weights, moments, the averaged weights, and the teachers' fingerprints."""
        parts = {"network": self.network.state_dict(), "moments": moments(self.network, stage.optimizer)}
        parts["teachers"] = teacher_state(self.teachers)
        if self.average is not None:
            parts["average"] = self.average.module.state_dict()
        return parts
