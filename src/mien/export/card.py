"""The model card: what a packed classifier is, how it scores and what it must not be used for, from its ``meta.json``.

The headings follow Mitchell et al. (2019, arXiv:1810.03993). Every number comes out of the record; what the record does
not hold is said to be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mien.errors import MienError
from mien.labels import FER2013
from mien.text import markdown, markdown_code

TITLES: dict[str, str] = {
    "train": "training split",
    "validation": "validation split (FER2013: PublicTest), by which epoch, temperature and settings were chosen",
    "test": "test split (FER2013: PrivateTest), scored once, by which nothing was chosen",
}

OF_FER2013 = """\
The official splits: Training trains, PublicTest selects, PrivateTest is kept for the release. No file of the last two
was trained on, but many of their photographs stand in Training as well, cropped or tilted a little differently."""

TRAINING_OF_FER2013 = 28_709
"""Pictures of its Training split, by which the official splits are known from others with the same expressions."""

USES = """\
## Intended uses

Research and teaching on facial expression recognition; sorting or describing one's own pictures; games and art with the
consent of everybody in the picture. The answer names how a face *looks* in a picture to those who labelled the training
data. It is a guess, and wrong as often as the tables say.

## Uses that it must not have

- Deciding anything about a person: hiring, schooling, insurance, credit, policing, border control, health.
- Inferring what somebody feels, intends or suffers from. Faces do not show it reliably (Barrett et al. 2019).
- Watching people at work or in class, or anybody without consent. In the European Union, inferring emotions at the
  workplace and in education is prohibited (Regulation 2024/1689, article 5).
- Identifying people: it was not made for it, and its embeddings are not to be used as a person's signature.
"""

LIMITS = """\
## Limits and bias

FER2013 was gathered by web search, and its labels are noisy: people reach 65 % on it, give or take 5 (Goodfellow et al.
2013). It does not say who is in the pictures, so how the model does by age, sex or skin tone could not be measured.
Expect it to be worse on faces that are turned, small, covered, very young or very old, and on expressions held back.
"""

LICENCE = """\
## Licences

Code and weights: MIT. FER2013 (Goodfellow et al. 2013, arXiv:1307.0414) has terms of its own, and its pictures belong
to others: it was gathered for research; whether weights made from it may be used commercially is for you to find out.
The folder holds no picture and no thumbnail of a face. The sketches of the training pictures, 256 bits each, tell
whether a picture was probably trained on; they are not meant to be turned into pictures.
Faces in photos and films are found by YuNet (MIT), which was trained on WIDER FACE, whose pictures are for research; it
is no part of this folder.
"""

OWN = "All its weights were made by the runs above from random ones: none are Meta's ViTMAE, none another package's."


def card(meta: Mapping[str, Any], name: str = "Mien") -> str:
    """The card, in Markdown.

    Args:
        meta: ``meta.json`` of a folder that ``mien pack`` wrote.
        name: of the model, for the title.

    Raises:
        MienError: the record has no ``release``: the folder was not packed.
    """
    release = meta.get("release")
    if not isinstance(release, Mapping):
        raise MienError("meta.json has no `release`, of which the card is made; give a folder that `mien pack` wrote")
    try:
        return _card(meta, release, name)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise MienError(
            f"meta.json is not as `mien pack` wrote it ({type(error).__name__}: {error}); pack the run again"
        ) from error


def _card(meta: Mapping[str, Any], release: Mapping[str, Any], name: str) -> str:
    names = list(meta["names"])
    parts = [
        _head(name, meta, release),
        _use(names),
        USES,
        _scores(release["scores"], meta.get("calibration")),
        _robustness(release["robustness"]),
        LIMITS,
        _data(meta, release["scores"]),
        _origin(release["origin"]),
        LICENCE + _owners(release["origin"]),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _head(name: str, meta: Mapping[str, Any], release: Mapping[str, Any]) -> str:
    shape = release["architecture"]
    kind = (
        markdown(shape.get("architecture") or "")
        or "plain Vision Transformer, every patch visible, linear head on [CLS]"
    )
    facts: list[tuple[str, Any]] = [
        ("network", kind),
        ("parameters", f"{shape['parameters']:,}"),
        ("input", _input(shape, release.get("reading") or {})),
    ]
    if shape.get("model_type") == "vit":
        facts.append(
            (
                "shape",
                f"{shape['num_hidden_layers']} blocks, {shape['hidden_size']} wide, {shape['num_attention_heads']} "
                f"heads, patches of {shape['patch_size']} pixels",
            )
        )
    facts += [
        ("weights", f"{release['files']['model.safetensors'] / 1e6:.1f} MB, half precision; computed in float32"),
        *_onnx(release["onnx"], release["files"]),
        ("SHA-256", markdown_code(release["sha256"])),
        ("packed by", f"Mien {markdown(release['mien'])}, {markdown_code(release['command'] or 'mien pack')}"),
    ]
    terms = "other" if _others(release["origin"]) else "mit"
    front = f"---\nlicense: {terms}\npipeline_tag: image-classification\nlibrary_name: transformers\n---\n"
    said = f"# {markdown(name)}: facial expressions, {len(meta['names'])} classes\n"
    return "\n".join([front, said, _table(["", ""], facts)])


def _onnx(found: Mapping[str, Any], files: Mapping[str, int]) -> list[tuple[str, str]]:
    """The ONNX files, and by how much they differ from the weights in PyTorch."""
    engines, split = found["engines"], found["split"]
    told = [
        (
            "ONNX",
            f"{files['model.onnx'] / 1e6:.1f} MB; a probability differs from PyTorch's by at most "
            f"{engines['ONNX']['largest_difference']:.0e} ({split})",
        )
    ]
    if found["int8"]:
        small = engines["ONNX int8"]
        told.append(
            (
                "ONNX in int8",
                f"{files['model.int8.onnx'] / 1e6:.1f} MB; accuracy {small['accuracy']:.2%} ({split}), "
                f"{found['int8']['points_lost']:+.2f} points lost",
            )
        )
    return told


def _use(names: Sequence[str]) -> str:
    names = [markdown(name) for name in names]
    return f"""\
