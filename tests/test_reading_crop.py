"""The reading crop: faces are read as large as training views are, and everything that reads does it alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import synthetic_faces
from PIL import Image
from recognition_helpers import SIDE, Bright, Mean
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import pipeline

from mien.cli import main
from mien.config import AugmentConfig, DistillConfig, FreezeConfig, TrainConfig, differences, to_dict
from mien.data.drawn import draw_faces, write_archive
from mien.data.read import read_faces
from mien.errors import MienError
from mien.evaluation.balance import class_shares
from mien.evaluation.calibration import softmax
from mien.export.graph import onnx_model
from mien.export.parity import crops_of
from mien.files import read_json_object, write_json
from mien.labels import FER2013
from mien.model.classifier import Classifier
from mien.model.networks import heads
from mien.model.preprocessing import Preprocessing, tensor
from mien.model.vit import build
from mien.recognition.detection import Detection, cut, face_crop
from mien.recognition.engine import OnnxEngine, face_size
from mien.recognition.explain import explain, reader
from mien.recognition.recognizer import Recognizer
from mien.recognition.torch_engine import TorchEngine
from mien.training import folder as states
from mien.training.finetune import train
from mien.training.teachers import Distillation, load_teachers

NAMES = ("calm", "glad", "sour")
CROP = 48 / 54


def classifier_of(crop: float = CROP, names: tuple[str, ...] = NAMES) -> Classifier:
    torch.manual_seed(0)
    network, preprocessing = build("nano", names, grey=True)
    torch.nn.init.normal_(heads(network)[0].weight, std=0.5)
    return Classifier(network.eval(), replace(preprocessing, crop=crop), names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose faces are brought to 54 px, with its ONNX."""
    model_folder = tmp_path_factory.mktemp("run") / "model"
    classifier_of().save(model_folder, {})
    onnx.save(onnx_model(Classifier.load(model_folder)), model_folder / "model.onnx")
    return model_folder


def pictures(count: int = 4, *shape: int) -> np.ndarray:
    """Smooth ones, whose middle is not their whole."""
    rng = np.random.default_rng(0)
    coarse_pictures = rng.integers(0, 256, (count, 9, 9), dtype=np.uint8)
    height, width = shape or (48, 48)
    return np.stack(
        [
            np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
            for pixels in coarse_pictures
        ]
    )


