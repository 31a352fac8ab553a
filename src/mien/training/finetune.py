"""Fine-tuning: trains a classifier on labelled faces, from a ViTMAE encoder, a timm network or random weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from torch import nn

from mien.config import TrainConfig
from mien.data.clean import Sketches, sketch
from mien.data.faces import FaceSet, require_classes
from mien.data.read import read_faces
from mien.errors import MienError
from mien.evaluation.choice import LAST, Choice
from mien.files import read_json_object, write_json
from mien.labels import FER2013, has_every_class
from mien.locks import holds_out
from mien.log import report, say, warn
from mien.model.backbone import Backbone
from mien.model.classifier import Classifier
from mien.model.freezing import check_freezing, freeze, frozen_for_good, frozen_units, table, training_mode
from mien.model.networks import Network, heads, lay_out, num_channels, rows_line
from mien.model.places import is_hub_backbone
from mien.model.preprocessing import Preprocessing
from mien.model.vit import build
from mien.text import counted
from mien.training.augment import resampled
from mien.training.folder import Parts, Saved, saved_reading_crop, write_config
from mien.training.head import fit_head, fits_head
from mien.training.history import choice_line, epoch_line, write_curves
from mien.training.loop import Loop
from mien.training.objective import Objective, StoredAnswers, check_targets, read_answers
from mien.training.optim import WeightAverage, build_optimizer, build_schedule, moments, restore_moments
from mien.training.plan import plan_lines
from mien.training.run import (
    fit_batch,
    on_main,
    open_run,
    prepare_faces,
    start_accelerator,
)
from mien.training.step import Pass
from mien.training.teachers import Hints, Teacher, load_teachers, teacher_state
from mien.training.validation import LEAST_GAIN, Validator, calibrate_model, check_cut, score_of, unseen_by


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
        ``config.out/model``: the weights that ``config.select`` chose.

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
    if dry:
        config = replace(config, track=[], tensorboard=False)  # trackers write, too
    config_as_typed, freezes_by_default = config, config.freeze.blocks is None
    config, backbone, accelerator = start(config, resume, judge=faces is None)
    with accelerator.main_process_first():  # the main process fills the cache and clears the folder for the others
        if faces is None:
            faces = read_faces(config.data)
            for warning in faces.warnings if on_main() else ():
                warn(warning)
        check_cut(config, backbone, faces)
        faces = prepare_faces(faces, config)
        require_classes(faces)
        config = fit_batch(config, faces, accelerator.num_processes)
        saved = None if dry else open_run(config, faces.fingerprint, resume)
    teachers = load_teachers(config.teacher, faces.names, accelerator.device, saved)
    stored = StoredAnswers.load(Path(config.targets), faces) if config.targets else None
    if saved:
        check_targets(stored, saved)
    torch.manual_seed(config.seed)
    network, preprocessing = build_network(config, faces)
    preprocessing = replace(preprocessing, crop=cast(float, config.reading_crop))
    check_freezing(config.freeze, network, fresh=config.is_fresh, by_default=freezes_by_default)
    check_batch(network, config.batch_size // accelerator.num_processes)
    if on_main() and config.class_weights and config.resample:
        warn("class_weights: corrects for rare classes a second time, beside resample; leave one of the two out")
    if on_main() and faces.is_grey and num_channels(network) == 3:
        warn(
            f"{config.backbone}: keeps three channels, which read the grey pictures of {faces.source}; photos in "
            "colour it will read in colour, which this run neither teaches nor measures: give it grey ones"
        )
    classifier = Classifier(lay_out(network.to(accelerator.device)), preprocessing, faces.names)
    check_start_share(config, backbone, faces.names)
    if fits_head(config, backbone, faces.names) and saved is None and not dry:
        fit_head(classifier, faces.part("train"), backbone.names, config.seed)
    tuning = FineTuning(config, classifier, faces, accelerator, saved, command, teachers, backbone, stored)
    if on_main() and not dry and not resume:  # after all that can refuse the run, which then leaves nothing behind
        write_config(Path(config.out), config_as_typed)
    return tuning


def start(
    config: TrainConfig, resume: bool = False, *, judge: bool = True
) -> tuple[TrainConfig, Backbone, Accelerator]:
    """Connects the processes of a run, before its data is read.

    Args:
        config: see ``TrainConfig``.
        resume: continue from the state in ``config.out``.
        judge: whether backbone, teachers and stored answers are read once for that, so that reading the data, which may
            take minutes, is not in vain.

    Returns:
        The settings with every default filled in, the backbone, and device, precision and processes.

    Raises:
        MienError: a setting, the backbone, a teacher or the file of stored answers is wrong, whatever the data is.
    """
    backbone, freezes_by_default = Backbone(config.backbone), config.freeze.blocks is None
    backbone.check()
    config = with_backbone_defaults(config, backbone, resume)
    accelerator = start_accelerator(config)
    with accelerator.main_process_first():  # the main process downloads for the others
        if on_main() and is_hub_backbone(backbone.name):
            say(f"reading {backbone.name} from the Hugging Face hub or its cache")
        if judge:
            backbone.learnt  # noqa: B018 - a damaged record is refused
            network, _ = build_network(config, None)
            check_freezing(config.freeze, network, fresh=config.is_fresh, by_default=freezes_by_default)
            teachers = load_teachers(config.teacher, (), accelerator.device)
            if config.distill.features:
                Hints(network.to(accelerator.device), teachers, config.distill, frozen_for_good(config.freeze))
            check_start_share(config, backbone)
            if config.targets:
                read_answers(Path(config.targets))
    return config, backbone, accelerator


def check_batch(network: nn.Module, count: int) -> None:
    """Checks that a network with batch norm, which normalises over the pictures of a step, gets several.

    Args:
        network: of the run.
        count: of the pictures that a process reads in a step.

    Raises:
        MienError: it gets one.
    """
    if count == 1 and any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules()):
        raise MienError(
            "batch_size: got 1 picture in a step of a process, expected at least 2, since the network normalises over "
            "them (batch norm); give a larger --batch-size"
        )


def check_start_share(config: TrainConfig, backbone: Backbone, names: Sequence[str] = ()) -> None:
    """Checks that the weights before training, if they are mixed in at the end, can answer.

    Args:
        config: see ``TrainConfig``.
        backbone: of the run.
        names: the classes of the data; none before it is read.

    Raises:
        MienError: the backbone is no trained classifier, or lacks a class.
    """
    if config.start_share and not (backbone.names and has_every_class(backbone.names, names)):
        listed = f" ({', '.join(names)})" if names else ""
        raise MienError(
            f"start_share: got {config.start_share}, but {backbone.name} is no trained classifier with all classes "
            f"of the data{listed}, so its head starts anew; train without it first, and go on from that run with it"
        )


def build_network(config: TrainConfig, faces: FaceSet | None) -> tuple[Network, Preprocessing]:
    """Builds the network of a run before its first step, and its preprocessing, which reads faces whole.

    Args:
        config: with every default filled in.
        faces: the data, which decides classes, channels, and for a timm network the size; None for a trial before it is
            read, with FER2013's classes and channel, and the size for which the network was made.
    """
    return build(
        config.backbone,
        FER2013 if faces is None else faces.names,
        grey=faces is None or faces.is_grey,
        image_size=config.image_size or (faces.image_size if faces is not None and config.is_timm else None),
        patch_size=config.patch_size,
        network_args=config.network_args,
        drop_path=config.drop_path,
    )


def with_backbone_defaults(config: TrainConfig, backbone: Backbone, resume: bool) -> TrainConfig:
    """Fills in every default, also those that depend on the backbone or, when resuming, on the saved run."""
    freeze, crop = config.freeze, config.reading_crop
    if freeze.blocks is None and backbone.is_timm_classifier:
        freeze = replace(freeze, blocks=0)
    if crop is None and resume:
        crop = saved_reading_crop(Path(config.out))
    if crop is None:
        crop = backbone.crop
    return replace(config, freeze=freeze, reading_crop=crop).resolved()


class FineTuning(Loop[TrainConfig, Network]):
    """Fine-tuning. Epochs with the same frozen units make a stage, which has an optimizer of its own.

    Args:
        config: with every default resolved.
        classifier: on the device; its network is trained in place.
        faces: with a train and a validation split.
        accelerator: device, precision and processes.
        saved: the state to resume from, or None for a new run.
        command: the command line, for ``meta.json``.
        teachers: classifiers to distil from, on the device.
        backbone: what the classifier began with; by default, what ``config.backbone`` names.
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
        backbone: Backbone | None = None,
        stored: StoredAnswers | None = None,
    ) -> None:
        preprocessing, channels = classifier.preprocessing, num_channels(classifier.network)
        super().__init__(
            config,
            classifier.network,
            preprocessing,
            channels,
            faces,
            accelerator,
            saved,
            command,
            undisturbed=config.distill.undisturbed,
        )
        self.classifier, self.teachers, self.stored = classifier, teachers, stored
        self.backbone = backbone or Backbone(config.backbone)
        self.learnt_before = self.backbone.learnt_before(faces)
        self.labels = torch.from_numpy(self.train_set.labels).to(accelerator.device)
        answers = None if stored is None else stored.rows(self.train_set).to(accelerator.device)
        self.objective = Objective(config, classifier, self.train_set, teachers, answers, self.precision)
        unseen = unseen_by(self.learnt_before, self.validation)
        self.validator = Validator(classifier, self.train_set, unseen, config.select, accelerator)
        self.average = WeightAverage(self.network, decay=config.ema, use_warmup=True) if config.ema else None
        self.start = copy.deepcopy(self.network) if config.start_share else None
        self.moments = saved.part("moments") if saved else {}
        self.frozen: int | None = None
        if saved:
            try:
                self.network.load_state_dict(saved.part("network"))
            except RuntimeError as error:
                raise MienError(
                    f"--resume: the run in {self.out} has another network than --backbone {config.backbone} gives now; "
                    "put back what it began with, or start anew in another --out"
                ) from error
            if self.average is not None:
                self.average.module.load_state_dict(saved.part("average"))
            if self.start is not None:
                self.start.load_state_dict(saved.part("start"))

    def fit(self, *, calibrate: bool = True) -> None:
        """Trains until the budget is spent and calibrates the best model, unless ``calibrate`` is False."""
        if on_main():
            self.write_missing_model()
        while not self.is_over or self.state.step:  # an epoch that the clock cut short is still to be finished
            epoch = self.state.epoch
            frozen = frozen_units(self.config.freeze, epoch)
            if frozen != self.frozen:
                self.enter_stage(frozen)
            if epoch == 1 and self.state.step == 0 and self.reads_at_the_start:
                self.evaluate_start()
            self.train_epoch(epoch)
            updates = self.updates
            self.finish_epoch(epoch)
            if self.is_over and on_main():
                for line in self.unreached(epoch, updates):
                    warn(line)
        self.tracking.finish()
        if on_main():
            choice = Choice(self.state.best_epoch, self.config.select)
            write_curves(self.out, self.state.history, choice=choice)
            report(choice_line(self.state.history, choice))
        if on_main() and calibrate:
            report(calibrate_model(self.out, self.validation, self.train_set.images, self.accelerator.device))

    def unreached(self, epoch: int, updates: int) -> Iterator[str]:
        """Yields what a run that minutes ended was to do and did not.

        Args:
            epoch: the last one.
            updates: of the whole run.
        """
        config, warmup = self.config, round(self.config.warmup_epochs * self.steps)
        if config.minutes is None:
            return
        ended = f"minutes: {config.minutes:g} were over after {counted(updates, 'step')}, in epoch {epoch}, before"
        if updates < warmup:
            yield (
                f"{ended} the warm-up of {counted(warmup, 'step')}, so that the learning rate never reached its peak; "
                "give a smaller --warmup-epochs, or more minutes"
            )
        if self.frozen and self.frozen == frozen_units(config.freeze, 1) and config.freeze.release_epoch is not None:
            yield (
                f"{ended} freeze.release_epoch {config.freeze.release_epoch}, so that what was frozen never trained; "
                "give a smaller one, or more minutes"
            )

    def enter_stage(self, frozen: int) -> None:
        """Freezes the first ``frozen`` units and builds an optimizer for the rest, which takes over the moments."""
        is_first, self.frozen = self.frozen is None, frozen
        if not is_first:
            self.moments = moments(self.network, self.optimizer)
        freeze(self.network, frozen)
        self.optimizer = build_optimizer(self.network, self.config)
        if on_main():
            say(table(self.network, self.optimizer.param_groups))
            if self.backbone.names and is_first:
                say(rows_line(self.backbone.names, self.faces.names))
            if is_first and fits_head(self.config, self.backbone, self.faces.names):
                say("head: rows of new classes fitted to the training pictures before the first epoch (linear probe)")
        self.schedule = build_schedule(self.optimizer, self.config, self.steps, self.budget)
        restore_moments(self.network, self.optimizer, self.moments)
        self.accelerator.free_memory()  # the wrapper of the last stage, which holds a copy of the gradients
        model = self.accelerator.prepare_model(self.network)
        if self.average is not None:
            self.average.start_stage()
        compiled = cast(nn.Module, torch.compile(model)) if self.method == "on" else model
        loss = partial(self.loss, compiled)
        self.step = Pass(loss, self.network, self.accelerator, self.method, half=self.precision == "bf16")

    @property
    def reads_at_the_start(self) -> bool:
        """Whether the head has learnt every class of the data: from the backbone, or by a linear probe."""
        names = self.faces.names
        return fits_head(self.config, self.backbone, names) or has_every_class(self.backbone.names, names)

    def evaluate_start(self) -> None:
        """Scores the classifier and saves it as epoch 0, the best until one beats it by ``LEAST_GAIN``."""
        scores = self.validator.scores(self.network)
        self.state.best_accuracy, self.state.best_epoch = score_of(scores, self.config.select), 0
        self.save_state()
        if on_main():
            self.save_model(self.network, {"epoch": 0, **scores})
            by_pictures = self.validator.margin(self.state) > 0
            enough = f"reads at least {LEAST_GAIN} more pictures right" if by_pictures else "does better"
            what_stays = "the last epoch is kept" if self.config.select == LAST else f"kept unless an epoch {enough}"
            report(
                f"before training  validation: accuracy {scores['val_accuracy']:.2%}, loss {scores['val_loss']:.4f}; "
                f"{what_stays}"
            )

    def start_epoch(self, epoch: int) -> None:
        """Puts what trains into training mode, and leaves the frozen units as they are in evaluation."""
        training_mode(self.network, self.frozen or 0)

    def batch(self, views: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The pictures, mixed if that is on, and their targets."""
        return self.objective.batch(views, self.labels[rows], rows)

    def after_step(self, update: int) -> None:
        """Moves the averaged weights."""
        if self.average is not None:
            self.average.update(self.network, update)

    def order(self, epoch: int) -> torch.Tensor:
        """The rows of an epoch in the order in which they are read, int64 [N]."""
        if self.config.resample:
            return resampled(self.train_set.labels, self.config.seed, epoch, self.config.resample)
        return super().order(epoch)

    def numbers(self, table: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        """The numbers of ``random_table`` for each place of an epoch's order, float32 [N, 21].

        Of a picture that is drawn several times, each draw has numbers of its own, so that no view is repeated.
        """
        return table if self.config.resample else super().numbers(table, order)

    @property
    def rate(self) -> float:
        """The highest learning rate outside the head; the head's if nothing else trains."""
        of_head = {id(parameter) for layer in heads(self.network) for parameter in layer.parameters()}
        groups = self.optimizer.param_groups
        outside = [group for group in groups if id(group["params"][0]) not in of_head]
        return float(max(group["lr"] for group in outside or groups))

    def loss(self, model: nn.Module, *batch: torch.Tensor) -> torch.Tensor:
        """The loss of a batch that ``Objective.batch`` made, float32 []."""
        return self.objective.loss(model, *batch)

    def finish_epoch(self, epoch: int) -> None:
        """Evaluates an epoch and saves history, state and, if it is the best so far, the model.

        An epoch that ``config.validate_epochs`` leaves out is only counted, and its state saved if it is time to.
        """
        state, config = self.state, self.config
        is_over, updates = self.is_over, self.updates
        if epoch % config.validate_epochs and not is_over:
            state.epoch, state.step, state.loss_sum = epoch + 1, 0, 0.0
            if self.is_save_due:
                self.save_state()
            return
        network = self.averaged
        row = {"epoch": epoch, "loss": state.loss_sum / state.step, **self.validator.scores(network)}
        row["lr"] = self.rate
        score = score_of(row, config.select)
        best = score > state.best_accuracy + self.validator.margin(state)
        if best:
            state.best_accuracy, state.best_epoch = score, epoch
        self.finish_row(row)
        if on_main():
            line = epoch_line(row, None if config.minutes else config.epochs, best and config.select != LAST)
            self.report(line, updates)
        self.end_epoch(is_over, partial(self.save_model, network, row) if best else None)

    @property
    def averaged(self) -> Network:
        """The network that is validated and saved: with averaged weights if ``config.ema`` is set.

        With ``config.start_share`` it is a copy whose weights are that share of the start's and the rest of these.
        """
        trained = self.network if self.average is None else cast(Network, self.average.module)
        return trained if self.start is None else blend(trained, self.start, self.config.start_share)

    def write_missing_model(self) -> None:
        """Writes the best model if the run was killed after it saved that epoch's state and before it saved the model.

        The state then holds the weights of that epoch. A model of epoch 0 is written again by ``evaluate_start``.
        """
        state, path = self.state, self.out / "model" / "meta.json"
        if not state.history or state.step > 0 or state.history[-1]["epoch"] != state.best_epoch:
            return
        if not path.is_file() or (read_json_object(path).get("metrics") or {}).get("epoch") != state.best_epoch:
            self.save_model(self.averaged, state.history[-1])

    def save_model(self, network: Network, row: dict[str, float]) -> None:
        """Writes ``OUT/model`` and, beside it, ``OUT/meta.json``."""
        scores = {"accuracy": row["val_accuracy"], "macro_f1": row["val_macro_f1"], "loss": row["val_loss"]}
        pictures = {"n": len(self.validator.validation), "split_n": len(self.validation)}  # scored, and in all
        meta = {
            "names": list(self.classifier.names),
            "metrics": {"split": "validation", **scores, "epoch": row["epoch"], **pictures},
            "teachers": [{"folder": str(t.classifier.folder), "sha256": t.sha256} for t in self.teachers],
            "targets": None if self.stored is None else {"file": str(self.stored.path), "sha256": self.stored.sha256},
            "learnt_before": [data for data, _ in self.learnt_before],
            **self.record(),
        }
        classifier = Classifier(network, self.classifier.preprocessing, self.classifier.names)
        classifier.save(self.out / "model", meta, self.sketches)
        write_json(self.out / "meta.json", meta)

    @cached_property
    def sketches(self) -> Sketches:
        """Sketches of the training images, and of what the backbone had learnt before."""
        earlier = tuple(sketches for _, sketches in self.learnt_before if sketches is not None)
        return replace(sketch(self.train_set.images), earlier=earlier)

    def parts(self) -> Parts:
        """The tensors of the state: weights, moments, averaged weights, the start's, and the teachers' fingerprints."""
        parts = {**super().parts(), "teachers": teacher_state(self.teachers)}
        if self.stored is not None:
            parts["targets"] = self.stored.state()
        if self.average is not None:
            parts["average"] = self.average.module.state_dict()
        if self.start is not None:
            parts["start"] = self.start.state_dict()
        return parts


def blend(network: Network, start: Network, share: float) -> Network:
    """A copy of a network with its weights averaged with those that it started from (arXiv:2109.01903).

    Args:
        network: its integers, such as counters, stay.
        start: of the same shape, on the same device.
        share: of the start's weights, in [0, 1].
    """
    result = copy.deepcopy(network)
    for weight, start_weight in zip(result.state_dict().values(), start.state_dict().values(), strict=True):
        if weight.is_floating_point():
            weight.lerp_(start_weight, share)
    return result
