"""The model card of a packed classifier, from its ``meta.json``: what it is, its scores, and its permitted uses.

The headings follow Mitchell et al. (2019, arXiv:1810.03993); ``card.md`` is the template. Every number comes from the
record; the card says which numbers the record lacks.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import MienError
from mien.evaluation.calibration import is_fitted
from mien.evaluation.choice import LAST, choice_of
from mien.evaluation.evaluate import taught_before
from mien.evaluation.metrics import class_intervals
from mien.labels import FER2013
from mien.model.places import FINGERPRINTS
from mien.text import counted, markdown, markdown_code, portable, portable_command

SPLITS: dict[str, tuple[str, str]] = {
    "train": ("training split", ""),
    "validation": ("validation split", " (FER2013: PublicTest)"),
    "test": ("test split", " (FER2013: PrivateTest)"),
}
"""What the card calls each split, and what it adds for FER2013."""

OF_EARLIER_STAGE: dict[str, str] = {
    "train": "from which an earlier stage learnt",
    "validation": "which chose epoch or settings of an earlier stage",
    "test": "from whose other splits an earlier stage learnt",
}
"""What the card says of each split of a set that the model learnt from before it went on with another one."""

_RECIPES = Path(__file__).parents[1] / "recipes"

OF_FER2013 = """\
The official splits: Training trains, PublicTest selects, PrivateTest is kept for the release. No file of the last two
was trained on, but many of their photographs are also in Training, with a slightly different crop or tilt."""

TRAINING_OF_FER2013 = 28_709
"""Pictures of FER2013's Training split; distinguishes the official splits from other data with the same expressions."""


