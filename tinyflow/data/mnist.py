"""MNIST from its official idx files, plain or compressed with gzip.

An idx file begins with a big-endian magic number (0x0803 for images, 0x0801 for
labels) and one big-endian 32-bit size per dimension; unsigned bytes follow.
Source: LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyflow.data.base import DataError, Dataset, check_labels, check_limit, find_file

MNIST_CLASSES: tuple[str, ...] = tuple("0123456789")
MNIST_MEAN: tuple[float, ...] = (0.1307,)
"""Mean, computed over all pixels of the 60,000 training images."""
MNIST_STD: tuple[float, ...] = (0.3081,)
"""Standard deviation, computed over all pixels of the 60,000 training images."""

PREFIX: dict[str, str] = {"train": "train", "test": "t10k"}
FOLDER = "mnist"
_MAX_COUNT = 10_000_000
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
    labels = _read_idx(labels_path, 1).astype(np.int64)
    if limit is not None:
        check_limit(limit, len(labels), f"mnist {split}")
    images = _read_idx(images_path, 3)
    if images.shape[1:] != (28, 28):
        raise DataError(
            f"{images_path} holds images of {images.shape[1]}x{images.shape[2]} "
            f"pixels, not 28x28, so it is not MNIST: {_REMEDY}."
        )
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images but {labels_path} holds "
            f"{len(labels)} labels: {_REMEDY}."
        )
    check_labels(labels, 10, str(labels_path))
    data = Dataset(
        "mnist", images[:, None], labels, MNIST_CLASSES, MNIST_MEAN, MNIST_STD
    )
    return data if limit is None else data.limit(limit)


def _path(data_dir: Path, name: str) -> Path:
    """Return the path of the file called `name`, or of its .gz form."""
    return find_file("MNIST", data_dir, FOLDER, name, ".gz", _REMEDY)


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes with `ndim` dimensions."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as packed:
                content = packed.read()
        else:
            content = path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is damaged or cut short and cannot be decompressed "
            f"({error}): {_REMEDY}."
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error}): check the file's permissions and "
            "the disk."
        ) from error
    header = 4 + 4 * ndim
    if len(content) < header:
        raise DataError(
            f"{path} holds {len(content)} bytes, fewer than the {header} bytes of "
            f"an idx header: {_REMEDY}."
        )
    magic, *shape = struct.unpack(f">{1 + ndim}I", content[:header])
    if magic != 0x0800 + ndim:
        raise DataError(
            f"{path} begins with magic number {magic:#010x}, not "
            f"{0x0800 + ndim:#010x}, so it is not the expected idx file: {_REMEDY}."
        )
    if not 1 <= shape[0] <= _MAX_COUNT or prod(shape) != len(content) - header:
        raise DataError(
            f"{path} announces {'x'.join(map(str, shape))} bytes of data but holds "
            f"{len(content) - header}: {_REMEDY}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
