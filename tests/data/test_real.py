"""Real images of every set, where ``TINYFLOW_DATA`` names a folder that holds them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.files import pixel_statistics
from tinyflow.data import (
    load_cifar10,
    load_cifar100,
    load_fashion_mnist,
    load_mnist,
)
from tinyflow.data.sources import IDX, Idx


def real(name: str) -> Path:
    """Return the folder that holds `name`, or skip the test."""
    root = os.environ.get("TINYFLOW_DATA")
    if not root:
        pytest.skip("TINYFLOW_DATA is not set")
    if not (Path(root) / name).is_dir():
        pytest.skip(f"TINYFLOW_DATA has no folder {name}")
    return Path(root)


def test_real_cifar10_test_set_and_limit() -> None:
    folder = real("cifar-10-batches-bin")
    test = load_cifar10(folder, "test")
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    first = load_cifar10(folder, "train", limit=200)
    assert first.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    # A frog's first pixel, and the test set's first image, a cat.
    assert first.images[0, :, 0, 0].tolist() == [59, 62, 63]
    assert test.classes[test.labels[0]] == "cat"


@pytest.mark.slow
def test_real_cifar10_constants() -> None:
    train = load_cifar10(real("cifar-10-batches-bin"), "train")
    assert np.bincount(train.labels).tolist() == [5_000] * 10
    mean, std = pixel_statistics(train.images)
    np.testing.assert_allclose(mean, train.mean, atol=5e-5)
    np.testing.assert_allclose(std, train.std, atol=5e-5)


def test_real_mnist() -> None:
    folder = real("mnist")
    train, test = load_mnist(folder, "train"), load_mnist(folder, "test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    mean, std = pixel_statistics(train.images)
    np.testing.assert_allclose(mean, train.mean, atol=5e-5)
    np.testing.assert_allclose(std, train.std, atol=5e-5)


@pytest.mark.slow
def test_real_cifar100() -> None:
    folder = real("cifar-100-binary")
    train, coarse = load_cifar100(folder), load_cifar100(folder, coarse=True)
    assert np.bincount(train.labels).tolist() == [500] * 100
    assert np.bincount(coarse.labels).tolist() == [2_500] * 20
    assert (
        len({*zip(train.labels.tolist(), coarse.labels.tolist(), strict=True)}) == 100
    )
    mean, std = pixel_statistics(train.images)
    np.testing.assert_allclose(mean, train.mean, atol=5e-5)
    np.testing.assert_allclose(std, train.std, atol=5e-5)


def test_real_fashion_mnist() -> None:
    folder = real("fashion-mnist")
    train, test = load_fashion_mnist(folder), load_fashion_mnist(folder, "test")
    assert np.bincount(train.labels).tolist() == [6_000] * 10
    assert np.bincount(test.labels).tolist() == [1_000] * 10
    mean, std = pixel_statistics(train.images)
    np.testing.assert_allclose(mean, train.mean, atol=5e-5)
    np.testing.assert_allclose(std, train.std, atol=5e-5)


@pytest.mark.parametrize("source", IDX, ids=lambda source: source.name)
def test_real_files_are_the_published_ones(source: Idx) -> None:
    folder = real(source.folder)
    for remote in source.remotes:
        path = folder / remote.path
        if not path.is_file():
            pytest.skip(f"{path} is not there: unpacked")
        content = path.read_bytes()
        assert len(content) == remote.size
        assert hashlib.sha256(content).hexdigest() == remote.sha256
