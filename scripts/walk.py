"""Walks in the shoes of three new users, and writes docs/walks.md: each command, what it said, and how long it took.

    python scripts/walk.py --data archive.zip

It needs `pip install '.[train,export,tables,serve,heif,hub,kaggle,tensorboard]'` and works in an empty folder, on drawn
faces and on the public-domain portrait of docs/. A step that needs FER2013 is left out without ``--data``. Nothing here
is compared with an expected text: whoever runs it reads the page.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mien.machine import machine
from mien.version import __version__

ROOT = Path(__file__).parents[1]
MOST_LINES = 14
"""Lines of an answer that the page shows; the middle of longer ones is left out."""

LONGEST_LINE = 500
LONGEST_S = 900

STUDENT = """
mien data draw --out drawn.zip --train 700 --validation 210 --test 210
mien data inspect drawn.zip
mien train --config baseline --data drawn.zip --epochs 1
mien train --backbone mini --image-size 224 --patch-size 16 --freeze.blocks 4 --data drawn.zip
mien pretrain --data drawn.zip --preset nano --epochs 1 --out runs/mae
mien train --data drawn.zip --backbone runs/mae/model --epochs 2 --freeze.blocks 2 --dry-run
mien train --data drawn.zip --backbone runs/mae/model --epochs 2 --freeze.blocks 2 --out runs/first --track tensorboard
mien train --data drawn.zip --backbone runs/mae/model --epochs 2 --freeze.blocks 2 --out runs/second --seed 1
mien train --resume runs/first
mien train --resume runs/first --epochs 4
ls runs/first
mien predict photo.jpg --model runs/first
mien evaluate runs/first runs/second --data drawn.zip --split validation --out reports/both
cat reports/both/models.md
ls reports/both
mien export runs/first --out exported/first
mien pack runs/first --data drawn.zip --out packed/first
ls -l packed/first
cat foreign.py
python foreign.py
mien card mini | head -n 12
mien evaluate mini nano --data archive.zip --split validation --out reports/shipped
cat reports/shipped/models.md
mien data fetch --out kaggle.zip
"""

DEVELOPER = """
cat first.py
python first.py
cat odd_inputs.py
python odd_inputs.py
cat processes.py
python processes.py
mien predict photo.jpg --format deepface
mien predict https://example.com/a.jpg
mien predict photo.jpg --detector mtcnn
mien predict photo.jpg --device gpu
mien predict photo.jpg --model trpakov/vit-face-expression
mien predict film.mp4 --video-out marked.mp4 --csv film.csv
cat client.py
python client.py
mien env
"""

PSYCHOLOGIST = """
mien predict photos
mien predict photos --xlsx faces.xlsx
mien predict photos --csv faces.csv --bom --digits 3
head -n 3 faces.csv
mien predict photos --annotate marked
mien predict photos --annotate marked
mien predict film.mp4 --csv film.csv --timeline film.png --video-out film-marked.mp4
mien predict photos --out results
mien predict photos --save
mien predict photos -q --csv quiet.csv
mien explain photo.jpg
mien explain photos
mien predict -v photo.jpg
mien predict ticket.txt
"""

FILES = {
    "first.py": """
from mien import Recognizer
recognizer = Recognizer()
print(recognizer)
photo = recognizer.recognize("photo.jpg")
print(photo)
print(len(photo), photo[0].label, photo[0].uncertain)
print(photo.to_df().T.head(8))
print(photo.to_dict()["faces"][0]["probabilities"])
photo.save("marked.png")
""",
    "foreign.py": """
from transformers import pipeline
print(pipeline("image-classification", "runs/first/model")("face.png")[0])
""",
    "odd_inputs.py": """
import io, numpy
from mien import MienError, Recognizer
recognizer = Recognizer(color="bgr")
print(recognizer.recognize(io.BytesIO(open("photo.jpg", "rb").read())))
print(recognizer.recognize(open("photo.jpg", "rb")))
for wrong in ({1}, numpy.zeros((2, 3, 48, 48), numpy.uint8), (n for n in []), "missing.jpg", "*.tiff"):
    try:
        print(recognizer.recognize(wrong))
    except MienError as error:
        print(type(error).__name__, "-", error)
""",
    "processes.py": """
import pickle
from concurrent.futures import ProcessPoolExecutor
from mien import Recognizer
if __name__ == "__main__":
    recognizer = Recognizer("nano")
    print(pickle.loads(pickle.dumps(recognizer)))
    with ProcessPoolExecutor(2) as pool:
        print([photo[0].label for photo in pool.map(recognizer.recognize, ["photo.jpg"] * 3)])
""",
    "client.py": """
import subprocess, urllib.request
command = ["mien", "serve", "--port", "0"]
with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as service:
    address = service.stdout.readline().split()[0].rstrip(":")
    body = open("photo.jpg", "rb").read()
    request = urllib.request.Request(address + "/v1/recognize", body, {"content-type": "image/jpeg"})
    print(urllib.request.urlopen(request).read().decode()[:400])
    service.terminate()
