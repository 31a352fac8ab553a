"""Export to ONNX: exact weights, the same answers as PyTorch, and nothing written that does not hold its tolerance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import synthetic_faces

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

import onnx

from mien.cli.sharing import run_export as run
from mien.data.faces import FaceSet
from mien.errors import MienError
from mien.export import export as exporting
from mien.export import parity
from mien.export.export import export
from mien.export.graph import onnx_model
from mien.export.parity import Comparison, Parity, choose, crops_of
from mien.model.channels import grey_weights, reads_luma, to_colour
from mien.model.classifier import Classifier
from mien.model.networks import heads
from mien.model.vit import build
from mien.recognition.engine import OnnxEngine
from mien.recognition.torch_engine import TorchEngine

NAMES = ("calm", "glad", "sour")
META = {"calibration": {"uncertain": {"threshold": 0.6, "stated_accuracy": 0.8}}}


def classifier_of(backbone: str, *, grey: bool, **options: Any) -> Classifier:
    """A classifier whose every weight counts: biases and [CLS] start at zero, a trained network has none such."""
    torch.manual_seed(0)
    network: Any
    network, preprocessing = build(backbone, NAMES, grey=grey, **options)
    if backbone == "nano":  # two blocks are one that is not the last, and the last
        network.vit.layers = network.vit.layers[:2]
        network.config.num_hidden_layers = 2
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        torch.nn.init.normal_(heads(network)[0].weight, std=0.2)
    return Classifier(network.eval(), replace(preprocessing, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)), NAMES)


CNN = {"image_size": 32, "network_args": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}}


@pytest.fixture(scope="module")
def grey_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey ViT as `mien train` saves it, with three channels."""
    folder = tmp_path_factory.mktemp("run") / "model"
    classifier_of("nano", grey=True, image_size=24).save(folder, META)
    return folder


@pytest.fixture(scope="module")
def export_folder(grey_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "first"
    export(grey_folder, out)
    return out


def faces() -> FaceSet:
    return synthetic_faces({"train": 60, "validation": 90}, names=NAMES, size=24)


def test_a_grey_network_saved_in_colour_is_grey_again() -> None:
    classifier = classifier_of("nano", grey=True, image_size=24)
    projection = classifier.network.get_parameter("vit.embeddings.patch_embeddings.projection.weight")
    weight_before = projection.detach().clone()
    to_colour(classifier.network, classifier.preprocessing)
    grey_projection = grey_weights(classifier.network, classifier.preprocessing)
    assert grey_projection is not None and grey_projection[0].shape == weight_before.shape
    assert torch.allclose(grey_projection[0], weight_before.double(), rtol=2**-22, atol=0)


def test_a_network_that_sees_colour_is_told_from_it() -> None:
    classifier = classifier_of("nano", grey=True, image_size=24)
    to_colour(classifier.network, classifier.preprocessing)
    projection = classifier.network.get_parameter("vit.embeddings.patch_embeddings.projection.weight")
    with torch.no_grad():
        projection[0, 0, 0, 0] *= 1.00001
    assert not reads_luma(classifier.network, classifier.preprocessing)
    assert not reads_luma(classifier_of("nano", grey=False).network, classifier.preprocessing)


@pytest.mark.parametrize(
    ("kind", "grey"),
    [("vit", True), ("vit", False), ("vit of another size", True), ("vit without gelu", False), ("cnn", True)],
)
def test_onnx_answers_as_torch(kind: str, grey: bool, tmp_path: Path) -> None:
    if kind == "cnn":
        classifier = classifier_of("timm:resnet18", grey=grey, **CNN)
    else:
        classifier = classifier_of("nano", grey=grey, image_size=24)
    if kind == "vit of another size":  # positions of 3x3 patches, read at 4x4
        classifier = replace(classifier, preprocessing=replace(classifier.preprocessing, image_size=32))
    if kind == "vit without gelu":
        network: Any = classifier.network
        network.config.hidden_act = "relu"
        for layer in network.vit.layers:
            layer.mlp.activation_fn = torch.nn.ReLU()
    if grey and kind == "cnn":
        classifier.save(tmp_path / "model", META)
        classifier = Classifier.load(tmp_path / "model")
    engine = TorchEngine(classifier)
    size = engine.image_size
    assert engine.grey == grey
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (5, size, size) if grey else (5, size, size, 3), dtype=np.uint8)
    expected = engine.read(crops)
    onnx.save(onnx_model(classifier), tmp_path / "model.onnx")
    answers = OnnxEngine(tmp_path / "model.onnx").read(crops)
    assert np.ptp(expected.probabilities, axis=0).max() > 1e-3, "answers that do not differ prove nothing"
    assert np.abs(answers.probabilities - expected.probabilities).max() < 1e-5
    assert np.abs(answers.embeddings - expected.embeddings).max() < 1e-4
    logits = torch.from_numpy(classifier.logits(crops, quiet=True)) if not (grey and kind == "cnn") else None
    if logits is not None:
        assert np.abs(answers.probabilities - logits.softmax(1).numpy()).max() < 1e-5


