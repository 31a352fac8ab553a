"""Model folders that somebody else made: nothing is unpickled, no host is asked, and what is wrong is one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hostile_helpers import error_of, write_classifier
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from mien.errors import MienError
from mien.export.card import card
from mien.files import read_json
from mien.model.classifier import Classifier
from mien.model.vit import build
from mien.recognition.engine import OnnxEngine
from mien.recognition.torch_engine import TorchEngine

CROPS = np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="session")
def original_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model folder, which is only read."""
    return write_classifier(tmp_path_factory.mktemp("model") / "whole")


@pytest.fixture
def folder(original_folder: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(original_folder, tmp_path / "model"))


class Watch:
    """Notes what the process does that no model folder may make it do."""

    def __init__(self) -> None:
        self.events: list[str] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.events is None:
            return
        if event in ("socket.connect", "socket.getaddrinfo", "pickle.find_class", "os.system", "subprocess.Popen"):
            self.events.append(f"{event} {arguments!r}"[:200])
        if event == "open" and str(arguments[0]).endswith((".bin", ".pth", "passwd")):
            self.events.append(f"open {arguments[0]}")

    @contextmanager
    def watching(self) -> Iterator[list[str]]:
        self.events = []
        try:
            yield self.events
        finally:
            self.events = None


WATCH = Watch()


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **values}))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch pwned",))


class TestNothingElseIsRead:
    @pytest.fixture(autouse=True)
    def pickles(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
        for name in ("adapter_model.bin", "pytorch_model.bin", "evil.pth"):
            (folder / name).write_bytes(pickle.dumps(Evil()))

    @pytest.mark.parametrize(
        "fields",
        [
            {"transformers_weights": "adapter_model.bin"},
            {"transformers_weights": "pytorch_model.bin", "use_safetensors": False},
            {"attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel"},
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            {"auto_map": {"AutoModel": "evil--modeling.Evil"}, "custom_pipelines": {"x": {"impl": "evil.py"}}},
            {"_name_or_path": "evil/model", "base_model_name_or_path": "evil/model", "revision": "evil"},
            {"adapter_config": {"base": "evil/model"}, "peft_type": "LORA"},
            {"torch_dtype": "evil", "dtype": "float8_e5m2"},
        ],
    )
    def test_fields_that_no_network_needs(self, fields: dict[str, Any], original_folder: Path, folder: Path) -> None:
        change(folder, "config.json", **fields)
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/model"}))
        with WATCH.watching() as events:
            answers = TorchEngine.load(folder, "cpu").read(CROPS)
        assert not events and not (folder / "pwned").exists()
        assert np.array_equal(answers.probabilities, TorchEngine.load(original_folder, "cpu").read(CROPS).probabilities)

    @pytest.mark.parametrize("fields", [{"transformers_weights": "pytorch_model.bin"}, {}])
    @pytest.mark.parametrize("weights", [b"garbage", b"", None])
    def test_weights_that_are_no_safetensors(self, weights: bytes | None, fields: dict[str, Any], folder: Path) -> None:
        change(folder, "config.json", **fields)
        (folder / "model.safetensors").unlink()
        if weights is not None:
            (folder / "model.safetensors").write_bytes(weights)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "pytorch_model.bin"}}))
        with WATCH.watching() as events, pytest.raises(MienError, match="weights"):
            Classifier.load(folder)
        assert not events and not (folder / "pwned").exists()

    @pytest.mark.parametrize(
        "fields",
        [
            {"architecture": "hf-hub:evil/model"},
            {"architecture": "hf_hub:evil/model"},
            {"architecture": "local-dir:/etc"},
            {"architecture": "resnet18.a1_in1k"},
            {"architecture": "nosuch"},
            {"architecture": ["resnet18"]},
            {"model_args": {"checkpoint_path": "evil.pth"}},
            {"model_args": {"checkpoint_path": "/etc/passwd"}},
            {"model_args": {"pretrained": True}},
            {"model_args": {"pretrained_cfg": {"file": "evil.pth"}}},
            {"model_args": {"pretrained_cfg_overlay": {"file": "evil.pth"}}},
            {"model_args": {"cache_dir": "/tmp"}},
            {"model_args": {"global_pool": "../../etc/passwd"}},
            {"model_args": {"channels": [10**9]}},
            {"model_args": {"layers": [10**6] * 3}},
            {"model_args": {"layers": [1] * 10**4}},
            {"model_args": {"drop_rate": {"a": 1}}},
            {"model_args": ["checkpoint_path"]},
            {"label_names": ["a", "a"]},
            {"label_names": None},
        ],
    )
    def test_networks_of_timm(self, fields: dict[str, Any], folder: Path) -> None:
        config = {"model_type": "timm_wrapper", "architecture": "face_cnn", "label_names": ["a", "b"], "model_args": {}}
        (folder / "config.json").write_text(json.dumps({**config, **fields}))
        with WATCH.watching() as events, pytest.raises(MienError) as error:
            Classifier.load(folder)
        assert not events and "\n" not in str(error.value) and len(str(error.value)) < 500
        assert "config.json" in str(error.value)

    def test_an_autoencoder_as_backbone(self, mae_folder: Path, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(mae_folder, tmp_path / "mae"))
        change(folder, "config.json", transformers_weights="pytorch_model.bin", attn_implementation="evil/kernel")
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
        with WATCH.watching() as events:
            network, _ = build(str(folder), ("calm", "glad"), grey=True)
        assert not events and network.config.hidden_size == 32
        change(folder, "config.json", hidden_size="large")
        with pytest.raises(MienError, match="hidden_size: got large, expected a whole number"):
            build(str(folder), ("calm", "glad"), grey=True)

    def test_the_watch_sees_connections(self) -> None:
        with WATCH.watching() as events, socket.socket() as client, pytest.raises(OSError):
            client.connect(("127.0.0.1", 1))
        assert events


