"""``mien serve``: the page and the REST service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mien.cli.parser import LONGEST_TIMEOUT_S, Parser, number, whole_number
from mien.machine import all_cores
from mien.model.places import DEFAULT, shipped

MOST_WORKERS = 4
"""Workers for each core at most: more only take memory."""

DESCRIPTION = """\
Serves a page that reads faces in photos, films and camera images, and a REST service, at http://127.0.0.1:8000.
The answer is a guess about how a face looks, not about what a person feels; EU law forbids its use at work and in
education. Whoever is in view has to be told.

Examples:
  mien serve
  mien serve --port 8080 --workers 2 --queue 32
  mien serve --host 0.0.0.0 --api-key-file keys.txt --cors https://example.org
  mien serve --model runs/first --report reports/first

POST /v1/recognize answers with the records of `mien predict --json`, POST /v1/explain with heat maps, POST /analyze in
the shape of deepface; /docs describes all, /metrics counts for Prometheus, /healthz and /readyz are for supervisors.
Pictures are neither stored nor logged, no URL is fetched, and no other host is contacted. SIGTERM finishes the requests
in flight. Logs are lines of JSON on stderr.

Exit code 0: ended by SIGTERM or Ctrl-C; 1: a worker could not start; 2: a mistake in the command.
"""


def run(arguments: list[str]) -> int:
    """Runs ``mien serve``; returns the exit code.

    Raises:
        MienError: an argument is wrong, the model cannot be loaded, or the address cannot be listened on.
    """
    options = parser().parse(arguments)

    # The extra ``serve`` brings these; without it, ``mien.cli`` names the extra.
    from mien.web.server import serve
    from mien.web.settings import ServiceSettings, read_api_keys

    names = ("host", "port", "workers", "model", "queue", "max_pixels", "max_bytes", "max_pictures", "report")
    settings = ServiceSettings(
        **{name: getattr(options, name) for name in names},
        api_keys=() if options.api_key_file is None else read_api_keys(options.api_key_file),
        cors=tuple(options.cors),
        timeout_s=options.timeout,
        batch_wait_s=options.batch_wait / 1000,
    )
    settings.check()
    return serve(settings)


def parser() -> Parser:
    """Returns the parser of ``mien serve``."""
    built = Parser("mien serve", DESCRIPTION)
    add = built.add_argument
    add("--host", default="127.0.0.1", metavar="H", help="address to listen on; 0.0.0.0 for all (127.0.0.1)")
    add("--port", type=whole_number(0, 65_535), default=8000, metavar="N", help="port; 0 for a free one (8000)")
    most = MOST_WORKERS * all_cores()
    add("--workers", type=whole_number(1, most), default=1, metavar="N", help="processes that share the cores (1)")
    add(
        "--model",
        metavar="MODEL",
        help=f"{', '.join(shipped())}, a folder of `mien train` or `mien export`, an .onnx file, or user/model of the "
        f"Hugging Face hub ({DEFAULT})",
    )
    add("--report", type=Path, metavar="DIR", help="folder of `mien evaluate`, whose report the page shows")
    add("--api-key-file", type=Path, metavar="FILE", help="accepted keys, one per line; without it none is needed")
    add(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin whose pages may call the service; may be repeated (none)",
    )
    add("--queue", type=whole_number(1), default=64, metavar="N", help="requests that a worker holds at most (64)")
    add(
        "--timeout",
        type=_from_to(1, LONGEST_TIMEOUT_S, "seconds"),
        default=30.0,
        metavar="S",
        help="seconds for a body, and for its answer (30)",
    )
    add("--max-pixels", type=whole_number(1), default=25_000_000, metavar="N", help="most for a picture (25000000)")
    add("--max-bytes", type=whole_number(1024), default=20_000_000, metavar="N", help="most for a request (20000000)")
    add("--max-pictures", type=whole_number(1), default=16, metavar="N", help="most for a request (16)")
    add(
        "--batch-wait",
        type=_from_to(0, 10_000, "milliseconds"),
        default=100.0,
        metavar="MS",
        help="longest time that a face waits for those of other requests while pictures wait to be searched, plus the "
        "search in progress; 0 for none (100)",
    )
    return built


def _from_to(least: int, most: int, unit: str) -> Callable[[str], float]:
    return number(f"{least} to {most:,} {unit}", lambda value: least <= value <= most)