def test_the_file_says_what_it_is(export_folder: Path, grey_folder: Path) -> None:
    engine = OnnxEngine(export_folder / "model.onnx")
    assert (engine.names, engine.image_size, engine.grey) == (NAMES, 24, True)
    assert (engine.threshold, engine.stated_accuracy) == (0.6, 0.8)
    metadata = engine.metadata
    assert metadata["mean"] == [0.4, 0.5, 0.6] and metadata["std"] == [0.2, 0.25, 0.3]
    assert len(metadata["weights_sha256"]) == 64
    assert {node.domain for node in onnx.load(export_folder / "model.onnx").graph.node} == {""}
    assert OnnxEngine(export_folder / "model.onnx").read(np.zeros((0, 24, 24), np.uint8)).embeddings.shape == (0, 128)


def test_the_report_holds_each_engine_to_torch(export_folder: Path) -> None:
    report = json.loads((export_folder / "parity.json").read_text())
    assert set(report["engines"]) == {"PyTorch", "ONNX"} and report["pictures"]["n"] == 256
    assert report["engines"]["PyTorch"]["largest_difference"] == 0 and report["engines"]["PyTorch"]["rate_ratio"] == 1
    assert report["engines"]["ONNX"]["largest_difference"] <= report["tolerance"] == 1e-4
    assert report["engines"]["ONNX"]["agreement"] == 1 and report["engines"]["ONNX"]["accuracy"] is None
    assert {path.name for path in export_folder.iterdir()} == {"model.onnx", "parity.json"}


@pytest.mark.parametrize("count", [7, 70, 129])
def test_any_number_of_faces_calibrates_int8(count: int, export_folder: Path, tmp_path: Path) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (count, 24, 24), dtype=np.uint8)
    sizes = []
    for partly in (False, True):
        file = parity.quantised(export_folder / "model.onnx", tmp_path, crops, partly=partly)
        assert file is not None and OnnxEngine(file).read(crops[:2]).probabilities.shape == (2, len(NAMES))
        sizes.append(file.stat().st_size)
    assert sizes[1] < 1.1 * sizes[0], "what is computed in float32 is stored in eight bits, too"
    assert max(sizes) < (export_folder / "model.onnx").stat().st_size


@pytest.mark.parametrize("backbone", ["nano", "timm:resnet18"])
def test_weights_stored_in_eight_bits_answer_nearly_the_same(backbone: str, tmp_path: Path) -> None:
    classifier = classifier_of(backbone, grey=True, **(CNN if "timm" in backbone else {"image_size": 24}))
    original, path = onnx_model(classifier), tmp_path / "stored.onnx"
    names = list(parity._products(original))
    products = {node.input[1] for node in original.graph.node if node.name in names}
    first = next(weight for weight in original.graph.initializer if weight.name in products)
    first.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(first.dims), np.float32), first.name))
    onnx.save(original, path)
    size = path.stat().st_size
    crops = np.random.default_rng(0).integers(0, 256, (20, *[classifier.preprocessing.image_size] * 2), dtype=np.uint8)
    before = OnnxEngine(path).read(crops).probabilities

    parity._store_in_eight_bits(path, names)

    stored = onnx.load(path)
    onnx.checker.check_model(stored, full_check=True)
    contents = {weight.name: onnx.numpy_helper.to_array(weight) for weight in stored.graph.initializer}
    assert len(products) > 4 and not products & set(contents)
    for weight in original.graph.initializer:
        if weight.name in products:
            integers, scale = contents[f"{weight.name}.int8"], contents[f"{weight.name}.scale"]
            assert integers.dtype == np.int8 and scale.size == max(scale.shape), "one scale for each output"
            assert (np.abs(integers * scale - onnx.numpy_helper.to_array(weight)) <= 0.501 * scale).all()
            assert weight.name == first.name or (np.abs(integers).max() == 127 and integers.any(1).all())
    count = sum(int(np.prod(weight.dims)) for weight in original.graph.initializer if weight.name in products)
    assert path.stat().st_size < size - 2 * count
    answers = OnnxEngine(path).read(crops).probabilities
    assert 0 < np.abs(answers - before).max() < 0.02