class TestSizes:
    @pytest.mark.parametrize(
        ("size", "crop", "face"),
        [(48, 1.0, 48), (48, 0.9, 54), (48, 0.875, 54), (48, 0.8, 60), (48, 0.5, 96), (224, 0.9, 248), (24, 0.9, 26)],
    )
    def test_a_whole_face_is_brought_to_an_even_number_more(self, size: int, crop: float, face: int) -> None:
        assert Preprocessing(size, (0.5,) * 3, (0.25,) * 3, crop).face_size == face

    @pytest.mark.parametrize("crop", [1.0, 0.95, 0.9, 0.8, 0.5])
    def test_a_saved_one_comes_back(self, crop: float, tmp_path: Path) -> None:
        preprocessing = Preprocessing(48, (0.5,) * 3, (0.25,) * 3, crop)
        preprocessing.processor().save_pretrained(tmp_path)
        loaded = Preprocessing.load(tmp_path)
        assert (loaded.image_size, loaded.face_size) == (48, preprocessing.face_size)
        record = read_json_object(tmp_path / "preprocessor_config.json")
        assert record["size"]["height"] == preprocessing.face_size and bool(record.get("do_center_crop")) == (crop < 1)

    def test_without_a_crop_the_file_is_as_it_was(self, tmp_path: Path) -> None:
        Preprocessing(48, (0.5,) * 3, (0.25,) * 3).processor().save_pretrained(tmp_path)
        shipped_before = {"do_normalize", "do_rescale", "do_resize", "image_mean", "image_processor_type", "image_std",
                          "resample", "rescale_factor", "size"}  # fmt: skip
        assert read_json_object(tmp_path / "preprocessor_config.json").keys() == shipped_before

    @pytest.mark.parametrize(
        ("size", "crop", "reason"),
        [
            (54, {"height": 47, "width": 47}, "crop_size: got 47x47, expected a square of 27 to 54 pixels"),
            (54, {"height": 48, "width": 46}, "crop_size: got 48x46"),
            (54, {"height": 56, "width": 56}, "crop_size: got 56x56"),
            (54, {"height": 20, "width": 20}, "crop_size: got 20x20"),
            (54, None, "crop_size beside do_center_crop"),
            (54, {"height": "48", "width": 48}, "crop_size beside do_center_crop"),
            (5000, {"height": 4000, "width": 4000}, "size: got 5000"),
        ],
    )
    def test_a_crop_that_cannot_be_read_is_refused(self, size: int, crop: Any, reason: str, tmp_path: Path) -> None:
        Preprocessing(48, (0.5,) * 3, (0.25,) * 3, CROP).processor().save_pretrained(tmp_path)
        record = read_json_object(tmp_path / "preprocessor_config.json")
        record["size"] = {"height": size, "width": size}
        record.pop("crop_size") if crop is None else record.update(crop_size=crop)
        write_json(tmp_path / "preprocessor_config.json", record)
        with pytest.raises(MienError, match=reason):
            Preprocessing.load(tmp_path)

    def test_a_number_stands_for_both_sides(self, tmp_path: Path) -> None:
        write_json(
            tmp_path / "preprocessor_config.json",
            {"size": 54, "crop_size": 48, "do_center_crop": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        )
        assert Preprocessing.load(tmp_path).face_size == 54


class TestEveryReaderAlike:
    @pytest.mark.parametrize("shape", [(48, 48), (54, 54), (120, 120), (31, 77)])
    def test_pipeline_classifier_and_engines(self, shape: tuple[int, int], folder: Path) -> None:
        images = pictures(3, *shape)
        expected = softmax(Classifier.load(folder).logits(images, quiet=True))
        whole_probabilities = softmax(classifier_of(1.0).logits(images, quiet=True))
        assert np.abs(expected - whole_probabilities).max() > 0.02, "a crop that changes nothing proves nothing"
        pipeline_answers = pipeline("image-classification", model=str(folder), top_k=3)(
            list(map(Image.fromarray, images))
        )
        for row, answers in enumerate(pipeline_answers):
            for answer in answers:
                assert answer["score"] == pytest.approx(expected[row, NAMES.index(answer["label"])], abs=1e-5)
        for kind in ("onnx", "torch"):
            for row, record in enumerate(Recognizer(folder, detector="none", engine=kind).recognize(list(images))):
                probabilities = list(record.faces[0].probabilities.values())
                # Pillow rounds a resized pixel otherwise than torch, by one grey level at most.
                assert probabilities == pytest.approx(expected[row].tolist(), abs=0.02)

    def test_crops_of_a_data_set_are_what_engines_take(self, folder: Path) -> None:
        classifier = Classifier.load(folder)
        crops = crops_of(pictures(), classifier.preprocessing, True)
        expected = softmax(classifier.logits(pictures(), quiet=True))
        assert crops.shape == (4, 48, 48)
        for engine in (OnnxEngine(folder / "model.onnx"), TorchEngine(classifier)):
            assert (engine.image_size, face_size(engine)) == (48, 54)
            assert np.abs(engine.read(crops).probabilities - expected).max() < 1e-5

    def test_a_mirrored_face_is_the_mirror_image_of_what_is_read(self, folder: Path) -> None:
        classifier = Classifier.load(folder)
        flipped_logits = classifier.logits(pictures(), flip=True, quiet=True)
        assert np.allclose(flipped_logits, classifier.logits(pictures()[:, :, ::-1], quiet=True), atol=0.02)
        assert not np.allclose(flipped_logits, classifier.logits(pictures(), quiet=True), atol=0.1)

    def test_files_from_before_read_faces_whole(self, folder: Path, tmp_path: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        assert json.loads(metadata["face_size"]) == 54
        for size, expected in ((None, 48), (53, MienError), (47, MienError), (98, MienError), ("54", MienError)):
            del model.metadata_props[:]
            new_metadata = {key: value for key, value in metadata.items() if key != "face_size"}
            new_metadata |= {} if size is None else {"face_size": json.dumps(size)}
            onnx.helper.set_model_props(model, new_metadata)
            onnx.save(model, tmp_path / "model.onnx")
            if expected is MienError:
                with pytest.raises(MienError, match="of another kind"):
                    OnnxEngine(tmp_path / "model.onnx")
            else:
                assert OnnxEngine(tmp_path / "model.onnx").face_size == expected

    def test_an_engine_that_says_nothing_reads_whole(self) -> None:
        assert face_size(Mean()) == SIDE


class TestPhotos:
    def test_a_face_is_cut_at_true_resolution(self, folder: Path) -> None:
        """The middle of the frame, resampled once: as if the square around it had been cut out by itself."""
        photo = pictures(1, 400, 500)[0]
        engine, box = OnnxEngine(folder / "model.onnx"), (100.0, 80.0, 200.0, 200.0)
        crop = face_crop(photo, Detection(box, 1.0), 0.1, engine)
        margin = ((1 + 2 * 0.1) * 48 / 54 - 1) / 2
        direct_crop = cut(photo, box, margin, 48, grey=True)
        crop_cut_twice = cut(
            np.asarray(cut(photo, box, 0.1, 48, grey=True)), (0, 0, 48, 48), (48 / 54 - 1) / 2 - 1e-9, 48, True
        )
        assert crop.flags.c_contiguous and crop.shape == (48, 48)
        assert np.abs(crop.astype(int) - direct_crop).max() <= 1
        assert np.abs(crop.astype(int) - crop_cut_twice).mean() > np.abs(crop.astype(int) - direct_crop).mean()

    def test_a_face_at_an_edge_goes_on_as_before(self, folder: Path) -> None:
        engine = OnnxEngine(folder / "model.onnx")
        photo = pictures(1, 60, 60)[0]
        crop = face_crop(photo, Detection((0.0, 0.0, 30.0, 30.0), 1.0), 0.3, engine)
        assert (crop == cut(photo, (0.0, 0.0, 30.0, 30.0), 0.3, 54, grey=True)[3:51, 3:51]).all()


class Cropping(Mean):
    """Reads the middle of a face, and for ``glad`` a square in the upper left of that alone."""

    face_size = SIDE + 4
    window = (slice(0, 4), slice(0, 4))

    def read(self, crops: np.ndarray) -> Any:
        masked_crops = np.zeros_like(crops)
        masked_crops[:, *self.window] = crops[:, *self.window]
        return super().read(masked_crops)


class TestExplanations:
    def test_a_heat_map_lies_on_what_was_read(self) -> None:
        photo = np.zeros((4 * SIDE, 4 * SIDE), np.uint8)
        # Of a face of 2 SIDE, the frame's outermost pixels are not read: the corner that counts begins at share
        # 2 / (SIDE + 4) of the side.
        photo[SIDE : 3 * SIDE, SIDE : 3 * SIDE] = 140
        start = SIDE + round(2 * SIDE * 2 / (SIDE + 4))
        photo[start : start + 8, start : start + 8] = 255
        recognizer = Recognizer(detector=Bright(), engine=Cropping())
        (face,) = recognizer.recognize(photo).faces
        assert face.crop is not None and face.crop.shape == (SIDE, SIDE)
        assert face.crop[:3, :3].min() > 200, "the bright corner is at the corner of what was read"
        relevance = recognizer.explain(face, label="glad").relevance
        assert relevance.shape == (SIDE, SIDE)
        assert max(np.unravel_index(np.abs(relevance).argmax(), relevance.shape)) < 4
        assert (relevance[8:] == 0).all() and (relevance[:, 8:] == 0).all()

    def test_what_looks_inside_reads_the_crop_as_the_engine_did(self, folder: Path) -> None:
        recognizer = Recognizer(folder, detector="none", engine="torch")
        (face,) = recognizer.recognize(pictures(1)[0]).faces
        assert face.crop is not None
        classifier = Classifier.load(folder)
        probabilities = reader(recognizer.engine)(face.crop[None])[0]  # not cropped a second time
        assert probabilities.tolist() == pytest.approx(list(face.probabilities.values()), abs=1e-6)
        uncropped = replace(classifier, preprocessing=replace(classifier.preprocessing, crop=1.0))
        for method in ("rollout", "gradient"):
            maps = [explain(face, engine, method).relevance for engine in (recognizer.engine, TorchEngine(uncropped))]
            assert np.allclose(maps[0], maps[1], atol=1e-6)


class TestTeachers:
    def test_a_teacher_reads_training_views_whole(self, tmp_path: Path) -> None:
        student = Preprocessing(48, (0.5,) * 3, (0.25,) * 3, CROP)
        views = student.of_crops(tensor(pictures()), 1)
        probabilities = []
        for crop in (1.0, CROP):
            classifier_of(crop).save(tmp_path / f"{crop:.2f}", {})
            teachers = load_teachers([str(tmp_path / f"{crop:.2f}")], NAMES, torch.device("cpu"))
            probabilities.append(Distillation(DistillConfig(), teachers, student, "fp32").probabilities(views))
        assert torch.equal(*probabilities)


class TestTraining:
    def small(self, out: Path, **changes: Any) -> TrainConfig:
        settings: dict[str, Any] = {
            "backbone": "nano",
            "epochs": 2,
            "batch_size": 8,
            "warmup_epochs": 0.0,
            "device": "cpu",
        }
        return TrainConfig(data="", out=str(out), **(settings | changes))

    @pytest.fixture(autouse=True)
    def data(self, monkeypatch: pytest.MonkeyPatch) -> None:
        faces = synthetic_faces({"train": 24, "validation": 12}, size=48)
        monkeypatch.setattr("mien.training.finetune.read_faces", lambda _: faces)
        self.faces = faces

    @pytest.mark.parametrize(
        ("augment", "crop"),
        [
            (AugmentConfig(), 0.9),
            (AugmentConfig(crop_scale=0.75), 0.9),
            (AugmentConfig(crop_scale=1.0), 1.0),
            (AugmentConfig(crop_scale=0.85, wide_scale=1.15), 1.0),
            (AugmentConfig(crop_scale=0.8, still=0.5), 0.9),
            (AugmentConfig(crop_scale=0.8, still=1.0), 1.0),
            (AugmentConfig(crop_scale=0.9, wide_scale=1.5), 1.0),
        ],
    )
    def test_by_default_faces_are_read_closer_if_views_are_zoomed_in(self, augment: AugmentConfig, crop: float) -> None:
        assert TrainConfig(data="", out="", augment=augment).resolved().reading_crop == pytest.approx(crop)
        assert TrainConfig(data="", out="", augment=augment, reading_crop=0.7).resolved().reading_crop == 0.7

    @pytest.mark.parametrize("crop", [0.49, 1.01, -1.0])
    def test_out_of_range(self, crop: float) -> None:
        with pytest.raises(MienError, match=r"reading_crop: got .*, expected a share in \[0\.5, 1\]"):
            TrainConfig(data="", out="", reading_crop=crop)

    def test_validation_and_the_saved_model_read_alike_and_training_does_not_depend_on_it(self, tmp_path: Path) -> None:
        moments = []
        for crop in (None, 1.0):
            out = tmp_path / str(crop)
            train(self.small(out, reading_crop=crop))
            classifier = Classifier.load(out / "model")
            assert classifier.preprocessing.face_size == (48 if crop else 54)
            record = read_json_object(out / "meta.json")
            assert record["config"]["reading_crop"] == (crop or 0.9)
            validation = self.faces.part("validation")
            accuracy = (classifier.logits(validation.images, quiet=True).argmax(1) == validation.labels).mean()
            assert accuracy == pytest.approx(record["metrics"]["accuracy"])
            moments.append(load_file(out / "state.safetensors"))
        assert all(torch.equal(moments[0][name], moments[1][name]) for name in moments[0])

    def test_a_run_from_before_goes_on_reading_faces_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "run"
        train(self.small(out, reading_crop=1.0, epochs=2))
        path = out / "state.safetensors"
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["mien"])
        del header["config"]["reading_crop"]
        for name in ("wide_scale", "still", "light", "blur", "noise", "jpeg"):
            del header["config"]["augment"][name]
        header["progress"]["epoch"] = 2
        save_file(load_file(path), path, metadata={"mien": json.dumps(header)})
        for _ in range(2):  # once as it was saved before, once as it is saved now
            train(self.small(out), resume=True)
            assert Classifier.load(out / "model").preprocessing.face_size == 48
            assert states.saved_reading_crop(out) == 1.0
        with pytest.raises(MienError, match=r"reading_crop: 1\.0 -> 0\.9"):
            train(self.small(out, reading_crop=0.9), resume=True)

    @pytest.mark.parametrize("crop", [1.0, 48 / 56])
    def test_a_classifier_that_goes_on_is_read_as_before(self, crop: float, tmp_path: Path) -> None:
        classifier_of(crop).save(tmp_path / "model", {})
        settings = {"backbone": str(tmp_path / "model"), "epochs": 1, "freeze": FreezeConfig(blocks=0)}
        for name, reading_crop, expected in (("own", None, crop), ("given", 0.9, 48 / 54)):
            train(self.small(tmp_path / name, reading_crop=reading_crop, **settings))
            assert Classifier.load(tmp_path / name / "model").preprocessing.face_size == round(48 / expected)

    def test_no_state_says_nothing(self, tmp_path: Path) -> None:
        assert states.saved_reading_crop(tmp_path) is None
        (tmp_path / "state.safetensors").write_bytes(b"damaged")
        assert states.saved_reading_crop(tmp_path) is None

    def test_old_settings_stand_for_no_crop(self) -> None:
        config = TrainConfig(data="", out="").resolved()
        old_settings = to_dict(config)
        del old_settings["reading_crop"]
        assert differences(old_settings, config) == ["reading_crop: 1.0 -> 0.9"]
        assert differences(old_settings, replace(config, reading_crop=1.0)) == []


@pytest.fixture(scope="module")
def model_and_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder that reads faces whole, and the drawn faces that it says it was trained on."""
    root = tmp_path_factory.mktemp("trained")
    faces = draw_faces(28, 60, 0, seed=0)
    write_archive(root / "drawn.zip", faces)
    data = {
        "source": "drawn.zip",
        "fingerprint": read_faces(str(root / "drawn.zip")).fingerprint,
        "images": {"train": 28},
    }
    meta = {"names": list(FER2013), "command": "mien train", "metrics": None, "config": {}, "data": data}
    classifier_of(1.0, FER2013).save(root / "model", meta)
    return root / "model", root / "drawn.zip"


class TestPacking:
    def test_a_model_is_packed_with_another_crop(
        self, model_and_data: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model, data = model_and_data
        out = tmp_path / "packed"
        command = ["pack", str(model), "--data", str(data), "--out", str(out), "--calibrate", "--reading-crop", "0.9"]
        assert main(command) == 0
        assert capsys.readouterr().out.startswith("not calibrated: 60 validation pictures")
        packed = Classifier.load(out)
        assert packed.preprocessing.face_size == OnnxEngine(out / "model.onnx").face_size == 54
        release = packed.meta()["release"]
        assert release["reading"] == {"image_size": 48, "face_size": 54, "grey": True}
        assert release["onnx"]["engines"]["ONNX"]["largest_difference"] <= 1e-4
        unchanged_row = next(row for row in release["robustness"]["rows"] if row["change"] == "none")
        assert unchanged_row["accuracy"] == release["scores"]["validation"]["accuracy"]
        assert main(["card", str(out), "--out", str(tmp_path / "CARD.md")]) == 0
        card = (tmp_path / "CARD.md").read_text(encoding="utf-8")
        assert "brought to 54x54 pixels, of which the 48x48 in the middle are read" in card
        # Packed again without a word about it, it stays; with another crop, robustness is measured anew.
        assert main(["pack", str(out), "--data", str(data), "--out", str(tmp_path / "again")]) == 0
        assert Classifier.load(tmp_path / "again").preprocessing.face_size == 54
        options = ["--reading-crop", "1", "--calibrate"]
        assert main(["pack", str(out), "--data", str(data), "--out", str(tmp_path / "wider"), *options]) == 0
        wider_rows = read_json_object(tmp_path / "wider/meta.json")["release"]["robustness"]["rows"]
        assert wider_rows != release["robustness"]["rows"]

    def test_a_model_is_packed_with_a_balance(self, model_and_data: tuple[Path, Path], tmp_path: Path) -> None:
        model, data = model_and_data
        faces = read_faces(str(data))
        images, shares = faces.part("validation").images, class_shares(faces.part("train"), FER2013)

        def packed(source: Path, name: str, *options: str) -> Classifier:
            words = ["pack", str(source), "--data", str(data), "--out", str(tmp_path / name), *options]
            assert main(words) == 0
            return Classifier.load(tmp_path / name)

        def scaled(classifier: Classifier) -> np.ndarray:
            """Logits without the temperature and without what they all share."""
            logits = classifier.logits(images, quiet=True) * classifier.meta()["calibration"]["temperature"]
            return logits - logits.mean(axis=1, keepdims=True)

        plain = packed(model, "plain", "--calibrate")
        first = packed(model, "first", "--calibrate", "--balance", "0.8")
        offsets = -0.8 * np.log(shares)
        assert scaled(first) - scaled(plain) == pytest.approx(np.tile(offsets - offsets.mean(), (60, 1)), abs=5e-3)
        record = first.meta()["balance"]
        assert record["tau"] == 0.8 and record["shares"] == pytest.approx(dict(zip(FER2013, shares, strict=True)))
        card = (tmp_path / "first" / "README.md").read_text(encoding="utf-8")
        assert "shares of the expressions in training to the power 0.8 were divided out" in card
        # Packed again without a word about it, it stays; another one replaces it.
        assert packed(tmp_path / "first", "same", "--calibrate").meta()["balance"]["tau"] == 0.8
        assert scaled(Classifier.load(tmp_path / "same")) == pytest.approx(scaled(first), abs=5e-3)
        undone = packed(tmp_path / "same", "undone", "--calibrate", "--balance", "0")
        assert scaled(undone) == pytest.approx(scaled(plain), abs=1e-2)

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            (["--reading-crop", "0.9"], "--reading-crop: needs --calibrate"),
            (["--reading-crop", "0.3", "--calibrate"], "--reading-crop: got 0.3, expected 0.5 to 1"),
            (["--balance", "0.5"], "--balance: needs --calibrate"),
            (["--balance", "1.6", "--calibrate"], "--balance: got 1.6, expected 0 to 1.5"),
            (["--reading-crop", "nan", "--calibrate"], "--reading-crop: got nan, expected 0.5 to 1"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, words: list[str], reason: str, model_and_data: tuple[Path, Path], tmp_path: Path, capsys: Any
    ) -> None:
        model, data = model_and_data
        assert main(["pack", str(model), "--data", str(data), "--out", str(tmp_path / "packed"), *words]) == 2
        assert reason in capsys.readouterr().err and not (tmp_path / "packed").exists()
