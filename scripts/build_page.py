"""Builds the page: ``python scripts/build_page.py`` after ``npm ci``; `make page` does both.

``src/mien/web/page/built`` gets onnxruntime-web and ``models.json``, which `mien serve` and the wheel need. The folder
``dist/page`` gets the whole page with the models, for any static web server.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mien.errors import MienError
from mien.export.card import card
from mien.files import read_json_object
from mien.model.places import shipped
from mien.recognition.detectors import installed
from mien.recognition.onnx_sizes import any_size
from mien.web.model import wilson

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "src/mien/web/page"
BUILT = PAGE / "built"
STATIC = ROOT / "dist/page"
NPM = ROOT / "node_modules/onnxruntime-web"

RUNTIME: tuple[str, ...] = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The files of onnxruntime-web that the page loads: WebAssembly with SIMD, and threads where the page may have them."""

TITLES: dict[str, str] = {"mini-int8": "mini", "nano-int8": "nano, quicker"}
"""The shipped models that run in the browser, the default first, and what the page calls them."""

NOTICE = """\
onnxruntime-web {version}, MIT License, Copyright (c) Microsoft Corporation, https://github.com/microsoft/onnxruntime

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def build(built: Path = BUILT, static: Path | None = STATIC) -> None:
    """Writes the built parts and, unless ``static`` is None, the folder that needs no server of ours.

    Raises:
        MienError: the npm packages are not installed, or the weights are missing.
    """
    missing = [name for name in RUNTIME if not (NPM / "dist" / name).is_file()]
    if missing:
        raise MienError(f"{NPM}: lacks {', '.join(missing)}; run `npm ci` in {ROOT}")
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    for name in RUNTIME:  # nginx knows no .mjs: it would send a type that browsers do not run
        shutil.copyfile(NPM / "dist" / name, built / name.replace(".mjs", ".js"))
    version = json.loads((NPM / "package.json").read_text("utf-8"))["version"]
    (built / "NOTICE.txt").write_text(NOTICE.format(version=version), "utf-8")
    files = model_files()
    _write(built / "models.json", models(files))
    if static is not None:
        _write_static(built, static, files)


def model_files() -> dict[str, bytes]:
    """Returns the networks that the browser fetches by name: the detector, and the shipped models in int8."""
    files = {"yunet": any_size(installed())}
    available = shipped()
    for name in TITLES:
        if name not in available or available[name].onnx is None:
            raise MienError(f"{name}: its weights are not in this checkout; get src/mien/weights back")
        files[name] = Path(str(available[name].onnx)).read_bytes()
    return files


def models(files: Mapping[str, bytes], *, static: bool = False) -> dict[str, Any]:
    """Returns what the page has to know of the networks, JSON-ready.

    Args:
        files: content of the networks by name, as of ``model_files``.
        static: True if no server of ours answers, so that the page does not ask for one.
    """
    return {
        "static": static,
        "detector": _file("yunet", files["yunet"]),
        "models": [{**_file(name, files[name]), "title": title, **_record(name)} for name, title in TITLES.items()],
    }


def _file(name: str, content: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(content).hexdigest()
    return {"name": name, "url": f"models/{name}.onnx", "bytes": len(content), "sha256": sha256}


def _record(name: str) -> dict[str, Any]:
    """Returns the scores of a model in the members that ``GET /v1/model`` has too, and its card."""
    path = Path(str(shipped()[name].onnx))
    meta = read_json_object(path.parent / "meta.json")
    release, uncertain = meta["release"], meta["calibration"]["uncertain"]
    split = release["onnx"]["split"]  # on which the int8 file was measured
    scores = release["scores"][split]
    accuracy = release["onnx"]["engines"]["ONNX int8"]["accuracy"]
    low, high = wilson(accuracy, scores["n"])
    return {
        "file": path.name,
        "threshold": uncertain["threshold"],
        "stated_accuracy": uncertain["stated_accuracy"],
        "image_size": release["reading"]["image_size"],
        "face_size": release["reading"]["face_size"],
        "accuracy": {
            "split": split,
            "pictures": scores["n"],
            "value": accuracy,
            "low": low,
            "high": high,
            "clean": {"pictures": scores["clean"]["n"], "value": scores["clean"]["accuracy"]},
        },
        "sure": {"coverage": uncertain["coverage"], "accuracy": uncertain["accuracy"]},
        "scores": {"names": scores["names"], "confusion": scores["confusion"]},
        "robustness": release["robustness"]["rows"],
        "card": card(meta, f"Mien {name.removesuffix('-int8')}"),
    }


def _write_static(built: Path, static: Path, files: Mapping[str, bytes]) -> None:
    shutil.rmtree(static, ignore_errors=True)
    shutil.copytree(PAGE, static, ignore=shutil.ignore_patterns("built"))
    shutil.copytree(built, static / "built")
    (static / "models").mkdir()
    for name, content in files.items():
        (static / "models" / f"{name}.onnx").write_bytes(content)
    _write(static / "built/models.json", models(files, static=True))


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, separators=(",", ":"), allow_nan=False), "utf-8")


def main() -> int:
    """Builds, and prints where the page is; 2 if something is missing."""
    try:
        build()
    except MienError as error:
        print(f"page: {error}", file=sys.stderr)
        return 2
    print(f"built {BUILT.relative_to(ROOT)}, for `mien serve` and the wheel")
    print(f"built {STATIC.relative_to(ROOT)}, for any web server: python -m http.server --directory dist/page")
    return 0


if __name__ == "__main__":
    sys.exit(main())
