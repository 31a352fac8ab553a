"""What each part is worth: the same small budget for each, on the same data, seed by seed; a row for each.

Every arm sees the same number of images, those that the autoencoder and the teacher saw before not counted. Arms that
begin with the autoencoder have a layer decay (--layer-decay) beside it:

    scratch        fresh weights, by Muon
    adamw          fresh weights, by AdamW at its own rate
    pretrained     the encoder of a masked autoencoder, nothing frozen
    frozen 4       the same, with the embeddings and blocks 0-3 frozen to the end
    frozen 8       the same, with the embeddings and blocks 0-7 (of `mini` all blocks: norm and head are left)
    released 4     as frozen 4 in the first half of the epochs, whole in the second; so does released 8
    masked         pretrained, three quarters of the patches hidden in training, in choosing the epoch and in the score,
                   as transformers.ViTMAEModel does unasked; and the same network read with every patch visible
    distilled      fresh weights, taught by the answers of a small convolutional network as well
    hints          fresh weights, taught by its answers and by its feature maps
    both           pretrained, and taught by answers and maps
    no maps        as both, taught by answers alone
    second teacher, two teachers, two teachers, split
                   as both, taught by the second teacher, by both averaged, or by both, each reading half of a batch
    out of fold    pretrained, taught by stored answers of networks that have not seen the picture (`mien folds`)
    both, out of fold
                   as both, and by these answers too
    prior, mixed, wide
                   as both, with logit_adjustment 0.3, with mixup 0.3, or with views that also zoom out
    second autoencoder
                   as both, from another autoencoder
    averaged       the best of these again (masked left out), each picture and its mirror image averaged; trains nothing
    teacher        the teacher alone, with the budget that it had
    preset NAME    scratch, of another preset (that of --preset is scratch itself)

The autoencoder and the teacher are made first, once for all seeds, unless folders are given. All scores but `averaged`
are single view, on the validation split, which also chose the best epoch. The interval is a bootstrap over pictures, of
one seed (the mean of its ends over the seeds); the deviation is over seeds; clean leaves out pictures with a twin in
training; ECE is cross-fitted. Differences to the first arm are tested over seeds (a paired t-test), from three seeds
on: a test over pictures would say that two weight files differ, not that the recipes do. What is there already is not
made again, and what was interrupted goes on, so that arms may be made side by side (their rates are then those of a
shared machine), and a last call makes the table.

    python benchmarks/recipes.py --data archive.zip --out runs/recipes --image-size 24 --epochs 2 --seeds 0 1
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from masked_inputs import hidden_patches
from scipy.stats import ttest_rel

from mien.config import (
    PRESETS,
    AugmentConfig,
    DistillConfig,
    FreezeConfig,
    PretrainConfig,
    TrainConfig,
    differences,
    to_dict,
)
from mien.data.clean import trained_on
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.data.twins import cut_validation
from mien.errors import MienError
from mien.evaluation.evaluate import evaluate
from mien.files import read_json, write_json
from mien.log import to_console
from mien.machine import machine_of, resolve_device, versions
from mien.model.classifier import Classifier
from mien.model.places import run_model
from mien.model.presets import SHAPES
from mien.training.finetune import train
from mien.training.folder import state_path
from mien.training.history import read_history
from mien.training.pretrain import pretrain

FEWEST_SEEDS = 3
"""With fewer, nothing is said about chance."""

Runs = list[tuple[dict[str, Any], np.ndarray]]
"""Of each run of a row: its scores, and bool [N], which pictures it read right."""

NEEDS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(["second teacher", "two teachers", "two teachers, split"],
                    ("more_teachers", "needs a second teacher; give its run")),
    **dict.fromkeys(["out of fold", "both, out of fold"], ("answers", "needs a file of `mien folds`; give one")),
    "second autoencoder": ("second_autoencoder", "needs one; give its run"),
}  # fmt: skip
"""Arms that need an option, and what the option has to give."""

MAPS = 3.0
"""Weight of the teachers' feature maps in the loss."""

FRESH = ("scratch", "adamw", "distilled", "hints", *[f"preset {name}" for name in PRESETS])
"""The arms that start from random weights; the others start from the autoencoder."""

TRAINED: tuple[str, ...] = (
    "scratch", "adamw", "pretrained", "frozen 4", "frozen 8", "released 4", "released 8", "masked", "distilled",
    "hints", "both", "no maps", "second teacher", "two teachers", "two teachers, split", "out of fold",
    "both, out of fold", "prior", "mixed", "wide", "second autoencoder", *[f"preset {name}" for name in PRESETS],
)  # fmt: skip
"""The arms that train a network."""

