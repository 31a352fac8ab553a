"""What an option of another tool is called here: by its meaning first, then by its spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# The names that other tools have for the same thing; of those on the right, a command has some.
_MEANINGS: tuple[tuple[str, str], ...] = (
    ("silent quite no-output", "-q/--quiet"),
    ("debugging traceback trace", "--debug"),
    ("save output out results result dest destination write output-dir outdir save-dir project",
     "--out --csv --annotate"),
    ("excel table export-csv spreadsheet", "--xlsx --csv"),
    ("plot draw boxes overlay visualize visualise show render", "--annotate --timeline"),
    ("gpu cuda cpu mps accelerator use-gpu", "--device"),
    ("weights checkpoint ckpt network models model-path", "--model --backbone"),
    ("pretrained pretrained-weights init encoder arch architecture", "--backbone --preset"),
    ("dataset dataset-path data-dir data-path train-set root", "--data"),
    ("folder dir directory path paths input inputs source", "--data PATH"),
    ("image images img photo photos file files video", "--data PATH"),
    ("webcam cam", "--camera"),
    ("learning-rate learningrate rate", "--lr"),
    ("head-learning-rate", "--head-lr"),
    ("batch bs batchsize per-device-batch-size", "--batch-size"),
    ("num-epochs max-epochs n-epochs", "--epochs"),
    ("iterations max-steps iters", "--steps --epochs"),
    ("imgsz img-size resolution size input-size", "--image-size --min-face --size"),
    ("wd decay", "--weight-decay"),
    ("smoothing label-smooth", "--label-smoothing --smoothing"),
    ("config-file cfg yaml recipe settings", "--config"),
    ("continue resume-from ckpt-path restart", "--resume"),
    ("plan simulate check preview", "--dry-run"),
    ("freeze-layers frozen freeze-blocks", "--freeze.blocks"),
    ("workers num-workers jobs", "--threads"),
    ("stride skip step vid-stride frame-step", "--every"),
    ("limit max-time", "--timeout"),
    ("face-size minsize min-size", "--min-face"),
    ("augment-test flip-test tta-flip", "--tta"),
    ("mute no-sound", "--no-audio"),
    ("overwrite replace", "--force"),
    ("quantize quantise int-8", "--int8"),
    ("logger wandb mlflow report-to", "--track --tensorboard"),
)  # fmt: skip
_BY_NAME: dict[str, list[str]] = {
    name: options.split() for names, options in _MEANINGS for name in names.split()
}  # fmt: skip


def meant(name: str, options: Iterable[str]) -> str | None:
    """Returns the options that an unknown one may stand for, in words; None if there is no guess.

    Args:
        name: as it was typed, like ``--output`` or ``-o``.
        options: the long options of the command, like ``--out``.
    """
    available = list(options)
    word = {"-o": "out", "-i": "input", "-b": "batch", "-j": "jobs", "-d": "data-dir", "-m": "weights"}.get(
        name, name.lstrip("-").replace("_", "-").lower()
    )
    fitting = [option for option in _BY_NAME.get(word, []) if option in available or not option.startswith("--")]
    # A word without an option stands for the input where no option does.
    fitting = [option for option in fitting if option != "PATH" or len(fitting) == 1]
    if fitting:
        return " or ".join("the path alone, without an option" if option == "PATH" else option for option in fitting)
    close = difflib.get_close_matches(name.replace("_", "-"), available, n=1)
    return close[0] if close else None