def card(meta: Mapping[str, Any], name: str = "Mien") -> str:
    """The model card as Markdown.

    Args:
        meta: ``meta.json`` of a folder that ``mien pack`` wrote.
        name: of the model, for the title.

    Raises:
        MienError: the record has no ``release`` (the folder was not packed), or is damaged.
    """
    release = meta.get("release")
    if not isinstance(release, Mapping):
        raise MienError("meta.json has no `release`, which the card needs; give a folder that `mien pack` wrote")
    try:
        return _card(meta, release, name)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise MienError(
            f"meta.json is not as `mien pack` wrote it ({type(error).__name__}: {error}); pack the run again"
        ) from error


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table that ends with a line break; text from outside must be escaped before."""
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join('---' for _ in heads)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)]) + "\n"


def _card(meta: Mapping[str, Any], release: Mapping[str, Any], name: str) -> str:
    # The train extra brings jinja2; only writing a card needs it, the help of the commands does not.
    from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

    # Markdown, not HTML: names are escaped by the filter ``markdown``.
    environment = Environment(
        loader=PackageLoader("mien.export", ""),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"markdown": markdown, "counted": counted}
    is_fer2013, fitted = trained_on_fer2013(meta), is_fitted(meta.get("calibration"))
    other_set, earlier_sets = _other_set(meta, release), _earlier_sets(meta)
    is_earlier_set = any(
        taught_before(meta, (scores.get("data") or meta["data"])["fingerprint"])
        for scores in release["scores"].values()
    )
    foreign_weights = list(dict.fromkeys(stage["weights_from"] for stage in release["origin"] if stage["weights_from"]))
    try:
        text = environment.get_template("card.md").render(
            front_matter=front_matter(meta, release, name, _licence(is_fer2013, foreign_weights, earlier_sets)),
            name=name,
            names=list(meta["names"]),
            release=release,
            is_fer2013=is_fer2013,
            is_fitted=fitted,
            has_sketches=FINGERPRINTS in release["files"],
            titles={split: _title(split, is_fer2013, _chosen(meta), other_set, is_earlier_set) for split in SPLITS},
            other_set=other_set,
            ece_heads={split: _ece_head(split, meta.get("calibration"), other_set) for split in release["scores"]},
            foreign_weights=foreign_weights,
            earlier_sets=earlier_sets,
            facts=_facts(release, is_fer2013, other_set),
            promise=_promise(meta["calibration"]) + _balance(meta) if meta.get("calibration") else "",
            robustness_rows=_robustness_rows(release["robustness"]["rows"]),
            data_lines=_data_lines(meta, release["scores"], other_set),
            origin_rows=_origin_rows(release["origin"]),
            scored_on_parts=any(_is_of_a_part(stage.get("metrics") or {}) for stage in release["origin"]),
            note=markdown(str(meta.get("note") or "")),
            names_recipes=any(" --config" in (stage["command"] or "") for stage in release["origin"]),
            table=markdown_table,
            score_rows=_score_rows,
            class_rows=_class_rows,
            mirrored=_mirrored,
        )
    except UndefinedError as error:
        raise KeyError(error.message) from error
    return text.rstrip() + "\n"


def front_matter(meta: Mapping[str, Any], release: Mapping[str, Any], name: str, licence: str | None) -> str:
    """The metadata of the card for the Hugging Face Hub, as YAML: licence, tags, data, metrics and scores.

    Args:
        meta: ``meta.json`` of the model.
        release: its ``release``.
        name: of the model.
        licence: identifier of the licence on the Hub; None states none.
    """
    from huggingface_hub import ModelCardData

    other_set = _other_set(meta, release)
    return ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["facial-expression-recognition", "image-classification", "mien", "onnx"],
        datasets=["fer2013"] if trained_on_fer2013(meta) or any(map(_is_fer2013, _learnt_before(meta))) else None,
        metrics=["accuracy", "f1"],
        model_name=name,
        eval_results=[
            result
            for split, scores in release["scores"].items()
            for result in _results(meta, str(split), scores, other_set)
        ],
    ).to_yaml()


def _other_set(meta: Mapping[str, Any], release: Mapping[str, Any]) -> str | None:
    """The set that the model was scored on, if it is another one than that of its training; else None."""
    for scores in release["scores"].values():
        measured = scores.get("data") or meta["data"]
        if measured["fingerprint"] != meta["data"]["fingerprint"]:
            return portable(str(measured["source"]))
    return None


def _results(meta: Mapping[str, Any], split: str, scores: Mapping[str, Any], other_set: str | None) -> list[Any]:
    """The scores of a split for the model index (``huggingface_hub.EvalResult``), shares with their intervals."""
    from huggingface_hub import EvalResult

    is_fer2013 = other_set is None and trained_on_fer2013(meta)
    data = "FER2013" if is_fer2013 else other_set or portable(str(meta["data"]["source"]))
    parts = {"": scores} | ({"without twins in training": scores["clean"]} if scores.get("clean") else {})
    kinds = {"accuracy": ("accuracy", "accuracy"), "macro_f1": ("f1", "macro-F1"), "ece": ("ece", "calibration error")}
    if scores.get("cross_fitted_ece") is not None:  # the temperature was fitted on this split: ECE itself is too kind
        kinds["ece"] = ("ece", "calibration error, cross-fitted")
        errors = {"": scores["cross_fitted_ece"], "without twins in training": scores.get("cross_fitted_ece_clean")}
        parts = {name: {**part, "ece": errors[name]} for name, part in parts.items()}
    return [
        EvalResult(
            task_type="image-classification",
            task_name="facial expression recognition",
            dataset_type="fer2013" if is_fer2013 else data,
            dataset_name=f"{data}, {part_name}" if part_name else data,
            dataset_config=part_name or None,
            dataset_split=split,
            metric_type=kind,
            metric_name=metric,
            metric_value=round(part[key], 4),
            metric_args={"confidence": 0.95, "interval": [round(bound, 4) for bound in part["ci95"][key]]}
            if key in part["ci95"]
            else None,
        )
        for part_name, part in parts.items()
        for key, (kind, metric) in kinds.items()
        if part[key] is not None
    ]


def trained_on_fer2013(meta: Mapping[str, Any]) -> bool:
    """True if the model was trained on FER2013's Training split."""
    return set(meta["names"]) == set(FER2013) and _is_fer2013(meta["data"])


def _is_fer2013(data: Mapping[str, Any]) -> bool:
    """True if the recorded data has as many training pictures as FER2013."""
    return (data.get("images") or {}).get("train") == TRAINING_OF_FER2013