print("exit code", service.returncode)
""",
    "ticket.txt": "no picture\n",
}


@dataclass(frozen=True)
class Step:
    """A command, and what came of it."""

    command: str
    answer: str
    code: int
    seconds: float

    def markdown(self) -> str:
        """The step as a block of a page."""
        lines = [line[:LONGEST_LINE] for line in self.answer.splitlines()]
        if len(lines) > MOST_LINES:
            half = MOST_LINES // 2
            lines = [*lines[:half], f"... {len(lines) - 2 * half} more lines ...", *lines[-half:]]
        text = "\n".join(f"    {line}".rstrip() for line in [f"$ {self.command}", *lines])
        return f"{text}\n\nExit code {self.code}, {self.seconds:.1f} s.\n"


def prepare(folder: Path, data: Path | None) -> None:
    """Fills an empty folder with what the three people have: photos, a film, a face, scripts, perhaps FER2013."""
    from PIL import Image, ImageOps
    from pillow_heif import register_heif_opener

    from mien import Recognizer
    from mien.recognition.film.reader import FilmInfo
    from mien.recognition.film.writer import write_annotated

    for name, text in FILES.items():
        (folder / name).write_text(text.lstrip("\n"), encoding="utf-8")
    shutil.copy(ROOT / "docs" / "astronaut.jpg", folder / "photo.jpg")
    photo = Image.open(folder / "photo.jpg").convert("RGB")
    photos = folder / "photos"
    photos.mkdir()
    photo.save(photos / "Müller & Frau.jpg")
    ImageOps.mirror(photo).save(photos / "=second.png")
    register_heif_opener()
    photo.save(photos / "IMG_0001.HEIC")
    Image.new("RGB", (300, 200), "grey").save(photos / "wall.jpg")
    (photos / "broken.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:3000])
    (photos / "notes.txt").write_text("not a picture", encoding="utf-8")
    photo.crop((180, 60, 300, 180)).convert("L").resize((48, 48)).save(folder / "face.png")
    record = Recognizer().recognize(folder / "photo.jpg")
    with write_annotated(folder / "film.mp4", FilmInfo(25.0)) as write:
        for number in range(25):
            write(replace(record, faces=(), frame=number, time_s=number / 25))
    if data is not None:
        (folder / "archive.zip").symlink_to(data.absolute())


def run(command: str, folder: Path, environment: dict[str, str], longest: float = LONGEST_S) -> tuple[bytes, int]:
    """Runs a command in a shell; returns what it printed, and its exit code. One that takes too long is killed."""
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=longest)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the shell and what it runs
        output, _ = process.communicate()
        output += f"\n(stopped after {longest:.0f} s)".encode()
    return output, process.returncode


def walk(commands: str, folder: Path) -> Iterator[Step]:
    """Runs commands one after the other, as typed in a terminal."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in commands.strip().splitlines():
        if "archive.zip" in command and not (folder / "archive.zip").exists():
            continue
        started = time.perf_counter()
        output, code = run(command, folder, environment)
        seconds = time.perf_counter() - started
        answer = output.decode("utf-8", "replace").rstrip().replace(str(folder), "FOLDER")
        for place, name in ((sys.prefix, "ENVIRONMENT"), (str(ROOT), "CHECKOUT"), (str(Path.home()), "~")):
            answer = answer.replace(place, name)
        step = Step(command, answer, code, seconds)
        print(step.markdown(), flush=True)
        yield step


def page(walks: dict[str, list[Step]]) -> str:
    """The page docs/walks.md."""
    hardware = machine()
    parts = [
        "# Three walks\n",
        f"What three new users type and read, with Mien {__version__} on {hardware['cores']} cores "
        f"({hardware['processor']}). A script makes this page; it works in an empty folder, on drawn faces and a "
        "public-domain portrait. Models trained here saw a few hundred drawn faces and are worth nothing.\n",
        "```sh\npython scripts/walk.py --data archive.zip\n```\n",
        "Answers are guesses about how a face looks, not about what a person feels.\n",
    ]
    for title, steps in walks.items():
        parts += [f"## {title}\n", *(step.markdown() for step in steps)]
    return "\n".join(parts)


def main() -> None:
    """Walks, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="archive.zip", help="FER2013, for the steps on real faces")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "walks.md", metavar="FILE.md", help="(docs/walks.md)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mien-walk-") as scratch:
        folder = Path(scratch)
        prepare(folder, arguments.data)
        walks = {
            "A student with a thesis to write": list(walk(STUDENT, folder)),
            "A developer who comes from fer or deepface": list(walk(DEVELOPER, folder)),
            "A psychologist with a folder of photos": list(walk(PSYCHOLOGIST, folder)),
        }
        arguments.out.write_text(page(walks), encoding="utf-8")


if __name__ == "__main__":
    main()
