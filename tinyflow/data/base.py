"""Labelled images, in memory or not, and the one data error."""

from __future__ import annotations

import gzip
import lzma
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyflow.data.sources import Source
from tinyflow.reading import Unreadable, kind, opened

Mean: TypeAlias = tuple[float, ...] | NDArray[np.float64]
"""Of C channels, or of each pixel, (C, S, S)."""


class DataError(Exception):
    """Data that cannot be used: one sentence on what, where and what to do."""


class ImageSet(ABC):
    """Labelled square images of one size, wherever they are: what a Loader serves.

    Attributes:
        name: short name of the set, used in messages.
        labels: int64 array of shape (N,), values 0..len(classes) - 1.
        classes: class names; the label is the index.
        mean: C per-channel means of the pixels scaled to 0..1, or the mean image,
            float64 (C, S, S).
        std: C per-channel standard deviations of the pixels scaled to 0..1.
    """

    name: str
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: Mean
    std: tuple[float, ...]

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self.labels)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        names = f"{', '.join(self.classes[:10])}{', ...' * (len(self.classes) > 10)}"
        return (
            f"{type(self).__name__}({self.name}: {len(self):,} images of {size}, "
            f"{len(self.classes)} classes: {names})"
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image, (C, S, S)."""

    @property
    def image_size(self) -> int:
        """Height and width of an image in pixels."""
        return self.shape[1]

    @property
    def in_channels(self) -> int:
        """Number of colour channels, C."""
        return self.shape[0]

    @property
    def crops(self) -> bool:
        """Whether `served` augments by itself, as the images need it."""
        return False

    @abstractmethod
    def __getitem__(self, index: Any) -> Any:
        """An image and its label; for a slice or an array, the set of these."""

    @abstractmethod
    def served(
        self, chosen: Sequence[NDArray[np.int64]], key: tuple[int, int] | None
    ) -> Generator[NDArray[np.uint8], None, None]:
        """The images of each batch as bytes, new arrays (N, C, S, S).

        Args:
            chosen: the indices of each batch, in the order they are wanted.
            key: seed and epoch to augment by, or None; unless `crops`, it is ignored.

        Raises:
            DataError: an image cannot be had.
        """

    @abstractmethod
    def checksum(self) -> int:
        """CRC-32 of what a run depends on: a set with another one is another set."""

    @abstractmethod
    def in_memory(self) -> Dataset:
        """All images as bytes, not augmented."""

    @abstractmethod
    def limit(self, n: int) -> ImageSet:
        """The first `n` images, 1..len(self); DataError if `n` is none of these."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(ImageSet):
    """Labelled square images held in memory as bytes.

    Attributes:
        name: Short name of the set, used in messages.
        images: uint8 array of shape (N, C, H, W) with H == W, values 0..255.
        labels: int64 array of shape (N,), values 0..len(classes) - 1.
        classes: Class names; the label is the index.
        mean, std: see ImageSet.

    Raises:
        DataError: If any of the above does not hold.
    """

    name: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: Mean
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check shapes, dtypes and the range of the labels."""
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(
                f"{self.name}: images must be uint8 of shape (N, C, H, W), "
                f"not {images.dtype} of shape {images.shape}."
            )
        count, channels, height, width = images.shape
        if height != width:
            raise DataError(
                f"{self.name}: images must be square, not {height}x{width} pixels."
            )
        if labels.dtype != np.int64 or labels.shape != (count,):
            raise DataError(
                f"{self.name}: labels must be int64 of shape ({count},), "
                f"not {labels.dtype} of shape {labels.shape}."
            )
        if len(self.mean) != channels or len(self.std) != channels:
            raise DataError(
                f"{self.name}: mean and std need one value for each of the "
                f"{channels} channels, not {len(self.mean)} and {len(self.std)}."
            )
        if (shape := np.shape(self.mean)) not in ((channels,), self.shape):
            raise DataError(
                f"{self.name}: the mean image must be of shape {self.shape} like the "
                f"images, not {shape}."
            )
        if not all(value > 0 for value in self.std):
            raise DataError(f"{self.name}: std must be positive, not {self.std}.")
        if count:
            check_labels(labels, len(self.classes), self.name)

    def __getitem__(self, index: Any) -> Any:
        """``data[3]``: an image, bytes (C, H, W), and its label; ``data[:100]``: a set.

        A set too for an array of indices or of truths.
        """
        labels = self.labels[index]
        if np.ndim(labels) == 0:
            return self.images[index], int(labels)
        return replace(self, images=self.images[index], labels=labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image, (C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def served(
        self,
        chosen: Sequence[NDArray[np.int64]],
        key: tuple[int, int] | None = None,
    ) -> Generator[NDArray[np.uint8], None, None]:
        """The images of each batch, copied."""
        yield from (self.images[batch] for batch in chosen)

    def checksum(self) -> int:
        """CRC-32 of images and labels."""
        crc = zlib.crc32(np.ascontiguousarray(self.images).data)
        return zlib.crc32(np.ascontiguousarray(self.labels).data, crc)

    def in_memory(self) -> Dataset:
        """Itself."""
        return self

    def limit(self, n: int) -> Dataset:
        """Return the first `n` images as a set that shares this one's memory.

        Args:
            n: Number of images to keep, 1..len(self).

        Raises:
            DataError: If `n` is below 1 or above the size of the set.
        """
        check_limit(n, len(self), self.name)
        return replace(self, images=self.images[:n], labels=self.labels[:n])


def check_limit(n: int, size: int, where: str) -> None:
    """Raise DataError unless `n` is 1..`size`; `where` names the set."""
    if not 1 <= n <= size:
        raise DataError(
            f"{where} has {size} images, so a limit of {n} is impossible: "
            f"choose 1 to {size}."
        )


def check_labels(labels: NDArray[np.int64], num_classes: int, where: str) -> None:
    """Raise DataError unless all labels (non-empty) are 0..`num_classes` - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise DataError(
            f"{where}: image {wrong[0]} has label {labels[wrong[0]]}, but labels "
            f"must be 0 to {num_classes - 1}; replace the data with a clean copy."
        )


def find_file(source: Source, data_dir: Path, name: str) -> Path:
    """Return the path of a data set's file called `name`, plain or compressed.

    It may lie in the set's own folder below `data_dir` or in `data_dir` itself;
    DataError if neither holds it.
    """
    if (path := locate(source, data_dir, name)) is not None:
        return path
    raise DataError(
        f"The {source.title} file {name} (or {name}{source.packed}) is neither in "
        f"{data_dir} nor in {data_dir / source.folder}: {source.remedy}, "
        "or let train.py fetch it with --download."
    )


def locate(source: Source, data_dir: Path, name: str) -> Path | None:
    """As `find_file`, but None if the file is not there.

    Raises:
        DataError: What lies in its place is no file, or cannot be looked at.
    """
    odd = ""
    try:
        for place in (data_dir / source.folder, data_dir):
            for path in (place / name, place / f"{name}{source.packed}"):
                if (what := kind(path)) == "file":
                    return path
                if what != "nothing":
                    odd = odd or f"{path} is a {what}, not a file: {source.remedy}."
    except Unreadable as error:
        raise DataError(f"{error}: check the data folder.") from error
    if odd:
        raise DataError(odd)
    return None


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[BinaryIO]:
    """Open a data file; every way in which that or reading fails is a DataError."""
    try:
        with opened(path) as file:
            try:
                yield file
            except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
                raise DataError(
                    f"{path} is damaged or cut short and cannot be decompressed "
                    f"({error}): {remedy}."
                ) from error
    except Unreadable as error:
        raise DataError(
            f"{error}: check the file's permissions and the disk."
        ) from error
