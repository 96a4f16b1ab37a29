"""CIFAR-10 from its official binary files, plain or compressed with xz.

Layout (https://www.cs.toronto.edu/~kriz/cifar.html, "binary version"): a file
is 10,000 rows of 3,073 bytes, each row one label byte (0..9) followed by 3,072
pixel bytes: 1,024 red, 1,024 green, 1,024 blue, each plane row by row.
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
from tinyflow.reading import read_xz

CIFAR10_CLASSES: tuple[str, ...] = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR10_MEAN: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
"""Red, green, blue means, computed over all pixels of the 50,000 training images."""
CIFAR10_STD: tuple[float, ...] = (0.2470, 0.2435, 0.2616)
"""Standard deviations, computed over the pixels of the 50,000 training images."""

FILES: dict[str, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
FOLDER = "cifar-10-batches-bin"
ROWS = 10_000
ROW_BYTES = 1 + 3 * 32 * 32
_REMEDY = (
    "get cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html "
    "and unpack it into the data folder"
)


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
    if split not in FILES:
        raise DataError(f"cifar10 has no split {split!r}: choose 'train' or 'test'.")
    size = ROWS * len(FILES[split])
    wanted = size if limit is None else limit
    check_limit(wanted, size, f"cifar10 {split}")
    jobs: list[tuple[Path, int]] = []
    for index, name in enumerate(FILES[split][: -(-wanted // ROWS)]):
        path = _path(Path(data_dir), name)
        jobs.append((path, min(ROWS, wanted - index * ROWS)))
    # Decompression releases the interpreter lock, so threads share the work.
    with ThreadPoolExecutor(len(jobs)) as pool:
        parts = list(pool.map(lambda job: _read_rows(*job), jobs))
    for (path, _), part in zip(jobs, parts, strict=True):
        check_labels(part[:, 0].astype(np.int64), 10, str(path))
    images = np.concatenate([part[:, 1:] for part in parts])
    labels = np.concatenate([part[:, 0] for part in parts]).astype(np.int64)
    return Dataset(
        "cifar10",
        images.reshape(-1, 3, 32, 32),
        labels,
        CIFAR10_CLASSES,
        CIFAR10_MEAN,
        CIFAR10_STD,
    )


def _path(data_dir: Path, name: str) -> Path:
    """Return the path of the file called `name`, or of its .xz form."""
    return find_file("CIFAR-10", data_dir, FOLDER, name, ".xz", _REMEDY)


def _read_rows(path: Path, rows: int) -> NDArray[np.uint8]:
    """Read the first `rows` rows of a batch file as uint8 (rows, 3073)."""
    need = rows * ROW_BYTES
    # One byte past a full batch shows whether the file goes on.
    ask = need + 1 if rows == ROWS else need
    with reading(path, _REMEDY) as file:
        if path.suffix == ".xz":
            content = read_xz(file, ask)
            length = len(content)
            whole = rows == ROWS or length < need
        else:
            content = file.read(ask)
            length, whole = os.fstat(file.fileno()).st_size, True
    if whole and length != ROWS * ROW_BYTES:
        found = f"more than {need}" if length == need + 1 else f"{length}"
        if path.suffix != ".xz":
            found = f"{length}"
        raise DataError(
            f"{path} holds {found} bytes, not {ROWS:,} rows of {ROW_BYTES} bytes "
            f"({ROWS * ROW_BYTES}), so it is no CIFAR-10 batch: {_REMEDY}."
        )
    return np.frombuffer(content, np.uint8, need).reshape(rows, ROW_BYTES)
