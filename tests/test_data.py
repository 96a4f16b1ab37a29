"""Data sets, augmentation and batches.

Real CIFAR-10 and MNIST are tested where the environment variable TINYFLOW_DATA
names a folder that holds ``cifar-10-batches-bin/`` or ``mnist/``.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinyflow.data import (
    DATASETS,
    DataError,
    Dataset,
    Loader,
    load_cifar10,
    load_dataset,
    load_mnist,
    make_shapes,
    mnist,
    normalize,
    random_crop_flip,
)
from tinyflow.data.silhouettes import SILHOUETTES

U8 = NDArray[np.uint8]
SHAPES_SHA256 = {
    "train": "711eef2ae71c50598cb14e591482194e155826e1379972612eb2ae93db7c4976",
    "test": "885a103bc166ec6c9454ffa1b7e522b7744fcb38847b8e3696f601fa2d9580ec",
}


# --- Dataset -------------------------------------------------------------------


def tiny(count: int = 10, channels: int = 3, side: int = 8) -> Dataset:
    """Return a set whose every image is distinct."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    labels = np.arange(count, dtype=np.int64) % 5
    classes = tuple("abcde")
    return Dataset(
        "tiny", images, labels, classes, (0.5,) * channels, (2.0,) * channels
    )


def test_dataset_describes_itself() -> None:
    data = tiny(7, 1, 6)
    assert len(data) == 7
    assert (data.num_classes, data.image_size, data.in_channels) == (5, 6, 1)


def test_limit_keeps_the_first_images() -> None:
    data = tiny(7)
    first = data.limit(3)
    assert len(first) == 3
    np.testing.assert_array_equal(first.images, data.images[:3])
    np.testing.assert_array_equal(first.labels, data.labels[:3])
    assert len(data.limit(7)) == 7


