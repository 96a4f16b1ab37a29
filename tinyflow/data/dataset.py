"""Choose a data set by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from tinyflow.data.base import DataError, Dataset, ImageSet
from tinyflow.data.cifar import load_cifar10, load_cifar100
from tinyflow.data.folder import load_folder
from tinyflow.data.mnist import load_fashion_mnist, load_mnist
from tinyflow.data.shapes import make_shapes

__all__ = ["DATASETS", "DataError", "Dataset", "load_dataset"]

READERS: dict[str, Callable[..., Dataset]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "cifar100_coarse": partial(load_cifar100, coarse=True),
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
}
FOLDER = "folder"
DATASETS: tuple[str, ...] = ("shapes", *READERS, FOLDER)
"""Names that `load_dataset` knows; only ``shapes`` needs no files."""
ANY_SIZE = ("shapes", FOLDER)
"""Those whose images have the width and height that is asked for, `image_size`."""


def load_dataset(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    split: str = "train",
    *,
    seed: int = 0,
    limit: int | None = None,
    **given: Any,
) -> ImageSet:
    """Load one split of a named data set: a Dataset, or for ``folder`` an ImageFolder.

    Args:
        name: One of `DATASETS`; ``folder`` is a folder of images of one's own.
        data_dir: Folder with the files of the set, or with its own folder;
            ``shapes`` is drawn, not read, and ignores it.
        split: ``"train"`` or ``"test"``.
        seed: Seed from which ``shapes`` is drawn; the others ignore it.
        limit: Keep only the first `limit` images, reading no more than needed.
            The images are those of ``load_dataset(...).limit(limit)``.
        given: Further arguments of `load_folder`, or for ``shapes`` `image_size`; the
            other sets have none.

    Raises:
        DataError: For an unknown name or split, a missing folder, a missing or
            damaged file, or a limit larger than the set.
    """
    if name not in DATASETS:
        raise DataError(
            f"There is no data set called {name!r}: choose one of "
            f"{', '.join(DATASETS)}."
        )
    if split not in ("train", "test"):
        raise DataError(
            f"{name} has no split called {split!r}: choose 'train' or 'test'."
        )
    theirs = [k for k in given if k != "image_size" or name not in ANY_SIZE]
    if theirs and name != FOLDER:
        raise DataError(f"{', '.join(theirs)}: only a folder has that, not {name}.")
    if name == "shapes":
        return make_shapes(split, seed=seed, limit=limit, **given)
    if data_dir is None:
        raise DataError(
            f"{name} is read from files, but no data folder was given: "
            "name the folder that holds them, or use shapes, which needs none."
        )
    if name == FOLDER:
        return load_folder(data_dir, split, limit=limit, **given)
    return READERS[name](data_dir, split, limit=limit)
