"""Crops, against the words of the papers and formulas of their own."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.data.pictures import photo
from tinyflow.data import DataError, log_mean_probability, ten_crop
from tinyflow.data.crops import (
    LONG,
    centre_crop,
    random_box,
    random_crop,
    short_side,
)

SIDES = st.integers(1, 400)


def resized(pixels: NDArray, width: int, height: int) -> NDArray[np.float64]:
    """Bilinear with antialias, from its definition, one axis after the other."""

    def weights(old: int, new: int) -> NDArray[np.float64]:
        scale = old / new
        wide = max(scale, 1.0)
        middle = (np.arange(new) + 0.5) * scale
        away = np.abs(np.arange(old) + 0.5 - middle[:, None]) / wide
        w = np.maximum(0.0, 1.0 - away)
        return w / w.sum(1, keepdims=True)

    x = np.tensordot(weights(pixels.shape[1], width), pixels, (1, 1)).swapaxes(0, 1)
    return np.tensordot(weights(pixels.shape[0], height), x, (1, 0))


# --- the random crop -----------------------------------------------------------------


@given(SIDES, SIDES, st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_a_random_box_lies_in_the_image(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = random_box(width, height, np.random.default_rng(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_area_and_ratio_of_random_boxes_have_their_law() -> None:
    """In a large square image nothing is rounded, and small windows always fit."""
    side, rng = 10_000, np.random.default_rng(0)
    boxes = np.array([random_box(side, side, rng) for _ in range(6_000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = width * height / side**2
    # A window of up to 3/4 of the area fits whatever its ratio is.
    small = area < 0.75
    law = (area[small] - 0.08) / (0.75 - 0.08)
    ratio = np.log(width / height)[small]
    spread = (ratio / math.log(4 / 3) + 1) / 2
    place = boxes[small, 0] / (side - width[small])
    level = boxes[small, 1] / (side - height[small])
    for found in (law, spread, place, level):
        assert found.min() > -1e-3 and found.max() < 1 + 1e-3
        # Kolmogorov and Smirnov's distance to the uniform law, p = 1e-4.
        n = len(found)
        far = np.abs(np.sort(found) - (np.arange(n) + 0.5) / n).max()
        assert far < 2.23 / math.sqrt(n)
    # Area and ratio know nothing of each other.
    assert abs(np.corrcoef(law, spread)[0, 1]) < 4 / math.sqrt(len(law))


def test_a_window_that_never_fits_is_the_largest_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    # 10 x 1000: the ratio is below 3/4 in whatever fits, so that h = w / (3/4).
    wide, high = (
        Counter(random_box(*size, rng) for _ in range(300))
        for size in ((1000, 10), (10, 1000))
    )
    assert wide.most_common(1)[0][0] == (493, 0, 506, 10)
    assert high.most_common(1)[0][0] == (0, 493, 10, 506)
    # No window of 8 % of the area fits there at all.
    assert len(wide) == len(high) == 1
    assert random_box(1, 1, rng) == (0, 0, 1, 1)
    assert random_box(1, 200, rng) == (0, 99, 1, 100)


def test_a_box_is_drawn_as_torchvision_does() -> None:
    """Its rule word by word, with the same numbers drawn."""
    for seed in range(300):
        width, height = np.random.default_rng(seed + 1000).integers(1, 90, 2).tolist()
        found = random_box(width, height, np.random.default_rng(seed))
        rng, want = np.random.default_rng(seed), None
        for _ in range(10):
            target = width * height * rng.uniform(0.08, 1.0)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w = round(math.sqrt(target * aspect))
            h = round(math.sqrt(target / aspect))
            if 0 < w <= width and 0 < h <= height:
                i = int(rng.integers(0, height - h + 1))
                j = int(rng.integers(0, width - w + 1))
                want = j, i, j + w, i + h
                break
        if want is None:
            w, h = width, height
            if width / height < 3 / 4:
                h = round(w / (3 / 4))
            elif width / height > 4 / 3:
                w = round(h * (4 / 3))
            i, j = (height - h) // 2, (width - w) // 2
            want = j, i, j + w, i + h
        assert found == want, (width, height)


def test_a_random_crop_is_its_window_resized_and_half_are_mirrored() -> None:
    pixels = photo(90, 70)
    image, mirrored = Image.fromarray(pixels), 0
    for seed in range(200):
        found = np.asarray(random_crop(image, 24, np.random.default_rng(seed)))
        left, top, right, bottom = random_box(90, 70, np.random.default_rng(seed))
        want = resized(pixels[top:bottom, left:right], 24, 24)
        as_is, turned = (np.abs(x - want).max() for x in (found, found[:, ::-1]))
        assert min(as_is, turned) <= 1.01 and max(as_is, turned) > 5
        mirrored += turned < as_is
    assert 70 < mirrored < 130  # of 200: four standard deviations


@given(SIDES, SIDES, st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_random_crops_of_any_size(w: int, h: int, size: int, seed: int) -> None:
    image = Image.fromarray(np.full((h, w, 3), 77, np.uint8))
    found = np.asarray(random_crop(image, size, np.random.default_rng(seed)))
    assert found.shape == (size, size, 3) and (found == 77).all()


# --- the middle ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "size", "short", "new", "begin"),
    [
        (500, 375, 224, 256, (341, 256), (58, 16)),
        (375, 500, 224, 256, (256, 341), (16, 58)),
        (256, 256, 224, 256, (256, 256), (16, 16)),
        (60, 45, 32, 37, (49, 37), (8, 2)),
        (10, 7, 9, 9, (12, 9), (2, 0)),
        (2, 2, 8, 9, (9, 9), (0, 0)),  # round(0.5) is 0, round(1.5) would be 2
        (900, 60, 8, 8, (120, 8), (56, 0)),
    ],
)
def test_the_middle(
    width: int,
    height: int,
    size: int,
    short: int,
    new: tuple[int, int],
    begin: tuple[int, int],
) -> None:
    pixels = photo(width, height)
    found = np.asarray(centre_crop(Image.fromarray(pixels), size, short))
    left, top = begin
    want = resized(pixels, *new)[top : top + size, left : left + size]
    assert found.shape == want.shape == (size, size, 3)
    assert np.abs(found - want).max() <= 1.01


def test_the_middle_of_what_is_endless() -> None:
    """As if the ends were not there, and in no more memory."""
    pixels = np.zeros((3, 90_001, 3), np.uint8)
    pixels[:, 45_000 - 3 : 45_000 + 4] = photo(7, 3)
    ends = pixels[:, 45_000 - LONG * 3 // 2 : 45_000 + LONG * 3 // 2 + 1]
    for turn in (False, True):
        whole, part = (
            Image.fromarray(x.swapaxes(0, 1) if turn else x) for x in (pixels, ends)
        )
        found = np.asarray(centre_crop(whole, 56, 64))
        assert found.std() > 20
        np.testing.assert_array_equal(found, centre_crop(part, 56, 64))


@given(SIDES, SIDES, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_middles_of_any_size(w: int, h: int, size: int) -> None:
    image = Image.fromarray(np.full((h, w), 77, np.uint8))
    found = np.asarray(centre_crop(image, size, short_side(size)))
    assert found.shape == (size, size) and (found == 77).all()


def test_the_shorter_side() -> None:
    assert [short_side(s) for s in (1, 7, 32, 224, 299)] == [1, 8, 37, 256, 342]


# --- ten crops -----------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_ten_crops(height: int, width: int, size: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, 3, height, width))
    if size > min(height, width):
        with pytest.raises(DataError, match=f"{size} pixels does not fit into {width}"):
            ten_crop(images, size)
        return
    found = ten_crop(images, size)
    assert found.shape == (2, 10, 3, size, size) and found.dtype == images.dtype
    y, x = height - size, width - size
    where = [(0, 0), (0, x), (y, 0), (y, x), (round(y / 2), round(x / 2))]
    for n in range(2):
        for i, (top, left) in enumerate(where):
            for a in range(size):
                for b in range(size):
                    want = images[n, :, top + a, left + b]
                    assert (found[n, i, :, a, b] == want).all()
                    assert (found[n, i + 5, :, a, size - 1 - b] == want).all()


def test_ten_crops_need_images() -> None:
    with pytest.raises(DataError, match=r"shape \(N, C, H, W\), not \(3, 8, 8\)"):
        ten_crop(np.zeros((3, 8, 8)), 4)
    with pytest.raises(DataError, match="0 pixels does not fit"):
        ten_crop(np.zeros((1, 3, 8, 8)), 0)


def test_probabilities_are_averaged_not_logits() -> None:
    logits = np.array([[[0.0, math.log(3)], [math.log(9), 0.0]]])
    found = np.exp(log_mean_probability(logits))
    np.testing.assert_allclose(found, [[(1 / 4 + 9 / 10) / 2, (3 / 4 + 1 / 10) / 2]])
    large = log_mean_probability(np.float32([[[1e4, 0.0, -1e4]] * 10]))
    assert large.dtype == np.float32
    np.testing.assert_allclose(large, [[0, -1e4, -2e4]], rtol=1e-6, atol=1e-6)