TEXTS = {
    "nested": "[" * 200_000,
    "a number of 10,000 digits": '{"model_type": "vit", "hidden_size": ' + "9" * 10_000 + "}",
    "a list": "[]",
    "nothing": "",
    "no JSON": "{",
    "no UTF-8": b"\xff\xfe{}",
    "a NUL": b"\0" * 100,
}
FIELDS: dict[str, dict[str, Any]] = {
    "width 0": {"hidden_size": 0},
    "width below 0": {"hidden_size": -16},
    "width of text": {"hidden_size": "16"},
    "width of a fraction": {"hidden_size": 16.5},
    "width null": {"hidden_size": None},
    "width true": {"hidden_size": True},
    "width of a list": {"hidden_size": [16]},
    "width that heads do not share": {"hidden_size": 17},
    "width of 2^40": {"hidden_size": 2**40},
    "100,000 layers": {"num_hidden_layers": 100_000},
    "more layers than weights": {"num_hidden_layers": 200, "hidden_size": 4096, "num_attention_heads": 2},
    "another depth": {"num_hidden_layers": 2},
    "no heads": {"num_attention_heads": 0},
    "an activation of nothing": {"hidden_act": "evil"},
    "an activation of a list": {"hidden_act": ["gelu"]},
    "pictures of 20,000 px": {"image_size": 20_000},
    "pictures of two sides": {"image_size": [16, 16]},
    "a patch larger than the picture": {"patch_size": 64},
    "epsilon of infinity": {"layer_norm_eps": 1e400},
    "epsilon of text": {"layer_norm_eps": "nan"},
    "channels": {"num_channels": 99},
    "names twice": {"id2label": {"0": "a", "1": "a"}},
    "names of numbers": {"id2label": {"0": 1, "1": 2}},
    "names of nothing": {"id2label": {"0": "", "1": "b"}},
    "names null": {"id2label": None},
    "names with a gap": {"id2label": {"0": "a", "7": "b"}},
    "names by text": {"id2label": {"zero": "a", "one": "b"}},
    "a name of 10,000 letters": {"id2label": {"0": "a" * 10_000, "1": "b"}},
    "another count of names": {"id2label": {"0": "a", "1": "b", "2": "c"}},
    "another model": {"model_type": "resnet"},
    "a model of a list": {"model_type": ["vit"]},
    "a model of another text": {"model_type": "x" * 10_000},
}
PICTURES: dict[str, dict[str, Any]] = {
    "size 0": {"size": 0},
    "size below 0": {"size": {"height": -16, "width": -16}},
    "size of text": {"size": "16"},
    "size null": {"size": None},
    "size infinite": {"size": 1e400},
    "size of a fraction": {"size": {"height": 16.5, "width": 16.5}},
    "size of 20,000": {"size": 20_000},
    "size true": {"size": True},
    "no square": {"size": {"height": 16, "width": 8}},
    "mean NaN": {"image_mean": [float("nan")] * 3},
    "mean of text": {"image_mean": ["a", "b", "c"]},
    "mean of one channel": {"image_mean": [0.5]},
    "deviation 0": {"image_std": [0.0, 0.0, 0.0]},
    "deviation below 0": {"image_std": [-1.0, 1.0, 1.0]},
}
METAS: dict[str, Any] = {
    "a list": [],
    "calibration a list": {"calibration": [1]},
    "calibration text": {"calibration": "x"},
    "uncertain a list": {"calibration": {"uncertain": [1]}},
    "threshold text": {"calibration": {"uncertain": {"threshold": "high", "stated_accuracy": 0.9}}},
    "threshold list": {"calibration": {"uncertain": {"threshold": [0.5], "stated_accuracy": 0.9}}},
    "threshold 7": {"calibration": {"uncertain": {"threshold": 7, "stated_accuracy": 0.9}}},
    "temperature text": {"calibration": {"temperature": "hot"}},
    "temperature 0": {"calibration": {"temperature": 0}},
    "temperature true": {"calibration": {"temperature": True}},
    "balance a list": {"balance": [1]},
    "balance of text": {"balance": {"tau": "much", "offsets": {}}},
    "offsets of text": {"balance": {"tau": 0.4, "offsets": {"calm": "x"}}},
    "data a list": {"data": [1]},
    "release a list": {"release": [1]},
    "data null": {"data": None},
    "fingerprint a number": {"data": {"fingerprint": 1}},
    "accuracy NaN": {"calibration": {"uncertain": {"threshold": 0.5, "stated_accuracy": float("nan")}}},
}


