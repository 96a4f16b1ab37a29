"""MNIST and Fashion-MNIST from their official idx files, plain or packed with gzip.

An idx file begins with a big-endian magic number (0x0803 for images, 0x0801 for
labels) and one big-endian 32-bit size per dimension; unsigned bytes follow.
Sources: LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/; Xiao, Rasul and
Vollgraf 2017, https://github.com/zalandoresearch/fashion-mnist.
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
from tinyflow.data.sources import FASHION_MNIST, IDX, MNIST, Idx

NEAR = 0.01
"""How far from the mean of its set the mean of a whole split can be."""
PREFIX: dict[str, str] = {"train": "train", "test": "t10k"}
SIDE = 28
MOST = 60_000  # images in either split: no file that says more is one of these


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
        DataError: If a file is missing, damaged, of the wrong kind or size, belongs
            to Fashion-MNIST or holds a label above 9, if images and labels differ in
            number, or if the split is unknown or the limit too large.
    """
    return _load(MNIST, Path(data_dir), split, limit)


def load_fashion_mnist(
    data_dir: str | os.PathLike[str], split: str = "train", *, limit: int | None = None
) -> Dataset:
    """Read Fashion-MNIST from `data_dir` or its sub-folder ``fashion-mnist``.

    The files are called as those of MNIST. Arguments, result and errors are those of
    `load_mnist`, which refuses these files as this does MNIST's.
    """
    return _load(FASHION_MNIST, Path(data_dir), split, limit)


def _load(source: Idx, data_dir: Path, split: str, limit: int | None) -> Dataset:
    if split not in PREFIX:
        raise DataError(
            f"{source.name} has no split {split!r}: choose 'train' or 'test'."
        )
    images_path = find_file(source, data_dir, f"{PREFIX[split]}-images-idx3-ubyte")
    labels_path = find_file(source, data_dir, f"{PREFIX[split]}-labels-idx1-ubyte")
    labels = _read_idx(source, labels_path, ()).astype(np.int64)
    if limit is not None:
        check_limit(limit, len(labels), f"{source.name} {split}")
    pair = (len(labels), labels_path)
    images = _read_idx(source, images_path, (SIDE, SIDE), pair)
    check_labels(labels, 10, str(labels_path))
    _check_identity(source, images, labels, split, images_path)
    data = Dataset(
        source.name,
        images[:, None],
        labels,
        source.classes,
        source.mean,
        source.std,
    )
    return data if limit is None else data.limit(limit)


def _check_identity(
    source: Idx,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    split: str,
    path: Path,
) -> None:
    """Raise DataError if these are the files of another data set in this format."""
    first = "".join(map(str, labels[:10]))
    known = [s.title for s in IDX if s is not source and first in s.first.values()]
    mean, right = float(images[::10].mean()) / 255, source.mean[0]
    whole = len(images) == source.images[split]
    if known:
        what = f"belongs to {known[0]}"
    elif whole and abs(mean - right) > NEAR:
        what = f"holds images of mean {mean:.3f}, not {right:.3f}"
    else:
        return
    raise DataError(
        f"{path} {what}, so it is not {source.title}, whose names it has: "
        f"{source.remedy}."
    )


def _read_idx(
    source: Idx,
    path: Path,
    item: tuple[int, ...],
    labels: tuple[int, Path] | None = None,
) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, no further than its header is believed.

    Args:
        source: the data set.
        path: the file.
        item: shape of one item: () for labels, (28, 28) for images.
        labels: for images, how many labels there are, and where.
    """
    with reading(path, source.remedy) as file:
        if path.suffix != ".gz":
            return _read_items(source, path, file, item, labels)
        with gzip.GzipFile(fileobj=file) as unpacked:
            return _read_items(source, path, unpacked, item, labels)  # type: ignore[arg-type]


def _read_items(
    source: Idx,
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
            f"an idx header: {source.remedy}."
        )
    magic, *shape = struct.unpack(f">{1 + ndim}I", header)
    if magic != 0x0800 + ndim:
        raise DataError(
            f"{path} begins with magic number {magic:#010x}, not "
            f"{0x0800 + ndim:#010x}, so it is not the expected idx file: "
            f"{source.remedy}."
        )
    announced = "x".join(map(str, shape))
    if not 1 <= shape[0] <= MOST:
        raise DataError(
            f"{path} announces {announced} bytes of data, but {source.title} has 1 "
            f"to {MOST:,} images: {source.remedy}."
        )
    if (*shape[1:],) != item:
        raise DataError(
            f"{path} holds images of {shape[1]}x{shape[2]} pixels, not {SIDE}x{SIDE}, "
            f"so it is not {source.title}: {source.remedy}."
        )
    if labels is not None and shape[0] != labels[0]:
        raise DataError(
            f"{path} holds {shape[0]} images but {labels[1]} holds {labels[0]} "
            f"labels: {source.remedy}."
        )
    need = prod(shape)
    content = file.read(need + 1)  # one more byte shows whether the file goes on
    if len(content) != need:
        found = "more" if len(content) > need else f"{len(content)}"
        raise DataError(
            f"{path} announces {announced} bytes of data but holds {found}: "
            f"{source.remedy}."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