@pytest.mark.parametrize("n", [-1, 0, 8])
def test_limit_out_of_range(n: int) -> None:
    with pytest.raises(DataError, match=f"tiny has 7 images, so a limit of {n} "):
        tiny(7).limit(n)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 3, 8, 8), np.float32)}, "must be uint8"),
        ({"images": np.zeros((2, 8, 8), np.uint8)}, r"\(N, C, H, W\)"),
        ({"images": np.zeros((2, 3, 8, 6), np.uint8)}, "square, not 8x6"),
        ({"labels": np.zeros(2, np.int32)}, "labels must be int64"),
        ({"labels": np.zeros(3, np.int64)}, r"labels must be int64 of shape \(2,\)"),
        ({"labels": np.array([0, 2])}, "image 1 has label 2, but .* 0 to 1"),
        ({"labels": np.array([-1, 0])}, "image 0 has label -1"),
        ({"mean": (0.5,)}, "each of the 3 channels, not 1 and 3"),
        ({"std": (0.5, 0.5)}, "each of the 3 channels, not 3 and 2"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be positive"),
    ],
)
def test_dataset_checks_its_parts(change: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {
        "name": "x",
        "images": np.zeros((2, 3, 8, 8), np.uint8),
        "labels": np.zeros(2, np.int64),
        "classes": ("a", "b"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    Dataset(**parts)
    with pytest.raises(DataError, match=message):
        Dataset(**(parts | change))


# --- load_dataset --------------------------------------------------------------


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(DataError) as caught:
        load_dataset("imagenet", None)
    assert all(name in str(caught.value) for name in DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_unknown_split(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split called 'valid': choose 'train'"):
        load_dataset(name, tmp_path, "valid")


@pytest.mark.parametrize("load", [load_cifar10, load_mnist])
def test_loaders_check_the_split(load: Callable[..., Dataset], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'valid'"):
        load(tmp_path, "valid")


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_files_need_a_folder(name: str) -> None:
    with pytest.raises(DataError, match="no data folder was given"):
        load_dataset(name)


def test_load_dataset_passes_its_arguments_on(tmp_path: Path) -> None:
    shapes = load_dataset("shapes", None, "test", seed=3, limit=20)
    np.testing.assert_array_equal(
        shapes.images, make_shapes("test", seed=3, limit=20).images
    )
    write_mnist(tmp_path, "t10k", 5)
    assert len(load_dataset("mnist", tmp_path, "test", seed=0, limit=4)) == 4
    write_batch(tmp_path / "test_batch.bin.xz", cifar_rows(1))
    assert len(load_dataset("cifar10", tmp_path, "test", limit=4)) == 4


# --- CIFAR-10 ------------------------------------------------------------------


def cifar_rows(batch: int, rows: int = 10_000) -> U8:
    """Return rows whose label and pixels tell batch, row, channel, y and x apart."""
    content = np.zeros((rows, 3073), np.uint8)
    number = np.arange(rows)
    content[:, 0] = (number + batch) % 10
    content[:, 1] = batch
    content[:, 2], content[:, 3] = number // 256, number % 256
    content[:, 1 + 1024 + 32] = 77  # green, second row, first column
    return content


def write_batch(path: Path, rows: U8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = rows.tobytes()
    if path.suffix == ".xz":
        content = lzma.compress(content, preset=0)
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["", ".xz"])
@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar_test_split(tmp_path: Path, suffix: str, folder: str) -> None:
    rows = cifar_rows(6)
    write_batch(tmp_path / folder / f"test_batch.bin{suffix}", rows)
    data = load_cifar10(tmp_path, "test")
    assert data.images.shape == (10_000, 3, 32, 32)
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 3, 32)
    np.testing.assert_array_equal(data.labels, rows[:, 0])
    np.testing.assert_array_equal(data.images.reshape(10_000, -1), rows[:, 1:])
    assert data.images[5, 1, 1, 0] == 77


def test_cifar_train_joins_five_batches_in_order(tmp_path: Path) -> None:
    for batch in range(1, 6):
        suffix = ".xz" if batch % 2 else ""
        write_batch(tmp_path / f"data_batch_{batch}.bin{suffix}", cifar_rows(batch))
    data = load_cifar10(tmp_path)
    assert len(data) == 50_000
    np.testing.assert_array_equal(
        data.images[::10_000, 0, 0, 0], np.arange(1, 6, dtype=np.uint8)
    )
    first = load_cifar10(tmp_path, limit=10_001)
    np.testing.assert_array_equal(first.images, data.images[:10_001])
    np.testing.assert_array_equal(first.labels, data.labels[:10_001])


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_cifar_limit_needs_only_the_first_file(tmp_path: Path, suffix: str) -> None:
    write_batch(tmp_path / f"data_batch_1.bin{suffix}", cifar_rows(1))
    assert len(load_cifar10(tmp_path, limit=2_000)) == 2_000
    assert len(load_cifar10(tmp_path, limit=10_000)) == 10_000
    with pytest.raises(DataError, match=r"data_batch_2\.bin \(or .*unpack it"):
        load_cifar10(tmp_path, limit=10_001)


@pytest.mark.parametrize("limit", [0, 10_001])
def test_cifar_limit_out_of_range(tmp_path: Path, limit: int) -> None:
    with pytest.raises(DataError, match="cifar10 test has 10000 images"):
        load_cifar10(tmp_path, "test", limit=limit)


def test_cifar_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test_batch\.bin .*is neither in .*/nowhere"):
        load_cifar10(tmp_path / "nowhere", "test")


@pytest.mark.parametrize("suffix", ["", ".xz"])
@pytest.mark.parametrize("size", [0, 3073 * 9, 3073 * 9 + 1, 3073 * 10_000 + 1])
@pytest.mark.parametrize("limit", [None, 10])
def test_cifar_wrong_size(
    tmp_path: Path, suffix: str, size: int, limit: int | None
) -> None:
    path = tmp_path / f"test_batch.bin{suffix}"
    write_batch(path, np.zeros(size, np.uint8))
    if limit and suffix and size > 3073 * limit:
        assert len(load_cifar10(tmp_path, "test", limit=limit)) == limit
        return
    with pytest.raises(DataError, match=r"test_batch.* not 10,000 rows of 3073 .*get"):
        load_cifar10(tmp_path, "test", limit=limit)


def test_cifar_label_above_nine(tmp_path: Path) -> None:
    rows = cifar_rows(1)
    rows[123, 0] = 10
    write_batch(tmp_path / "test_batch.bin", rows)
    with pytest.raises(DataError, match=r"test_batch\.bin: image 123 has label 10"):
        load_cifar10(tmp_path, "test")


@pytest.mark.parametrize("damage", ["cut", "flip", "not xz"])
def test_cifar_damaged_xz(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "test_batch.bin.xz"
    rng = np.random.default_rng(0)
    rows = cifar_rows(1)
    rows[:300, 5:] = rng.integers(0, 256, (300, 3068), dtype=np.uint8)
    write_batch(path, rows)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
    else:
        content[:6] = b"no xz!"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"test_batch\.bin\.xz is damaged .*unpack it"):
        load_cifar10(tmp_path, "test")


# --- MNIST ---------------------------------------------------------------------


def idx(array: U8, magic: int | None = None, shape: tuple[int, ...] = ()) -> bytes:
    """Return `array` as an idx file, with a header that can be made to lie."""
    sizes = shape or array.shape
    number = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + len(sizes)}I", number, *sizes) + array.tobytes()


def write_mnist(
    folder: Path,
    prefix: str = "train",
    count: int = 6,
    suffix: str = "",
    *,
    images: bytes | None = None,
    labels: bytes | None = None,
) -> U8:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(2).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    images = idx(pixels) if images is None else images
    if labels is None:
        labels = idx((np.arange(count) % 10).astype(np.uint8))
    for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
        packed = gzip.compress(content) if suffix else content
        (folder / f"{prefix}-{kind}-ubyte{suffix}").write_bytes(packed)
    return pixels


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


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_unreadable_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path, "t10k")
    (tmp_path / "test_batch.bin").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("refused")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(refused\): check"):
        load_dataset(name, tmp_path, "test")


# --- shapes --------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "no split 'valid'"),
        ({"seed": -1}, "seed of shapes must be 0 or more, not -1"),
        ({"size": 0}, "size of shapes must be 1 or more, not 0"),
        ({"limit": 5_001}, "shapes train has 5000 images, so a limit of 5001"),
        ({"split": "test", "size": 9, "limit": 10}, "shapes test has 9 images"),
        ({"limit": 0}, "choose 1 to 5000"),
    ],
)
def test_shapes_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_shapes(**arguments)


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


# --- real data -----------------------------------------------------------------


def pixel_statistics(images: U8) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exact per-channel mean and standard deviation, scaled to 0..1."""
    channels = images.shape[1]
    counts = np.stack(
        [np.bincount(images[:, c].ravel(), minlength=256) for c in range(channels)]
    )
    share, value = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ value
    return mean, np.sqrt(share @ value**2 - mean**2)


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
