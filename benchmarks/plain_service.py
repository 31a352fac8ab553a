"""A network behind a plain FastAPI application, as tutorials do it, for ``load.py``; it prints its address.

    python benchmarks/plain_service.py fer
    python benchmarks/plain_service.py mien mini

``fer`` runs where ``fer`` is installed and imports no Mien; a lock serves one picture at a time, as OpenCV's cascade
must not be used by two threads at once. ``mien`` calls ``Recognizer.recognize`` on FastAPI's threads.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import Body, FastAPI


def fer() -> Callable[[bytes], Any]:
    """The function from a file to faces, by ``fer``."""
    import cv2
    import numpy as np
    from fer.fer import FER

    detector, lock = FER(), threading.Lock()

    def read(data: bytes) -> Any:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        with lock:
            faces = detector.detect_emotions(picture)
        return [
            {
                "box": [int(value) for value in face["box"]],
                "emotions": {k: float(v) for k, v in face["emotions"].items()},
            }
            for face in faces
        ]

    return read


def mien(model: str) -> Callable[[bytes], Any]:
    """The same by Mien."""
    from mien import Recognizer

    recognizer = Recognizer(model)
    return lambda data: recognizer.recognize(data).record()


def application(read: Callable[[bytes], Any]) -> FastAPI:
    """One route, without limits, checks or batches."""
    app = FastAPI()

    @app.post("/v1/recognize")
    def recognize(data: bytes = Body(media_type="image/png")) -> Any:
        return read(data)

    return app


if __name__ == "__main__":
    app = application(fer() if sys.argv[1] == "fer" else mien(sys.argv[2]))
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([listener])
