"""Batches and augmentation: each image once, in an order seed and epoch decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.files import tiny
from tinyflow.data import (
    DataError,
    Dataset,
    Loader,
    normalize,
    random_crop_flip,
)

# --- augmentation --------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.sampled_from([1, 3]),
    st.integers(5, 9),
    st.integers(0, 4),
)
def test_crop_flip_is_one_of_the_windows(
    seed: int, count: int, channels: int, side: int, pad: int
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, (count, channels, side, side), dtype=np.uint8)
    before = images.copy()
    out = random_crop_flip(images, rng, pad=pad)
    np.testing.assert_array_equal(images, before)
    assert out.shape == images.shape and out.dtype == np.uint8
    for image, result in zip(images, out, strict=True):
        border = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        windows = set()
        for top in range(2 * pad + 1):
            for left in range(2 * pad + 1):
                window = border[:, top : top + side, left : left + side]
                windows |= {window.tobytes(), window[:, :, ::-1].tobytes()}
        assert result.tobytes() in windows


def test_crop_flip_reaches_every_window_equally() -> None:
    # One lit pixel in the middle column's left neighbour shows shift and mirror.
    images = np.zeros((40_500, 1, 16, 16), np.uint8)
    images[:, 0, 8, 4] = 1
    images[:, 0, 8, 5] = 2
    out = random_crop_flip(images, np.random.default_rng(0))[:, 0]
    place = out.reshape(len(out), -1).argmax(1)  # of the brighter pixel
    left_of = np.take_along_axis(out.reshape(len(out), -1), place[:, None] - 1, 1)
    mirrored = left_of[:, 0] == 0
    windows, counts = np.unique(np.c_[place, mirrored], axis=0, return_counts=True)
    assert len(windows) == 81 * 2
    expected = len(out) / 162
    assert np.sum((counts - expected) ** 2 / expected) < 240  # chi-square, p < 1e-4


def test_crop_flip_errors() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="border must be 0 or more pixels, not -1"):
        random_crop_flip(np.zeros((1, 1, 4, 4), np.uint8), rng, pad=-1)
    with pytest.raises(DataError, match=r"needs uint8 .*not uint8 of shape \(4, 4\)"):
        random_crop_flip(np.zeros((4, 4), np.uint8), rng)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_normalize(dtype: type[np.floating[Any]]) -> None:
    images = np.arange(512, dtype=np.uint16).astype(np.uint8).reshape(1, 2, 16, 16)
    out = normalize(images, (0.25, 0.5), (0.5, 0.2), dtype)
    shift = np.array([0.25, 0.5])[:, None, None]
    scale = np.array([0.5, 0.2])[:, None, None]
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, ((images / 255 - shift) / scale).astype(dtype))


def test_normalize_errors() -> None:
    images = np.zeros((1, 2, 4, 4), np.uint8)
    with pytest.raises(DataError, match="float type, not int32"):
        normalize(images, (0.5, 0.5), (1, 1), np.int32)
    with pytest.raises(DataError, match=r"2 channels need .*, not 1 and 2"):
        normalize(images, (0.5,), (1, 1))
    with pytest.raises(DataError, match="needs uint8"):
        normalize(images[0], (0.5, 0.5), (1, 1))


# --- Loader --------------------------------------------------------------------


def collect(loader: Loader, k: int, start: int = 0) -> list[tuple[bytes, bytes]]:
    return [(x.tobytes(), y.tobytes()) for x, y in loader.epoch(k, start=start)]


def test_loader_in_order() -> None:
    data = tiny(10)
    loader = Loader(data, 4, shuffle=False, seed=0)
    batches = list(loader.epoch(0))
    assert [len(y) for _, y in batches] == [4, 4, 2] and len(loader) == 3
    joined = np.concatenate([x for x, _ in batches])
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, normalize(data.images, data.mean, data.std))
    labels = np.concatenate([y for _, y in batches])
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, data.labels)


@given(st.integers(1, 25), st.integers(1, 25), st.booleans(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_loader_serves_every_image_once(
    count: int, batch_size: int, drop_last: bool, seed: int
) -> None:
    data = tiny(count)
    if drop_last and batch_size > count:
        with pytest.raises(DataError, match="leaves no batch"):
            Loader(data, batch_size, seed=seed, drop_last=True)
        return
    loader = Loader(data, batch_size, seed=seed, drop_last=drop_last, dtype="f8")
    batches = list(loader.epoch(seed))
    assert len(batches) == len(loader)
    images = np.concatenate([x for x, _ in batches])
    labels = np.concatenate([y for _, y in batches])
    numbers = np.rint((images[:, 0, 0, 0] * 2 + 0.5) * 255).astype(int)
    assert len(set(numbers)) == len(numbers)
    assert len(numbers) == (count // batch_size * batch_size if drop_last else count)
    np.testing.assert_array_equal(labels, data.labels[numbers])


def test_loader_depends_on_seed_and_epoch_alone() -> None:
    data = tiny(40)
    loader = Loader(data, 8, shuffle=True, augment=True, seed=5)
    history = [collect(loader, k) for k in range(4)]
    fresh = Loader(data, 8, shuffle=True, augment=True, seed=5)
    assert collect(fresh, 3) == history[3]
    assert collect(fresh, 1) == history[1]
    assert collect(fresh, 2, start=3) == history[2][3:]
    assert collect(fresh, 2, start=5) == []
    assert len({batch for epoch in history for batch in epoch}) == 20
    other = Loader(data, 8, shuffle=True, augment=True, seed=6)
    assert collect(other, 0) != history[0]


def test_loader_epochs_can_be_interleaved() -> None:
    loader = Loader(tiny(12), 4, augment=True, seed=1)
    pairs = list(zip(loader.epoch(0), loader.epoch(1), strict=True))
    assert [x.tobytes() for (x, _), _ in pairs] == [a for a, _ in collect(loader, 0)]


def test_loader_augments_only_when_asked() -> None:
    data = tiny(12)
    plain = Loader(data, 12, shuffle=False, augment=False)
    random = Loader(data, 12, shuffle=False, augment=True)
    assert collect(plain, 0) == collect(plain, 1)
    assert collect(random, 0) != collect(random, 1)
    assert collect(random, 0)[0][1] == collect(plain, 0)[0][1]


def test_loader_leaves_the_set_alone() -> None:
    data = tiny(6)
    before = data.images.copy(), data.labels.copy()
    for images, labels in Loader(data, 6, shuffle=False, augment=True).epoch(0):
        images[:] = 0
        labels[:] = 0
    np.testing.assert_array_equal(data.images, before[0])
    np.testing.assert_array_equal(data.labels, before[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch size must be 1 or more, not 0"),
        ({"batch_size": 7, "drop_last": True}, "batch size of 7 with drop_last leaves"),
        ({"batch_size": 2, "seed": -1}, "seed must be 0 or more"),
        ({"batch_size": 2, "dtype": np.int64}, "float type, not int64"),
    ],
)
def test_loader_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Loader(tiny(6), **arguments)


def test_loader_needs_images_and_a_sound_position() -> None:
    empty = Dataset(
        "none",
        np.zeros((0, 1, 4, 4), np.uint8),
        np.zeros(0, np.int64),
        ("a",),
        (0.0,),
        (1.0,),
    )
    with pytest.raises(DataError, match="none holds no images"):
        Loader(empty, 1)
    loader = Loader(tiny(6), 2)
    with pytest.raises(DataError, match="there is no epoch -1"):
        loader.epoch(-1)
    for start in (-1, 4):
        with pytest.raises(DataError, match=f"cannot start at {start}"):
            loader.epoch(0, start=start)
