"""Experiment trackers of a run (TensorBoard, Weights & Biases, MLflow, trackio), through accelerate.

The settings are logged once; the loss and the learning rate every few steps, the scores after each epoch, all by the
number of updates. A resumed run goes on in the same place and logs no step twice: it repeats the steps since its last
saved state bit for bit, so what was logged before stays.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, on_main_process

from mien.config import RunConfig, flat, to_dict
from mien.errors import MienError, one_line
from mien.files import read_json_object, write_json
from mien.log import warn

PROJECT = "mien"
"""Name of the project or experiment that holds the runs."""

RECORD = "tracking.json"
"""File in the folder of a run: its id at the trackers, and the last step that was logged."""


class TensorBoard(GeneralTracker):
    """One event file in a folder, which a resumed run continues; accelerate's own starts a new file each time.

    Args:
        folder: of the event file.
        resumed: keep what earlier parts of the run logged; else it is removed.
    """

    name = "tensorboard"
    requires_logging_directory = False

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        super().__init__()
        self.folder, self.resumed = folder, resumed

    @on_main_process
    def start(self) -> None:
        """Opens the event file and copies the events of earlier parts of the run into it."""
        from torch.utils.tensorboard import SummaryWriter

        former = sorted(self.folder.glob("events.out.tfevents.*"))
        events = list(_events(former)) if self.resumed else []
        self.writer = SummaryWriter(str(self.folder))
        for event in events:
            self.writer._get_file_writer().add_event(event)
        self.writer.flush()
        for path in former:
            path.unlink()

    @property
    def tracker(self) -> Any:
        """The writer of torch."""
        return self.writer

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Logs the settings into the same file."""
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(values, {}):
            self.writer._get_file_writer().add_summary(summary)

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Logs numbers of a step, and writes them to the disk."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    @on_main_process
    def finish(self) -> None:
        """Closes the file."""
        self.writer.close()


def _events(paths: Iterable[Path]) -> Iterable[Any]:
    """The events of files, except the mark at the beginning of each; a damaged end is left out."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    for path in paths:
        for data in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(data)
            if not event.file_version:
                yield event


class Tracking:
    """The trackers of a run. A tracker that fails during training is dropped with a warning, and training goes on.

    Args:
        config: of the run.
        accelerator: of the run.
        resumed: the run goes on from a saved state.

    Raises:
        MienError: a tracker cannot start.
    """

    def __init__(self, config: RunConfig, accelerator: Accelerator, *, resumed: bool) -> None:
        self.path, self.accelerator = Path(config.out) / RECORD, accelerator
        names = config.trackers
        self.is_on = bool(names)
        if not self.is_on:
            return
        self.record: dict[str, Any] = {"id": uuid.uuid4().hex[:8], "trackers": []}
        if resumed and self.path.is_file():
            self.record |= read_json_object(self.path)
        if config.tensorboard and accelerator.is_main_process:
            warn("--tensorboard: has a new name, --track tensorboard; the old one works too")
        accelerator.log_with = [self._tracker(name, Path(config.out)) for name in names]
        try:
            accelerator.init_trackers(PROJECT)
            for tracker in accelerator.trackers:
                if tracker.name not in self.record["trackers"]:
                    tracker.store_init_configuration(settings(config))
        except Exception as error:  # of other packages, and of the network
            raise MienError(
                f"--track {' '.join(names)}: cannot start ({one_line(str(error)) or type(error).__name__}); set it up, "
                "or leave it out"
            ) from error
        for tracker in accelerator.trackers:
            if tracker.name == "mlflow" and accelerator.is_main_process:
                self.record["mlflow"] = tracker.tracker.info.run_id
        self.record["trackers"] = sorted({*self.record["trackers"], *names})
        self._save()

    def _tracker(self, name: str, out: Path) -> GeneralTracker:
        if name == "tensorboard":
            return TensorBoard(out / "tensorboard", resumed=name in self.record["trackers"])
        run_name = f"{out.resolve().name}-{self.record['id']}"
        options: dict[str, Any] = {"run_name": run_name, "run_id": self.record.get("mlflow")}
        if name == "wandb":
            options = {"id": self.record["id"], "name": run_name, "resume": "allow"}
        elif name == "trackio":
            options = {"name": run_name, "resume": "allow"}
        return LOGGER_TYPE_TO_CLASS[name](PROJECT, **options)

    def log(self, values: Mapping[str, Any], step: int, *, prefix: str) -> None:
        """Logs the numbers of a step, unless this was done before the run was resumed.

        Args:
            values: numbers by name; None is left out.
            step: updates of the weights so far.
            prefix: group of the names, such as ``step`` or ``epoch``.
        """
        if not self.is_on:
            return
        key = f"last_{prefix}"
        if step <= self.record.get(key, -1):
            return
        self.record[key] = step
        self._save()  # before it is logged: if the run is killed in between, a number is missing and none is double
        numbers = {f"{prefix}/{name}": float(value) for name, value in values.items() if value is not None}
        for tracker in list(self.accelerator.trackers):
            try:
                tracker.log(numbers, step=step)
            except Exception as error:  # hours of training are worth more than a tracker
                self._drop(tracker, error)

    def finish(self) -> None:
        """Closes all trackers."""
        if not self.is_on:
            return
        for tracker in list(self.accelerator.trackers):
            try:
                tracker.finish()
            except Exception as error:
                self._drop(tracker, error)

    def _drop(self, tracker: GeneralTracker, error: Exception) -> None:
        self.accelerator.trackers.remove(tracker)
        reason = one_line(str(error)) or type(error).__name__
        warn(f"--track {tracker.name}: stopped working ({reason}); training goes on without it")

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            write_json(self.path, self.record)


def settings(config: RunConfig) -> dict[str, bool | int | float | str]:
    """The settings of a run as flat values: lists and mappings as JSON, null as text."""
    return {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in flat(to_dict(config)).items()
    }