AVERAGED, TEACHER = "averaged", "teacher"
"""The arms that read with what is there already."""

ARMS: tuple[str, ...] = (*[name for name in TRAINED if not name.startswith("preset")], AVERAGED, TEACHER,
                         *[name for name in TRAINED if name.startswith("preset")])  # fmt: skip
DEFAULT: tuple[str, ...] = tuple(name for name in ARMS if name not in ("preset small", "preset base", *NEEDS))
"""The two largest presets take hours on a processor; some arms need runs that are given."""

SEEN_WHOLE = "masked, then read whole"
"""The row of the arm ``masked`` in which every patch is visible."""


def main() -> None:
    """Makes what is missing, then prints the table and one line of JSON, which also lands in OUT/results.json."""
    options = parse()
    prepare(options)
    faces = read_faces(options.data)
    images = options.epochs * (len(parted(faces, options, options.seeds[0]).part("train")) // options.batch_size)
    header = {
        "machine": {**machine_of(resolve_device(options.device)), "threads": torch.get_num_threads()},
        "data": {"source": faces.source, "fingerprint": faces.fingerprint, "training": len(faces.part("train"))},
        "preset": options.preset, "image_size": options.image_size, "batch_size": options.batch_size,
        "precision": options.precision, "images_seen": images * options.batch_size, "epochs": options.epochs,
        "seeds": options.seeds, "command": shlex.join(["python", *sys.argv]),
    }  # fmt: skip
    results: list[dict[str, Any]] = []
    first: list[np.ndarray] = []
    for name, arm, runs in measured(options, faces):
        right = [hits for _, hits in runs]
        first = first or right
        result = {"arm": name, "command": command_of(sys.argv, arm), "runs": [scores for scores, _ in runs]}
        results.append({**result, **compared(first, right)})
        print(table(results), flush=True)
    names = [name for name in options.arms if name in TRAINED]
    pretraining = (
        {} if set(names) <= set(FRESH) else read_json(run_model(options.autoencoder) / "meta.json")["training"]
    )
    record = {**header, "pretraining": pretraining, "results": results, "versions": versions()}
    configs = {name: to_dict(settings(name, options, options.seeds[0])) for name in names}
    write_json(options.out / "results.json", {**record, "configs": configs})
    print(f"\n{opening(header)}\n\n{table(results)}\n")
    print(json.dumps({"benchmark": "recipes", **record}))


def changes_of(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """By the name of an arm of ``TRAINED``, the settings in which it differs from ``scratch``."""
    teachers = [str(run_model(folder)) for folder in (options.teacher, *options.more_teachers)]
    first, answers = {"teacher": teachers[:1]}, options.answers and str(options.answers)
    half = max(2, options.epochs // 2 + 1)  # ``settings`` refuses to release anything in a single epoch
    second = options.second_autoencoder or options.autoencoder
    pretrained = {"backbone": str(run_model(options.autoencoder)), "image_size": None,
                  "layer_decay": options.layer_decay}  # fmt: skip
    both = {**pretrained, **first, "distill": DistillConfig(features=MAPS)}
    split = DistillConfig(features=MAPS, split_batch=True)
    out_of_fold = {"targets": answers, "distill": DistillConfig(targets_weight=0.7)}
    both_out_of_fold = {"targets": answers, "distill": DistillConfig(features=MAPS, targets_weight=0.3)}
    return {
        "scratch": {},
        "adamw": {"optimizer": "adamw", "lr": options.adamw_lr},
        "pretrained": pretrained,
        "masked": pretrained,
        **{f"frozen {count}": {**pretrained, "freeze": FreezeConfig(blocks=count)} for count in (4, 8)},
        **{f"released {count}": {**pretrained, "freeze": FreezeConfig(blocks=count, release_epoch=half)}
           for count in (4, 8)},
        "distilled": first,
        "hints": {**first, "distill": DistillConfig(features=MAPS)},
        "both": both,
        "no maps": {**pretrained, **first},
        "second teacher": {**both, "teacher": teachers[1:2]},
        "two teachers": {**both, "teacher": teachers[:2]},
        "two teachers, split": {**both, "teacher": teachers[:2], "distill": split},
        "out of fold": {**pretrained, **out_of_fold},
        "both, out of fold": {**both, **both_out_of_fold},
        "prior": {**both, "logit_adjustment": 0.3},
        "mixed": {**both, "augment": AugmentConfig(mixup=0.3)},
        "wide": {**both, "augment": AugmentConfig(crop_scale=0.75, wide_scale=1.05)},
        "second autoencoder": {**both, "backbone": str(run_model(second))},
        **{f"preset {name}": {"backbone": name} for name in PRESETS},
    }  # fmt: skip


def settings(name: str, options: argparse.Namespace, seed: int) -> TrainConfig:
    """The run of an arm.

    Raises:
        MienError: there are too few epochs to release anything, too few blocks to freeze, or an option is missing.
    """
    option, problem = NEEDS.get(name, ("arms", ""))
    if not getattr(options, option):
        raise MienError(f"--{option.replace('_', '-')}: {name} {problem}")
    if name.startswith("released") and options.epochs < 2:
        raise MienError(f"--epochs {options.epochs}: {name} releases blocks half-way; give at least 2")
    fields = {
        "data": options.data, "out": str(folder_of(name, options, seed)), "backbone": options.preset,
        "image_size": options.image_size, "epochs": options.epochs, "batch_size": options.batch_size,
        "optimizer": "muon", "lr": options.lr, "head_lr": 1e-3, "warmup_epochs": min(1.0, options.epochs / 10),
        "ema": options.ema, "freeze": FreezeConfig(blocks=0), "seed": seed, "device": options.device,
        "precision": options.precision, **changes_of(options)[name],
    }  # fmt: skip
    depth = SHAPES[options.preset].depth
    if fields["freeze"].blocks > depth:
        raise MienError(f"--preset {options.preset}: has {depth} blocks, too few for {name}; leave it out of --arms")
    return TrainConfig(**fields)


def folder_of(name: str, options: argparse.Namespace, seed: int) -> Path:
    """The folder of an arm's run; that of ``scratch`` serves its preset's arm too."""
    place = "scratch" if name == f"preset {options.preset}" else name.replace(" ", "-")
    return Path(options.out / f"{place}-{seed}")


def prepare(options: argparse.Namespace) -> None:
    """Makes the autoencoder and the teacher, where an arm needs them and no folder is given.

    Raises:
        MienError: an arm cannot be made as it is asked for, told before anything is trained.
    """
    names = [name for name in options.arms if name in TRAINED]
    if AVERAGED in options.arms and not averageable(names):
        raise MienError(f"--arms {AVERAGED}: reads an arm again that stands beside it; give --arms scratch {AVERAGED}")
    own_autoencoder, own_teacher = options.autoencoder is None, options.teacher is None
    options.autoencoder = options.autoencoder or options.out / "autoencoder"
    options.teacher = options.teacher or options.out / "teacher"
    taught = [name for name in names if settings(name, options, options.seeds[0]).teacher]
    common: dict[str, Any] = {"data": options.data, "optimizer": "muon", "device": options.device,
                              "precision": options.precision}  # fmt: skip
    if own_autoencoder and not set(names) <= set(FRESH):
        make(PretrainConfig(
            **common, out=str(options.autoencoder), preset=options.preset, image_size=options.image_size,
            epochs=options.pretrain_epochs, batch_size=options.batch_size, lr=options.lr,
        ), shlex.join(["python", *sys.argv]))  # fmt: skip
    if own_teacher and (taught or TEACHER in options.arms):
        # The first teacher of the shipped model, a residual network of 1.2 million parameters.
        make(TrainConfig(
            **common, out=str(options.teacher), epochs=options.teacher_epochs, backbone="timm:face_cnn",
            network_args={"drop_rate": 0.3}, image_size=48, lr=2e-3, weight_decay=0.1,
        ), shlex.join(["python", *sys.argv]))  # fmt: skip
    if not set(names) <= set(FRESH):
        check_size(options)


def check_size(options: argparse.Namespace) -> None:
    """Holds an autoencoder to the size of the other arms.

    Raises:
        MienError: it reads pictures of another size.
    """
    size, expected = read_json(run_model(options.autoencoder) / "config.json")["image_size"], options.image_size
    expected = expected or SHAPES[options.preset].image_size
    if size != expected:
        raise MienError(f"--autoencoder {options.autoencoder}: reads {size} px, expected {expected}, as the other arms")


def make(config: TrainConfig | PretrainConfig, command: str) -> Path:
    """The model folder of a run, trained, gone on with, or as it lies there.

    Raises:
        MienError: what lies there was made with other settings.
    """
    out = Path(config.out)
    if (out / "done").is_file():
        stored_config = read_json(out / "model" / "meta.json")["config"]
        changes = differences(stored_config, config.resolved())
        if changes:
            raise MienError(f"{out}: was made with other settings ({'; '.join(changes)}); choose another --out")
    else:
        started = state_path(out).is_file()
        with to_console():
            if isinstance(config, TrainConfig):
                train(config, resume=started, command=command)
            else:
                pretrain(config, resume=started, command=command)
        (out / "done").touch()
    return out / "model"


def measured(options: argparse.Namespace, faces: FaceSet) -> Iterator[tuple[str, str, Runs]]:
    """Each row: its name, the words after ``--arms`` that make it, and its runs."""
    runs_by_arm: dict[str, Runs] = {}

    def run(name: str) -> Runs:
        runs_by_arm[name] = runs_by_arm.get(name) or trained(name, options, faces)
        return runs_by_arm[name]

    def judged_again(name: str, tta: bool) -> Runs:
        folders = [(folder_of(name, options, seed) / "model", parted(faces, options, seed)) for seed in options.seeds]
        return [judge(folder, data, device=options.device, tta=tta) for folder, data in folders]

    for name in options.arms:
        if name == TEACHER:
            yield (
                name,
                name,
                [judge(run_model(options.teacher), parted(faces, options, options.seeds[0]), device=options.device)],
            )
        elif name == AVERAGED:
            best = max(averageable(options.arms), key=lambda arm: mean([scores for scores, _ in run(arm)]))
            yield f"{name}: {best}", f"{best}\n{name}", judged_again(best, tta=True)
        else:
            yield name, name, run(name)
            if name == "masked":
                yield SEEN_WHOLE, name, judged_again(name, tta=False)


def trained(name: str, options: argparse.Namespace, faces: FaceSet) -> Runs:
    """An arm, made and judged with each seed."""
    runs = []
    for seed in options.seeds:
        with hidden_patches() if name == "masked" else nullcontext():
            folder = make(settings(name, options, seed), command_of(sys.argv, name))
            runs.append(judge(folder, parted(faces, options, seed), device=options.device, seed=seed))
    return runs


def judge(
    folder: Path, faces: FaceSet, *, device: str = "auto", tta: bool = False, seed: int = 0
) -> tuple[dict[str, Any], np.ndarray]:
    """What a run's model is worth on validation.

    Args:
        folder: its model folder.
        faces: the data, with its validation split.
        device: where pictures are read.
        tta: average the probabilities of a picture and of its mirror image.
        seed: of what is hidden, where something is.

    Returns:
        ``accuracy`` and its ``ci95``, ``clean`` and ``clean_ci95`` (the same without the pictures that have a twin),
        ``macro_f1``, ``ece`` (cross-fitted), ``images_per_second`` (the median of the run's epochs; null where nothing
        was trained for this), ``parameters`` (as the folder holds them, its patch embedding reading colour); and bool
        [N], which pictures were read right.
    """
    torch.manual_seed(seed)
    classifier = Classifier.load(folder, resolve_device(device))
    training = trained_on(faces, classifier)
    evaluation = evaluate(classifier, faces, "validation", training=training, tta=tta, quiet=True)
    rate = None if tta else statistics.median(row["images_per_second"] for row in read_history(folder.parent))
    scores = {
        "accuracy": evaluation.whole["accuracy"],
        "ci95": evaluation.whole["ci95"]["accuracy"],
        "clean": evaluation.clean["accuracy"] if evaluation.clean else None,
        "clean_ci95": evaluation.clean["ci95"]["accuracy"] if evaluation.clean else None,
        "macro_f1": evaluation.whole["macro_f1"],
        "ece": evaluation.cross_fitted_ece(),
        "images_per_second": rate,
        "parameters": sum(parameter.numel() for parameter in classifier.network.parameters()),
    }
    return scores, evaluation.right


def parted(faces: FaceSet, options: argparse.Namespace, seed: int) -> FaceSet:
    """The data with the validation split that a run of this seed has."""
    if faces.has("validation"):
        return faces
    return cut_validation(faces, settings("scratch", options, seed).validation_fraction, seed)


def averageable(names: Sequence[str]) -> list[str]:
    """The arms of which ``averaged`` takes the best."""
    return [name for name in names if name in TRAINED and name != "masked" and not name.startswith("preset")]


def mean(runs: Sequence[dict[str, Any]]) -> float:
    """The accuracy of an arm over its seeds."""
    return statistics.fmean(run["accuracy"] for run in runs)


def compared(first: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> dict[str, Any]:
    """``gain`` in accuracy over the first row, and ``p`` of a paired t-test over seeds: null below ``FEWEST_SEEDS``.

    The same pictures are read with every seed, so pictures of several seeds are not pooled as if they were more.
    """
    before, after = ([float(hits.mean()) for hits in runs] for runs in (first, right))
    gain = statistics.fmean(after) - statistics.fmean(before)
    paired = first is not right and len(before) == len(after) >= FEWEST_SEEDS
    return {"gain": gain, "p": float(ttest_rel(after, before).pvalue) if paired else None}


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown: means over the seeds, interval and deviation of the accuracy, the test over seeds."""
    lines = [
        "| arm | accuracy (95 %) | clean | macro-F1 | ECE | images/s | parameters | over the first: gain, p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for place, row in enumerate(results):
        runs = row["runs"]
        low, high = (statistics.fmean(run["ci95"][end] for run in runs) for end in (0, 1))
        values = [run["accuracy"] for run in runs]
        spread = f" ± {statistics.stdev(values):.2%}" if len(values) > 1 else ""
        chance = "" if row["p"] is None else f", {row['p']:.2g}"
        against = f"{row['gain']:+.2%}{chance}" if place else "-"
        columns = [row["arm"], f"{mean(runs):.2%} ({100 * low:.1f} to {100 * high:.1f}){spread}"]
        columns += [_mean(runs, "clean", ".2%"), _mean(runs, "macro_f1", ".3f"), _mean(runs, "ece", ".3f")]
        columns += [_mean(runs, "images_per_second", ",.0f"), f"{runs[0]['parameters']:,}", against]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _mean(runs: Sequence[dict[str, Any]], name: str, form: str) -> str:
    values = [run[name] for run in runs]
    return "-" if None in values else format(statistics.fmean(values), form)


def opening(header: dict[str, Any]) -> str:
    """What stands above the table: machine, data, and the budget of every arm."""
    machine, size = header["machine"], header["image_size"] or SHAPES[header["preset"]].image_size
    place = f"{machine['gpu']}, " if "gpu" in machine else ""
    return (
        f"{place}{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; "
        f"{header['data']['source']}, validation, single view\n"
        f"{header['preset']} at {size} px, batch {header['batch_size']}, precision {header['precision']}, "
        f"{header['images_seen']:,} images seen by each ({header['epochs']} epochs); "
        f"seeds {', '.join(map(str, header['seeds']))}"
    )


def command_of(argv: Sequence[str], arm: str) -> str:
    """The command line with one arm in place of those given; several are told apart by line breaks."""
    words: list[str] = []
    skipping = False
    for word in argv:
        skipping = word == "--arms" or (skipping and not word.startswith("--"))
        if not skipping:
            words.append(word)
    return shlex.join(["python", *words, "--arms", *arm.split("\n")])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", choices=PRESETS, default="mini", help="of every network but the teacher (mini)")
    parser.add_argument("--image-size", type=int, help="of every network but the teacher (the preset's own)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3, help="of every arm by Muon (1e-3)")
    parser.add_argument("--ema", type=float, default=0.98, help="decay of the averaged weights (0.98)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of all training (auto)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(DEFAULT), metavar="ARM", help="which (most)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--epochs", type=int, default=2, help="of every arm (2)")
    parser.add_argument("--adamw-lr", type=float, default=4e-4, help="of the arm adamw (4e-4)")
    parser.add_argument("--layer-decay", type=float, default=0.8, help="of pretrained arms (0.8)")
    parser.add_argument("--autoencoder", type=Path, help="the run of an autoencoder in place of one made here")
    parser.add_argument("--pretrain-epochs", type=int, default=10)
    parser.add_argument("--teacher", type=Path, help="the run of a teacher in place of one made here")
    parser.add_argument("--more-teachers", type=Path, nargs="+", default=[], help="runs of further teachers")
    parser.add_argument("--answers", type=Path, help="the file of `mien folds` with answers out of fold")
    parser.add_argument("--second-autoencoder", type=Path, help="the run of another autoencoder")
    parser.add_argument("--teacher-epochs", type=int, default=12)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except MienError as error:
        print(f"recipes: {error}", file=sys.stderr)
        sys.exit(2)
