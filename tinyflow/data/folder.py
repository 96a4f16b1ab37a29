"""Images in folders, one a class, decoded when they are wanted."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyflow.data.base import DataError, Dataset, ImageSet, Mean, check_limit
from tinyflow.data.crops import short_side
from tinyflow.data.picture import Job, picture
from tinyflow.data.pool import POSSIBLE, Made, Pool
from tinyflow.data.scan import classes_in, place_of, scan
from tinyflow.kernels.cores import available

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Red, green and blue of ImageNet, as torchvision's models are trained with them."""
GREY = (0.299, 0.587, 0.114)
"""What red, green and blue give to grey."""
LARGEST = 2048
"""Of `image_size`."""
MOST_WORKERS = 256
AHEAD = 2
"""Batches made before they are asked for, if memory allows."""
TRIED = 512
"""Files decoded ahead of their turn where it is only asked whether they can be."""
SIZE = 224
"""Of ImageNet's networks."""
BAD_IMAGES = ("refuse", "skip")

Checked = Callable[[int, int], None]
"""Called with how many files have been looked at, of how many."""


def default_workers() -> int:
    """As many processes as there are cores, less one for the network."""
    return min(MOST_WORKERS, available() - 1) if POSSIBLE else 0


@dataclass(frozen=True, eq=False, repr=False)
class ImageFolder(ImageSet):
    """Labelled images in files.

    A Loader that augments is served random crops (`crops.random_crop`), a function of
    seed, epoch, index and file alone; any other the middle (`crops.centre_crop`).

    Attributes:
        name: short name of the set, used in messages.
        place: the folder they lie in.
        files: their paths in it, with slashes.
        sizes: int64 array of shape (N,), bytes of the files.
        labels, classes, mean, std: see ImageSet.
        size: width and height in pixels that they are given.
        short: what the shorter side becomes before the middle is cut out.
        channels: 3, or 1 for grey.
        workers: processes that decode; 0 for none but this one. The bytes are the same.
        skipped: sentences on the files that were left out since they are broken.
        ten: whether what is served are the ten crops of each image instead of its
            middle, (N, 10, C, S, S); see :func:`tinyflow.data.crops.ten_crop`. The
            corners are those of the whole image, its shorter side `short` pixels long.
    """

    name: str
    place: Path
    files: tuple[str, ...]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    mean: Mean
    std: tuple[float, ...]
    size: int
    short: int
    channels: int
    workers: int
    skipped: tuple[str, ...] = ()
    ten: bool = False
    _idle: list[Pool] = field(default_factory=list, init=False)

    def __getitem__(self, index: Any) -> Any:
        """``data[3]``: an image, bytes (C, S, S), and its label; ``data[:100]``: a set.

        A set too for an array of indices or of truths.
        """
        labels = self.labels[index]
        if np.ndim(labels) == 0:
            image = picture(self._job(int(np.arange(len(self))[index]), None))
            return np.ascontiguousarray(image), int(labels)
        files = tuple(self.files[i] for i in np.arange(len(self))[index])
        return replace(self, files=files, sizes=self.sizes[index], labels=labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image, (C, S, S)."""
        return self.channels, self.size, self.size

    @property
    def _served(self) -> tuple[int, ...]:
        """Shape of what is served of an image."""
        return (10, *self.shape) if self.ten else self.shape

    @property
    def crops(self) -> bool:
        """It does."""
        return True

    def limit(self, n: int) -> ImageFolder:
        """The first `n` images, 1..len(self); DataError if `n` is none of these."""
        check_limit(n, len(self), self.name)
        found: ImageFolder = self[:n]
        return found

    def checksum(self) -> int:
        """CRC-32 of the names and sizes of the files, and how they are served."""
        view = self.size, self.short, self.channels, self.classes
        crc = zlib.crc32(repr(view).encode())
        for name in self.files:
            crc = zlib.crc32(os.fsencode(name) + b"\0", crc)
        return zlib.crc32(np.stack([self.sizes, self.labels]).tobytes(), crc)

    def served(
        self, chosen: Sequence[NDArray[np.int64]], key: tuple[int, int] | None
    ) -> Generator[NDArray[np.uint8], None, None]:
        """The images of each batch, a few batches ahead; see ImageSet.

        Raises:
            DataError: a file cannot be decoded, or a worker is gone.
        """
        jobs = (self._job(int(i), key) for batch in chosen for i in batch)
        with self._making(jobs, AHEAD * max(map(len, chosen), default=1)) as made:
            for batch in chosen:
                images = np.empty((len(batch), *self._served), np.uint8)
                for image, found in zip(images, made, strict=False):
                    if isinstance(found, str):
                        raise DataError(
                            f"{found.rstrip('.')}, or leave such files out with "
                            "--bad-images skip."
                        )
                    image[...] = found
                yield images

    def in_memory(self) -> Dataset:
        """All images, in the middle, as a Dataset."""
        (images,) = self.served([np.arange(len(self))], None)
        return Dataset(
            self.name, images, self.labels, self.classes, self.mean, self.std
        )

    def _job(self, index: int, key: tuple[int, int] | None) -> Job:
        path = self.place / self.files[index]
        job = Job.of(path, self.size, self.short, self.channels)._replace(ten=self.ten)
        if key is None:
            return job
        return job._replace(seed=key[0], epoch=key[1], number=index)

    @contextmanager
    def _making(self, jobs: Iterable[Job], ahead: int) -> Iterator[Iterator[Made]]:
        """What comes of each job. Workers that are done wait for more."""
        if not self.workers:
            yield map(_answer, jobs)
            return
        pool = self._idle.pop() if self._idle else None
        pool = pool or Pool(self.workers, ahead, self._served)
        try:
            with closing(pool.run(jobs)) as made:
                yield made
                whole = next(made, None) is None
        except BaseException:
            pool.close()
            raise
        self._idle.append(pool) if whole else pool.close()

    def _whole(self, wanted: int | None, checked: Checked) -> ImageFolder:
        """Without files that cannot be decoded; all are tried, until so many can."""
        good, bad = [], []
        jobs = (self._job(i, None)._replace(size=0) for i in range(len(self)))
        with self._making(jobs, TRIED) as made:
            for index, found in enumerate(made):
                if isinstance(found, str):
                    bad.append(found)
                else:
                    good.append(index)
                checked(index + 1, len(self))
                if len(good) == wanted:
                    break
        if not good:
            raise DataError(f"No image in {self.place} can be read: {bad[0]}")
        whole: ImageFolder = self[np.array(good)]
        return replace(whole, skipped=tuple(bad))


def _answer(job: Job) -> Made:
    """What a worker would answer."""
    try:
        return picture(job)
    except DataError as error:
        return str(error)


def load_folder(
    data_dir: str | os.PathLike[str],
    split: str = "train",
    *,
    image_size: int = SIZE,
    short: int | None = None,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    workers: int | None = None,
    bad_images: str = "refuse",
    limit: int | None = None,
    checked: Checked | None = None,
) -> ImageFolder:
    """Find the images in ``data_dir/train/<class>/`` and ``data_dir/val/<class>/``.

    PNG, JPEG, GIF, BMP, WebP, TIFF and PPM, of any size and kind (see `decode.py`), in
    a mixed order (`scan.py`), so that the first n are of all classes.

    Args:
        data_dir: the folder.
        split: ``"train"``, or ``"test"`` for ``val`` or, where there is none, ``test``.
        image_size: width and height that each image is given, 1..`LARGEST`.
        short: to what the shorter side is brought before the middle is cut out; by
            default `image_size` * 256 / 224.
        channels: 3, or 1 for grey.
        mean, std: of the channels, scaled to 0..1; by default ImageNet's, for grey the
            mean of these with the weights that grey has, which nobody has measured.
        workers: processes that decode, or 0; by default one less than there are cores.
        bad_images: ``"refuse"``: one that cannot be decoded is a DataError where it is
            met; ``"skip"``: all are decoded once now, and the set is without these.
        limit: only the first so many.
        checked: called while files are decoded for ``"skip"``.

    Raises:
        DataError: a folder or class is missing, empty or cannot be read, or an argument
            is out of range.
    """
    if split not in ("train", "test"):
        raise DataError(f"folder has no split {split!r}: choose 'train' or 'test'.")
    short = short_side(image_size) if short is None else short
    workers = default_workers() if workers is None else workers
    for name, given, low, high in (
        ("image size", image_size, 1, LARGEST),
        ("shorter side", short, image_size, 2 * LARGEST),
        ("number of workers", workers, 0, MOST_WORKERS),
    ):
        if not low <= given <= high:
            raise DataError(f"The {name} must be {low} to {high}, not {given}.")
    if channels not in (1, 3):
        raise DataError(f"Images have 1 or 3 channels, not {channels}.")
    if bad_images not in BAD_IMAGES:
        raise DataError(
            f"Broken images cannot be treated by {bad_images!r}: choose "
            f"{' or '.join(BAD_IMAGES)}."
        )
    folder = Path(data_dir)
    classes, place = classes_in(folder), place_of(folder, split)
    entries = scan(folder, place, classes)
    if not entries:
        raise DataError(f"{place} holds no image: add some.")
    found = ImageFolder(
        "folder",
        place,
        tuple(entry.path for entry in entries),
        np.array([entry.size for entry in entries], np.int64),
        np.array([entry.label for entry in entries], np.int64),
        classes,
        _channel(mean, MEAN, channels),
        _channel(std, STD, channels),
        image_size,
        short,
        channels,
        workers,
    )
    if limit is not None:
        check_limit(limit, len(found), f"{found.name} {split}")
    if bad_images == "skip":
        found = found._whole(limit, checked or (lambda done, of: None))
    return found if limit is None else found.limit(limit)


def _channel(
    given: Sequence[float] | None, rgb: tuple[float, ...], channels: int
) -> tuple[float, ...]:
    """A value for each channel: what was given, or ImageNet's."""
    if given is None:
        given = rgb if channels == 3 else (float(np.dot(GREY, rgb)),)
    if len(given) != channels:
        raise DataError(
            f"Images of {channels} channels need as many means and standard "
            f"deviations, not {len(given)}."
        )
    return tuple(given)
