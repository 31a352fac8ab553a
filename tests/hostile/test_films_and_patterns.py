"""Inputs that never end or are too large: pipes, links that lead back, films of huge frames, weights elsewhere."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import film_helpers as films
import numpy as np
import onnx
import pytest
from data_helpers import encode, noise
from hostile_helpers import Whole, run_mien

from mien import Recognizer
from mien.errors import MienError
from mien.recognition import paths
from mien.recognition.batch import Settings, read_inputs
from mien.recognition.detectors import Network, installed
from mien.recognition.film import cuts, decoder, reader, truncation
from mien.recognition.film import reader as frames
from mien.recognition.film import records as film
from mien.recognition.paths import Film, Nothing, expand


class TestFilesThatAreNone:
    """Pipes, sockets and devices that are named like films: a record each, at once."""

    @pytest.fixture
    def special_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        monkeypatch.chdir(tmp_path)  # a socket's name must be short
        os.mkfifo("clip.mp4")
        os.symlink("/dev/zero", "zero.avi")
        os.symlink("/dev/urandom", "random.mkv")
        server = socket.socket(socket.AF_UNIX)
        server.bind("s.mov")
        yield tmp_path
        server.close()

    def test_in_a_folder(self, special_files: Path) -> None:
        (special_files / "photo.png").write_bytes(encode(noise(0, 48)))
        completed = run_mien("predict", ".", "--detector", "none", "--json", cwd=special_files)
        lines = completed.stdout.splitlines()
        assert completed.returncode == 3 and len(lines) == 5 and "Traceback" not in completed.stderr, completed.stderr
        assert sum('"error"' in line and "no regular file" in line for line in lines) == 4
        assert sum('"status": "ok"' in line for line in lines) == 1

    @pytest.mark.parametrize("name", ["clip.mp4", "zero.avi", "random.mkv", "s.mov"])
    def test_by_name(self, name: str, special_files: Path) -> None:
        for read in (frames.film_info, lambda path: next(frames.frames(path))):
            with pytest.raises(MienError, match="is no regular file"):
                read(special_files / name)

    def test_with_a_film_written(self, special_files: Path) -> None:
        completed = run_mien("predict", "clip.mp4", "--detector", "none", "--video-out", "out.mp4", cwd=special_files)
        assert (
            completed.returncode == 3
            and "no regular file" in completed.stdout
            and not (special_files / "out.mp4").exists()
        )


class TestLargeFrames:
    """No frame is decoded that has more pixels than a photo may have; frames of a batch are bounded by bytes."""

    @pytest.fixture
    def small_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (decoder, reader):
            monkeypatch.setattr(module, "MOST_PIXELS", films.WIDTH * films.HEIGHT)
        monkeypatch.setattr(decoder, "_LIMITS", {"max_pixels": str(2**18)})

    @pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
    def test_the_header_is_asked_first(self, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = films.numbered(tmp_path / f"film{suffix}", 3)
        for module in (decoder, reader):
            monkeypatch.setattr(module, "MOST_PIXELS", films.WIDTH * films.HEIGHT - 1)
        for read in (frames.film_info, lambda path: next(frames.frames(path))):
            with pytest.raises(MienError, match=r"has frames of 96x64 pixels, expected at most .* make it smaller"):
                read(path)

    def test_frames_that_are_larger_than_the_header_says(self, tmp_path: Path, small_limit: None) -> None:
        pictures = [np.full((films.HEIGHT, films.WIDTH, 3), 90, np.uint8)] * 3
        large_picture = np.full((1024, 1024, 3), 90, np.uint8)
        path = tmp_path / "film.avi"
        with av.open(str(path), "w") as output:
            stream = output.add_stream("mjpeg", rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = films.WIDTH, films.HEIGHT, "yuvj420p"
            for index, picture in enumerate([*pictures, large_picture, *pictures]):
                encoder = av.CodecContext.create("mjpeg", "w")
                assert isinstance(encoder, av.VideoCodecContext)
                encoder.height, encoder.width = picture.shape[:2]
                encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuvj420p")
                frame.pts = 0
                for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                    packet.stream, packet.pts, packet.dts = stream, index, index
                    packet.time_base = Fraction(1, 25)
                    output.mux(packet)
        rows = list(frames.frames(path))
        assert [frame.pixels is None for frame in rows] == [False] * 3 + [True] + [False] * 3
        assert str(rows[3].reason).startswith(reader.LOST)

    def test_pixels_that_are_stretched(self, tmp_path: Path, small_limit: None) -> None:
        def wide(stream: av.VideoStream) -> None:
            stream.codec_context.sample_aspect_ratio = Fraction(4, 1)

        path = films.write(tmp_path / "film.mkv", [films.picture(0)] * 2, "mpeg4", prepare=wide)
        rows = list(frames.frames(path))
        assert all(frame.pixels is None and "384x64 pixels" in str(frame.reason) for frame in rows) and len(rows) == 2

    def test_a_batch_ends_where_it_is_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(film, "_MOST_BYTES", 2 * films.WIDTH * films.HEIGHT * 3)
        recognizer = Recognizer("nano", detector=Whole())
        sizes: list[int] = []
        original = recognizer.recognize

        def counted(pictures: list[np.ndarray], color: Any) -> object:
            sizes.append(len(pictures))
            return original(pictures, color)

        monkeypatch.setattr(recognizer, "recognize", counted)
        records = list(recognizer.recognize_film(films.numbered(tmp_path / "film.mp4", 7)))
        assert sizes == [2, 2, 2, 1] and [record.frame for record in records] == list(range(7))

    @pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak there")
    def test_a_film_of_huge_frames_takes_little_memory(self, tmp_path: Path) -> None:
        """16,000 x 14,000: 224 million pixels, refused before one is decoded; the picture after it is read."""
        path = films.write(tmp_path / "a.avi", [np.zeros((64, 64, 3), np.uint8)] * 2, "mjpeg", pixels="yuvj420p")
        data = path.read_bytes()
        sizes = np.array([64, 64], "<u4").tobytes()
        assert data.count(sizes) >= 1
        huge = data.replace(sizes, np.array([16_000, 14_000], "<u4").tobytes())
        # In the picture's own header too: SOF0, 8 bits, height, width.
        sof = b"\xff\xc0\x00\x11\x08\x00\x40\x00\x40"
        assert sof in huge
        path.write_bytes(huge.replace(sof, b"\xff\xc0\x00\x11\x08" + bytes.fromhex("36b03e80")))
        (tmp_path / "b.png").write_bytes(encode(noise(0, 48)))
        code = (
            "import resource, sys; from mien.cli import main\n"
            "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
            "code = main(sys.argv[1:])\n"
            # Not ru_maxrss, which begins with what the parent had when it forked.
            "peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
            "print('PEAK', int(peak) // 1024, code, file=sys.stderr)\n"
        )
        completed = run_python(code, "predict", str(tmp_path), "--detector", "none", "--json")
        *refusals, last_line = completed.stdout.splitlines()
        assert refusals and all("more than 134 million pixels" in line for line in refusals), completed.stdout
        assert '"status": "ok"' in last_line, completed.stdout
        peak, exit_code = completed.stderr.split("PEAK")[1].split()[:2]
        assert int(exit_code) == 3 and int(peak) < 600, completed.stderr


def run_python(code: str, *arguments: str):  # type: ignore[no-untyped-def]
    import subprocess

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


class TestOneFilmEndsNothing:
    """Whatever FFmpeg or the memory says within a film is told in its record; the next input is read."""

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (MemoryError(), "needs more memory than there is left"),
            (av.error.MemoryError(12, "Cannot allocate memory"), "needs more memory than there is left"),
            (av.error.InvalidDataError(1094995529, "Invalid data"), "cannot be read on"),
            (ValueError("a plane is missing"), "cannot be read on"),
        ],
        ids=["memory", "memory of FFmpeg", "FFmpeg", "PyAV"],
    )
    @pytest.mark.parametrize("place", ["thumbnail", "decode"])
    def test_it_becomes_a_record(
        self, place: str, error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = films.numbered(tmp_path / "film.mp4", 12)
        (tmp_path / "photo.png").write_bytes(encode(noise(0, 48)))
        calls: list[int] = []

        def failing(original, *arguments):  # type: ignore[no-untyped-def]
            calls.append(1)
            if len(calls) > 5:
                raise error
            return original(*arguments)

        if place == "thumbnail":
            original = cuts.thumbnail
            monkeypatch.setattr(cuts, "thumbnail", lambda picture: failing(original, picture))
        else:
            if not isinstance(error, MemoryError):
                pytest.skip("a packet that is refused is a lost frame")
            pictures = decoder._pictures_of

            class Stream:
                def __init__(self, stream: Any) -> None:
                    self.stream = stream

                def decode(self, packet: Any) -> Any:
                    return failing(self.stream.decode, packet)

            def pictures_of(stream: Any, packet: Any) -> Any:
                failing_stream: Any = Stream(stream)
                return pictures(failing_stream, packet)

            monkeypatch.setattr(decoder, "_pictures_of", pictures_of)
        recognizer = Recognizer("nano", detector="none")
        records = list(read_inputs(recognizer, [Film(path), tmp_path / "photo.png"], Settings()))
        assert records[-1].status == "ok" and records[-1].input.endswith("photo.png")
        assert records[-2].status == "error" and reason in str(records[-2].error) and "\n" not in str(records[-2].error)
        if place == "thumbnail":
            assert [record.frame for record in records[:-2]] == [0, 1, 2, 3, 4], "what was decoded before is read"
        with pytest.raises(MienError, match=reason):
            calls.clear()
            list(recognizer.recognize_film(path))

    def test_memory_of_the_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = films.numbered(tmp_path / "film.mp4", 3)
        recognizer = Recognizer("nano", detector="none")

        def full(crops: np.ndarray) -> None:
            raise MemoryError

        monkeypatch.setattr(recognizer.engine, "read", full)
        (record,) = read_inputs(recognizer, [Film(path)], Settings())
        assert record.status == "error" and "more memory" in str(record.error)

    def test_a_film_that_vanishes(self, tmp_path: Path) -> None:
        path = films.numbered(tmp_path / "film.mp4", 3)
        stream = frames.frames(path)
        next(stream)
        path.unlink()
        with pytest.raises(MienError, match="cannot be read"):
            list(stream)

    @pytest.mark.parametrize("kind", ["boxes", "elements"])
    def test_millions_of_empty_parts(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(truncation, "_MOST_PARTS", 1000)
        path = films.numbered(tmp_path / ("film.mp4" if kind == "boxes" else "film.mkv"), 3)
        part = b"\0\0\0\x08free" if kind == "boxes" else b"\xec\x80"
        with path.open("ab") as file:
            file.write(part * 100_000)
        reads: list[int] = []
        original = truncation._number

        def counted(data: bytes, keep_marker: bool = False) -> tuple[int, int]:
            reads.append(1)
            return original(data, keep_marker)

        monkeypatch.setattr(truncation, "_number", counted)
        with path.open("rb") as film_file:
            parts = truncation._mp4_parts(film_file, path.stat().st_size)
        assert truncation.missing_end(path) is None
        assert len(parts) <= 1000 and len(reads) <= 2000
        assert len(list(frames.frames(path))) == 3


def test_six_threads_open_films(tmp_path: Path) -> None:
    paths_ = [films.numbered(tmp_path / f"film{number}.mp4", 5 + number) for number in range(3)]
    environment_before = dict(os.environ)
    errors: list[BaseException] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def work(thread_number: int) -> None:
        try:
            for number in range(12):
                film_index = (thread_number + number) % 3
                assert frames.film_info(paths_[film_index]).frames == 5 + film_index
                numbers = [films.number_of(f.pixels) for f in frames.frames(paths_[film_index]) if f.pixels is not None]
                assert numbers == list(range(5 + film_index))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(thread_number,)) for thread_number in range(6)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
    finally:
        sys.setswitchinterval(interval)
    assert not errors and not any(thread.is_alive() for thread in threads) and dict(os.environ) == environment_before


class TestPatterns:
    """``**`` looks into no folder twice, and fits what ``glob`` fits where no link leads back."""

    @pytest.fixture
    def tree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        for name in ("a.jpg", "x/b.jpg", "x/y/c.jpg", "x/y/c.png", ".hidden/d.jpg", "x/.e.jpg", "z/x/y/f.jpg"):
            path = tmp_path / "t" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(noise(0)))
        monkeypatch.chdir(tmp_path)
        return tmp_path / "t"

    @pytest.mark.parametrize(
        "pattern",
        [
            "t/**", "**", "**/*.jpg", "t/**/*.jpg", "t/**/y/*.jpg", "t/**/x/**/*.jpg", "t/x/**/c.*", "*/**/[bc].jpg",
            "**/.*", "t/.hidden/**", "t/**/**/*.png", "t/**/nosuch/*", "t/**/y/../*.png",
        ],
    )  # fmt: skip
    def test_as_glob(self, pattern: str, tree: Path) -> None:
        import glob

        expected = sorted(
            {os.path.normpath(name) for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)}
        )
        if ".." in pattern:  # which a walk does not meet
            expected = []
        names = [str(path) for path in expand([pattern]) if not isinstance(path, Nothing)]
        assert names == expected

    def test_absolute(self, tree: Path) -> None:
        assert expand([f"{tree}/**/c.jpg"]) == [tree / "x/y/c.jpg"]

    @pytest.mark.parametrize("pattern", ["loop/**/*.jpg", "**/*.jpg", "loop/**", "lo*/**/**/*.jpg"])
    def test_links_that_lead_back(self, pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "loop").mkdir()
        (tmp_path / "loop" / "a.jpg").write_bytes(encode(noise(0)))
        for name in ("one", "two", "three"):
            (tmp_path / "loop" / name).symlink_to(".")
        assert expand([pattern]) == [Path("loop/a.jpg")]

    def test_many_stars(self, tmp_path: Path) -> None:
        parts = tuple("a" for _ in range(200))
        assert not paths._fits(parts, ("**", "a") * 60 + ("b",))
        assert paths._fits(parts, ("**", "a") * 60)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
    def test_a_folder_that_cannot_be_listed_is_told(self, tree: Path) -> None:
        (tree / "x").chmod(0)
        try:
            assert any(isinstance(path, Nothing) and "cannot be listed" in path.reason for path in expand(["t/**"]))
        finally:
            (tree / "x").chmod(0o700)


class TestDetectorFiles:
    """``yunet:FILE.onnx``: one file, whose weights lie in no other one."""

    @pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "weights.bin", "*/_ORT_MEM_ADDR_/*"])
    def test_external_data(self, location: str, tmp_path: Path) -> None:
        model = onnx.load_model_from_string(installed())
        tensor = model.graph.initializer[0]
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "4096"), ("length", str(size))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        path = tmp_path / "other.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(MienError, match="may keep weights in other files"):
            Network(path)
        with pytest.raises(MienError, match="may keep weights in other files"):
            Recognizer("nano", detector=path)

    def test_other_shapes_than_yunets(self, tmp_path: Path) -> None:
        model = onnx.load_model_from_string(installed())
        for node in model.graph.node:
            for index, name in enumerate(node.output):
                if name in ("bbox_8", "cls_8"):
                    node.output[index] = {"bbox_8": "cls_8", "cls_8": "bbox_8"}[name]
        path = tmp_path / "other.onnx"
        path.write_bytes(model.SerializeToString())
        network = Network(path)
        with pytest.raises(MienError, match=r"other\.onnx: fails when it looks for faces") as error:
            network.read([np.zeros((64, 64, 3), np.uint8)], 0.0)
        assert "\n" not in str(error.value)

    def test_too_little_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = Network()

        class Session:
            def run(self, names: object, inputs: object) -> None:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 1")

        monkeypatch.setattr(network, "_session", Session())
        with pytest.raises(MemoryError):
            network.read([np.zeros((64, 64, 3), np.uint8)], 0.5)
