"""Counts for Prometheus; with several workers they are added up in files of a folder that the supervisor makes."""

from __future__ import annotations

import os

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable that names the folder; prometheus-client reads it when it is imported."""

MEDIA_TYPE = CONTENT_TYPE_LATEST

_registry = CollectorRegistry()

REQUESTS = Counter(
    "mien_requests", "Requests by route, method and status.", ["route", "method", "status"], registry=_registry
)
SECONDS = Histogram(
    "mien_request_seconds",
    "Seconds from the end of the headers of a request to the end of its answer.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=_registry,
)
PICTURES = Counter("mien_pictures", "Pictures by the status of their record.", ["status"], registry=_registry)
FACES = Counter("mien_faces", "Faces that were read.", registry=_registry)
BATCH_FACES = Histogram(
    "mien_batch_faces", "Faces that were read at once.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=_registry
)
HELD = Gauge(
    "mien_requests_held",
    "Requests that are in transfer, waiting or being read.",
    multiprocess_mode="livesum",
    registry=_registry,
)


def exposition() -> bytes:
    """Returns all counts in Prometheus's text format; those of all workers, if there are several."""
    if FOLDER not in os.environ:
        return generate_latest(_registry)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)
