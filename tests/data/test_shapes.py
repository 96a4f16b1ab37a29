"""The built-in shapes: the same everywhere, balanced, and no linear problem."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.data.files import pixel_statistics
from tinyflow.data import (
    DataError,
    Dataset,
    make_shapes,
)
from tinyflow.data.silhouettes import SILHOUETTES

SHAPES_SHA256 = {
    "train": "711eef2ae71c50598cb14e591482194e155826e1379972612eb2ae93db7c4976",
    "test": "885a103bc166ec6c9454ffa1b7e522b7744fcb38847b8e3696f601fa2d9580ec",
}


@pytest.mark.parametrize("split", ["train", "test"])
def test_shapes_are_the_same_everywhere(split: str) -> None:
    data = make_shapes(split, seed=0, limit=300)
    digest = hashlib.sha256(data.images.tobytes() + data.labels.astype("<i8").tobytes())
    assert digest.hexdigest() == SHAPES_SHA256[split]


def test_shapes_sizes_balance_and_constants() -> None:
    train, test = make_shapes("train"), make_shapes("test")
    assert train.images.shape == (5_000, 3, 32, 32)
    assert len(test) == 1_000
    assert train.num_classes == len(set(train.classes)) == len(SILHOUETTES) == 10
    assert np.bincount(train.labels).tolist() == [500] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    mean, std = pixel_statistics(train.images)
    np.testing.assert_allclose(mean, train.mean, atol=5e-5)
    np.testing.assert_allclose(std, train.std, atol=5e-5)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 450), st.integers(0, 2**64))
def test_shapes_are_prefixes_and_balanced(count: int, seed: int) -> None:
    data = make_shapes("train", seed=seed, size=count)
    again = make_shapes("train", seed=seed, size=450, limit=count)
    np.testing.assert_array_equal(data.images, again.images)
    np.testing.assert_array_equal(data.labels, again.labels)
    counts = np.bincount(data.labels, minlength=10)
    assert counts.max() - counts.min() <= 1


def test_shapes_depend_on_seed_and_split() -> None:
    kinds = [("train", 0), ("train", 1), ("test", 0), ("test", 1)]
    pictures = {
        image.tobytes()
        for split, seed in kinds
        for image in make_shapes(split, seed=seed, size=250).images
    }
    assert len(pictures) == 1_000


def test_shapes_defeat_a_linear_classifier() -> None:
    def matrix(data: Dataset) -> NDArray[np.float64]:
        small = data.images.reshape(len(data), 3, 16, 2, 16, 2).mean((3, 5)) / 255
        flat = small.reshape(len(data), -1) - 0.5
        out: NDArray[np.float64] = np.c_[flat, np.ones(len(data))]
        return out

    train, test = make_shapes("train"), make_shapes("test")
    features = matrix(train)
    normal = features.T @ features + 10 * np.eye(features.shape[1])
    weights = np.linalg.solve(normal, features.T @ np.eye(10)[train.labels])
    accuracy = np.mean((matrix(test) @ weights).argmax(1) == test.labels)
    assert accuracy < 0.35


@pytest.mark.parametrize("side", [8, 31, 64, 128])
def test_shapes_are_the_same_scenes_at_any_size(side: int) -> None:
    usual, other = make_shapes(limit=200), make_shapes(limit=200, image_size=side)
    assert other.images.shape == (200, 3, side, side)
    np.testing.assert_array_equal(other.labels, usual.labels)
    places = (np.arange(side) + 0.5) * 32 / side  # each pixel's centre, in 32
    nearest = usual.images[:, :, places.astype(int)][..., places.astype(int)]

    def alike(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        """The median over images of the correlation of their pixels."""
        pairs = zip(a.reshape(200, -1), b.reshape(200, -1), strict=True)
        return float(np.median([np.corrcoef(x, y)[0, 1] for x, y in pairs]))

    assert alike(nearest, other.images) > 0.8
    assert alike(nearest, np.roll(other.images, 1, axis=0)) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "no split 'valid'"),
        ({"seed": -1}, "seed of shapes must be 0 or more, not -1"),
        ({"size": 0}, "size of shapes must be 1 or more, not 0"),
        ({"limit": 5_001}, "shapes train has 5000 images, so a limit of 5001"),
        ({"split": "test", "size": 9, "limit": 10}, "shapes test has 9 images"),
        ({"limit": 0}, "choose 1 to 5000"),
        ({"image_size": 7}, "drawn at 8 to 512 pixels, not 7"),
        ({"image_size": 513}, "drawn at 8 to 512 pixels, not 513"),
    ],
)
def test_shapes_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_shapes(**arguments)
