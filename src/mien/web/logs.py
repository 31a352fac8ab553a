"""Structured logs: a line of JSON for each event, on stderr; never pictures, names of files or addresses."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

_FIELDS = ("request_id", "method", "route", "status", "seconds", "bytes", "pictures", "faces", "kind", "worker")


class JsonFormatter(logging.Formatter):
    """Writes a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns ``time`` (UTC), ``level``, ``logger``, ``message``, the extra fields and ``traceback``."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": when,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


def log_config(level: str = "INFO") -> dict[str, Any]:
    """Returns the settings of ``logging`` for the service and for uvicorn, which logs through the same lines."""
    loggers = {name: {"handlers": ["stderr"], "level": level, "propagate": False} for name in ("mien", "uvicorn")}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "mien.web.logs.JsonFormatter"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
        "loggers": loggers,
    }
