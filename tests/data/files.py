"""Small data sets, and files of CIFAR and MNIST as their makers write them."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyflow.data import (
    Dataset,
)

U8 = NDArray[np.uint8]


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


# --- CIFAR ---------------------------------------------------------------------


def cifar_rows(batch: int, rows: int = 10_000) -> U8:
    """Return rows whose label and pixels tell batch, row, channel, y and x apart."""
    content = np.zeros((rows, 3073), np.uint8)
    number = np.arange(rows)
    content[:, 0] = (number + batch) % 10
    content[:, 1] = batch
    content[:, 2], content[:, 3] = number // 256, number % 256
    content[:, 1 + 1024 + 32] = 77  # green, second row, first column
    return content


def cifar100_rows(rows: int = 10_000) -> U8:
    """Return rows of CIFAR-100, every fine class within one coarse one."""
    content = np.zeros((rows, 3074), np.uint8)
    content[:, 1] = np.arange(rows) % 100
    content[:, 0] = content[:, 1] // 5
    content[:, 2:] = cifar_rows(7, rows)[:, 1:]
    return content


def write_batch(path: Path, rows: U8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = rows.tobytes()
    if path.suffix == ".xz":
        content = lzma.compress(content, preset=0)
    path.write_bytes(content)


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


def pixel_statistics(images: U8) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exact per-channel mean and standard deviation, scaled to 0..1."""
    channels = images.shape[1]
    counts = np.stack(
        [np.bincount(images[:, c].ravel(), minlength=256) for c in range(channels)]
    )
    share, value = counts / counts.sum(1, keepdims=True), np.arange(256) / 255
    mean = share @ value
    return mean, np.sqrt(share @ value**2 - mean**2)
