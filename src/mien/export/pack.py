"""Packs a trained classifier for others: half-precision weights, ONNX files, and the record for the model card.

The weights are halved first and loaded again, so that the scores are those of the packed model. The folder holds
sketches of the training pictures, but no picture and no thumbnail of a face.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mien
from mien.config import is_fresh
from mien.data.clean import Pictures, Sketches, as_trained, sketch, trained_on
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.evaluation.evaluate import evaluate
from mien.evaluation.robustness import robustness
from mien.export.card import card, readable_command
from mien.export.export import check_int8_data, export
from mien.files import (
    atomic_folder,
    read_json_object,
    refuse_inputs,
    refuse_others,
    refuse_unknown,
    sha256_of,
    write_json,
    write_text,
)
from mien.model.channels import reads_luma
from mien.model.classifier import SHARED_FINGERPRINTS, Classifier
from mien.model.networks import Network
from mien.model.places import FINGERPRINTS, ONNX_FILES, model_folder
from mien.model.preprocessing import SMALLEST_CROP
from mien.text import portable
from mien.training.history import read_history
from mien.training.objective import read_answers
from mien.training.validation import recalibrated

LARGEST_WEIGHTS = 25 * 2**20
"""Largest weights of a package in half precision, in bytes."""

CARD = "README.md"
"""The model card of a packed folder; the Hugging Face Hub shows the file of this name."""

FILES: frozenset[str] = frozenset(
    {"config.json", "model.safetensors", "preprocessor_config.json", "meta.json", CARD, FINGERPRINTS, *ONNX_FILES}
)
"""Names of all files of a packed folder."""

LARGEST_BALANCE = 1.5
"""Largest tau that is divided out: 1 aims at balanced accuracy already."""

ROBUSTNESS_SPLIT = "validation"


def pack(
    run: Path,
    out: Path,
    faces: FaceSet,
    *,
    splits: Sequence[str] = ("validation",),
    int8: bool = False,
    calibrate: bool = False,
    reading_crop: float | None = None,
    balance: float | None = None,
    command: str = "",
) -> Path:
    """Writes a folder for ``mien predict``, ``mien evaluate`` and ``transformers.pipeline``.

    It holds ``config.json``, ``model.safetensors`` in half precision, ``preprocessor_config.json``, ``model.onnx``,
    with ``int8`` also ``model.int8.onnx``, ``meta.json``: that of the run, with a ``release`` that lists the other
    files, the scores, and the runs behind the model, and ``README.md``, the model card.

    Args:
        run: the folder of a run, or its model folder.
        out: the new folder, written as a whole or not at all.
        faces: the data for the scores; its training split tells which pictures have twins. If training cut a validation
            split from it, the same is cut again.
        splits: the splits to score, of ``train``, ``validation`` and ``test``.
        int8: write an int8 file too, calibrated on the training split.
        calibrate: fit temperature and threshold again, on the validation pictures without a twin in training.
        reading_crop: share of a face's side that the packed model reads, in [0.5, 1]; by default as before. Another
            crop changes the probabilities, so it needs ``calibrate``.
        balance: tau, in [0, 1.5]: the shares of the classes in training to this power are divided out of the answers
            (``mien.evaluation.balance``); by default as before. It needs ``calibrate``, too.
        command: the command line, for ``meta.json``.

    Returns:
        ``out``.

    Raises:
        MienError: the reading crop or the balance is out of range or comes without ``calibrate``, ``run`` holds no
            model, its weights are too large, its record lacks what the card states, the data lacks a split, ``out``
            holds something else, or the answers of an ONNX file differ from those of the weights.
    """
    trained, record, stages = packable(run, out, calibrate=calibrate, reading_crop=reading_crop, balance=balance)
    if int8:
        check_int8_data(faces)
    faces = as_trained(faces, trained)
    for split in splits:
        faces.part(split)
    if calibrate:
        record = recalibrated(trained, faces, command, balance=balance)
    with atomic_folder(out, check=lambda former: refuse_unknown(former, FILES, "pack")) as temporary:
        trained.write(temporary, record, _own_sketches(trained, out, faces), half=True)
        packed = Classifier.load(temporary)
        training = trained_on(faces, trained)
        scores = {split: scores_on(packed, faces, split, training, str(run)) for split in splits}
        parity = write_onnx(temporary, faces, splits[0], int8=int8, name=str(run))
        meta = packed.meta()
        meta["release"] = {
            "mien": mien.__version__,
            "command": command,
            "architecture": architecture(packed.network),
            "reading": {
                "image_size": packed.preprocessing.image_size,
                "face_size": packed.preprocessing.face_size,
                "grey": reads_luma(packed.network, packed.preprocessing),
            },
            "files": {
                path.name: path.stat().st_size for path in sorted(temporary.iterdir()) if path.name != "meta.json"
            },
            "sha256": sha256_of(temporary / "model.safetensors"),
            "scores": scores,
            "onnx": parity,
            "robustness": {
                "split": ROBUSTNESS_SPLIT,
                "rows": robustness(packed, faces, ROBUSTNESS_SPLIT) if faces.has(ROBUSTNESS_SPLIT) else [],
            },
            "origin": stages,
        }
        meta = without_folders(meta)
        write_json(temporary / "meta.json", meta)
        write_text(temporary / CARD, card(meta, out.resolve().name))
    return out


def packable(
    run: Path,
    out: Path,
    *,
    calibrate: bool = False,
    reading_crop: float | None = None,
    balance: float | None = None,
) -> tuple[Classifier, dict[str, Any], list[dict[str, Any]]]:
    """Reads what is to be packed, and refuses what can be refused before the data is read.

    Args:
        run: as ``pack``, also the others.
        out: the new folder.
        calibrate: fit temperature and threshold again.
        reading_crop: share of a face's side.
        balance: tau.

    Returns:
        The model with its reading crop, its ``meta.json``, and the runs behind it.

    Raises:
        MienError: as ``pack``, whatever the data is.
    """
    for option, value, low, high in (
        ("--reading-crop", reading_crop, SMALLEST_CROP, 1.0),
        ("--balance", balance, 0.0, LARGEST_BALANCE),
    ):
        if value is not None and not (low <= value <= high and calibrate):
            wrong = "needs --calibrate" if not calibrate else f"got {value}, expected {low:g} to {high:g}"
            raise MienError(f"{option}: {wrong}, as it changes the answers; add that, or leave out {option}")
    refuse_inputs(out, [model_folder(run)])
    refuse_others(out, FILES, "pack")
    trained = Classifier.load(run)
    _refuse_large(run, trained.network)
    record = trained.meta()
    if "names" not in record or not {"source", "fingerprint", "images"} <= record.get("data", {}).keys():
        raise MienError(
            f"{run}: its meta.json does not say what it was trained on, which the model card states; give a run of "
            "`mien train`, or write its ONNX files alone by `mien export`"
        )
    if reading_crop is not None:
        trained = replace(trained, preprocessing=replace(trained.preprocessing, crop=reading_crop))
    return trained, record, origin(trained.folder or run)


def _refuse_large(run: Path, network: Network) -> None:
    """Raises MienError if the weights of a network are larger than ``LARGEST_WEIGHTS`` in half precision."""
    weights = network.state_dict().values()
    size = sum(weight.numel() * (2 if weight.is_floating_point() else weight.element_size()) for weight in weights)
    if size > LARGEST_WEIGHTS:
        raise MienError(
            f"{run}: its weights take {size / 2**20:.1f} MiB in half precision, expected at most "
            f"{LARGEST_WEIGHTS >> 20}; distil it into a smaller preset, or write its ONNX file alone by `mien export`"
        )


def without_folders(record: Any) -> Any:
    """A record without folders that are of one machine alone: ``portable`` paths, also in commands.

    A package is passed on, and would else tell the home folder of its maker.
    """
    if isinstance(record, str):
        return portable(record)
    if isinstance(record, list):
        return [without_folders(item) for item in record]
    if not isinstance(record, dict):
        return record
    short = {name: without_folders(value) for name, value in record.items()}
    command = record.get("command")
    return {**short, "command": readable_command(command)} if command and isinstance(command, str) else short


def _own_sketches(trained: Classifier, out: Path, faces: FaceSet) -> Sketches | None:
    """The sketches for the new folder; None if they are in a shared file beside it, or if there are none."""
    fingerprint = str(trained.meta().get("data", {}).get("fingerprint", ""))
    shared = out.resolve().parent / SHARED_FINGERPRINTS.format(fingerprint[:16])
    sketches = trained.sketches()
    if shared.is_file() and not (sketches and sketches.earlier):
        return None
    if sketches is None and fingerprint == faces.fingerprint and faces.has("train"):
        return sketch(faces.part("train").images)
    return sketches


def write_onnx(folder: Path, faces: FaceSet, split: str, *, int8: bool, name: str) -> dict[str, Any]:
    """Writes the ONNX files of a model into its folder; messages call the model ``name``.

    Returns:
        ``split``, and ``tolerance``, ``engines`` and ``int8`` of ``parity.json``.

    Raises:
        MienError: as ``mien.export.export.export``.
    """
    exported = folder / "exported"
    report = export(folder, exported, faces=faces, split=split, int8=int8, name=name).report
    for file in ONNX_FILES:
        if (exported / file).is_file():
            (exported / file).replace(folder / file)
    shutil.rmtree(exported)
    return {"split": split, **{field: report[field] for field in ("tolerance", "engines", "int8")}}


def scores_on(
    classifier: Classifier, faces: FaceSet, split: str, training: Sequence[Pictures] | None, model: str
) -> dict[str, Any]:
    """The ``metrics.json`` of a split, and as ``tta`` the scores of pictures averaged with their mirror images.

    Both on the whole split and, as ``clean``, on its part without twins in training (None if twins are not known).
    """
    single, mirrored = (
        evaluate(classifier, faces, split, training=training, tta=mirror, model=model, quiet=True)
        for mirror in (False, True)
    )

    def main_scores(scores: Mapping[str, Any]) -> dict[str, Any]:
        return {name: scores[name] for name in ("accuracy", "macro_f1", "ci95")}

    tta = {**main_scores(mirrored.whole), "clean": main_scores(mirrored.clean) if mirrored.clean else None}
    metrics = single.metrics()
    del metrics["seconds"], metrics["parameters"]  # of this machine, and in the architecture
    return {**metrics, "cross_fitted_ece": single.cross_fitted_ece(),
            "cross_fitted_ece_clean": single.cross_fitted_ece(clean=True), "tta": tta}  # fmt: skip


def architecture(network: Network) -> dict[str, Any]:
    """The type, the sizes and the number of parameters of a network."""
    config = network.config.to_dict()
    fields = ("model_type", "architecture", "image_size", "patch_size", "hidden_size", "num_hidden_layers")
    values = {name: config[name] for name in (*fields, "num_attention_heads") if config.get(name) is not None}
    return {**values, "parameters": sum(parameter.numel() for parameter in network.parameters())}


def origin(folder: Path) -> list[dict[str, Any]]:
    """The runs behind a model, each once and after those that it builds on.

    A packed model among them brings the runs that it was packed with.

    Args:
        folder: the model folder.

    Returns:
        For each run ``role`` (pretraining, teacher, answers of other networks, earlier fine-tuning, fine-tuning),
        ``command``, ``metrics``, ``machine`` (None if it was not recorded), ``seconds`` and ``epochs`` (None if the
        history is missing), and ``weights_from``: the backbone, or None if it is random or another run of the list.
        The runs of ``mien folds`` are one entry. Of a teacher, or of answers, whose record is gone ``weights_from`` is
        its path.

    Raises:
        MienError: a record is not as Mien wrote it.
    """
    runs: dict[Path, dict[str, Any]] = {}
    _trace(folder, "fine-tuning", runs)
    return list(runs.values())


def _trace(folder: Path, role: str, runs: dict[Path, dict[str, Any]]) -> None:
    """Adds the runs that a model builds on, by their folders, and then its own run to ``runs``."""
    meta = read_json_object(folder / "meta.json") if (folder / "meta.json").is_file() else {}
    packed = _packed_stages(folder, meta)
    for number, stage in enumerate(packed):
        own_role = role if number == len(packed) - 1 else stage.get("role", "earlier fine-tuning")
        _add(runs, folder.resolve() / str(number), {**stage, "role": own_role})
    if packed:
        return
    # Marked as visited first: a run that was trained again under the same name may build on a run that builds on it.
    runs[folder.resolve()] = {}
    weights_from = _trace_config(meta.get("config", {}), folder.name, f"{folder}/meta.json", runs)
    del runs[folder.resolve()]  # so that it comes after the runs that it builds on
    _add(runs, folder.resolve(), _stage(role, folder, meta, weights_from))


def _trace_config(config: Any, name: str, where: str, runs: dict[Path, dict[str, Any]]) -> str | None:
    """Adds the runs on which a run with these settings builds to ``runs``.

    Args:
        config: the recorded settings; empty if there are none.
        name: of what the run made, which stands for its backbone if there are no settings.
        where: the settings are recorded, for messages.
        runs: by their folders.

    Returns:
        The backbone, or None if it is random or one of the runs.
    """
    if not isinstance(config, dict) or not isinstance(config.get("teacher") or [], list):
        raise MienError(f"{where}: its config is not as `mien train` wrote it; copy the whole folder again")
    start = str(config.get("backbone", config.get("preset", name)))
    weights_from = None if config and is_fresh(start) else start  # without a record, a name like tiny says nothing
    before = [("", start)] if weights_from else []
    before += [("teacher", str(path)) for path in config.get("teacher") or []]
    for kind, path in before if config else []:
        try:
            earlier = model_folder(path)
        except MienError:  # a hub id, or a folder that is gone
            if kind:
                _add(runs, Path(path).resolve(), _unrecorded(kind, path))
            continue
        if not kind:
            weights_from = None
        is_autoencoder = read_json_object(earlier / "config.json").get("model_type") == "vit_mae"
        if earlier.resolve() not in runs:
            _trace(earlier, kind or ("pretraining" if is_autoencoder else "earlier fine-tuning"), runs)
    if config.get("targets"):
        _trace_answers(Path(str(config["targets"])), runs)
    return weights_from


def _trace_answers(path: Path, runs: dict[Path, dict[str, Any]]) -> None:
    """Adds the runs of ``mien folds`` that wrote a file of answers, as one entry, and those that they build on."""
    try:
        _, record = read_answers(path)
    except MienError:
        record = {}  # the file is gone
    weights_from = _trace_config(record.get("config", {}), str(path), str(path), runs)
    stage = _unrecorded("answers of other networks", weights_from)
    _add(runs, path.resolve(), {**stage, "command": record.get("command")})


def _unrecorded(role: str, weights_from: str | None) -> dict[str, Any]:
    """The entry in ``origin`` of what has no record of its run."""
    unknown = dict.fromkeys(("command", "metrics", "machine", "seconds", "epochs"))
    return {"role": role, "weights_from": weights_from, **unknown}


def _packed_stages(folder: Path, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs that a packed model was packed with; none if it is not packed."""
    release = meta.get("release") or {}
    stages = (release.get("origin") or []) if isinstance(release, dict) else None
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise MienError(f"{folder}/meta.json: its release is not as `mien pack` wrote it; copy the whole folder again")
    return stages


def _add(runs: dict[Path, dict[str, Any]], place: Path, stage: dict[str, Any]) -> None:
    """Adds a run, unless it is there already under another place: a packed model brings it, or a copy of its folder."""
    if all(_identity(stage) != _identity(run) for run in runs.values()):
        runs[place] = stage


def _identity(stage: Mapping[str, Any]) -> object:
    """What identifies a run of ``origin``, whatever it was for and wherever its folder is."""
    if isinstance(stage.get("command"), str) and stage["command"]:
        return readable_command(stage["command"]), stage.get("metrics")
    return {name: value for name, value in stage.items() if name != "role"}


def _stage(role: str, folder: Path, meta: Mapping[str, Any], weights_from: str | None) -> dict[str, Any]:
    """The entry of a run in ``origin``."""
    run = folder.resolve().parent
    history = read_history(run) if (run / "history.csv").is_file() else None
    return {
        "role": role,
        "command": meta.get("command"),
        "weights_from": weights_from,
        "metrics": meta.get("metrics"),
        "machine": meta.get("machine"),
        "seconds": history[-1]["seconds"] if history else None,
        "epochs": int(history[-1]["epoch"]) if history else None,
    }
