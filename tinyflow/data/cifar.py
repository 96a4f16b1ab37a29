"""CIFAR-10 and CIFAR-100 from their official binary files, plain or packed with xz.

Layout (https://www.cs.toronto.edu/~kriz/cifar.html, "binary version"): a file is so
many rows, each one label byte, in CIFAR-100 two (the coarse class, 0..19, and the fine
one, 0..99), then 3,072 pixel bytes: 1,024 red, 1,024 green, 1,024 blue, each plane row
by row.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
from tinyflow.data.sources import CIFAR10, CIFAR100, CIFAR100_COARSE, Cifar
from tinyflow.reading import read_xz


def load_cifar10(
    data_dir: str | os.PathLike[str], split: str = "train", *, limit: int | None = None
) -> Dataset:
    """Read CIFAR-10 from `data_dir` or its sub-folder ``cifar-10-batches-bin``.

    Args:
        data_dir: Folder with ``data_batch_1.bin`` to ``data_batch_5.bin`` and
            ``test_batch.bin``, each plain or with ``.xz`` appended.
        split: ``"train"`` (50,000 images) or ``"test"`` (10,000).
        limit: Read only the first `limit` images; files, and parts of files, that
            this does not need are neither looked for nor decompressed.

    Returns:
        A Dataset with images (N, 3, 32, 32) in file order.

    Raises:
        DataError: If a file is missing, of the wrong size, damaged, or holds a
            label above 9, or if the split is unknown or the limit too large.
    """
    return _load(CIFAR10, Path(data_dir), split, limit)


def load_cifar100(
    data_dir: str | os.PathLike[str],
    split: str = "train",
    *,
    coarse: bool = False,
    limit: int | None = None,
) -> Dataset:
    """Read CIFAR-100 from `data_dir` or its sub-folder ``cifar-100-binary``.

    Args:
        data_dir: Folder with ``train.bin`` and ``test.bin``, each plain or with
            ``.xz`` appended.
        split: ``"train"`` (50,000 images) or ``"test"`` (10,000).
        coarse: Label with the 20 coarse classes instead of the 100 fine ones.
        limit: Read only the first `limit` images.

    Returns:
        A Dataset with images (N, 3, 32, 32) in file order.

    Raises:
        DataError: If a file is missing, of the wrong size, damaged, or holds a
            coarse label above 19 or a fine one above 99, or if the split is unknown
            or the limit too large.
    """
    source = CIFAR100_COARSE if coarse else CIFAR100
    return _load(source, Path(data_dir), split, limit)


def _load(source: Cifar, data_dir: Path, split: str, limit: int | None) -> Dataset:
    if split not in source.files:
        raise DataError(
            f"{source.name} has no split {split!r}: choose 'train' or 'test'."
        )
    names, rows = source.files[split], source.rows[split]
    size = rows * len(names)
    wanted = size if limit is None else limit
    check_limit(wanted, size, f"{source.name} {split}")
    jobs: list[tuple[Path, int]] = []
    for index, name in enumerate(names[: -(-wanted // rows)]):
        path = find_file(source, data_dir, name)
        jobs.append((path, min(rows, wanted - index * rows)))
    # Decompression releases the interpreter lock, so threads share the work.
    with ThreadPoolExecutor(len(jobs)) as pool:
        parts = list(pool.map(lambda job: _read_rows(source, rows, *job), jobs))
    for (path, _), part in zip(jobs, parts, strict=True):
        for column, classes in enumerate(source.labels):
            check_labels(part[:, column].astype(np.int64), classes, str(path))
    images = np.concatenate([part[:, len(source.labels) :] for part in parts])
    labels = np.concatenate([part[:, source.column] for part in parts])
    return Dataset(
        source.name,
        images.reshape(-1, 3, 32, 32),
        labels.astype(np.int64),
        source.classes,
        source.mean,
        source.std,
    )


def _read_rows(source: Cifar, full: int, path: Path, rows: int) -> NDArray[np.uint8]:
    """Read the first `rows` of a file's `full` rows, as uint8 (rows, row bytes)."""
    width = source.row_bytes
    need = rows * width
    # One byte past a full file shows whether it goes on.
    ask = need + 1 if rows == full else need
    with reading(path, source.remedy) as file:
        if path.suffix == ".xz":
            content = read_xz(file, ask)
            length = len(content)
            whole = rows == full or length < need
        else:
            content = file.read(ask)
            length, whole = os.fstat(file.fileno()).st_size, True
    if whole and length != full * width:
        found = f"more than {need}" if length == need + 1 else f"{length}"
        if path.suffix != ".xz":
            found = f"{length}"
        raise DataError(
            f"{path} holds {found} bytes, not {full:,} rows of {width} bytes "
            f"({full * width}), so it is no {source.title} file: {source.remedy}."
        )
    return np.frombuffer(content, np.uint8, need).reshape(rows, width)
