"""MNIST and Fashion-MNIST from their idx files: order, limits, damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.files import idx, write_mnist
from tinyflow.data import (
    DataError,
    Dataset,
    load_fashion_mnist,
    load_mnist,
)
from tinyflow.data.sources import FASHION_MNIST, MNIST, Idx

BOTH = pytest.mark.parametrize(
    ("source", "load"), [(MNIST, load_mnist), (FASHION_MNIST, load_fashion_mnist)]
)
Load = Callable[..., Dataset]


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("own_folder", [False, True])
@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
@BOTH
def test_mnist(
    tmp_path: Path,
    source: Idx,
    load: Load,
    suffix: str,
    own_folder: bool,
    split: str,
    prefix: str,
) -> None:
    folder = source.folder if own_folder else ""
    pixels = write_mnist(tmp_path / folder, prefix, 12, suffix)
    data = load(tmp_path, split)
    assert (data.name, data.classes) == (source.name, source.classes)
    np.testing.assert_array_equal(data.images, pixels[:, None])
    np.testing.assert_array_equal(data.labels, np.arange(12) % 10)
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 28)
    assert len(load(tmp_path, split, limit=5)) == 5
    with pytest.raises(DataError, match=f"^{source.name} {split} has 12 images"):
        load(tmp_path, split, limit=13)


def test_both_lie_in_one_data_folder(tmp_path: Path) -> None:
    """What lies beside the folders is looked at last: their names are the same."""
    for folder, count in (("mnist", 3), ("fashion-mnist", 4), ("", 5)):
        write_mnist(tmp_path / folder, count=count)
    assert len(load_mnist(tmp_path)) == 3
    assert len(load_fashion_mnist(tmp_path)) == 4
    assert len(load_mnist(tmp_path / "fashion-mnist")) == 4


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


FIRST = {  # labels as they stand in the files
    MNIST.name: {"train": "504192131435", "test": "721041495906"},
    FASHION_MNIST.name: {"train": "900302725512", "test": "921161465703"},
}


@pytest.mark.parametrize(("split", "prefix"), [("train", "train"), ("test", "t10k")])
@BOTH
def test_other_data_in_its_files(
    tmp_path: Path,
    source: Idx,
    load: Load,
    split: str,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for owner in (MNIST, FASHION_MNIST):
        first = FIRST[owner.name]
        place = tmp_path / owner.folder
        labels = np.array(list(map(int, first[split])), np.uint8)
        write_mnist(place, prefix, 12, labels=idx(labels))
        if owner is source:
            assert len(load(place, split)) == 12
            continue
        what = f"belongs to {owner.title}, so it is not {source.title}, whose"
        with pytest.raises(DataError, match=what):
            load(place, split, limit=4)
    monkeypatch.setitem(source.images, split, 12)  # a whole set of grey noise
    write_mnist(tmp_path / "noise", prefix, 12)
    mean = f"{source.mean[0]:.3f}"
    with pytest.raises(DataError, match=rf"images of mean 0\.5.., not {mean}"):
        load(tmp_path / "noise", split)


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