def _learnt_before(meta: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The records of the data from which the model learnt before that of its last training, the latest first."""
    return list(meta.get("learnt_before") or [])


def _earlier_sets(meta: Mapping[str, Any]) -> list[str]:
    """The names of that data, in Markdown."""
    return [
        markdown(portable(str(data["source"]))) + (" (FER2013)" if _is_fer2013(data) else "")
        for data in _learnt_before(meta)
    ]


def _licence(is_fer2013: bool, foreign_weights: Sequence[str], earlier_sets: Sequence[str]) -> str | None:
    """The licence of the weights on the Hub; None for those from other data, whose owner has to choose one."""
    if foreign_weights:
        return "other"
    return "mit" if is_fer2013 and not earlier_sets else None


def _chosen(meta: Mapping[str, Any]) -> str:
    """What validation chose, in words."""
    choice = choice_of(meta)
    by_score = [] if choice is not None and choice.select == LAST else ["epoch"]
    words = [*by_score, *(["temperature"] if is_fitted(meta.get("calibration")) else [])]
    return f"{', '.join(words)} and settings" if words else "settings"


def _title(split: str, is_fer2013: bool, chosen: str, other_set: str | None, is_earlier_set: bool) -> str:
    """The heading of a split: its name, also in FER2013, and what was chosen by it; or the set to which it belongs."""
    name, in_fer2013 = SPLITS[split]
    if other_set is not None and is_earlier_set:
        return f"{name} of {markdown(other_set)}, {OF_EARLIER_STAGE[split]}"
    if other_set is not None:
        return (
            f"{name} of {markdown(other_set)}, which is another set than that of training and chose nothing, unless "
            "both sets share pictures"
        )
    chose = f", which chose {chosen}" if split == "validation" else ""
    return f"{name}{in_fer2013 if is_fer2013 else ''}{chose}"


def _ece_head(split: str, calibration: Mapping[str, Any] | None, other_set: str | None) -> str:
    """The head of the column with the calibration error: on which pictures the temperature was fitted."""
    if calibration is None or not is_fitted(calibration):
        return "ECE, 15 bins, no temperature fitted"
    if other_set is not None:
        return "ECE, 15 bins, temperature fitted on the set of training"
    on_clean_part = split == "validation" and calibration.get("twins_left_out")
    return f"ECE, 15 bins, temperature fitted on {'the clean part' if on_clean_part else 'validation'}"


def readable_command(command: Any) -> str:
    """A recorded command without folders that are of one machine alone, and with the recipes' names of today."""
    if not command:
        return "not recorded"
    try:
        return portable_command(recipe_name(word) for word in shlex.split(command))
    except ValueError:  # an open quotation mark
        return command


def recipe_name(word: str) -> str:
    """Returns the name of the recipe that a recorded word names by its former file; any other word stays.

    Mien 0.1.0 had the recipes in files beside the package, like ``configs/model/mini.yaml``.
    """
    former = re.fullmatch(r"(--config=)?configs/(?:model/)?([a-z-]+)\.yaml", word)
    is_recipe = former is not None and (_RECIPES / f"{former[2]}.yaml").is_file()
    return f"{former[1] or ''}{former[2]}" if former is not None and is_recipe else word


def _facts(release: Mapping[str, Any], is_fer2013: bool, other_set: str | None) -> list[tuple[str, Any]]:
    """The rows of the first table: network, size, files, command."""
    shape = release["architecture"]
    kind = (
        markdown(shape.get("architecture") or "")
        or "plain Vision Transformer, every patch visible, linear head on [CLS]"
    )
    facts: list[tuple[str, Any]] = [
        ("network", kind),
        ("parameters", f"{shape['parameters']:,}"),
        ("input", _input(shape, release.get("reading") or {}, is_fer2013)),
    ]
    if shape.get("model_type") == "vit":
        facts.append(
            (
                "shape",
                f"{shape['num_hidden_layers']} blocks, {shape['hidden_size']} wide, {shape['num_attention_heads']} "
                f"heads, patches of {shape['patch_size']} pixels",
            )
        )
    return [
        *facts,
        ("weights", f"{release['files']['model.safetensors'] / 1e6:.1f} MB, half precision; computed in float32"),
        *_onnx(release["onnx"], release["files"], other_set),
        ("SHA-256", markdown_code(release["sha256"])),
        (
            "packed by",
            f"Mien {markdown(release['mien'])}, {markdown_code(readable_command(release['command'] or 'mien pack'))}",
        ),
    ]


def _input(shape: Mapping[str, Any], reading: Mapping[str, Any], is_fer2013: bool) -> str:
    """What the network reads of a face.

    Older records do not say whether it is grey: it was for FER2013's networks, and nothing is said of others.
    """
    grey = reading.get("grey", True if is_fer2013 else None)
    colour = "" if grey is None else "grey" if grey else "colour"
    # The configuration of a timm network has no size.
    size, whole = reading.get("image_size") or shape.get("image_size", "?"), reading.get("face_size")
    if whole is None or whole == size:
        return f"one upright face, {size}x{size} pixels{colour and f', {colour}'}"
    return (
        f"one upright face, brought to {whole}x{whole} pixels, of which the {size}x{size} in the middle are read"
        f"{colour and f'; {colour}'}"
    )


def _onnx(parity: Mapping[str, Any], files: Mapping[str, int], other_set: str | None) -> list[tuple[str, str]]:
    """The ONNX files, and how far their answers differ from those of PyTorch."""
    engines, split = parity["engines"], parity["split"] + (f" of {markdown(other_set)}" if other_set else "")
    # Rounded up, since it is a bound.
    largest = Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(float(engines["ONNX"]["largest_difference"])))
    rows = [
        (
            "ONNX",
            f"{files['model.onnx'] / 1e6:.1f} MB; a probability differs from PyTorch's by at most "
            f"{float(largest):.1e} ({split})",
        )
    ]
    if parity["int8"]:
        lost = parity["int8"]["points_lost"]
        rows.append(
            (
                "ONNX in int8",
                f"{files['model.int8.onnx'] / 1e6:.1f} MB; accuracy {engines['ONNX int8']['accuracy']:.2%} ({split}), "
                f"{abs(lost):.2f} points {'lost' if lost >= 0 else 'gained'}",
            )
        )
    return rows


