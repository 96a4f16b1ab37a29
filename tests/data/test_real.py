"""Real CIFAR-10 and MNIST, where ``TINYFLOW_DATA`` names a folder that holds them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.data.files import pixel_statistics
from tinyflow.data import (
    load_cifar10,
    load_mnist,
)


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
