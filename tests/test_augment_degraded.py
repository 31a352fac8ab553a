"""Light, blur, noise and loss by compression, wide and still views: each checked against another way to do it."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mien.config import AugmentConfig, TrainConfig
from mien.data.drawn import draw_faces
from mien.data.images import gaussian_blur
from mien.errors import MienError
from mien.model.preprocessing import Preprocessing, to_luma
from mien.training.augment import (
    BLUR,
    COLUMNS,
    FLIP,
    JPEG,
    LIGHT,
    NOISE,
    NOISE_SEED,
    SCALE,
    STILL,
    Augment,
    blurred,
    compressed,
    lit,
    noisy,
    random_table,
)  # fmt: skip

PLAIN = Preprocessing(48, (0.0,) * 3, (1.0,) * 3)
NOTHING = {"crop_scale": 1.0, "flip": 0.0, "rotation": 0.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0}
EVERYTHING = AugmentConfig(crop_scale=0.85, wide_scale=1.15, still=0.3, light=0.3, blur=0.03, noise=0.08, jpeg=20)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """uint8 [28, 48, 48], drawn."""
    return draw_faces(28, 0, 0, seed=0).images


def planes(faces: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(faces).float().unsqueeze(1) / 255


def augmented(faces: np.ndarray, random: torch.Tensor | None = None, **settings: Any) -> torch.Tensor:
    table = random_table(len(faces), 0, 1) if random is None else random
    return Augment(AugmentConfig(**(NOTHING | settings)), PLAIN, 1)(torch.from_numpy(faces), table)


class TestOldRuns:
    def test_the_first_columns_are_those_that_old_runs_drew(self) -> None:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((3, 5, 0xA06))))
        old_table = generator.random((40, 14), dtype=np.float32)
        assert COLUMNS == 21 and (random_table(40, 3, 5)[:, :14].numpy() == old_table).all()

    def test_what_is_off_changes_no_bit(self, faces: np.ndarray) -> None:
        """The table of old runs had 14 columns, so nothing that is off may read another one."""
        config = AugmentConfig(erasing=0.5)
        table = random_table(len(faces), 0, 1)
        nan_table = table.clone()
        nan_table[:, 14:] = math.nan
        augment = Augment(config, PLAIN, 1)
        assert torch.equal(*(augment(torch.from_numpy(faces), rows) for rows in (table, nan_table)))

    def test_sides_are_as_they_were_to_the_last_bit(self) -> None:
        uniform = random_table(1000, 0, 1)[:, SCALE]
        config = AugmentConfig()
        old_sides = 1 - (1 - config.crop_scale) * uniform
        assert torch.equal(config.wide_scale - (config.wide_scale - config.crop_scale) * uniform, old_sides)


class TestViews:
    def test_a_wide_view_holds_the_whole_face_and_mirrors_beyond(self, faces: np.ndarray) -> None:
        random = random_table(len(faces), 0, 1)
        random[:, SCALE], random[:, 1:3] = 0.0, 0.5  # the widest, in the middle
        views = augmented(faces, random, wide_scale=1.5)[:, 0].numpy()
        for face, view in zip(faces, views, strict=True):
            wide_face = Image.fromarray(np.pad(face, 12, mode="symmetric"))
            expected = np.asarray(wide_face.resize((48, 48), Image.Resampling.BILINEAR, reducing_gap=None))
            assert np.corrcoef(view.ravel(), expected.ravel())[0, 1] > 0.98

    def test_sides_go_both_ways(self) -> None:
        """On a ramp across the image, the slope of a view is its side."""
        ramp = np.broadcast_to(np.arange(48, dtype=np.uint8) * 5, (400, 48, 48))
        slopes = augmented(ramp.copy(), crop_scale=0.85, wide_scale=1.15)[:, 0, :, 14:34].diff(dim=-1).mean((1, 2))
        sides = slopes * 255 / 5
        assert sides.min() < 0.87 and sides.max() > 1.13 and abs(sides.mean() - 1) < 0.02

    def test_still_views_are_the_images_themselves(self, faces: np.ndarray) -> None:
        table = random_table(len(faces), 0, 1)
        settings = {"crop_scale": 0.8, "rotation": 10.0, "shift": 0.06, "flip": 0.5}
        views = augmented(faces, table, still=0.5, **settings)
        still, mirrored = table[:, STILL] < 0.5, table[:, FLIP] < 0.5
        expected = planes(faces)
        expected = torch.where(mirrored.view(-1, 1, 1, 1), expected.flip(-1), expected)
        difference = (views - expected).abs().amax((1, 2, 3))
        assert 5 < still.sum() < 23
        assert difference[still].max() < 1e-4 and difference[~still].min() > 0.05
        assert torch.allclose(views[~still], augmented(faces, table, **settings)[~still], atol=1e-6)

    @pytest.mark.parametrize("colour", [False, True])
    def test_an_undisturbed_view_is_moved_alone(self, colour: bool, faces: np.ndarray) -> None:
        moving: dict[str, Any] = {
            "crop_scale": 0.8,
            "rotation": 10.0,
            "shift": 0.06,
            "flip": 0.5,
            "brightness": 0.0,
            "contrast": 0.0,
        }
        disturbing: dict[str, Any] = {
            "brightness": 0.2,
            "contrast": 0.3,
            "light": 0.2,
            "blur": 0.03,
            "noise": 0.1,
            "jpeg": 20,
        }
        images = torch.from_numpy(np.stack([faces, faces[::-1], faces], -1) if colour else faces)
        table, channels = random_table(len(faces), 0, 1), 3 if colour else 1
        config = AugmentConfig(**(moving | disturbing | {"erasing": 1.0}))
        disturbed, undisturbed = Augment(config, PLAIN, channels, undisturbed=True)(images, table).chunk(2, dim=1)
        assert torch.equal(disturbed, Augment(config, PLAIN, channels)(images, table))
        assert torch.equal(undisturbed, Augment(AugmentConfig(**moving), PLAIN, channels)(images, table))
        assert ((disturbed - undisturbed).abs().amax((1, 2, 3)) > 0.1).all()


class TestBlur:
    @pytest.mark.parametrize("share", [0.005, 0.02, 0.06])
    def test_as_in_numpy(self, share: float, faces: np.ndarray) -> None:
        """Away from the edges, at which the two mirror otherwise when they are cut off elsewhere."""
        blurred_faces = blurred(planes(faces), torch.full((len(faces),), share), share)[:, 0]
        for face, expected in zip(faces, blurred_faces, strict=True):
            by_hand = gaussian_blur(face.astype(np.float64), share * 48)
            assert np.abs(by_hand - 255 * expected.numpy()).max() < 0.2

    def test_each_by_its_own_deviation_and_none_by_none(self, faces: np.ndarray) -> None:
        table = random_table(len(faces), 0, 1)
        views, plain_views = augmented(faces, table, blur=0.05), augmented(faces, table)
        sharp = table[:, BLUR] <= 0.5
        assert 5 < sharp.sum() < 23
        assert torch.equal(views[sharp], plain_views[sharp])
        differences = (views - plain_views).abs().mean((1, 2, 3))
        strongest = table[:, BLUR].argmax()
        visible = table[:, BLUR] > 0.6  # half a pixel; a deviation of a tenth of one shows nothing
        assert differences[visible].min() > 0.002 and differences[strongest] > 3 * differences[visible].min()

    def test_pictures_smaller_than_the_kernel(self) -> None:
        views = blurred(torch.rand(2, 3, 4, 5), torch.full((2,), 0.1), 10.0)
        assert views.shape == (2, 3, 4, 5) and views.isfinite().all()


class TestNoise:
    def test_is_gaussian_of_the_stated_deviation_and_independent(self) -> None:
        grey = torch.full((64, 1, 48, 48), 0.5)
        seeds = torch.rand(64, generator=torch.Generator().manual_seed(0))
        noise = (noisy(grey, torch.full((64,), 0.05), seeds) - 0.5)[:, 0]
        assert noise.std().item() == pytest.approx(0.05, rel=0.02) and abs(noise.mean().item()) < 2e-4
        assert (noise.abs() > 0.098).float().mean().item() == pytest.approx(0.05, abs=0.005)  # 1.96 deviations
        for rolled_noise in (noise.roll(1, -1), noise.roll(1, -2), noise.roll(1, 0), noise.roll(7, -1)):
            assert abs(torch.corrcoef(torch.stack([noise.ravel(), rolled_noise.ravel()]))[0, 1].item()) < 0.01

    def test_depends_on_the_seed_alone(self, faces: np.ndarray) -> None:
        table = random_table(len(faces), 0, 1)
        views, plain_views = augmented(faces, table, noise=0.1), augmented(faces, table)
        quiet = table[:, NOISE] <= 0.5
        assert (
            torch.equal(views[quiet], plain_views[quiet])
            and (views - plain_views)[~quiet].abs().amax((1, 2, 3)).min() > 0
        )
        other_table = table.clone()
        other_table[:, NOISE_SEED] = (other_table[:, NOISE_SEED] + 0.3) % 1
        assert not torch.allclose(augmented(faces, other_table, noise=0.1)[~quiet], views[~quiet], atol=0.01)

    def test_all_channels_alike(self) -> None:
        views = noisy(torch.full((2, 3, 8, 8), 0.5), torch.full((2,), 0.1), torch.rand(2))
        assert torch.equal(views[:, 0], views[:, 1]) and torch.equal(views[:, 0], views[:, 2])


class TestCompression:
    @pytest.mark.parametrize("quality", [10, 20, 50, 75, 95])
    @pytest.mark.parametrize("size", [48, 45])
    def test_as_pillow_compresses(self, quality: int, size: int, faces: np.ndarray) -> None:
        faces = np.ascontiguousarray(faces[:, :size, :size])
        compressed_faces = compressed(planes(faces), torch.full((len(faces),), float(quality)))[:, 0] * 255
        errors, losses = [], []
        for face, compressed_face in zip(faces, compressed_faces, strict=True):
            stream = io.BytesIO()
            Image.fromarray(face).save(stream, "JPEG", quality=quality)
            pillow_face = np.asarray(Image.open(stream)).astype(np.float32)
            errors.append(np.abs(compressed_face.numpy() - pillow_face).mean())
            losses.append(np.abs(face - pillow_face).mean())
        # Their pixels are whole numbers (0.25 on average), and a cosine near the edge of a step may fall either way.
        assert max(errors) < 1 and np.mean(errors) < 0.5
        assert np.mean(errors) < 0.35 * np.mean(losses)

    def test_about_every_second_one(self, faces: np.ndarray) -> None:
        table = random_table(len(faces), 0, 1)
        views, plain_views = augmented(faces, table, jpeg=10), augmented(faces, table)
        is_compressed = table[:, JPEG] < 0.5
        assert 5 < is_compressed.sum() < 23 and torch.equal(views[~is_compressed], plain_views[~is_compressed])
        differences = (views - plain_views).abs().mean((1, 2, 3))
        assert differences[table[:, JPEG].argmin()] > 4 / 255 and differences[is_compressed].min() > 0

    def test_colour_changes_in_brightness_alone(self) -> None:
        colour = 0.3 + 0.4 * torch.rand(2, 3, 16, 16)
        change = compressed(colour, torch.full((2,), 30.0)) - colour
        assert torch.allclose(change[:, 0], change[:, 1], atol=1e-6) and change.abs().max() > 0.01
        grey = compressed(to_luma(colour), torch.full((2,), 30.0)) - to_luma(colour)
        assert torch.allclose(change[:, :1], grey, atol=1e-5)


class TestLight:
    def test_from_the_right_and_from_below(self) -> None:
        grey = torch.full((2, 1, 48, 48), 0.5)
        lit_views = lit(grey, torch.tensor([0.4, 0.4]), torch.tensor([0.0, math.pi / 2]))
        edge = 47 / 48
        assert lit_views[0, 0, 5, 47].item() == pytest.approx(0.5 * (1 + 0.4 * edge), abs=1e-5)
        assert lit_views[0, 0, 40, 0].item() == pytest.approx(0.5 * (1 - 0.4 * edge), abs=1e-5)
        assert lit_views[1, 0, 47, 3].item() == pytest.approx(0.5 * (1 + 0.4 * edge), abs=1e-5)

    def test_nothing_by_a_strength_of_none(self, faces: np.ndarray) -> None:
        table = random_table(len(faces), 0, 1)
        table[:, LIGHT] = 0.0
        assert torch.equal(augmented(faces, table, light=0.5), augmented(faces, table))
        assert not torch.allclose(augmented(faces, light=0.5), augmented(faces), atol=0.01)


@pytest.mark.parametrize("colour", [False, True])
def test_all_together_stay_in_range_and_depend_on_the_image_alone(colour: bool, faces: np.ndarray) -> None:
    images = torch.from_numpy(np.repeat(faces[..., None], 3, axis=-1) if colour else faces)
    augment, table = Augment(EVERYTHING, PLAIN, 3 if colour else 1), random_table(len(faces), 0, 1)
    views = augment(images, table)
    assert views.shape == (28, 3 if colour else 1, 48, 48) and views.min() >= 0 and views.max() <= 1
    rows = torch.tensor([7, 2, 19])
    # A cosine on the edge of a step may fall to either side of it in another batch, so nearly all pixels are compared.
    alike = (augment(images[rows], table[rows]) - views[rows]).abs() < 1e-5
    assert alike.float().mean() > 0.99
    assert torch.equal(augment(images, table), views)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("wide_scale", 0.9), ("wide_scale", 2.1), ("still", 1.1), ("light", -0.1), ("blur", 0.2), ("noise", 0.6),
     ("jpeg", 101), ("jpeg", -1)],
)  # fmt: skip
def test_settings_out_of_range(setting: str, value: Any) -> None:
    with pytest.raises(MienError, match=rf"augment\.{setting}: got {value}"):
        TrainConfig(data="", out="", augment=AugmentConfig(**{setting: value}))
