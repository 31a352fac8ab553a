"""Engines: which one a path means, what they refuse, and that both answer the same."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper

from mien.errors import MienError
from mien.export.graph import onnx_model
from mien.model import places as models
from mien.model.classifier import Classifier
from mien.model.networks import heads
from mien.model.places import ModelFiles, find
from mien.model.vit import build
from mien.recognition import engine as engines
from mien.recognition.detectors import YuNet, installed
from mien.recognition.engine import OnnxEngine
from mien.recognition.engines import engine
from mien.recognition.recognizer import Recognizer

ROOT = Path(__file__).parents[1]
NAMES = ("calm", "glad", "sour")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a model that is there for PyTorch and, in ``onnx``, for ONNX Runtime."""
    torch.manual_seed(0)
    network, preprocessing = build("nano", NAMES, grey=True, image_size=24)
    torch.nn.init.normal_(heads(network)[0].weight, std=0.2)
    run = tmp_path_factory.mktemp("run")
    uncertain = {"threshold": 0.55, "stated_accuracy": 0.8, "coverage": 0.4}
    Classifier(network.eval(), preprocessing, NAMES).save(run / "model", {"calibration": {"uncertain": uncertain}})
    (run / "onnx").mkdir()
    onnx.save(onnx_model(Classifier.load(run / "model")), run / "onnx" / "model.onnx")
    return run


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 24, 24), dtype=np.uint8)


