"""Ten names for notebooks and scripts: from pictures to a trained classifier, its scores and its report.

    from mien.lab import TrainConfig, describe, evaluate, plot_confusion, read_faces, train

    faces = read_faces("archive.zip")
    model = train(TrainConfig(data="archive.zip", out="runs/first", backbone="nano"))
    print(describe(evaluate(model, faces, "validation")))

Groups of settings are dictionaries: ``freeze={"blocks": 2}``, ``augment={"rotation": 0}``. The names need the extra
``train``; each loads what it needs when it is used. Importing this module prints what Mien logs and hides progress bars
and advice of other libraries, unless the environment says otherwise. The modules behind these names may change; the
names stay. For reading photos and films there is ``mien.Recognizer``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.files import expanded
from mien.log import hide_bars, hide_remarks, show
from mien.text import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mien.config import TrainConfig
    from mien.data.faces import FaceSet
    from mien.data.read import read_faces
    from mien.evaluation.evaluate import Evaluation
    from mien.training.finetune import train

__all__ = [
    "TrainConfig", "describe", "draw_faces", "evaluate", "plot_confusion", "plot_faces", "plot_reliability", "plot_run",
    "read_faces", "train",
]  # fmt: skip

_ELSEWHERE = {
    "TrainConfig": "mien.config",
    "read_faces": "mien.data.read",
    "train": "mien.training.finetune",
}
"""The modules of the names that are not defined here."""

hide_remarks()
hide_bars()
show()


def __getattr__(name: str) -> Any:
    """Loads a name of another module when it is used."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ELSEWHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ELSEWHERE])


def draw_faces(path: str | Path, *, train: int = 4000, validation: int = 1000, test: int = 1000, seed: int = 0) -> Path:
    """Draws faces and writes them as an archive of FER2013's layout: a stand-in that says nothing about real faces.

    Args:
        path: the archive to write; an earlier file there is replaced.
        train: number of training pictures.
        validation: number of validation pictures.
        test: number of test pictures.
        seed: seed of all drawings, at least 0.

    Returns:
        The path.

    Raises:
        MienError: a number is negative, all are 0, or the file cannot be written.
    """
    from mien.data import drawn

    path = expanded(path)
    drawn.write_archive(path, drawn.draw_faces(train, validation, test, seed))
    return path


def describe(subject: FaceSet | TrainConfig | Evaluation) -> str:
    """Describes a set of faces, a training run before it starts, or the scores of a classifier.

    Args:
        subject: of a set, the text has the number of pictures of each class and split, and what is odd about them; of
            the settings of a run, the parts of its network, which are frozen at first, and their learning rates; of an
            evaluation, precision, recall and F1 of each class, what is confused most, and accuracy, macro-F1 and
            calibration error of the whole split and of its pictures without a twin in training.

    Raises:
        MienError: a setting does not fit, or the backbone or the data of a run cannot be read.
        TypeError: the subject is none of the three.
    """
    from mien.config import TrainConfig
    from mien.data.faces import FaceSet
    from mien.data.inspect import describe as described
    from mien.data.inspect import inspect
    from mien.evaluation.evaluate import Evaluation

    if isinstance(subject, FaceSet):
        return described(inspect(subject))
    if isinstance(subject, TrainConfig):
        return _describe_run(subject)
    if isinstance(subject, Evaluation):
        return _describe_scores(subject)
    raise TypeError(f"describe() takes a FaceSet, a TrainConfig or an Evaluation, got {type(subject).__name__}")


def evaluate(
    model: str | Path, faces: FaceSet, split: str = "validation", *, out: str | Path | None = None
) -> Evaluation:
    """Scores a classifier on a split, and writes the report that ``mien evaluate`` writes.

    Args:
        model: a model folder, such as ``train`` returns, the folder of a run, or the name of a shipped model.
        faces: the data. If the model was trained on it, and cut validation off, the same pictures are cut again.
        split: ``train``, ``validation`` or ``test``.
        out: the folder of the report; by default none is written.

    Returns:
        Probabilities, true labels, and the scores ``whole`` and ``clean`` (without twins of what the model was trained
        on; None if that is unknown).

    Raises:
        MienError: the model or the split is missing, the classes do not fit, or the report cannot be written.
    """
    from mien.data.clean import as_trained, trained_on
    from mien.evaluation.choice import choice_of
    from mien.evaluation.evaluate import evaluate as scored
    from mien.evaluation.report import write_report
    from mien.model.classifier import Classifier
    from mien.model.places import model_folder
    from mien.training.history import run_history

    folder = model_folder(model)
    classifier = Classifier.load(folder)
    data = faces if split == "test" else as_trained(faces, classifier)
    evaluation = scored(classifier, data, split, training=trained_on(data, classifier), model=str(model))
    if out is not None:
        history, choice = run_history(folder), choice_of(classifier.meta())
        write_report(expanded(out), evaluation, command="mien.lab.evaluate", history=history, choice=choice)
    return evaluation


