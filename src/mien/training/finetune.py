"""Fine-tuning: trains a classifier on labelled faces, from a ViTMAE encoder, a timm network or random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
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
from mien.data.twins import has_twin
from mien.errors import MienError
from mien.evaluation.metrics import accuracy_and_macro_f1, balanced_accuracy
from mien.files import read_json_object, write_json
from mien.labels import canonical
from mien.locks import holds_out
from mien.log import report, say
from mien.machine import machine_of, versions
from mien.model.classifier import Classifier
from mien.model.freezing import check_freezing, freeze, frozen_units, table, training_mode
from mien.model.networks import Network, lay_out, num_channels, rows_line
from mien.model.places import is_hub_backbone
from mien.model.preprocessing import Preprocessing, tensor
from mien.model.vit import build, check_backbone, classes_of, holds_timm, reading_crop_of
from mien.progress import progress
from mien.training.augment import Augment, local_rows, random_table, resampled, seed_step, shuffled
from mien.training.calibrate import calibrate_model
from mien.training.folder import Parts, Saved, saved_reading_crop, write_config
from mien.training.history import choice_line, epoch_line, write_curves
from mien.training.objective import Objective, StoredAnswers, check_targets
from mien.training.optim import ClockSchedule, WeightAverage, build_optimizer, build_schedule, moments, restore_moments
from mien.training.plan import plan_lines
from mien.training.run import (
    Budget,
    Run,
    fit_batch,
    gather_rows,
    on_main,
    open_run,
    prepare_faces,
    resolve_precision,
    start_accelerator,
)
from mien.training.step import Pass, Recorded, method_of
from mien.training.teachers import Teacher, check_teachers, load_teachers, teacher_state

LEAST_GAIN = 2
"""An epoch replaces the classifier that training began with if it labels at least so many validation pictures more
correctly. One picture more of nine is luck as often as not (LOG.md); of thousands it makes no difference."""


@holds_out
def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    command: str = "",
    faces: FaceSet | None = None,
    calibrate: bool = True,
) -> Path:
    """Trains a classifier and writes its model folder.

    Args:
        config: see ``TrainConfig``.
        resume: continue from the state in ``config.out``.
        command: the command line, for ``meta.json``.
        faces: the data, in place of what ``config.data`` names.
        calibrate: fit a temperature on validation at the end.

    Returns:
        ``config.out/model``: the weights with the highest validation accuracy.

    Raises:
        MienError: a setting, the data, the backbone, a teacher or the folder is wrong, or the loss became NaN; the last
            saved state stays.
    """
    tuning = prepared(config, resume=resume, command=command, faces=faces)
    if on_main():
        say("\n".join(plan_lines(tuning)))
    tuning.fit(calibrate=calibrate)
    tuning.accelerator.wait_for_everyone()
    return Path(config.out) / "model"


def prepared(
    config: TrainConfig,
    *,
    resume: bool = False,
    command: str = "",
    faces: FaceSet | None = None,
    dry: bool = False,
) -> FineTuning:
    """Reads data, backbone and teachers of a run, and opens its folder.

    Args:
        config: see ``TrainConfig``.
        resume: continue from the state in ``config.out``.
        command: the command line, for ``meta.json``.
        faces: the data, in place of what ``config.data`` names.
        dry: leave the folder of the run alone: neither read nor write there.

    Raises:
        MienError: as ``train``.
    """
    given, freezes_by_default = config, config.freeze.blocks is None
    check_backbone(config.backbone)
    config = with_backbone_defaults(config, resume)
    accelerator = start_accelerator(config)
    with accelerator.main_process_first():  # the main process fills the cache and clears the folder for the others
        faces = prepare_faces(read_faces(config.data) if faces is None else faces, config)
        check_classes(faces)
        config = fit_batch(config, faces, accelerator.num_processes)
        saved = None if dry else open_run(config, faces.fingerprint, resume)
    teachers = load_teachers(config.teacher, faces.names, accelerator.device)
    stored = StoredAnswers.load(Path(config.targets), faces) if config.targets else None
    if saved:
        check_teachers(teachers, saved)
        check_targets(stored, saved)
    torch.manual_seed(config.seed)
    if on_main() and is_hub_backbone(config.backbone):
        say(f"reading {config.backbone} from the Hugging Face hub or its cache")
    network, preprocessing = build_network(config, faces)
    preprocessing = replace(preprocessing, crop=cast(float, config.reading_crop))
    check_freezing(config.freeze, network, fresh=config.is_fresh, by_default=freezes_by_default)
    classifier = Classifier(lay_out(network.to(accelerator.device)), preprocessing, faces.names)
    backbone_names = classes_of(config.backbone)
    tuning = FineTuning(config, classifier, faces, accelerator, saved, command, teachers, backbone_names, stored)
    if on_main() and not dry and not resume:  # after all that can refuse the run, which then leaves nothing behind
        write_config(Path(config.out), given)
    return tuning


def build_network(config: TrainConfig, faces: FaceSet) -> tuple[Network, Preprocessing]:
    """Builds the network of a run before its first step, and its preprocessing, which reads faces whole.

    Args:
        config: with every default filled in.
        faces: the data, which decides classes, channels, and for a timm network the size.
    """
    return build(
        config.backbone,
        faces.names,
        grey=faces.is_grey,
        image_size=config.image_size or (faces.image_size if config.is_timm else None),
        patch_size=config.patch_size,
        network_args=config.network_args,
        drop_path=config.drop_path,
    )


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


def score_of(row: dict[str, float], select: str) -> float:
    """The score by which the kept weights are chosen, in [0, 1], higher is better; of a loss exp(-loss)."""
    value = row[f"val_{select}"]
    return math.exp(-value) if select.endswith("loss") else value


@dataclass
class Stage:
    """Consecutive epochs with the same frozen units, which share one optimizer.

    Attributes:
        frozen: number of frozen units (``mien.model.freezing.frozen_units``).
        step: forward and backward pass of a batch.
        optimizer: of the trainable parameters.
        schedule: of its learning rates.
    """

    frozen: int
    step: Pass
    optimizer: torch.optim.Optimizer
    schedule: CosineLRScheduler | ClockSchedule


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
        stored: answers for the training faces to learn from, or None.
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
        stored: StoredAnswers | None = None,
    ) -> None:
        self.config, self.classifier, self.faces, self.accelerator = config, classifier, faces, accelerator
        self.network, self.command, self.backbone_names = classifier.network, command, backbone_names
        self.run = Run(config, faces.fingerprint, accelerator, saved)
        self.out, self.state = self.run.out, self.run.state
        self.train_set, self.validation = faces.part("train"), faces.part("validation")
        self.augment = Augment(config.augment, classifier.preprocessing, num_channels(self.network))
        self.images = self.augment.reduced(tensor(self.train_set.images).to(accelerator.device))
        self.labels = torch.from_numpy(self.train_set.labels).to(accelerator.device)
        self.steps = len(self.images) // config.batch_size
        self.precision = resolve_precision(config.precision, accelerator.device)
        self.teachers, self.stored = teachers, stored
        answers = None if stored is None else stored.rows(self.train_set).to(accelerator.device)
        self.objective = Objective(config, classifier, self.train_set, teachers, answers, self.precision)
        self.method = method_of(config.compile, accelerator)
        self.views = Recorded(self.augment, "augmentation") if self.method == "graph" else self.augment
        self.budget = self.build_budget()
        self.average = WeightAverage(self.network, decay=config.ema, use_warmup=True) if config.ema else None
        self.moments = saved.part("moments") if saved else {}
        if saved:
            self.network.load_state_dict(saved.part("network"))
            if self.average is not None:
                self.average.module.load_state_dict(saved.part("average"))

    def build_budget(self) -> Budget:
        """The length of the run: by minutes, else by epochs."""
        if self.config.minutes is None:
            return Budget(self.config.epochs * self.steps, None)
        budget = Budget(None, self.config.minutes)
        budget.look(self.updates, self.run.seconds, self.accelerator)
        return budget

    @property
    def updates(self) -> int:
        """Updates done so far."""
        return (self.state.epoch - 1) * self.steps + self.state.step

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.budget.spent(self.updates) >= 1.0

    def fit(self, *, calibrate: bool = True) -> None:
        """Trains until the budget is spent and calibrates the best model, unless ``calibrate`` is False."""
        stage: Stage | None = None
        if on_main():
            self.write_missing_model()
        while not self.is_over or self.state.step:  # an epoch that the clock cut short is still to be finished
            epoch = self.state.epoch
            frozen = frozen_units(self.config.freeze, epoch)
            if stage is None or stage.frozen != frozen:
                stage = self.enter_stage(frozen, stage)
            if epoch == 1 and self.state.step == 0 and self.knows_every_class:
                self.evaluate_start(stage)
            self.train_epoch(epoch, stage)
            self.finish_epoch(epoch, stage)
        self.run.tracking.finish()
        if on_main():
            write_curves(self.out, self.state.history)
            report(choice_line(self.state.history, self.state.best_epoch))
        if on_main() and calibrate:
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
        schedule = self.schedule_of(optimizer)
        restore_moments(self.network, optimizer, self.moments)
        model = self.accelerator.prepare_model(self.network)
        compiled = cast(nn.Module, torch.compile(model)) if self.method == "on" else model
        loss = partial(self.loss, compiled)
        step = Pass(loss, self.network, self.accelerator, self.method, half=self.precision == "bf16")
        return Stage(frozen, step, optimizer, schedule)

    def schedule_of(self, optimizer: torch.optim.Optimizer) -> CosineLRScheduler | ClockSchedule:
        """The learning rates: by the clock if minutes are given, else by steps."""
        config = self.config
        if config.minutes is None:
            return build_schedule(optimizer, config, self.steps)
        warmup = round(config.warmup_epochs * self.steps)
        return ClockSchedule(optimizer, config.lr or 0.0, config.min_lr, warmup, self.budget)

    @property
    def knows_every_class(self) -> bool:
        """Whether the backbone is a trained classifier that has every class of the data."""
        return {canonical(name) for name in self.faces.names} <= {canonical(name) for name in self.backbone_names}

    @property
    def margin(self) -> float:
        """Gain in accuracy above which an epoch is the new best: 0, or ``LEAST_GAIN`` pictures if the start is best."""
        start_is_best = self.state.best_epoch == 0 and self.state.best_accuracy >= 0
        if self.config.select != "accuracy":
            return 0.0
        # Half a picture less, so that rounding decides nothing.
        return (LEAST_GAIN - 0.5) / len(self.validation) if start_is_best else 0.0

    def evaluate_start(self, stage: Stage) -> None:
        """Scores the untrained classifier and saves it as epoch 0, the best until an epoch gains ``margin``."""
        scores = self.validate(self.network)
        self.state.best_accuracy, self.state.best_epoch = score_of(scores, self.config.select), 0
        self.save_state(stage)
        if on_main():
            self.save_model(self.network, {"epoch": 0, **scores})
            report(
                f"before training  validation: accuracy {scores['val_accuracy']:.2%}, loss {scores['val_loss']:.4f}; "
                "kept until an epoch does better"
            )

    def train_epoch(self, epoch: int, stage: Stage) -> None:
        """One pass over the training images, the rest of an interrupted pass, or less if the clock ends the run."""
        config, state, device = self.config, self.state, self.accelerator.device
        order = self.order(epoch).to(device)
        random = random_table(len(self.images), config.seed, epoch).to(device)
        training_mode(self.network, stage.frozen)
        loss_sum = torch.tensor(state.loss_sum, device=device)
        done, total, note = state.step * config.batch_size, self.steps * config.batch_size, ""
        with progress(f"epoch {epoch}", total, "images", done=done, quiet=not on_main()) as advance:
            while state.step < self.steps and not self.is_over:
                update = self.updates + 1
                seed_step(config.seed, update, self.accelerator.process_index)
                stage.schedule.step_update(update)
                rows = local_rows(order, state.step, self.accelerator, config.batch_size)
                views = self.views(self.images[rows], random[rows])
                loss_sum += stage.step(*self.objective.batch(views, self.labels[rows], rows))
                if config.clip_grad:
                    self.accelerator.clip_grad_norm_(self.network.parameters(), config.clip_grad)
                stage.optimizer.step()
                stage.optimizer.zero_grad()
                if self.average is not None:
                    self.average.update(self.network, update)
                state.step += 1
                self.budget.look(self.updates, self.run.seconds, self.accelerator)
                if self.run.is_check_due(state.step, self.steps) or self.is_over:
                    is_save_due = self.run.check(loss_sum)
                    note = f"loss {state.loss_sum / state.step:.3f}"
                    rate = max(group["lr"] for group in stage.optimizer.param_groups)
                    self.run.tracking.log({"loss": state.loss_sum / state.step, "lr": rate}, update, prefix="step")
                    if is_save_due and state.step < self.steps and not self.is_over:
                        self.save_state(stage)
                advance(config.batch_size, note)

    def order(self, epoch: int) -> torch.Tensor:
        """The rows of an epoch in the order in which they are read, int64 [N]."""
        if self.config.resample:
            return resampled(self.train_set.labels, self.config.seed, epoch, self.config.resample)
        return shuffled(len(self.images), self.config.seed, epoch)

    def loss(self, model: nn.Module, *batch: torch.Tensor) -> torch.Tensor:
        """The loss of a batch that ``Objective.batch`` made, float32 []."""
        return self.objective.loss(model, *batch)

    def finish_epoch(self, epoch: int, stage: Stage) -> None:
        """Evaluates an epoch and saves history, state and, if it is the best so far, the model.

        An epoch that ``config.validate_epochs`` leaves out is only counted.
        """
        state, config, trained = self.state, self.config, self.run.seconds
        if epoch % config.validate_epochs and not self.is_over:
            state.epoch, state.step, state.loss_sum = epoch + 1, 0, 0.0
            return
        row = {"epoch": epoch, "loss": state.loss_sum / state.step, **self.validate(self.averaged)}
        row["lr"] = max(group["lr"] for group in stage.optimizer.param_groups)
        score = score_of(row, config.select)
        best = score > state.best_accuracy + self.margin
        if best:
            state.best_accuracy, state.best_epoch = score, epoch
        former = int(state.history[-1]["epoch"]) if state.history else 0
        images = ((epoch - former - 1) * self.steps + state.step) * config.batch_size
        self.run.finish_epoch(row, images, trained)
        if on_main():
            line = epoch_line(row, None if config.minutes else config.epochs, best)
            self.run.report(line, self.updates)
        if self.is_over:
            self.run.close(config.minutes)
        self.save_state(stage)
        if best and on_main():
            self.save_model(self.averaged, row)
        if not self.is_over:
            self.budget.look(self.updates, self.run.seconds, self.accelerator, after_a_pause=True)
            if self.is_over:  # the time ran out while the epoch was validated and saved: nothing is left to resume
                self.save_state(stage)

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
        balanced = balanced_accuracy(answers.argmax(1).numpy(), labels.numpy())
        scores = {
            "val_loss": F.cross_entropy(answers, labels).item(),
            "val_accuracy": float(accuracy),
            "val_macro_f1": float(macro_f1),
            "val_balanced_accuracy": balanced,
        }
        if self.config.select == "clean_loss":
            scores["val_clean_loss"] = F.cross_entropy(answers[self.clean], labels[self.clean]).item()
        return scores

    @cached_property
    def clean(self) -> torch.Tensor:
        """Which validation pictures have no twin in training, bool [V]; all of them if every one has."""
        clean = ~has_twin(self.validation.images, self.train_set.images)
        return torch.from_numpy(clean if clean.any() else ~clean)

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
            "targets": None if self.stored is None else {"file": str(self.stored.path), "sha256": self.stored.sha256},
            "config": to_dict(self.config),
            "machine": machine_of(self.accelerator.device),
            "versions": versions(),
        }  # fmt: skip
        classifier = Classifier(network, self.classifier.preprocessing, self.classifier.names)
        classifier.save(self.out / "model", meta, self.sketches)
        write_json(self.out / "meta.json", meta)

    @cached_property
    def sketches(self) -> Sketches:
        """Sketches of the training images."""
        return sketch(self.train_set.images)

    def save_state(self, stage: Stage) -> None:
        """Writes the state of the run, from the main process."""
        self.run.save(lambda: self.parts(stage))

    def parts(self, stage: Stage) -> Parts:
        """The tensors of the state: weights, moments, the averaged weights, and the teachers' fingerprints."""
        parts = {"network": self.network.state_dict(), "moments": moments(self.network, stage.optimizer)}
        parts["teachers"] = teacher_state(self.teachers)
        if self.stored is not None:
            parts["targets"] = self.stored.state()
        if self.average is not None:
            parts["average"] = self.average.module.state_dict()
        return parts