class TestOneLine:
    """Every malformed file is one MienError on one line, of bounded length."""

    def check(self, folder: Path) -> None:
        with pytest.raises(MienError) as error:
            TorchEngine.load(folder, "cpu").read(CROPS)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600, str(error.value)
        assert str(folder) in str(error.value)

    @pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "meta.json"])
    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
    def test_texts(self, text: str | bytes, file: str, folder: Path) -> None:
        (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        self.check(folder)

    @pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
    def test_configuration(self, fields: dict[str, Any], folder: Path) -> None:
        change(folder, "config.json", **fields)
        self.check(folder)

    @pytest.mark.parametrize("fields", PICTURES.values(), ids=PICTURES)
    def test_preprocessing(self, fields: dict[str, Any], folder: Path) -> None:
        change(folder, "preprocessor_config.json", **fields)
        self.check(folder)

    @pytest.mark.parametrize("value", METAS.values(), ids=METAS)
    def test_meta(self, value: Any, folder: Path) -> None:
        (folder / "meta.json").write_text(json.dumps(value))
        self.check(folder)

    @pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
    def test_files_of_another_kind(self, kind: str, folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        path.unlink()
        {"fifo": os.mkfifo, "folder": os.mkdir, "link": lambda path: os.symlink("/dev/zero", path)}[kind](path)
        self.check(folder)

    def test_weights_of_other_shapes_and_names(self, folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        for wrong_weights in (
            {**weights, "classifier.bias": torch.zeros(3)},
            {name: value for name, value in weights.items() if name != "classifier.bias"},
            {**weights, "extra": torch.zeros(1)},
            {**weights, "classifier.bias": torch.full((2,), torch.nan)},
        ):
            save_file(wrong_weights, folder / "model.safetensors", metadata={"format": "pt"})
            self.check(folder)

    @pytest.mark.parametrize("path", ["~nosuch-user/model", "~nosuch-user/model.onnx"])
    def test_a_home_of_nobody(self, path: str) -> None:
        assert "nosuch-user" in error_of("predict", "x.jpg", "--model", path)
        assert "nosuch-user" in error_of("data", "inspect", path)

    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
    def test_any_json(self, text: str | bytes, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            read_json(tmp_path / "x.json")
        except MienError as error:
            assert "\n" not in str(error)

    @pytest.mark.parametrize(
        "release", [1, [], "x", {"architecture": 1}, {"architecture": {}, "files": []}, {"scores": {"test": {}}}]
    )
    def test_cards(self, release: Any, tmp_path: Path) -> None:
        (tmp_path / "meta.json").write_text(json.dumps({"names": ["a", "b"], "release": release}))
        assert "meta.json" in error_of("card", tmp_path)
        with pytest.raises(MienError):
            card({"names": 7, "release": {}}, "x")


def network(
    path: Path, *, metadata: dict[str, Any] | None = None, rows: np.ndarray | None = None, embedding: float = 0.0,
    kind: int = TensorProto.FLOAT,
) -> Path:  # fmt: skip
    """An ONNX file that answers each batch with the same probabilities, as `mien export` would describe it."""
    properties: dict[str, Any] = {"names": ["calm", "glad"], "image_size": 16, "grey": True, "threshold": None,
                                  "stated_accuracy": None, **(metadata or {})}  # fmt: skip
    faces = helper.make_tensor_value_info("faces", TensorProto.UINT8, ["N", 16, 16])
    outputs = [
        helper.make_tensor_value_info("probabilities", kind, ["N", 2]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 1]),
    ]
    nodes = [
        helper.make_node("Cast", ["faces"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "one"], ["column"]),
        helper.make_node("Add", ["column", "offset"], ["embedding"]),
    ]
    values = [
        numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array(0, np.float32), "zero"),
        numpy_helper.from_array(np.array(embedding, np.float32), "offset"),
        numpy_helper.from_array(np.array([[0.25, 0.75]], np.float32) if rows is None else rows, "rows"),
    ]
    if rows is not None and (len(rows) != 1 or rows.dtype.kind == "O"):
        nodes.append(helper.make_node("Identity", ["rows"], ["probabilities"]))
    else:
        nodes.append(helper.make_node("Add", ["column", "rows"], ["probabilities"]))
    graph = helper.make_graph(nodes, "g", [faces], outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {name: json.dumps(value) for name, value in properties.items()})
    onnx.save(model, path)
    return path


class TestAnswers:
    def test_a_sound_network(self, tmp_path: Path) -> None:
        answers = OnnxEngine(network(tmp_path / "model.onnx")).read(CROPS)
        assert answers.probabilities.shape == (3, 2) and np.allclose(answers.probabilities, [0.25, 0.75])
        assert len(OnnxEngine(tmp_path / "model.onnx").read(CROPS[:0]).probabilities) == 0

    @pytest.mark.parametrize(
        "rows",
        [[[1e30, 0]], [[-7, 8]], [[0.5, 0.6]], [[0.25, 0.25]], [[np.nan, 1]], [[np.inf, 0]], [[0.5, 0.5]] * 5,
         [[0.5, 0.5]] * 2],
    )  # fmt: skip
    def test_what_is_no_probability(self, rows: list[list[float]], tmp_path: Path) -> None:
        engine = OnnxEngine(network(tmp_path / "model.onnx", rows=np.array(rows, np.float32)))
        with pytest.raises(MienError, match=r"answers .*(expected|export)") as error:
            engine.read(CROPS)
        assert "\n" not in str(error.value)

    def test_embeddings_of_nan(self, tmp_path: Path) -> None:
        with pytest.raises(MienError, match="NaN or infinity"):
            OnnxEngine(network(tmp_path / "model.onnx", embedding=float("nan"))).read(CROPS)

    @pytest.mark.parametrize(
        "metadata",
        [
            {"threshold": "high"}, {"threshold": [0.5]}, {"threshold": 7}, {"stated_accuracy": -1}, {"threshold": True},
            {"names": [["calm"], ["glad"]]}, {"names": ["calm", "calm"]}, {"names": [1, 2]}, {"names": [None, "b"]},
            {"names": ["", "b"]}, {"names": "ab"}, {"names": {"calm": 0, "glad": 1}}, {"image_size": 0},
            {"image_size": 16.0}, {"image_size": "16"}, {"image_size": 20_000}, {"grey": "yes"}, {"grey": None},
        ],
        ids=str,
    )  # fmt: skip
    def test_metadata(self, metadata: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(MienError, match="is an ONNX file of another kind") as error:
            OnnxEngine(network(tmp_path / "model.onnx", metadata=metadata))
        assert "\n" not in str(error.value)

    def test_metadata_that_is_nested(self, tmp_path: Path) -> None:
        model = onnx.load(network(tmp_path / "model.onnx"))
        next(entry for entry in model.metadata_props if entry.key == "names").value = "[" * 200_000
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(MienError, match="of another kind"):
            OnnxEngine(tmp_path / "model.onnx")

    def test_a_network_that_fails_when_it_reads(self, tmp_path: Path) -> None:
        model = onnx.load(network(tmp_path / "model.onnx"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([10**6], np.int64), "far"))
        model.graph.node.append(helper.make_node("Gather", ["faces", "far"], ["x"], axis=0))
        model.graph.node.append(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT))
        model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
        next(node for node in model.graph.node if node.output[0] == "embedding").input[0] = "gathered"
        model.graph.node.insert(3, helper.make_node("Gather", ["column", "far"], ["gathered"], axis=0))
        order = [node for node in model.graph.node if node.output[0] != "gathered"]
        gather_node = next(node for node in model.graph.node if node.output[0] == "gathered")
        del model.graph.node[:]
        position = next(index for index, node in enumerate(order) if node.output[0] == "column") + 1
        model.graph.node.extend([*order[:position], gather_node, *order[position:]])
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(MienError, match=r"model.onnx: fails when it reads faces") as error:
            OnnxEngine(tmp_path / "model.onnx").read(CROPS)
        assert "\n" not in str(error.value)


def damage(kind: str) -> Callable[[bytes], bytes]:
    return {"cut": lambda data: data[: len(data) // 2], "empty": lambda data: b"", "text": lambda data: b"<html>"}[kind]


@pytest.mark.parametrize("kind", ["cut", "empty", "text"])
def test_damaged_onnx(kind: str, tmp_path: Path) -> None:
    path = network(tmp_path / "model.onnx")
    path.write_bytes(damage(kind)(path.read_bytes()))
    with pytest.raises(MienError, match=r"is (not an|an) ONNX file"):
        OnnxEngine(path)


@pytest.mark.parametrize("location", ["/etc/passwd", "../../../etc/passwd", "/dev/zero", "*/_ORT_MEM_ADDR_/*"])
def test_onnx_that_points_to_other_files(location: str, tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path / "model.onnx"))
    value = next(value for value in model.graph.initializer if value.name == "rows")
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", "0"), ("length", "8")):
        entry = value.external_data.add()
        entry.key, entry.value = key, text
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(MienError, match=r"is not an ONNX file that can be read"):
        OnnxEngine(tmp_path / "model.onnx")