It reads {", ".join(names[:-1])} or {names[-1]} off a cropped face, with calibrated probabilities.

    mien predict photo.jpg --model this/folder

    from transformers import pipeline
    print(pipeline("image-classification", model="this/folder")("face.png"))
"""


def _input(shape: Mapping[str, Any], reading: Mapping[str, Any]) -> str:
    """What the network reads of a face."""
    size, whole = shape.get("image_size", "?"), reading.get("face_size")
    if whole is None or whole == reading["image_size"]:
        return f"one upright face, {size}x{size} pixels, grey"
    size = reading["image_size"]
    return (
        f"one upright face, brought to {whole}x{whole} pixels, of which the {size}x{size} in the middle are read; grey"
    )


def _scores(scores: Mapping[str, Mapping[str, Any]], calibration: Mapping[str, Any] | None) -> str:
    parts = ["## Scores\n"]
    for split, found in scores.items():
        title = TITLES.get(split) or markdown(split)
        parts.append(f"On the {title}: {found['n']:,} pictures, one view each.\n")
        rows = [_score_row("whole split", found)]
        clean = found.get("clean")
        if clean:
            roughly = ", approximate" if found.get("clean_is_approximate") else ""
            rows.append(_score_row(f"its clean part ({clean['n']:,} without a twin in training{roughly})", clean))
        heads = [
            "",
            "accuracy (95 %)",
            "macro-F1 (95 %)",
            "balanced accuracy",
            "ECE, 15 bins, temperature fitted on the clean part",
        ]
        parts.append(_table(heads, rows))
        tta = found["tta"]
        low, high = tta["ci95"]["accuracy"]
        without = tta.get("clean")
        parts.append(
            f"With the mirror image averaged in: {tta['accuracy']:.2%} ({low:.2%} to {high:.2%}), macro-F1 "
            f"{tta['macro_f1']:.3f}"
            + (f"; on the clean part {without['accuracy']:.2%}, {without['macro_f1']:.3f}" if without else "")
            + f". {_calibration(found)}\n"
        )
        per_class = [
            (markdown(name), *(_number(values[key]) for key in ("precision", "recall", "f1")), f"{values['support']:,}")
            for name, values in found["per_class"].items()
        ]
        parts.append(_table(["expression", "precision", "recall", "F1", "pictures"], per_class))
    parts += [_promise(calibration)] if calibration else []
    if "test" not in scores:
        parts.append("The test split has not been scored.\n")
    return "\n".join(parts)


def _score_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy, macro = found["ci95"]["accuracy"], found["ci95"]["macro_f1"]
    return (
        name,
        f"{found['accuracy']:.2%} ({accuracy[0]:.2%} to {accuracy[1]:.2%})",
        f"{found['macro_f1']:.3f} ({macro[0]:.3f} to {macro[1]:.3f})",
        f"{found['balanced_accuracy']:.2%}",
        f"{found['ece']:.3f}",
    )


def _calibration(found: Mapping[str, Any]) -> str:
    cross, calibration = found.get("cross_fitted_ece"), found.get("calibration")
    told = []
    if cross is not None and calibration:
        of_clean = found.get("cross_fitted_ece_clean")
        told.append(
            f"ECE is {calibration['before']['ece']:.3f} before temperature scaling and {cross:.3f} after, cross-fitted"
            + (f" (clean part: {of_clean:.3f})" if of_clean is not None else "")
        )
    return "; ".join(told)[:1].upper() + "; ".join(told)[1:] + "." if told else ""


def _promise(calibration: Mapping[str, Any]) -> str:
    """What temperature and threshold were fitted on, and what the threshold promises, with its interval."""
    sure, left_out = calibration["uncertain"], calibration.get("twins_left_out")
    pictures = f"{calibration['n']:,} validation pictures"
    if left_out is not None:
        pictures += f" without a twin in training ({left_out:,} with one were left out)"
    if sure is None:  # too few pictures for a threshold, or for a temperature as well (``calibrate_if_enough``)
        return f"There are {pictures}: too few to fit a threshold of a sure answer, so no answer is called uncertain.\n"
    text = f"Temperature ({calibration['temperature']:.3f}) and threshold of a sure answer were fitted on {pictures}. "
    if sure.get("threshold") is None:
        stated = f"{sure['stated_accuracy']:.0%}"
        return f"{text}At no threshold could {stated} be promised: every answer is marked uncertain.\n"
    text += (
        f"Answers of at least {sure['threshold']:.2f} count as sure: {sure['coverage']:.0%} of these pictures, of "
        f"which {sure['accuracy']:.1%} are right"
    )
    if sure.get("ci95"):
        low, high = sure["ci95"]
        text += (
            f" (95 %: {low:.1%} to {high:.1%}); the promise is {sure['stated_accuracy']:.0%}, kept with "
            f"{sure['confidence']:.0%} confidence"
        )
    return text + ".\n"


def _robustness(found: Mapping[str, Any]) -> str:
    if not found["rows"]:
        return "## Robustness\n\nNot measured: the data had no validation split.\n"
    first = found["rows"][0]["accuracy"]
    rows = [
        (
            markdown(row["change"]),
            markdown(row["how"]),
            f"{row['accuracy']:.2%}",
            f"{100 * (row['accuracy'] - first):+.1f}",
        )
        for row in found["rows"]
    ]
    heads = ["pictures", "how they were changed", "accuracy", "points"]
    table = _table(heads, rows)
    return f"## Robustness\n\nThe {found['split']} split with its pictures made worse, one view:\n\n{table}"


def _data(meta: Mapping[str, Any], scores: Mapping[str, Mapping[str, Any]]) -> str:
    data = meta["data"]
    counts = ", ".join(f"{markdown(name)} {count:,}" for name, count in data["images"].items())
    is_fer2013 = set(meta["names"]) == set(FER2013) and data["images"].get("train") == TRAINING_OF_FER2013
    lines = [f"{markdown(data['source'])}, fingerprint {markdown_code(data['fingerprint'][:16])}: {counts}."]
    lines += [OF_FER2013] if is_fer2013 else []
    for split, found in scores.items():
        if found.get("clean"):
            twins = found["n"] - found["clean"]["n"]
            lines.append(
                f"{twins:,} of the {found['n']:,} pictures of the {split} split ({twins / found['n']:.1%}) have a "
                "twin in the training split, the same photograph: the clean part is without them."
            )
    return "## Data and protocol\n\n" + "\n".join(lines) + "\n"


def _others(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those weights that a run began with and that no run made, each once."""
    return list(dict.fromkeys(stage["weights_from"] for stage in stages if stage["weights_from"]))