def plot_faces(faces: FaceSet, config: TrainConfig | None = None, *, epoch: int = 1, seed: int = 0) -> Figure:
    """Shows twelve training pictures with the names of their classes.

    Args:
        faces: the data; its training split is shown.
        config: settings of a run: the pictures are then shown as its network sees them in an epoch, cropped, mirrored,
            turned and relit. By default they are shown as they are stored.
        epoch: the epoch, at least 1; each has other views.
        seed: decides which pictures are shown.

    Raises:
        MienError: the data has no training split, or a setting does not fit.
    """
    import numpy as np

    from mien.evaluation.figures import picture_sheet

    training = faces.part("train")
    rows = np.random.default_rng(seed).permutation(len(training))[:12]
    images = training.images[rows] if config is None else _training_views(faces, config, rows, epoch)
    return picture_sheet(images, [faces.names[label] for label in training.labels[rows]], columns=6)


def plot_run(out: str | Path) -> Figure:
    """Plots loss, accuracy and learning rate of a run over its epochs.

    Args:
        out: the folder of the run.

    Raises:
        MienError: the folder has no history, or its ``meta.json`` is damaged.
    """
    from mien.evaluation.choice import choice_of
    from mien.evaluation.figures import curves
    from mien.files import read_json_object
    from mien.training.history import read_history

    history, record = read_history(expanded(out)), expanded(out) / "meta.json"
    return curves(history, choice=choice_of(read_json_object(record)) if record.is_file() else None)


def plot_confusion(evaluation: Evaluation) -> Figure:
    """Plots how often each true class was predicted as each class, on the whole split."""
    from mien.evaluation.figures import confusion_matrix

    return confusion_matrix(evaluation.whole["confusion"], evaluation.names)


def plot_reliability(evaluation: Evaluation) -> Figure:
    """Plots accuracy over confidence: where the bars meet the diagonal, the model is right as often as it says."""
    from mien.evaluation.figures import reliability_diagram
    from mien.evaluation.metrics import reliability

    return reliability_diagram(reliability(evaluation.probabilities, evaluation.labels))


def _network(config: TrainConfig, faces: FaceSet) -> tuple[TrainConfig, Any, Any]:
    """Returns the resolved settings, the network before its first step, and its preprocessing."""
    from mien.model.backbone import Backbone
    from mien.training.finetune import build_network, with_backbone_defaults

    config = with_backbone_defaults(config, Backbone(config.backbone), resume=False)
    network, preprocessing = build_network(config, faces)
    return config, network, preprocessing


def _training_views(faces: FaceSet, config: TrainConfig, rows: Any, epoch: int) -> Any:
    """Returns the views of some training pictures in an epoch, grey uint8 [N, S, S]."""
    from mien.model.networks import num_channels
    from mien.model.preprocessing import tensor
    from mien.training.augment import Augment, random_table

    config, network, preprocessing = _network(config, faces)
    training = faces.part("train")
    random = random_table(len(training), config.seed, epoch)[rows]
    pixels = Augment(config.augment, preprocessing, num_channels(network))(tensor(training.images[rows]), random)
    grey = pixels.mean(1) * preprocessing.grey_std + preprocessing.grey_mean
    return (255 * grey.clamp(0, 1)).byte().numpy()


def _describe_run(config: TrainConfig) -> str:
    from mien.data.read import read_faces
    from mien.model.freezing import check_freezing, freeze, frozen_units, table
    from mien.training.optim import build_optimizer

    by_default = config.freeze.blocks is None
    config, network, _ = _network(config, read_faces(config.data))
    check_freezing(config.freeze, network, fresh=config.is_fresh, by_default=by_default)
    freeze(network, frozen_units(config.freeze, 1))
    return table(network, build_optimizer(network, config).param_groups)


def _describe_scores(evaluation: Evaluation) -> str:
    from mien.evaluation.metrics import classification_report_text, most_confused

    lines = [
        classification_report_text(evaluation.probabilities, evaluation.labels, evaluation.names),
        "confused most:",
    ]
    lines += [f"  {line}" for line in most_confused(evaluation.whole["confusion"], evaluation.names)]
    for part, scores in (("whole", evaluation.whole), ("without twins", evaluation.clean)):
        if scores is not None:
            values = f"accuracy {scores['accuracy']:.2%}, macro-F1 {scores['macro_f1']:.2%}, ECE {scores['ece']:.2%}"
            lines.append(f"{part}: {values} ({counted(scores['n'], 'picture')})")
    return "\n".join(lines)
