"""Augmentation and mixup: by torch's seed alone, in range, and as strong as the recipe says."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from tests.commands import FORKS
from training.data.augment import Augmenter, blend, mixup
from training.recipe import AugmentRecipe

ALL: dict[str, Any] = {"flip": True, "crop": 0.5, "rotate": 20.0, "colour": 0.4, "rand_augment": 2, "rand_magnitude": 9}


def photos(count: int, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def changed(pixels: torch.Tensor, seed: int = 0, **options: Any) -> torch.Tensor:
    """Everything is off but `options`."""
    recipe = AugmentRecipe.model_validate({"flip": False, **options})
    augmenter = Augmenter(recipe, pixels.shape[1], "cpu")
    torch.manual_seed(seed)
    return augmenter(pixels)


def digest(pixels: torch.Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def test_the_result_depends_on_torchs_seed_alone() -> None:
    first = changed(photos(32), 1, **ALL)
    random.seed(7)
    np.random.seed(7)
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(changed(photos(32), 1, **ALL), first)
    assert not torch.equal(changed(photos(32), 2, **ALL), first)
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    with ProcessPoolExecutor(1, FORKS) as fresh:
        assert fresh.submit(one_thread).result() == digest(first)


def one_thread() -> str:
    torch.set_num_threads(1)
    return digest(changed(photos(32), 1, **ALL))


def test_all_off_is_a_cast_and_draws_nothing() -> None:
    pixels = photos(8)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert torch.equal(Augmenter(AugmentRecipe(flip=False), 16, "cpu")(pixels), pixels.float())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_flip_alone_keeps_or_mirrors_each_photo_exactly() -> None:
    pixels = photos(8)
    flipped = changed(pixels, 3, flip=True)
    kept = [torch.equal(a, b.float()) for a, b in zip(flipped, pixels, strict=True)]
    mirrored = [torch.equal(a, b.flip(1).float()) for a, b in zip(flipped, pixels, strict=True)]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert any(kept)
    assert any(mirrored)


@pytest.mark.parametrize("name", ["flip", "crop", "rotate", "colour", "rand_augment", "all"])
def test_shape_type_range_and_untouched_input(name: str) -> None:
    options = ALL if name == "all" else {name: ALL[name]}
    extreme = torch.where(photos(64) < 128, 0, 255).to(torch.uint8)
    copy = extreme.clone()
    result = changed(extreme, **options)
    assert (result.shape, result.dtype) == (extreme.shape, torch.float32)
    assert result.min() >= 0
    assert result.max() <= 255
    assert not torch.equal(result, extreme.float())
    floats = extreme.float()
    assert torch.equal(changed(floats, **options), result)
    assert torch.equal(extreme, copy)
    assert torch.equal(floats, copy.float())
    assert changed(extreme[:0], **options).shape == (0, 16, 16, 3)


def test_photos_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[B, 32, 32, 3\], got \[2, 16, 16, 3\]"):
        Augmenter(AugmentRecipe(), 32, "cpu")(photos(2))


def slopes(size: int, **options: Any) -> torch.Tensor:
    """[B, 2, 2]: how fast a photo that shows x in red and y in green changes along x and y, 1 where untouched."""
    ramp = torch.arange(float(size))
    plane = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size), torch.zeros(size, size)], 2)
    result = changed(plane.repeat(256, 1, 1, 1), **options)
    m = size // 2
    return torch.stack([result[:, m, m] - result[:, m, m - 1], result[:, m, m] - result[:, m - 1, m]], 2)[:, :2]


def test_a_crop_keeps_the_area_and_aspect_that_were_asked_for() -> None:
    slope = slopes(64, crop=0.5, flip=True)
    width, height = slope[:, 0, 0].abs(), slope[:, 1, 1]
    assert torch.allclose(slope[:, [0, 1], [1, 0]], torch.zeros(()), atol=1e-4), "not turned"
    assert 0.3 < (slope[:, 0, 0] < 0).float().mean() < 0.7, "half are mirrored"
    area, aspect = width * height, width / height
    assert 0.42 < area.min() < 0.6
    assert 0.9 < area.max() <= 1.001
    assert 0.74 < aspect.min() < 0.85
    assert 1.2 < aspect.max() < 1.34
    assert max(width.max(), height.max()) <= 1.001, "never beyond the photo"


def test_a_rotation_stays_within_its_range_and_brings_in_no_black() -> None:
    slope = slopes(64, rotate=20.0)
    angle = torch.rad2deg(torch.atan2(slope[:, 0, 1], slope[:, 0, 0]))
    assert 15 < angle.max() < 20.1
    assert -20.1 < angle.min() < -15
    assert torch.allclose(slope.square().sum(1), torch.ones(()), atol=1e-3), "no zoom"
    white = torch.full((16, 32, 32, 3), 200, dtype=torch.uint8)
    assert torch.allclose(changed(white, rotate=180.0, crop=0.3), torch.tensor(200.0), atol=0.01)


def test_colour_changes_grey_photos_by_brightness_only() -> None:
    grey = torch.full((128, 8, 8, 3), 100, dtype=torch.uint8)
    result = changed(grey, colour=0.3)
    assert torch.allclose(result, result[:, :1, :1, :1].expand_as(result), atol=0.05)
    assert 69.9 < result.min() < 80
    assert 120 < result.max() < 130.1
    red = torch.tensor([200, 60, 40], dtype=torch.uint8).expand(128, 8, 8, 3)
    means = changed(red, colour=0.3)[:, 0, 0]
    assert bool((means[:, 0] > means[:, 1]).all())
    assert bool((means[:, 1] > means[:, 2]).any())
    assert bool((means[:, 1] < means[:, 2]).any()), "hue turns both ways"


def test_randaugment_draws_for_each_photo_and_grows_with_the_magnitude() -> None:
    smooth = torch.nn.functional.interpolate(photos(1).permute(0, 3, 1, 2).float(), size=32, mode="bilinear")
    same = (smooth.permute(0, 2, 3, 1) * 0.8).repeat(256, 1, 1, 1)
    assert len({digest(photo) for photo in changed(same, rand_augment=1)}) >= 12
    change = [(changed(same, rand_augment=1, rand_magnitude=m) - same).abs().mean() for m in (1, 10, 20, 30)]
    assert change == sorted(change)
    weakest = (changed(same, rand_augment=1, rand_magnitude=1) - same).abs().mean((1, 2, 3))
    assert (weakest > 15).float().mean() < 0.25, (
        "of 19 operations only invert, equalize and auto_contrast have no weak end"
    )
    assert (changed(same, rand_augment=3) - same).abs().mean() > change[1]


def test_mixup_pairs_shares_and_targets() -> None:
    labels = torch.arange(1000) % 7
    torch.manual_seed(0)
    partner, share, targets = mixup(labels, 7, 1.0)
    assert sorted(partner.tolist()) == list(range(1000))
    assert (partner.dtype, share.dtype, targets.dtype) == (torch.int64, torch.float32, torch.float32)
    assert 0.5 <= share.min() < 0.51
    assert share.max() <= 1
    assert share.mean() == pytest.approx(0.75, abs=0.02)  # a uniform share, folded
    wanted = torch.zeros(1000, 7)
    rows = torch.arange(1000)
    wanted[rows, labels] += share
    wanted[rows, labels[partner]] += 1 - share
    assert torch.allclose(targets, wanted, atol=1e-6)
    assert bool((targets.argmax(1) == labels).all())
    strong, weak = mixup(labels, 7, 8.0)[1].mean(), mixup(labels, 7, 0.1)[1].mean()
    assert strong < 0.65 < 0.9 < weak


@pytest.mark.parametrize("count", [0, 1, 5])
def test_mixup_off_and_small_batches(count: int) -> None:
    labels = torch.arange(count)
    before = torch.get_rng_state()
    partner, share, targets = mixup(labels, 5, 0.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(partner, labels)
    assert torch.equal(share, torch.ones(count))
    assert torch.equal(targets, torch.eye(5)[:count])
    assert mixup(labels, 5, 0.4)[2].shape == (count, 5)


def test_blend_keeps_types_and_whole_rows() -> None:
    rows = torch.rand(3, 4, 5, 2)
    partner, share = torch.tensor([1, 2, 0]), torch.tensor([0.75, 1.0, 0.5])
    mixed = blend(rows, partner, share)
    assert torch.allclose(mixed[0], 0.75 * rows[0] + 0.25 * rows[1])
    assert torch.equal(mixed[1], rows[1])
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert blend(rows.to(dtype), partner, share).dtype == dtype
        assert torch.equal(blend(rows.to(dtype), torch.arange(3), torch.ones(3)), rows.to(dtype))