def _owners(stages: Sequence[Mapping[str, Any]]) -> str:
    others = _others(stages)
    told = (
        f"It was made from weights of others, whose terms hold too: {', '.join(map(markdown, others))}."
        if others
        else OWN
    )
    return f"\n{told}\n"


def _origin(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for stage in stages:
        metrics = stage.get("metrics") or {}
        score = metrics.get("accuracy", metrics.get("linear_accuracy"))
        machine = stage.get("machine") or {}
        cores = f"{markdown(machine['processor'])}, {machine['cores']} cores" if machine else "not noted"
        hardware = markdown(machine["gpu"]) if machine.get("gpu") else cores
        kind = "" if "accuracy" in metrics or score is None else " (linear probe)"
        rows.append(
            (
                markdown(stage["role"]),
                markdown_code(stage["command"] or "not noted"),
                "?" if stage["epochs"] is None else f"{stage['epochs']}",
                "?" if stage["seconds"] is None else f"{stage['seconds'] / 60:.0f}",
                hardware,
                "" if score is None else f"{score:.2%}{kind}",
            )
        )
    heads = ["run", "command", "epochs", "minutes", "hardware", "validation accuracy"]
    return f"## How it was made\n\n{_table(heads, rows)}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'|'.join('---' for _ in heads)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)]) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
