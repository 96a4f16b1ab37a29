"""MNIST from its official idx files, plain or compressed with gzip.

An idx file begins with a big-endian magic number (0x0803 for images, 0x0801 for
labels) and one big-endian 32-bit size per dimension; unsigned bytes follow.
Source: LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import os
import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tinyflow.data.base import (
    DataError,
    Dataset,
    check_labels,
    check_limit,
    find_file,
    reading,
)

MNIST_CLASSES: tuple[str, ...] = tuple("0123456789")
MNIST_MEAN: tuple[float, ...] = (0.1307,)
"""Mean, computed over all pixels of the 60,000 training images."""
MNIST_STD: tuple[float, ...] = (0.3081,)
"""Standard deviation, computed over all pixels of the 60,000 training images."""

OTHERS: dict[str, tuple[str, str]] = {
    "Fashion-MNIST": ("9003027255", "9211614657"),
}
"""First labels, of train and test, of data sets in files of the same names."""
FULL, NEAR = {"train": 60_000, "test": 10_000}, 0.01
"""Images of a whole split, and how far from `MNIST_MEAN` its mean can be."""
PREFIX: dict[str, str] = {"train": "train", "test": "t10k"}
FOLDER = "mnist"
SIDE = 28
MOST = 60_000  # images in either split: no file that says more is MNIST's
_REMEDY = (
    "put a clean copy of the four MNIST files (for example from "
    "https://ossci-datasets.s3.amazonaws.com/mnist/) into the data folder"
)


def load_mnist(
    data_dir: str | os.PathLike[str], split: str = "train", *, limit: int | None = None
) -> Dataset:
    """Read MNIST from `data_dir` or its sub-folder ``mnist``.

    Args:
        data_dir: Folder with ``train-images-idx3-ubyte``,
            ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte``, each plain or with ``.gz`` appended.
        split: ``"train"`` (60,000 images) or ``"test"`` (10,000).
        limit: Keep only the first `limit` images.

    Returns:
        A Dataset with images (N, 1, 28, 28) in file order.

    Raises:
        DataError: If a file is missing, damaged, of the wrong kind or size, or
            holds a label above 9, if images and labels differ in number, or if
            the split is unknown or the limit too large.
    """
    if split not in PREFIX:
        raise DataError(f"mnist has no split {split!r}: choose 'train' or 'test'.")
    folder = Path(data_dir)
    images_path = _path(folder, f"{PREFIX[split]}-images-idx3-ubyte")
    labels_path = _path(folder, f"{PREFIX[split]}-labels-idx1-ubyte")
    labels = _read_idx(labels_path, ()).astype(np.int64)
    if limit is not None:
        check_limit(limit, len(labels), f"mnist {split}")
    images = _read_idx(images_path, (SIDE, SIDE), (len(labels), labels_path))
    check_labels(labels, 10, str(labels_path))
    _check_digits(images, labels, split, images_path)
    data = Dataset(
        "mnist", images[:, None], labels, MNIST_CLASSES, MNIST_MEAN, MNIST_STD
    )
    return data if limit is None else data.limit(limit)


def _check_digits(
    images: NDArray[np.uint8], labels: NDArray[np.int64], split: str, path: Path
) -> None:
    """Raise DataError if these are the files of another data set in MNIST's format."""
    first = "".join(map(str, labels[:10]))
    known = [name for name, starts in OTHERS.items() if first in starts]
    mean = float(images[::10].mean()) / 255
    whole = len(images) == FULL[split]
    if known:
        what = f"belongs to {known[0]}"
    elif whole and abs(mean - MNIST_MEAN[0]) > NEAR:
        what = f"holds images of mean {mean:.3f}, not {MNIST_MEAN[0]:.3f}"
    else:
        return
    raise DataError(
        f"{path} {what}, so it is not MNIST, whose names it has: {_REMEDY}."
    )


def _path(data_dir: Path, name: str) -> Path:
    """Return the path of the file called `name`, or of its .gz form."""
    return find_file("MNIST", data_dir, FOLDER, name, ".gz", _REMEDY)


def _read_idx(
    path: Path, item: tuple[int, ...], labels: tuple[int, Path] | None = None
) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, no further than its header is believed.

    Args:
        path: the file.
        item: shape of one item: () for labels, (28, 28) for images.
        labels: for images, how many labels there are, and where.
    """
    with reading(path, _REMEDY) as file:
        if path.suffix != ".gz":
            return _read_items(path, file, item, labels)
        with gzip.GzipFile(fileobj=file) as unpacked:
            return _read_items(path, unpacked, item, labels)  # type: ignore[arg-type]


def _read_items(
    path: Path,
    file: BinaryIO,
    item: tuple[int, ...],
    labels: tuple[int, Path] | None,
) -> NDArray[np.uint8]:
    ndim = 1 + len(item)
    size = 4 + 4 * ndim
    header = file.read(size)
    if len(header) < size:
        raise DataError(
            f"{path} holds {len(header)} bytes, fewer than the {size} bytes of "
            f"an idx header: {_REMEDY}."
        )
    magic, *shape = struct.unpack(f">{1 + ndim}I", header)
    if magic != 0x0800 + ndim:
        raise DataError(
            f"{path} begins with magic number {magic:#010x}, not "
            f"{0x0800 + ndim:#010x}, so it is not the expected idx file: {_REMEDY}."
        )
    announced = "x".join(map(str, shape))
    if not 1 <= shape[0] <= MOST:
        raise DataError(
            f"{path} announces {announced} bytes of data, but MNIST has 1 to {MOST:,} "
            f"images: {_REMEDY}."
        )
    if (*shape[1:],) != item:
        raise DataError(
            f"{path} holds images of {shape[1]}x{shape[2]} pixels, not {SIDE}x{SIDE}, "
            f"so it is not MNIST: {_REMEDY}."
        )
    if labels is not None and shape[0] != labels[0]:
        raise DataError(
            f"{path} holds {shape[0]} images but {labels[1]} holds {labels[0]} "
            f"labels: {_REMEDY}."
        )
    need = prod(shape)
    content = file.read(need + 1)  # one more byte shows whether the file goes on
    if len(content) != need:
        found = "more" if len(content) > need else f"{len(content)}"
        raise DataError(
            f"{path} announces {announced} bytes of data but holds {found}: {_REMEDY}."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