def test_both_engines_answer_the_same(run_folder: Path) -> None:
    by_onnx, by_torch = engine(run_folder / "onnx", "onnx", "cpu", 1), engine(run_folder, "torch", "cpu")
    assert type(by_onnx).__name__ == "OnnxEngine" and type(by_torch).__name__ == "TorchEngine"
    for field in ("names", "image_size", "grey", "threshold", "stated_accuracy"):
        assert getattr(by_onnx, field) == getattr(by_torch, field)
    assert (by_onnx.names, by_onnx.threshold, by_onnx.stated_accuracy) == (NAMES, 0.55, 0.8)
    for count in (0, 1, 70):  # more than a batch
        answers, expected = by_onnx.read(crops(count)), by_torch.read(crops(count))
        assert answers.probabilities.shape == expected.probabilities.shape == (count, 3)
        assert answers.embeddings.shape == expected.embeddings.shape == (count, 128)
        assert answers.probabilities.dtype == answers.embeddings.dtype == np.float32
        assert np.abs(answers.probabilities - expected.probabilities).max(initial=0) < 1e-5
        assert np.abs(answers.embeddings - expected.embeddings).max(initial=0) < 1e-4
        assert answers.probabilities.sum(1) == pytest.approx(np.ones(count), abs=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize(("record", "uncertain"), [({"threshold": None, "stated_accuracy": 0.8}, True), (None, None)])
def test_without_a_threshold_that_keeps_the_promise_every_answer_is_uncertain(
    record: dict[str, float | None] | None, uncertain: bool | None, kind: str, run_folder: Path, tmp_path: Path
) -> None:
    classifier = Classifier.load(run_folder / "model")
    classifier.save(tmp_path / "model", {"calibration": {"uncertain": record}} if record else {})
    onnx.save(onnx_model(Classifier.load(tmp_path / "model")), tmp_path / "model.onnx")
    recognizer = Recognizer(tmp_path / ("model.onnx" if kind == "onnx" else "model"), detector="none", device="cpu")
    faces = [result.faces[0] for result in recognizer.recognize(list(crops(5)))]
    assert [face.uncertain for face in faces] == [uncertain] * 5
    assert recognizer.stated_accuracy == (record and 0.8)


def test_a_process_loads_a_model_again_that_was_calibrated_anew(run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(run_folder / "model", folder)
    sent = pickle.dumps(Recognizer(folder, detector="none", engine="torch", device="cpu"))
    assert pickle.loads(sent).engine.threshold == 0.55
    record = folder / "meta.json"
    record.write_text(record.read_text().replace("0.55", "0.625"))
    assert pickle.loads(sent).engine.threshold == 0.625


def test_a_face_is_read_the_same_in_any_company(run_folder: Path) -> None:
    reader = OnnxEngine(run_folder / "onnx/model.onnx", threads=1)
    batch_probabilities = reader.read(crops(70)).probabilities
    single_probabilities = np.concatenate(
        [reader.read(crop[None]).probabilities for crop in crops(70)[[0, 63, 64, 69]]]
    )
    assert np.abs(batch_probabilities[[0, 63, 64, 69]] - single_probabilities).max() < 1e-5


@pytest.mark.parametrize(
    "wrong_crops",
    [np.zeros((2, 24, 24), np.float32), np.zeros((2, 24, 25), np.uint8), np.zeros((2, 24, 24, 3), np.uint8),
     np.zeros((24, 24), np.uint8)],
    ids=["floats", "another size", "colour", "one alone"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_other_crops_are_refused(wrong_crops: np.ndarray, kind: str, run_folder: Path) -> None:
    reader = engine(run_folder / "onnx" if kind == "onnx" else run_folder, kind, "cpu")
    with pytest.raises(MienError, match=r"the crops are .*, expected uint8 \[N, 24, 24\]; convert and resize"):
        reader.read(wrong_crops)


def test_grey_crops_are_repeated_for_a_network_that_sees_colour() -> None:
    colour_crops = engines.check_crops(crops(2), 24, grey=False)
    assert colour_crops.shape == (2, 24, 24, 3) and (colour_crops == crops(2)[..., None]).all()


def test_what_a_path_means(run_folder: Path, tmp_path: Path) -> None:
    file = run_folder / "onnx/model.onnx"
    assert find(run_folder) == find(run_folder / "model") == ModelFiles(None, run_folder / "model")
    assert find(str(run_folder / "onnx")) == find(file) == ModelFiles(file, None)
    model_folder = tmp_path / "both"
    model_folder.mkdir()
    for name in ("config.json", "model.safetensors", "model.int8.onnx"):
        (model_folder / name).write_text("{}")
    assert find(model_folder) == ModelFiles(model_folder / "model.int8.onnx", model_folder)
    (model_folder / "model.onnx").write_text("")
    assert find(model_folder) == ModelFiles(model_folder / "model.onnx", model_folder)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "missing: no such folder; give a folder that `mien train` or `mien export` wrote"),
        ("empty", "empty: holds neither model.onnx nor config.json and model.safetensors"),
        ("notes.txt", "notes.txt: is a file, expected a folder"),
        (None, "no weights are shipped in this installation; give a model"),
    ],
)
def test_no_model_is_told(path: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "weights")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(MienError, match=message):
        find(None if path is None else tmp_path / path)


def test_shipped_weights_are_the_default_and_have_names(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights"
    for name in (models.DEFAULT, "nano"):
        (weights / name).mkdir(parents=True)
        shutil.copyfile(run_folder / "onnx" / "model.onnx", weights / name / "model.onnx")
    (weights / "nano" / "model.int8.onnx").write_bytes(b"")
    (weights / "notes").mkdir()
    monkeypatch.setattr(models, "SHIPPED", weights)
    monkeypatch.chdir(tmp_path)
    assert engine(None).names == NAMES
    assert list(models.shipped()) == [models.DEFAULT, "nano", "nano-int8"]
    assert find("nano").onnx == weights / "nano" / "model.onnx"
    assert find("nano-int8") == ModelFiles(weights / "nano" / "model.int8.onnx", None)
    with pytest.raises(
        MienError, match=r"huge: no such folder, and no model of this installation \(mini, nano, nano-int8"
    ):
        find("huge")
    (tmp_path / "nano").mkdir()  # what is there is meant
    with pytest.raises(MienError, match="nano: holds neither"):
        find("nano")


def foreign(path: Path) -> Path:
    """A sound ONNX file that mien did not write."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_damaged_and_foreign_files_are_told_on_one_line(run_folder: Path, tmp_path: Path) -> None:
    model_bytes = (run_folder / "onnx/model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    for data in (b"", b"not an ONNX file", model_bytes[: len(model_bytes) // 2]):
        path.write_bytes(data)
        with pytest.raises(MienError, match=r"model\.onnx: is (not an|an) ONNX file") as error:
            OnnxEngine(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
    with pytest.raises(MienError, match="is an ONNX file of another kind, expected one that `mien export` wrote"):
        OnnxEngine(foreign(path))
    changed_model = onnx.load(run_folder / "onnx/model.onnx")
    metadata = {entry.key: entry.value for entry in changed_model.metadata_props}
    helper.set_model_props(changed_model, metadata | {"names": '["calm", "glad"]'})
    onnx.save(changed_model, path)
    with pytest.raises(MienError, match="of another kind"):
        OnnxEngine(path)


def test_too_little_memory_is_no_fault_of_the_file(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = OnnxEngine(run_folder / "onnx/model.onnx")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : std::bad_alloc")

    monkeypatch.setattr(reader, "_session", types.SimpleNamespace(run=fail))
    with pytest.raises(MemoryError):
        reader.read(crops(1))
    monkeypatch.setattr("onnxruntime.InferenceSession", fail)
    yunet = tmp_path / "yunet.onnx"  # of this name none was loaded before
    yunet.write_bytes(installed())
    for load in (lambda: OnnxEngine(run_folder / "onnx/model.onnx"), lambda: YuNet(yunet)):
        with pytest.raises(MemoryError):
            load()


def test_answers_that_are_no_numbers_are_refused(run_folder: Path, tmp_path: Path) -> None:
    model = onnx.load(run_folder / "onnx/model.onnx")
    (bias,) = (weight for weight in model.graph.initializer if weight.name == "head.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), "head.bias"))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(MienError, match=r"model\.onnx: answers with NaN or infinity, expected numbers"):
        OnnxEngine(tmp_path / "model.onnx").read(crops(1))


@pytest.mark.parametrize(
    ("kind", "device", "message"),
    [
        ("onnx", "cpu:1", "device: got cpu:1, expected auto, cpu, gpu, cuda"),
        ("onnx", "tpu", "device: got tpu, expected auto, cpu, gpu, cuda"),
        ("torch", "cpu", "is ONNX, which torch does not read"),
        ("tensorflow", "cpu", "engine: got tensorflow, expected auto, onnx or torch"),
    ],
)
def test_what_there_is_not_is_told(kind: str, device: str, message: str, run_folder: Path) -> None:
    with pytest.raises(MienError, match=message):
        engine(run_folder / "onnx", kind, device)


def test_a_model_of_training_has_to_be_exported_for_onnx(run_folder: Path) -> None:
    with pytest.raises(MienError, match=r"holds no model.onnx; write one with `mien export .*model --out DIR`"):
        engine(run_folder, "onnx")


@pytest.mark.parametrize("count", [0, 1, 2, 5, 70, 200])
@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_crops_are_shared_out_among_threads_in_order(count: int, threads: int | None, run_folder: Path) -> None:
    one_thread, several_threads = (
        OnnxEngine(run_folder / "onnx/model.onnx", threads=thread_count) for thread_count in (1, threads)
    )
    answers, expected = several_threads.read(crops(count)), one_thread.read(crops(count))
    assert len(answers.probabilities) == len(answers.embeddings) == count
    assert np.abs(answers.probabilities - expected.probabilities).max(initial=0) < 1e-5
    assert np.abs(answers.embeddings - expected.embeddings).max(initial=0) < 1e-4


def test_no_thread_of_onnx_runtime_waits_between_answers(run_folder: Path) -> None:
    options = OnnxEngine(run_folder / "onnx/model.onnx")._session.get_session_options()
    assert options.intra_op_num_threads == 1


def test_reading_by_onnx_loads_no_torch(run_folder: Path) -> None:
    code = (
        "import sys, numpy as np; from mien.recognition.engines import engine; "
        f"print(engine({str(run_folder / 'onnx')!r}).read(np.zeros((1, 24, 24), np.uint8)).probabilities.shape); "
        "heavy = ('torch', 'transformers', 'timm', 'onnx', 'mien.model.classifier'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert completed.stdout == "(1, 3)\n[]\n", completed.stdout + completed.stderr


def test_without_torch_a_model_of_training_says_what_to_do(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mien.recognition.torch_engine", None)
    with pytest.raises(MienError, match=r"not installed; pip install 'mien\[train\]' brings it, or give a folder that"):
        engine(run_folder)
