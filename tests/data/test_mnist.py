"""MNIST from its idx files: order, limits, and every way they can be damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.files import idx, write_mnist
from tinyflow.data import (
    DataError,
    load_mnist,
    mnist,
)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "mnist"])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_mnist(
    tmp_path: Path, suffix: str, folder: str, split: str, prefix: str
) -> None:
    pixels = write_mnist(tmp_path / folder, prefix, 12, suffix)
    data = load_mnist(tmp_path, split)
    np.testing.assert_array_equal(data.images, pixels[:, None])
    np.testing.assert_array_equal(data.labels, np.arange(12) % 10)
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 28)
    assert len(load_mnist(tmp_path, split, limit=5)) == 5
    with pytest.raises(DataError, match=f"mnist {split} has 12 images"):
        load_mnist(tmp_path, split, limit=13)


ZEROS = np.zeros((6, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (b"\0\0\x08", "holds 3 bytes, fewer than the 16"),
        (idx(ZEROS, 0x0801), r"magic number 0x00000801, not 0x00000803"),
        (idx(ZEROS)[:-1], "announces 6x28x28 bytes of data but holds 4703"),
        (idx(ZEROS) + b"\0", "announces 6x28x28 bytes of data but holds more"),
        (idx(ZEROS[:0]), "announces 0x28x28"),
        (idx(ZEROS, shape=(2**31, 28, 28)), "announces 2147483648x28x28"),
        (idx(ZEROS.reshape(6, 14, 56)), "images of 14x56 pixels, not 28x28"),
        (idx(ZEROS[:5]), "holds 5 images but .*holds 6 labels"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_bad_images(
    tmp_path: Path, images: bytes, message: str, suffix: str
) -> None:
    write_mnist(tmp_path, suffix=suffix, images=images)
    with pytest.raises(DataError, match=message) as caught:
        load_mnist(tmp_path)
    assert f"train-images-idx3-ubyte{suffix}" in str(caught.value)
    assert "put a clean copy" in str(caught.value)


def test_mnist_label_above_nine(tmp_path: Path) -> None:
    write_mnist(tmp_path, labels=idx(np.array([0, 1, 2, 3, 10, 5], np.uint8)))
    with pytest.raises(DataError, match=r"labels-idx1-ubyte: image 4 has label 10"):
        load_mnist(tmp_path)


@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
def test_other_data_in_files_of_mnist(
    tmp_path: Path, split: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fashion = {"train": "900302725512", "test": "921161465703"}[split]
    labels = np.array(list(map(int, fashion)), np.uint8)
    write_mnist(tmp_path / "fashion", prefix, 12, labels=idx(labels))
    with pytest.raises(DataError, match="belongs to Fashion-MNIST, so it is not MNIST"):
        load_mnist(tmp_path / "fashion", split, limit=4)
    monkeypatch.setitem(mnist.FULL, split, 12)  # a whole set of grey noise
    write_mnist(tmp_path / "noise", prefix, 12)
    with pytest.raises(DataError, match=r"images of mean 0\.5.., not 0\.131"):
        load_mnist(tmp_path / "noise", split)


def test_mnist_missing_file(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(DataError, match=r"file train-images-idx3-ubyte .*neither in"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip", "crc", "not gz"])
def test_mnist_damaged_gz(tmp_path: Path, damage: str) -> None:
    write_mnist(tmp_path, suffix=".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[10] ^= 0xFF
    elif damage == "crc":
        content[-8] ^= 0xFF
    else:
        content[:2] = b"no"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"ubyte\.gz is damaged .*put a clean copy"):
        load_mnist(tmp_path)
