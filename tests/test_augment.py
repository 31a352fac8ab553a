"""Augmentation: a function of (seed, epoch, image), with every step checked by hand."""

from __future__ import annotations

import pytest
import torch

from mien.config import AugmentConfig
from mien.model.preprocessing import Preprocessing
from mien.training.augment import COLUMNS, ERASE, FLIP, SHIFT_X, Augment, random_table

PLAIN = Preprocessing(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
NOTHING = AugmentConfig(crop_scale=1, flip=0, rotation=0, shift=0, brightness=0, contrast=0)


def middle(count: int) -> torch.Tensor:
    """A table that moves and relights nothing: 0.5 is the middle of every signed range."""
    return torch.full((count, COLUMNS), 0.5)


def ramp() -> torch.Tensor:
    return torch.arange(16, dtype=torch.uint8).view(1, 4, 4)


def test_nothing_changes_nothing() -> None:
    pixels = Augment(NOTHING, PLAIN, 1)(ramp(), middle(1))
    assert pixels.shape == (1, 1, 4, 4)
    assert torch.allclose(pixels[0, 0] * 255, ramp()[0].float(), atol=1e-4)


def test_large_pictures_are_not_aliased() -> None:
    """Stripes of one pixel, 224 px wide, for a network of 48 px: an honest reduction makes them grey."""
    stripes = (torch.arange(224) % 2 * 255).to(torch.uint8).expand(2, 224, 224).contiguous()
    network = Preprocessing(48, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for config in (NOTHING, AugmentConfig(brightness=0.0, contrast=0.0)):
        pixels = Augment(config, network, 1)(stripes, middle(2))
        assert pixels.std() < 0.05 and pixels.mean().item() == pytest.approx(0.5, abs=0.01)
    faces = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resized_faces = network.resize(faces.unsqueeze(1)).float() / 255
    views = Augment(NOTHING, network, 1)(faces, middle(3))
    assert torch.allclose(views, resized_faces, atol=1e-4), "a view that nothing changes is what validation reads"


def test_large_pictures_are_reduced_once_and_small_ones_never() -> None:
    network = Preprocessing(48, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    augment = Augment(AugmentConfig(crop_scale=0.8), network, 1)
    fer2013 = torch.zeros(2, 48, 48, dtype=torch.uint8)
    assert augment.reduced(fer2013) is fer2013
    assert augment.reduced(torch.zeros(300, 64, 64, dtype=torch.uint8)).shape == (300, 60, 60), "48 / 0.8"
    colour = augment.reduced(torch.full((2, 224, 224, 3), 7, dtype=torch.uint8))
    assert colour.shape == (2, 60, 60, 3) and colour.unique().tolist() == [7] and colour.is_contiguous()
    tight = Augment(AugmentConfig(crop_scale=0.2), network, 1)
    assert tight.reduced(torch.zeros(1, 500, 500, dtype=torch.uint8)).shape == (1, 72, 72), "1.5 sides at most"


def test_flip_mirrors_left_and_right() -> None:
    random = middle(1)
    random[:, FLIP] = 0.2
    pixels = Augment(AugmentConfig(**{**vars(NOTHING), "flip": 0.5}), PLAIN, 1)(ramp(), random)
    assert torch.allclose(pixels[0, 0] * 255, ramp()[0].flip(1).float(), atol=1e-4)


def test_shift_by_one_pixel() -> None:
    random = middle(1)
    random[:, SHIFT_X] = 1.0
    pixels = Augment(AugmentConfig(**{**vars(NOTHING), "shift": 0.25}), PLAIN, 1)(ramp(), random)
    assert torch.allclose(pixels[0, 0, :, :3] * 255, ramp()[0, :, 1:].float(), atol=1e-4)


def test_brightness_and_contrast_stay_in_range() -> None:
    config = AugmentConfig(**{**vars(NOTHING), "brightness": 1.0, "contrast": 0.9})
    images = torch.randint(0, 256, (64, 4, 4), dtype=torch.uint8)
    pixels = Augment(config, PLAIN, 1)(images, random_table(64, 0, 1))
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert pixels.std() > 0


def test_erasing_blanks_a_rectangle_of_the_stated_area() -> None:
    config = AugmentConfig(**{**vars(NOTHING), "erasing": 0.5})
    preprocessing = Preprocessing(40, (0.0,) * 3, (1.0,) * 3)
    random = random_table(400, 0, 1)
    pixels = Augment(config, preprocessing, 1)(torch.full((400, 40, 40), 255, dtype=torch.uint8), random)
    share = (pixels == 0).float().mean((1, 2, 3))
    erased = random[:, ERASE] < 0.5
    assert (share[~erased] == 0).all()
    assert share[erased].min() > 0 and share[erased].max() < 0.25


def test_an_image_looks_the_same_whatever_batch_it_is_in() -> None:
    images = torch.randint(0, 256, (10, 48, 48), dtype=torch.uint8)
    augment = Augment(AugmentConfig(erasing=0.5), Preprocessing(48, (0.5,) * 3, (0.25,) * 3), 1)
    table = random_table(10, 3, 7)
    rows = torch.tensor([7, 2])
    assert torch.allclose(augment(images, table)[rows], augment(images[rows], table[rows]), atol=1e-6)


def test_table_depends_on_seed_and_epoch_alone() -> None:
    assert torch.equal(random_table(5, 1, 2), random_table(5, 1, 2))
    assert not torch.equal(random_table(5, 1, 2), random_table(5, 1, 3))
    assert not torch.equal(random_table(5, 1, 2), random_table(5, 2, 2))


@pytest.mark.parametrize(("channels", "colour"), [(1, False), (3, False), (1, True), (3, True)])
def test_channels_and_size(channels: int, colour: bool) -> None:
    images = torch.randint(0, 256, (2, 48, 48, 3) if colour else (2, 48, 48), dtype=torch.uint8)
    augment = Augment(AugmentConfig(), Preprocessing(64, (0.5,) * 3, (0.25,) * 3), channels)
    assert augment(images, random_table(2, 0, 1)).shape == (2, channels, 64, 64)
