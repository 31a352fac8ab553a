"""Explanations: occlusion against an engine whose answers are known, attention against hand-computed blocks."""

from __future__ import annotations

import copy
import importlib
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import recognition_helpers
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from mien.cli import explain as command
from mien.errors import MienError
from mien.model.classifier import Classifier
from mien.model.networks import as_vit
from mien.model.preprocessing import Preprocessing
from mien.model.vit import build
from mien.recognition import explain as heat
from mien.recognition import recognizer as recognizer_module
from mien.recognition import torch_engine as torch_module
from mien.recognition.engine import Answers
from mien.recognition.explain import (
    CAPTION,
    Explanation,
    colours,
    enlarged,
    explain,
    filled,
    occlusion,
    reader,
    save,
    sheet,
)
from mien.recognition.results import Face
from mien.recognition.torch_engine import ATTENTION, TorchEngine, gradient, propagated, rolled_out, rollout

NAMES = ("calm", "glad", "sour")
SIZE = 16
PLACE = (slice(8, 12), slice(4, 8))

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
explanations: Any = importlib.import_module("explanations")
raw_attention = explanations.raw_attention


class Corner:
    """Takes the mean of one square for the probability of ``glad``, from 0.1 (black) to 0.9 (white)."""

    names = ("calm", "glad")
    grey = True
    threshold = stated_accuracy = None
    image_size = SIZE

    def __init__(self, answer: float | None = None, place: tuple[slice, slice] = PLACE) -> None:
        self.answer, self.place = answer, place
        self.batches: list[int] = []

    def read(self, crops: np.ndarray) -> Answers:
        self.batches.append(len(crops))
        glad = 0.1 + 0.8 * crops[:, *self.place].mean(axis=(1, 2)) / 255
        glad = glad if self.answer is None else np.full(len(crops), self.answer)
        return Answers(np.stack([1 - glad, glad], 1).astype(np.float32), np.zeros((len(crops), 1), np.float32))


def crop() -> np.ndarray:
    """uint8 [16, 16], black, with the square that the engine looks at in white; the mean grey is 16."""
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[PLACE] = 255
    return pixels


def face(pixels: np.ndarray | None, label: str = "glad") -> Face:
    return Face((0.0, 0.0, 16.0, 16.0), label, 0.9, {"calm": 0.1, "glad": 0.9}, crop=pixels)


