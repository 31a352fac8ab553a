"""What each part is worth: the same small budget for each, on the same data, seed by seed; a row for each.

Every arm sees the same number of images:

    scratch        fresh weights, by Muon
    adamw          fresh weights, by AdamW at its own rate
    pretrained     the encoder of a masked autoencoder, nothing frozen (k = 0)
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
                   as both, taught by the second teacher, by both averaged, or by both, of whom each reads half of a
                   batch
    out of fold    pretrained, taught by stored answers of networks that have not seen the picture (`mien folds`)
    both, out of fold
                   as both, and by these answers too
    prior          as both, with logit_adjustment 0.3
    mixed          as both, with mixup 0.3
    wide           as both, with views that also zoom out
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
from pathlib import Path
from typing import Any

import numpy as np
from arms import (
    AVERAGED,
    TEACHER,
    TRAINED,
    add_options,
    folder_of,
    head,
    judge,
    machine_text,
    make,
    settings,
    teacher_config,
)
from scipy.stats import ttest_rel

from mien.config import PretrainConfig, to_dict
from mien.data.faces import FaceSet
from mien.data.read import read_faces
from mien.data.twins import cut_validation
from mien.errors import MienError
from mien.files import read_json, write_json
from mien.machine import versions
from mien.model.places import run_model
from mien.model.presets import SHAPES

FEWEST_SEEDS = 3
"""With fewer, nothing is said about chance."""

Runs = list[tuple[dict[str, Any], np.ndarray]]
"""Of each run of a row: its scores, and bool [N], which pictures it read right."""

ARMS: tuple[str, ...] = (*[name for name in TRAINED if not name.startswith("preset")], AVERAGED, TEACHER,
                         *[name for name in TRAINED if name.startswith("preset")])  # fmt: skip
NEED_MORE = ("second teacher", "two teachers", "two teachers, split", "second autoencoder", "out of fold",
             "both, out of fold")  # fmt: skip
DEFAULT: tuple[str, ...] = tuple(name for name in ARMS if name not in ("preset small", "preset base", *NEED_MORE))
"""The two largest presets take hours on a processor; some arms need runs that are given."""

SEEN_WHOLE = "masked, then read whole"
"""The row of the arm ``masked`` in which every patch is visible."""


def main() -> None:
    """Makes what is missing, then prints the table and one line of JSON, which also lands in OUT/results.json."""
    options = parse()
    prepare(options)
    faces = read_faces(options.data)
    images = options.epochs * (len(parted(faces, options, options.seeds[0]).part("train")) // options.batch_size)
    header = {**head(options, faces), "images_seen": images * options.batch_size, "epochs": options.epochs,
              "seeds": options.seeds, "command": shlex.join(["python", *sys.argv])}  # fmt: skip
    results: list[dict[str, Any]] = []
    first: list[np.ndarray] = []
    for name, arm, runs in measured(options, faces):
        right = [hits for _, hits in runs]
        first = first or right
        result = {"arm": name, "command": command_of(sys.argv, arm), "runs": [scores for scores, _ in runs]}
        results.append({**result, **compared(first, right)})
        print(table(results), flush=True)
    of_training = [name for name in options.arms if name in TRAINED]
    uses_autoencoder = any(TRAINED[name].pretrained for name in of_training)
    pretraining = read_json(run_model(options.autoencoder) / "meta.json")["training"] if uses_autoencoder else {}
    record = {**header, "pretraining": pretraining, "results": results, "versions": versions()}
    configs = {name: to_dict(settings(name, options, options.seeds[0])) for name in of_training}
    write_json(options.out / "results.json", {**record, "configs": configs})
    print(f"\n{opening(header)}\n\n{table(results)}\n\n{commands(results)}\n")
    print(json.dumps({"benchmark": "recipes", **record}))


def prepare(options: argparse.Namespace) -> None:
    """Makes the autoencoder and the teacher, where an arm needs them and no folder is given.

    Raises:
        MienError: an arm cannot be made as it is asked for, told before anything is trained.
    """
    names = [name for name in options.arms if name in TRAINED]
    if AVERAGED in options.arms and not averageable(names):
        raise MienError(f"--arms {AVERAGED}: reads an arm again that stands beside it; give --arms scratch {AVERAGED}")
    needs_autoencoder = any(TRAINED[name].pretrained for name in names)
    needs_teacher = TEACHER in options.arms or any(TRAINED[name].taught for name in names)
    own_autoencoder, own_teacher = options.autoencoder is None, options.teacher is None
    options.autoencoder = options.autoencoder or options.out / "autoencoder"
    options.teacher = options.teacher or options.out / "teacher"
    for name in names:
        settings(name, options, options.seeds[0])
    if needs_autoencoder and own_autoencoder:
        config = PretrainConfig(
            data=options.data, out=str(options.autoencoder), preset=options.preset, image_size=options.image_size,
            epochs=options.pretrain_epochs, batch_size=options.batch_size, optimizer="muon", lr=options.lr,
            device=options.device, precision=options.precision,
        )  # fmt: skip
        make(config, shlex.join(["python", *sys.argv]))
    if needs_teacher and own_teacher:
        make(teacher_config(options), shlex.join(["python", *sys.argv]))
    if needs_autoencoder:
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
            if TRAINED[name].masked:
                yield SEEN_WHOLE, name, judged_again(name, tta=False)


def trained(name: str, options: argparse.Namespace, faces: FaceSet) -> Runs:
    """An arm, made and judged with each seed."""
    runs = []
    for seed in options.seeds:
        with TRAINED[name].hiding():
            folder = make(settings(name, options, seed), command_of(sys.argv, name))
            runs.append(judge(folder, parted(faces, options, seed), device=options.device, seed=seed))
    return runs


def parted(faces: FaceSet, options: argparse.Namespace, seed: int) -> FaceSet:
    """The data with the validation split that a run of this seed has."""
    if faces.has("validation"):
        return faces
    return cut_validation(faces, settings("scratch", options, seed).validation_fraction, seed)


def averageable(names: Sequence[str]) -> list[str]:
    """The arms of which ``averaged`` takes the best."""
    return [name for name in names if name in TRAINED and not TRAINED[name].masked and TRAINED[name].preset is None]


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
    size = header["image_size"] or SHAPES[header["preset"]].image_size
    return (
        f"{machine_text(header)}; {header['data']['source']}, validation, single view\n"
        f"{header['preset']} at {size} px, batch {header['batch_size']}, precision {header['precision']}, "
        f"{header['images_seen']:,} images seen by each ({header['epochs']} epochs); "
        f"seeds {', '.join(map(str, header['seeds']))}"
    )


def commands(results: Sequence[dict[str, Any]]) -> str:
    """The command that makes each row alone."""
    return "\n".join(f"{row['arm']}: {row['command']}" for row in results)


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
    add_options(parser)
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