def test_calibration_in_parts_answers_nearly_the_same(
    export_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network whose activations do not fit into memory together is calibrated batch by batch."""
    network = onnx.load(export_folder / "model.onnx")
    products = {node.name: node.op_type for node in network.graph.node if node.name.startswith("block0.widen")}
    assert parity._activations(network, products) == 4 * 10 * (128 + 512), "10 tokens, from 128 to 512"
    crops = np.random.default_rng(0).integers(0, 256, (70, 24, 24), dtype=np.uint8)
    answers = []
    for folder, memory in (("whole", parity._MEMORY), ("in parts", 50_000)):
        monkeypatch.setattr(parity, "_MEMORY", memory)
        (tmp_path / folder).mkdir()
        path = parity.quantised(export_folder / "model.onnx", tmp_path / folder, crops)
        assert path is not None
        answers.append(OnnxEngine(path).read(crops).probabilities)
    assert 0 < np.abs(answers[0] - answers[1]).mean() < 0.005


def test_a_network_that_cannot_be_traced_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = classifier_of("timm:resnet18", grey=True, **CNN)

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("Constraints violated (N)\nand much more")

    monkeypatch.setattr(torch.onnx, "export", refused)
    with pytest.raises(MienError, match=r"cannot write this network as ONNX \(Constraints violated \(N\)\); read it"):
        onnx_model(classifier)


@pytest.mark.parametrize(("close", "candidates"), [(1.0, {"static"}), (0.0, {"static", "partly static"})])
def test_int8_is_measured_on_the_split(
    close: float, candidates: set[str], grey_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "MOST_LOST", 100.0)
    monkeypatch.setattr(parity, "CLOSE", close)
    result = export(grey_folder, tmp_path / "out", faces=faces(), int8=True, threads=1)
    int8_report = result.report["int8"]
    assert set(int8_report["candidates"]) == candidates, "the second one is for where static is too far from float32"
    assert int8_report["way"] in int8_report["reason"]
    assert int8_report["points_lost"] == pytest.approx(
        100 * (result.report["engines"]["PyTorch"]["accuracy"] - result.report["engines"]["ONNX int8"]["accuracy"])
    )
    assert 0 < result.report["engines"]["ONNX int8"]["mean_difference"] < 0.05
    files = result.report["files"]
    assert files["model.int8.onnx"] < 0.4 * files["model.onnx"]
    assert "ONNX int8" in result.table and "90" in str(result.report["pictures"]["n"])
    assert OnnxEngine(tmp_path / "out/model.int8.onnx").names == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def parity_of(accuracy: float, difference: float = 0.0) -> Parity:
    return Parity(difference, difference, 0.0, 1.0, accuracy, 1.0)


@pytest.mark.parametrize(
    ("static", "partly", "expected_way"),
    [
        ((0.70, 0.003), (0.70, 0.001), "partly static"),
        ((0.70, 0.001), (0.70, 0.003), "static"),
        ((0.70, 0.003), (0.696, 0.001), "static"),
        ((0.695, 0.001), (0.70, 0.003), "partly static"),
        ((0.6975, 0.001), (0.70, 0.003), "static"),
    ],
    ids=[
        "partly is nearer",
        "static is nearer",
        "partly loses too much",
        "static loses too much",
        "static loses what is allowed",
    ],
)
def test_the_nearer_probabilities_are_taken(
    static: tuple[float, float], partly: tuple[float, float], expected_way: str
) -> None:
    candidates = {"static": parity_of(*static), "partly static": parity_of(*partly)}
    way, reason = choose(candidates, parity_of(0.70))
    assert way == expected_way and f"static {static[1]:.4f} and partly static {partly[1]:.4f}" in reason


@pytest.mark.parametrize(
    ("accuracy", "difference", "expected"), [(0.70, 0.002, True), (0.70, 0.0021, False), (0.696, 0.0, False)]
)
def test_near_is_little_lost_and_little_differing(accuracy: float, difference: float, expected: bool) -> None:
    assert parity.near(parity_of(accuracy, difference), parity_of(0.70)) is expected


def test_what_does_not_hold_its_tolerance_is_not_written(
    grey_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(MienError, match=r"differ from PyTorch's by up to .*, expected at most 1.0e-12; nothing was"):
        export(grey_folder, out, tolerance=1e-12)
    monkeypatch.setattr(parity, "MOST_LOST", -200.0)
    tried: list[set[str]] = []

    def noted(among: dict[str, Parity], reference: Parity) -> tuple[str, str]:
        tried.append(set(among))
        return choose(among, reference)

    monkeypatch.setattr(parity, "choose", noted)
    with pytest.raises(MienError, match=r"int8 loses .* points of accuracy .* expected a loss of at most"):
        export(grey_folder, out, faces=faces(), int8=True)
    assert tried == [{"static", "partly static"}]
    without_training = synthetic_faces({"validation": 30}, names=NAMES, size=24)
    with pytest.raises(MienError, match=r"has no training split, .* --int8 .* give data with a training split"):
        export(grey_folder, out, faces=without_training, int8=True)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_former_export(
    export_folder: Path, grey_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.onnx").write_bytes((export_folder / "model.onnx").read_bytes())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "write_json", full)
    with pytest.raises(MienError, match=r"cannot be written .*; free some space"):
        export(grey_folder, out)
    assert [path.name for path in out.iterdir()] == ["model.onnx"]
    assert (out / "model.onnx").read_bytes() == (export_folder / "model.onnx").read_bytes()


def test_a_folder_with_other_files_is_not_replaced(grey_folder: Path) -> None:
    with pytest.raises(MienError, match=r"holds config.json, which no export wrote; choose another --out"):
        export(grey_folder, grey_folder)
    assert (grey_folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--out", "{out}", "--int8"], "--int8: needs --data"),
        (["{model}", "--out", "{out}", "--tolerance", "0"], "--tolerance: got '0', expected a number above 0"),
        (["--out", "{out}"], "the following arguments are required"),
        (["{out}/missing", "--out", "{out}/x"], "missing: no such folder"),
        (["{model}", "--out", "{model}/config.json"], "which it is made from"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], message: str, grey_folder: Path, tmp_path: Path) -> None:
    formatted = [argument.format(model=grey_folder, out=tmp_path / "out") for argument in arguments]
    with pytest.raises(MienError, match=message):
        run(formatted)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_what_it_wrote(grey_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(grey_folder.parent), "--out", str(tmp_path / "out"), "--threads", "1"]) == 0
    report = (tmp_path / "out" / "parity.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in report and "mien export" in report, "it is passed on"
    output = capsys.readouterr().out
    assert "256 pictures (random crops, no faces), against PyTorch" in output
    assert output.endswith(f"{tmp_path / 'out'}: model.onnx, parity.json\n")


def test_a_shipped_model_is_known_by_its_name(tmp_path: Path) -> None:
    assert run(["mini", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_crops_are_those_that_evaluation_reads() -> None:
    classifier = classifier_of("nano", grey=True, image_size=24)
    images = faces().images[:5, :20, :20]
    crops = crops_of(images, classifier.preprocessing, grey=True)
    expected = torch.from_numpy(classifier.logits(images, quiet=True)).softmax(1).numpy()
    assert crops.shape == (5, 24, 24)
    assert np.abs(TorchEngine(classifier).read(crops).probabilities - expected).max() < 1e-6
    colour = np.zeros((2, 24, 24, 3), np.uint8) + np.array([200, 100, 50], np.uint8)
    assert (
        crops_of(colour, classifier.preprocessing, grey=True) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    ).all()
    assert crops_of(images, classifier.preprocessing, grey=False).shape == (5, 24, 24, 3)


def test_a_comparison_counts_what_a_person_counts(export_folder: Path) -> None:
    engine = OnnxEngine(export_folder / "model.onnx", threads=1)
    crops = faces().images[:10]
    labels = engine.read(crops).probabilities.argmax(1)
    wrong_labels = (labels[:4] + 1) % 3
    reference = Comparison(engine, crops, np.concatenate([wrong_labels, labels[4:]])).reference
    assert (reference.accuracy, reference.agreement, reference.largest_difference) == (0.6, 1.0, 0.0)
    assert reference.rate > 0
