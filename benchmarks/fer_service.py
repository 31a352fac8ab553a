"""``fer`` behind a FastAPI application of a few lines, as tutorials do it, for ``load.py``; it prints its address.

It runs where ``fer`` is installed and imports no Mien. A lock serves one picture at a time, as OpenCV's cascade must
not be used by two threads at once.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

import cv2
import numpy as np
import uvicorn
from fastapi import Body, FastAPI
from fer.fer import FER

app, detector, lock = FastAPI(), FER(), threading.Lock()


@app.post("/v1/recognize")
def recognize(data: bytes = Body(media_type="image/png")) -> Any:
    """Boxes and probabilities of the faces in a file; without limits, checks or batches."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    with lock:
        faces = detector.detect_emotions(picture)
    return [
        {"box": [int(value) for value in face["box"]], "emotions": {k: float(v) for k, v in face["emotions"].items()}}
        for face in faces
    ]


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([listener])
