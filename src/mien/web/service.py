"""What the routes share in one worker."""

from __future__ import annotations

from pathlib import Path

from mien.web import metrics
from mien.web.about import ModelRecord
from mien.web.admission import Admission
from mien.web.assets import Assets
from mien.web.batching import BatchRecognizer, Reader
from mien.web.settings import ServiceSettings


class Service:
    """What the routes share in one worker.

    Attributes:
        settings: settings of the service.
        reader: reads pictures.
        record: the model.
        assets: the page.
        admission: counts the requests that are held.
    """

    def __init__(self, settings: ServiceSettings, recognizer: BatchRecognizer, page: Path) -> None:
        self.settings = settings
        self.reader = Reader(recognizer, settings.threads, settings.batch_wait_s, metrics.BATCH_FACES.observe)
        self.record = ModelRecord(settings.model, recognizer)
        self.assets = Assets(page)
        self.admission = Admission(settings)