@pytest.fixture(scope="module")
def vit() -> Classifier:
    """Two blocks of two heads, four patches; its weights are large, so that attention is far from even."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=SIZE, patch_size=8, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        id2label=dict(enumerate(NAMES)), label2id={name: index for index, name in enumerate(NAMES)},
    )  # fmt: skip
    network = ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return Classifier(network, Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3), NAMES)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)


class TestOcclusion:
    def test_by_hand(self) -> None:
        """Squares of 4 px in steps of 2, filled with the mean grey, 16."""

        def drop(hidden: float) -> float:
            """The fall of the log-odds when a share of the square that counts is hidden."""
            glad = 0.1 + 0.8 * (255 * (1 - hidden) + 16 * hidden) / 255
            return math.log(0.9 / 0.1) - math.log(glad / (1 - glad))

        relevance = occlusion(crop(), reader(Corner()), 1, windows=(1 / 4,), fill="grey")
        assert relevance.shape == (SIZE, SIZE) and relevance.dtype == np.float32
        # The pixel at 9, 5 lies under four squares: one hides everything, two half of it, one a quarter.
        assert relevance[9, 5] == pytest.approx((drop(1) + 2 * drop(1 / 2) + drop(1 / 4)) / 4, abs=1e-5)
        # Squares that touch the place begin at rows 6 to 10: no pixel above row 6 or below row 13 is under one.
        assert (np.abs(relevance[[5, 14]]) < 1e-6).all() and (relevance[6:14, 2:10] > 0).all()
        assert (
            relevance[PLACE].min() > np.delete(relevance.ravel(), np.arange(256).reshape(16, 16)[PLACE].ravel()).max()
        )

    def test_what_speaks_for_one_speaks_against_the_other(self) -> None:
        for_glad, for_calm = (occlusion(crop(), reader(Corner()), label) for label in (1, 0))
        assert for_glad == pytest.approx(-for_calm, abs=1e-5)

    @pytest.mark.parametrize("colour", [False, True])
    def test_the_default_finds_the_place(self, colour: bool) -> None:
        engine = Corner(place=(slice(30, 40), slice(9, 21)))
        pixels = np.random.default_rng(0).integers(0, 90, (48, 48), dtype=np.uint8)
        pixels[engine.place] += 150
        picture = np.repeat(pixels[..., None], 3, axis=2) if colour else pixels
        read = (lambda crops: engine.read(crops[..., 0]).probabilities) if colour else reader(engine)
        relevance = occlusion(picture, read, 1)
        row, column = np.unravel_index(relevance.argmax(), relevance.shape)
        assert 30 <= row < 40 and 9 <= column < 21
        share_near = relevance[22:48, 1:29].clip(min=0).sum() / relevance.clip(min=0).sum()
        assert share_near > 0.95 and max(engine.batches) <= 64

    def test_every_pixel_weighs_the_same(self) -> None:
        """An engine that falls by one nat whatever is hidden gives 1 everywhere, at the edges too."""
        pixels = noise()

        def read(crops: np.ndarray) -> np.ndarray:
            changed = (crops != pixels).any(axis=(1, 2))
            glad = 1 / (1 + np.exp(np.where(changed, 1.0, 0.0)))
            return np.stack([1 - glad, glad], 1)

        assert occlusion(pixels, read, 1) == pytest.approx(np.ones((SIZE, SIZE)), abs=1e-6)

    def test_sure_answers_stay_finite(self) -> None:
        assert (occlusion(crop(), reader(Corner(answer=1.0)), 1) == 0).all()

    def test_fills(self) -> None:
        assert (filled(crop(), "grey") == 16).all()
        colour = np.stack([crop(), np.full((SIZE, SIZE), 7, np.uint8), crop()], axis=2)
        assert (filled(colour, "grey") == (16, 7, 16)).all() and filled(colour, "blur").shape == (SIZE, SIZE, 3)
        assert filled(crop(), "blur").max() < 128


class TestAttention:
    def test_rollout_by_hand(self) -> None:
        first, second = torch.tensor([[[0.5, 0.5], [0, 1]]]), torch.tensor([[[1, 0], [0.25, 0.75]]])
        # Each is mixed half and half with the identity: [[.75, .25], [0, 1]], then [[1, 0], [.125, .875]].
        assert rolled_out([first, second]).tolist() == [[0.75, 0.25], [0.09375, 0.90625]]

    def test_relevance_by_hand(self) -> None:
        attentions = [torch.tensor([[[0.5, 0.5], [0, 1]]] * 2), torch.tensor([[[1, 0], [0.25, 0.75]]] * 2)]
        no_gradient = torch.zeros(2, 2)
        gradients = [torch.stack([torch.tensor([[2.0, -1], [1, 1]]), no_gradient]),
                     torch.stack([torch.tensor([[1.0, 4], [4, -1]]), no_gradient])]  # fmt: skip
        # Of the first block, half of the identity stays (the other head has none): 1.5 on the diagonal. The second
        # adds [[.5, 0], [.5, 0]] times that.
        assert propagated(attentions, gradients).tolist() == [[2.25, 0], [0.75, 1.5]]

    def test_of_a_network(self, vit: Classifier) -> None:
        with torch_module._eager(as_vit(vit.network)), torch.no_grad():
            pixels = vit.preprocessing(torch.from_numpy(noise()[None]), 3)
            blocks = [block[0] for block in vit.network(pixel_values=pixels, output_attentions=True).attentions]
        assert [list(block.shape) for block in blocks] == [[2, 5, 5], [2, 5, 5]]
        assert raw_attention(vit, noise(), 0) == pytest.approx(blocks[1][:, 0, 1:].mean(0).reshape(2, 2).numpy())
        flow = rolled_out(blocks)
        assert flow.sum(1).tolist() == pytest.approx([1] * 5, abs=1e-6)
        assert rollout(vit, noise(), 0) == pytest.approx(flow[0, 1:].reshape(2, 2).numpy())

    @pytest.mark.parametrize("label", [0, 1, 2])
    def test_gradients_are_those_of_the_label(self, label: int, vit: Classifier) -> None:
        network: Any = copy.deepcopy(vit.network)
        network.set_attn_implementation("eager")
        attentions: list[torch.Tensor] = []

        def hook(module: torch.nn.Module, inputs: object, outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
            outputs[1].retain_grad()
            attentions.append(outputs[1])

        for layer in network.vit.layers:
            layer.attention.register_forward_hook(hook)
        pixels = vit.preprocessing(torch.from_numpy(noise()[None]), 3)
        network(pixel_values=pixels).logits[0, label].backward()
        relevance = np.eye(5)
        for block in attentions:
            assert block.grad is not None
            relevance += (block * block.grad)[0].detach().numpy().clip(min=0).mean(axis=0) @ relevance
        answer = gradient(vit, noise(), label)
        assert answer.dtype == np.float32 and (answer >= 0).all() and answer.max() > 1e-3
        assert answer == pytest.approx(relevance[0, 1:].reshape(2, 2), abs=1e-5)

    def test_a_patch_lands_where_it_is(self, vit: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = torch.zeros(1, 2, 5, 5)
        rows[:, :, 0, 2] = 1  # [CLS] looks at the second patch alone: above, at the right
        monkeypatch.setattr(explanations, "attend", lambda *_, **__: (torch.zeros(3), [rows, rows]))
        relevance = enlarged(raw_attention(vit, noise(), 0), SIZE)
        assert relevance.shape == (SIZE, SIZE)
        assert (
            np.unravel_index(relevance.argmax(), relevance.shape) == (0, 8)
            and (relevance[:8, 8:] == 1).all()
            and relevance.sum() == 64
        )

    def test_the_network_stays_as_it_was(self, vit: Classifier) -> None:
        logits_before, kind = vit.logits(noise()[None], quiet=True), vit.network.config._attn_implementation
        with torch.inference_mode():
            for method in [*ATTENTION.values(), raw_attention]:
                method(vit, noise(), 1)
        assert vit.network.config._attn_implementation == kind != "eager"
        assert all(parameter.grad is None for parameter in vit.network.parameters())
        assert (vit.logits(noise()[None], quiet=True) == logits_before).all()

    def test_threads_that_share_a_network_get_the_maps_of_one(self, vit: Classifier) -> None:
        network = as_vit(copy.deepcopy(vit.network))
        network.set_attn_implementation("sdpa")
        shared = replace(vit, network=network)
        crops = [noise(seed) for seed in range(12)]
        expected_maps = [gradient(shared, crop, 1) for crop in crops]
        for layer in network.vit.layers:  # a pause in each block, in which the other thread could switch the network
            layer.register_forward_pre_hook(lambda *_: time.sleep(0.002))
        with ThreadPoolExecutor(2) as pool:
            maps = list(pool.map(lambda crop: gradient(shared, crop, 1), crops))
        assert np.array_equal(maps, expected_maps)
        assert network.config._attn_implementation == "sdpa"

    def test_frozen_weights_are_no_hindrance(self, vit: Classifier) -> None:
        relevance = gradient(vit, noise(), 1)
        vit.network.requires_grad_(False)
        frozen_relevance = gradient(vit, noise(), 1)
        vit.network.requires_grad_(True)
        assert frozen_relevance == pytest.approx(relevance)

    def test_a_network_without_tokens_is_refused(self) -> None:
        small = {"channels": [4, 4, 4, 4], "layers": [1, 1, 1, 1]}
        network, preprocessing = build("timm:resnet18", NAMES, grey=True, image_size=32, network_args=small)
        with pytest.raises(MienError, match=r"\(resnet18\), expected a ViT; use the method occlusion"):
            rollout(Classifier(network.eval(), preprocessing, NAMES), noise(), 0)


class TestExplain:
    def test_auto_is_occlusion_of_the_label_that_was_read(self) -> None:
        explanation = explain(face(crop()), Corner())
        assert (explanation.method, explanation.label) == ("occlusion", "glad") and explanation.crop is not None
        assert (explanation.relevance == occlusion(crop(), reader(Corner()), 1)).all()
        other_explanation = explain(face(crop()), Corner(), "occlusion", "calm")
        assert other_explanation.label == "calm" and other_explanation.relevance == pytest.approx(
            -explanation.relevance, abs=1e-5
        )

    @pytest.mark.parametrize("method", ["rollout", "gradient"])
    def test_methods_that_look_inside(self, method: str, vit: Classifier) -> None:
        engine: Any = SimpleNamespace(names=NAMES, image_size=SIZE, classifier=vit)
        explanation = explain(face(noise()), engine, method)
        assert explanation.method == method and explanation.relevance.shape == (SIZE, SIZE)
        assert (explanation.relevance == enlarged(ATTENTION[method](vit, noise(), 1), SIZE)).all()

    @pytest.mark.parametrize("method", ["occlusion", "rollout", "gradient"])
    def test_a_face_that_another_model_read_is_refused(self, method: str, vit: Classifier) -> None:
        with pytest.raises(MienError, match=rf"crop is \[8, 8\], and this model reads {SIZE}x{SIZE} pixels"):
            explain(face(np.zeros((8, 8), np.uint8)), TorchEngine(vit), method)

    @pytest.mark.parametrize("method", ["occlusion", "rollout"])
    def test_a_face_that_another_model_of_the_same_size_read_is_refused(self, method: str, vit: Classifier) -> None:
        other = copy.deepcopy(vit)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in other.network.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
        own = TorchEngine(vit)
        of_own, of_other = (TorchEngine(model).read(noise()[None]).embeddings[0] for model in (vit, other))
        for embedding in (of_own, 1.01 * of_own, 0 * of_own):
            assert explain(replace(face(noise()), embedding=embedding), own, method).method == method
        for embedding in (of_other, of_own[:4]):
            read_by_another = replace(face(noise()), embedding=embedding)
            with pytest.raises(MienError, match="read by another model; give it to the recognizer that read it"):
                explain(read_by_another, own, method)

    def test_an_engine_answers_as_its_classifier(self, vit: Classifier) -> None:
        answers = reader(TorchEngine(vit))(noise()[None])
        expected = torch.from_numpy(vit.logits(noise()[None], quiet=True)).softmax(1).numpy()
        assert answers == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "magic"}, "method: got 'magic', expected one of auto, occlusion, rollout, gradient"),
            ({"label": "bored"}, "label: got 'bored', expected one that the model knows: calm, glad"),
            ({"method": "rollout"}, r"method rollout: needs torch and a model folder with model\.safetensors"),
            ({"method": "gradient"}, "or take the method occlusion"),
        ],
    )
    def test_what_cannot_be_done_is_told(self, options: dict[str, str], message: str) -> None:
        with pytest.raises(MienError, match=message):
            explain(face(crop()), Corner(), **options)

    def test_the_command_tells_that_torch_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mien.cli.explain.find_spec", lambda name: None)
        with pytest.raises(MienError, match=r"--method gradient: needs torch, .* or choose --method occlusion"):
            command.run(["photo.jpg", "--out", "heat.png", "--method", "gradient"])

    def test_a_face_without_a_crop_is_refused(self) -> None:
        with pytest.raises(MienError, match="the face keeps no crop"):
            explain(face(None), Corner())
        with pytest.raises(MienError, match=r"face: is a list, expected a Face, such as result\.faces\[0\]"):
            explain([face(crop())], Corner())  # type: ignore[arg-type]

    def test_answers_that_are_no_numbers_are_refused(self) -> None:
        with pytest.raises(MienError, match="answers with NaN or infinity"):
            explain(face(crop()), Corner(answer=float("nan")))

    def test_occlusion_loads_no_torch(self) -> None:
        code = (
            "import sys, test_explain_fake as fake\n"
            "from mien.recognition.explain import explain\n"
            "explain(fake.face, fake.engine).overlay()\n"
            "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
        )
        fake_engine = (
            "import numpy as np\nfrom types import SimpleNamespace\nfrom mien.recognition.results import Face\n"
            "read = lambda crops: SimpleNamespace(probabilities=np.full((len(crops), 2), .5))\n"
            "engine = SimpleNamespace(names=('calm', 'glad'), image_size=8, read=read)\n"
            "face = Face((0, 0, 8, 8), 'glad', .5, {}, crop=np.zeros((8, 8), np.uint8))\n"
        )
        code = code.replace("import sys, test_explain_fake as fake\n", f"import sys\n{fake_engine}").replace(
            "fake.", ""
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "src")}
        completed = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
        )
        assert completed.stdout == "[]\n", completed.stdout + completed.stderr


class TestPicture:
    def test_colours(self) -> None:
        light = np.full(5, 0.7)
        blue, pale_blue, ground, pale, orange = colours(np.array([-1, -0.5, 0, 0.5, 1]), light).astype(int)
        assert ground[0] == ground[1] == ground[2]
        assert orange[0] > orange[1] > orange[2] and blue[2] > blue[1] > blue[0]
        assert orange[2] < pale[2] < ground[2] and blue[0] < pale_blue[0] < ground[0]

    @pytest.mark.parametrize("sign", [1, -1])
    def test_equal_steps_look_equally_large(self, sign: int) -> None:
        shades = heat._to_lab(colours(sign * np.linspace(0, 1, 5), np.full(5, 0.7)))
        steps = np.linalg.norm(np.diff(shades, axis=0), axis=1)
        assert steps == pytest.approx(np.full(4, steps.mean()), rel=0.05)
        assert heat._to_rgb(heat._to_lab(np.array([230, 97, 0]))).tolist() == [230, 97, 0]
        assert heat._to_lab(np.array([255, 255, 255])) == pytest.approx([1, 0, 0], abs=1e-3)

    def test_heat_stands_where_the_relevance_is(self) -> None:
        explanation = explain(face(crop()), Corner())
        picture = np.asarray(explanation.overlay()).astype(int)
        side = 384  # sixteen pixels enlarged 24 times, behind a margin of 16
        warmth = picture[..., 0] - picture[..., 2]
        crop_warmth = warmth[16 : 16 + side, 16 : 16 + side]
        row, column = np.unravel_index(crop_warmth.argmax(), crop_warmth.shape)
        assert 8 * 24 <= row < 12 * 24 and 4 * 24 <= column < 8 * 24
        assert abs(crop_warmth[: 4 * 24, 12 * 24 :]).max() <= 2

    def test_the_outline_runs_around_the_strong_part_and_along_the_border(self) -> None:
        values = np.tile(np.linspace(0, 1, 101), (101, 1))  # half as strong as the strongest in column 50
        line = heat._outline(values).round(3)
        assert line[50].nonzero()[0].tolist() == [49, 50, 51, 100]
        assert line[0, 50:].all() and line[-1, 50:].all() and not line[:, :49].any()
        assert not heat._outline(np.full((9, 9), 0.4)).any()

    @pytest.mark.parametrize("size", [1, 8, 48, 224, 500])
    @pytest.mark.parametrize("colour", [False, True])
    def test_any_size(self, size: int, colour: bool) -> None:
        shape = (size, size, 3) if colour else (size, size)
        explanation = Explanation(
            np.zeros((size, size), np.float32), "glad", "occlusion", np.full(shape, 200, np.uint8)
        )
        picture = explanation.overlay()
        assert picture.mode == "RGB" and 300 < picture.width < 520
        assert len(CAPTION) == 2 and picture.height > picture.width

    def test_faces_stand_in_rows_of_three(self) -> None:
        explanation = explain(face(crop()), Corner())
        sheet_of_one, sheet_of_four = sheet([explanation]), sheet([explanation] * 4)
        assert (sheet_of_four.width, sheet_of_four.height) == (3 * sheet_of_one.width, 2 * sheet_of_one.height)
        assert np.asarray(sheet_of_four)[sheet_of_one.height :, sheet_of_one.width :].min() == 255

    def test_faces_are_numbered_as_in_tables_and_in_the_service(self, monkeypatch: pytest.MonkeyPatch) -> None:
        titles: list[str] = []
        panel = heat._panel

        def titled(*values: Any, title: str, **options: Any) -> Image.Image:
            titles.append(title)
            return panel(*values, **options)

        monkeypatch.setattr(heat, "_panel", titled)
        explanation = explain(face(crop()), Corner())
        sheet([explanation])
        sheet([explanation] * 2)
        assert titles == ["", "face 0: ", "face 1: "]

    @pytest.mark.parametrize(
        ("uncertain", "label", "title"),
        [(False, "glad", "glad 60%, by "), (True, "glad", "glad? 60%, by "), (True, "calm", "calm 40%, by ")],
    )
    def test_the_caption_says_how_sure_the_answer_is(
        self, uncertain: bool, label: str, title: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[str] = []
        monkeypatch.setattr(heat, "write", lambda pen, place, text, *rest: written.append(text))
        probabilities = {"calm": 0.4, "glad": 0.6}
        answer = replace(face(crop()), label="glad", score=0.6, probabilities=probabilities, uncertain=uncertain)
        sheet([explain(answer, Corner(), label=label)])
        assert f"{title}occlusion" in written

    def test_saved_as_a_picture(self, tmp_path: Path) -> None:
        explanation = explain(face(crop()), Corner())
        explanation.save(tmp_path / "heat.png")
        with Image.open(tmp_path / "heat.png") as picture:
            assert picture.format == "PNG" and (np.asarray(picture) == np.asarray(sheet([explanation]))).all()
        save([explanation, explanation], tmp_path / "heat.JPG")
        assert Image.open(tmp_path / "heat.JPG").format == "JPEG"
        with pytest.raises(MienError, match=r"heat\.gif: has another ending than \.png, \.jpg, \.jpeg"):
            explanation.save(tmp_path / "heat.gif")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["heat.JPG", "heat.png"]


class TestCommand:
    @pytest.fixture(autouse=True)
    def bright(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """A recognizer of bright squares, whose network takes the mean of a crop."""
        if "vit" not in request.fixturenames:
            monkeypatch.setattr(recognizer_module, "Recognizer", lambda *_, **__: recognition_helpers.recognizer())

    def photo(self, path: Path, levels: tuple[int, ...] = (250, 140)) -> str:
        Image.fromarray(recognition_helpers.picture(levels)).save(path)
        return str(path)

    def test_every_face_is_in_the_picture(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "new" / "heat.png"
        assert command.run([self.photo(tmp_path / "photo.png"), "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"{out}: 2 faces (glad 98%, glad 55% uncertain)\n"
        with Image.open(out) as picture:
            assert picture.width == 2 * (2 * 384 + 3 * 16)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--label", "bored"], "--label: got 'bored', expected one of calm, glad"),
            (["--out", "heat.txt"], r"heat\.txt: has another ending than"),
            (["--method", "magic"], "--method: invalid choice: 'magic'"),
        ],
    )
    def test_what_is_wrong_is_told(self, options: list[str], message: str, tmp_path: Path) -> None:
        arguments = [self.photo(tmp_path / "photo.png"), "--out", str(tmp_path / "heat.png"), *options]
        with pytest.raises(MienError, match=message):
            command.run(arguments)
        assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]

    def test_methods_that_look_inside_need_more_than_onnx(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").touch()
        arguments = [self.photo(tmp_path / "photo.png"), "--out", str(tmp_path / "heat.png")]
        with pytest.raises(MienError, match="--method gradient: looks into the network, for which ONNX is not enough"):
            command.run([*arguments, "--model", str(tmp_path / "model.onnx"), "--method", "gradient"])

    def test_a_name_that_another_command_takes_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def taken(path: Path) -> Path:
            path.write_text("of another command")
            return path

        monkeypatch.setattr(command, "free_path", taken)
        (tmp_path / "out").mkdir()
        photos = [self.photo(tmp_path / name) for name in ("a.png", "b.png")]
        assert command.run([*photos, "--out", str(tmp_path / "out")]) == 0
        assert "a-explained-2.png: 2 faces" in capsys.readouterr().out
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["a-explained-2.png", "a-explained.png", "b-explained-2.png", "b-explained.png"]
        assert (tmp_path / "out" / "a-explained.png").read_text() == "of another command"

    def test_photos_that_cannot_be_explained(self, tmp_path: Path) -> None:
        out = ["--out", str(tmp_path / "heat.png")]
        with pytest.raises(MienError, match=r"dark\.png: no face was found, expected one"):
            command.run([self.photo(tmp_path / "dark.png", (0,)), *out])
        with pytest.raises(MienError, match=r"missing\.png"):
            command.run([str(tmp_path / "missing.png"), *out])
        photo = self.photo(tmp_path / "photo.png")
        with pytest.raises(MienError, match=r"--out: .*photo\.png is the photo itself"):
            command.run([photo, "--out", photo])
        assert not (tmp_path / "heat.png").exists()

    def test_a_wrong_photo_is_refused_before_anything_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "film.mp4").write_bytes(b"")
        for photo, message in {
            "no.png": "no\\.png",
            "empty": "holds no picture",
            "film.mp4": "is a film",
            "9": "is a film",
        }.items():
            with pytest.raises(MienError, match=message):
                command.run([photo])
        captured = capsys.readouterr()
        assert captured.out == captured.err == ""
        assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "film.mp4"]

    def test_several_photos_go_into_a_folder_and_bad_ones_are_lines(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        self.photo(Path("photos/a.png"))
        self.photo(Path("photos/dark.png"), (0,))
        Path("photos/broken.jpg").write_bytes(b"no picture")
        Path("photos/notes.txt").write_text("text")
        self.photo(Path("a.png"), (250,))
        assert command.run(["photos", "a.png"]) == command.SOME_FAILED
        captured = capsys.readouterr()
        first_line, broken_line, dark_line, last_line = captured.out.splitlines()
        assert first_line == f"{Path('explained/a-explained.png')}: 2 faces (glad 98%, glad 55% uncertain)"
        assert broken_line.startswith("error: photos/broken.jpg: ") and dark_line == "photos/dark.png: no face"
        assert last_line == f"{Path('explained/a-explained-2.png')}: 1 face (glad 98%)"
        assert "mien: 1 of 4 could not be read\n" in captured.err and "skipped 1 file that holds" in captured.err
        assert "uncertain: 1 of 3 faces" in captured.err
        assert command.run(["photos/a.png", "a.png"]) == 0  # a new folder: nothing is written over
        assert sorted(path.name for path in Path("explained-2").iterdir()) == ["a-explained-2.png", "a-explained.png"]
        assert command.run(["a.png", "--out", "explained"]) == 0
        assert "explained/a-explained-3.png: 1 face" in capsys.readouterr().out
        with pytest.raises(MienError, match=r"--out: heat\.png is the name of a file, expected a folder"):
            command.run(["photos", "--out", "heat.png"])

    def test_one_photo_gets_a_new_name_and_a_replaced_file_is_reported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        photo = self.photo(Path("a.png"), (250,))
        for name in ("a-explained.png", "a-explained-2.png"):
            assert command.run([photo]) == 0
            captured = capsys.readouterr()
            assert captured.out == f"{name}: 1 face (glad 98%)\n" and captured.err == ""
        assert command.run([photo, "--out", "a-explained.png"]) == 0
        assert capsys.readouterr().err == "mien: a-explained.png: replaces an earlier file of this name\n"

    @pytest.mark.parametrize("method", ["auto", "gradient"])
    def test_with_a_model_folder(self, method: str, vit: Classifier, tmp_path: Path) -> None:
        vit.save(tmp_path / "model", {})
        Image.fromarray(noise()).save(tmp_path / "crop.png")
        arguments = [
            str(tmp_path / "crop.png"),
            "--detector",
            "none",
            "--model",
            str(tmp_path / "model"),
            "--device",
            "cpu",
        ]
        assert command.run([*arguments, "--method", method, "--out", str(tmp_path / "heat.jpg")]) == 0
        assert Image.open(tmp_path / "heat.jpg").size[0] == 2 * 384 + 3 * 16


class TestBenchmark:
    def test_curves_by_hand(self) -> None:
        """The square that counts goes first: after one sixteenth of the pixels nothing is left of it."""
        relevance = np.zeros((SIZE, SIZE))
        relevance[PLACE] = 1
        deletion, insertion = explanations.curves(crop(), relevance, reader(Corner()), 1, 16)
        probability_hidden = 0.1 + 0.8 * 16 / 255  # in mean grey
        assert deletion == pytest.approx([0.9] + [probability_hidden] * 16, abs=1e-6)
        probability_blurred = 0.1 + 0.8 * filled(crop(), "blur")[PLACE].mean() / 255
        assert insertion == pytest.approx([probability_blurred] + [0.9] * 16, abs=1e-6)
        area = explanations.areas(np.stack([deletion, insertion]))
        assert area[:2] == pytest.approx(
            [(15.5 * probability_hidden + 0.45) / 16, (15.5 * 0.9 + probability_blurred / 2) / 16], abs=1e-6
        )
        assert area[2] == pytest.approx(area[1] - area[0])

    def test_statistics_by_hand(self) -> None:
        assert explanations.sign_test(np.array([1, 2, 3, 4, -1.0, 0])) == pytest.approx(2 * 6 / 32)
        assert explanations.sign_test(np.zeros(3)) == 1
        assert explanations.interval(np.full(5, 0.25), 0) == [0.25, 0.25]

    def test_runs_and_ranks(
        self, vit: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        measured = explanations.measure(vit, np.stack([noise(0), noise(1)]), ["random", "attention", "occlusion"], 4, 0)
        assert {name: values.shape for name, values in measured.items()} == dict.fromkeys(measured, (2, 2, 5))
        rows = explanations.summary(measured, 0)
        assert [row["method"] for row in rows] == ["random", "attention", "occlusion"]
        gains = [row["gain"]["mean"] for row in rows]
        assert rows[2]["against random"]["mean"] == pytest.approx(gains[2] - gains[0])
        assert explanations.table(rows).count("\n") == 4
        methods = explanations.methods(replace(vit))
        for name, method in methods.items():
            assert method(noise(), 0, np.random.default_rng(0)).shape == (SIZE, SIZE), name