def _score_rows(scores: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for the whole split and, if it is known, one for the clean part."""
    parts = [("whole split", scores)]
    if clean := scores.get("clean"):
        approximate = ", approximate" if scores.get("clean_is_approximate") else ""
        parts.append((f"clean part ({clean['n']:,} without a twin in training{approximate})", clean))
    return [
        (
            title,
            "{:.2%} ({:.2%} to {:.2%})".format(part["accuracy"], *part["ci95"]["accuracy"]),
            "{:.2%} ({:.2%} to {:.2%})".format(part["macro_f1"], *part["ci95"]["macro_f1"]),
            f"{part['balanced_accuracy']:.2%}",
            f"{part['ece']:.2%}",
        )
        for title, part in parts
    ]


def _mirrored(scores: Mapping[str, Any], fitted: bool) -> str:
    """The scores with the mirror image averaged in and, if scaled, the calibration error before and after scaling."""
    tta = scores["tta"]
    low, high = tta["ci95"]["accuracy"]
    text = (
        f"With the mirror image averaged in: {tta['accuracy']:.2%} ({low:.2%} to {high:.2%}), "
        f"macro-F1 {tta['macro_f1']:.2%}"
    )
    if clean := tta.get("clean"):
        text += f"; on the clean part {clean['accuracy']:.2%}, {clean['macro_f1']:.2%}"
    text += ". "
    cross_fitted, calibration = scores.get("cross_fitted_ece"), scores.get("calibration")
    if cross_fitted is None or not calibration or not fitted:
        return text.rstrip()
    before = calibration["before"]["ece"]
    text += f"Without it, ECE is {before:.2%} before temperature scaling and {cross_fitted:.2%} after"
    clean_ece = scores.get("cross_fitted_ece_clean")
    return f"{text}, cross-fitted{'' if clean_ece is None else f' (clean part: {clean_ece:.2%})'}."


def _class_rows(scores: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Precision, recall and F1 of each class with their intervals, and its support; a dash if one is undefined."""
    intervals = class_intervals(np.array(scores["confusion"]), seed=scores.get("seed", 0))
    return [
        (
            markdown(name),
            *(
                "-" if bounds is None else "{:.1%} ({:.1%} to {:.1%})".format(values[key], *bounds)
                for key, bounds in of_class.items()
            ),
            f"{values['support']:,}",
        )
        for (name, values), of_class in zip(scores["per_class"].items(), intervals, strict=True)
    ]


def _promise(calibration: Mapping[str, Any]) -> str:
    """On which pictures temperature and threshold were fitted, and which accuracy the threshold promises."""
    sure, left_out = calibration["uncertain"], calibration.get("twins_left_out")
    pictures = f"{calibration['n']:,} validation pictures"
    if left_out is not None:
        pictures += f" without a twin in training ({left_out:,} with one were left out)"
    if sure is None:  # too few pictures for a threshold, or for a temperature as well (``calibrate``)
        return f"There are {pictures}: too few to fit a threshold, so no answer is called uncertain."
    text = f"Temperature ({calibration['temperature']:.3f}) and threshold of a sure answer were fitted on {pictures}. "
    stated = f"{sure['stated_accuracy']:.0%}"
    if sure.get("threshold") is None:
        return f"{text}No threshold promises an accuracy of {stated}: every answer is called uncertain."
    text += (
        f"Answers with a confidence of at least {sure['threshold']:.2f} count as sure: {sure['coverage']:.0%} of these "
        f"pictures, of which {sure['accuracy']:.1%} are right"
    )
    if sure.get("ci95"):
        low, high = sure["ci95"]
        text += (
            f" (95 %: {low:.1%} to {high:.1%}); the promise is {stated}, kept with {sure['confidence']:.0%} confidence"
        )
    return text + "."


def _balance(meta: Mapping[str, Any]) -> str:
    """What was done for rare expressions after training; empty if nothing was."""
    tau = (meta.get("balance") or {}).get("tau")
    if not tau:
        return ""
    return (
        f" The shares of the expressions in training to the power {tau:g} were divided out of the answers first, so "
        "that rare expressions are answered more often (Menon et al. 2021, arXiv:2007.07314)."
    )


def _robustness_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Accuracy on changed pictures, and the difference to the unchanged ones (the first row) in points."""
    return [
        (
            markdown(row["change"]),
            markdown(row["how"]),
            f"{row['accuracy']:.2%}",
            f"{100 * (row['accuracy'] - rows[0]['accuracy']):+.1f}{_difference_interval(row)}",
        )
        for row in rows
    ]


def _difference_interval(row: Mapping[str, Any]) -> str:
    """The interval of a difference in points; empty for the unchanged pictures and in a record without intervals."""
    if row["change"] == "none" or "difference_ci95" not in row:
        return ""
    low, high = row["difference_ci95"]
    return f" ({100 * low:+.1f} to {100 * high:+.1f})"


def _fingerprint_and_counts(data: Mapping[str, Any]) -> str:
    """The fingerprint of the recorded data and how many pictures each split has, if that is recorded, in Markdown."""
    counts = ", ".join(f"{markdown(split)} {count:,}" for split, count in (data.get("images") or {}).items())
    return f"fingerprint {markdown_code(data['fingerprint'][:16])}{counts and f': {counts}'}"


def _data_lines(meta: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]], other_set: str | None) -> list[str]:
    """The data set, its splits, and how many pictures have a twin in training."""
    data = meta["data"]
    lines = [f"{markdown(portable(str(data['source'])))}, {_fingerprint_and_counts(data)}."]
    lines += [OF_FER2013] if trained_on_fer2013(meta) else []
    for name, earlier in zip(_earlier_sets(meta), _learnt_before(meta), strict=True):
        if earlier.get("fingerprint"):
            lines.append(f"An earlier stage learnt from {name}, {_fingerprint_and_counts(earlier)}.")
        else:
            lines.append(f"An earlier stage was {name}; which pictures it learnt from is not recorded.")
    for split, part in scores.items():
        if part.get("clean"):
            twins = part["n"] - part["clean"]["n"]
            about = "About " if part.get("clean_is_approximate") else ""
            lines.append(
                f"{about}{twins:,} of the {part['n']:,} pictures of the {split} split"
                f"{f' of {markdown(other_set)}' if other_set else ''} ({twins / part['n']:.1%}) have a "
                "twin in the training split, the same photograph; the clean part leaves them out."
            )
    return lines


def _origin_rows(stages: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The runs that made the weights; a question mark or "not recorded" for what the record lacks."""
    rows: list[tuple[str, ...]] = []
    for stage in stages:
        metrics = stage.get("metrics") or {}
        score = metrics.get("accuracy", metrics.get("linear_accuracy"))
        machine = stage.get("machine") or {}
        cores = f"{markdown(machine['processor'])}, {machine['cores']} cores" if machine else "not recorded"
        notes = [] if "accuracy" in metrics else ["linear probe"]
        notes += ["of the start, which was kept"] if metrics.get("epoch") == 0 else []
        if _is_of_a_part(metrics):
            pictures = f"{metrics['n']:,} of {metrics['split_n']:,} pictures"
            is_new = "accuracy" in metrics  # a probe takes a sample
            notes.append(f"on the {pictures} that it had not learnt before" if is_new else f"on {pictures}")
        comment = f" ({'; '.join(notes)})" if notes else ""
        rows.append(
            (
                markdown(stage["role"]),
                markdown_code(readable_command(stage["command"])),
                "?" if stage["epochs"] is None else f"{stage['epochs']}",
                "?" if stage["seconds"] is None else f"{stage['seconds'] / 60:.0f}",
                markdown(machine["gpu"]) if machine.get("gpu") else cores,
                "" if score is None else f"{score:.2%}{comment}",
            )
        )
    return rows


def _is_of_a_part(metrics: Mapping[str, Any]) -> bool:
    """True if a run was scored on a part of its validation split; older records do not say it."""
    count, split_count = metrics.get("n"), metrics.get("split_n")
    return count is not None and split_count is not None and count < split_count
