"""From a file to the pixels that a network sees: what a worker does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinyflow.data.crops import centre_crop, random_crop, resized, ten_crop
from tinyflow.data.decode import decode

if TYPE_CHECKING:
    from PIL.Image import Image

AUGMENT = 2
"""What the random numbers are for; those of a Loader have other numbers."""


class Job(NamedTuple):
    """What is to be made; plain values, so that it can be sent.

    Attributes:
        file: the bytes of the path, in hexadecimal digits: a path may be no text.
        size: width and height of the result; 0 to decode the file and keep nothing.
        short: for :func:`tinyflow.data.crops.centre_crop`.
        channels: 3 or 1.
        seed, epoch, number: for a random crop, which is a function of them and the file
            alone; an epoch of -1 asks for the middle.
        ten: the ten crops instead of the middle.
    """

    file: str
    size: int
    short: int
    channels: int
    seed: int = 0
    epoch: int = -1
    number: int = 0
    ten: bool = False

    @classmethod
    def of(cls, path: Path, size: int, short: int, channels: int) -> Job:
        """The middle of the image at `path`."""
        return cls(os.fsencode(path).hex(), size, short, channels)


def picture(job: Job) -> NDArray[np.uint8]:
    """Do a job.

    Returns:
        (C, `size`, `size`), or ten of them.

    Raises:
        DataError: see :func:`tinyflow.data.decode.decode`.
    """
    image = decode(Path(os.fsdecode(bytes.fromhex(job.file))), job.channels)
    if not job.size:
        return np.empty((job.channels, 0, 0), np.uint8)
    if job.ten:
        whole = _pixels(resized(image, job.short))
        (crops,) = ten_crop(whole[None], job.size)
        return np.asarray(crops)
    if job.epoch < 0:
        image = centre_crop(image, job.size, job.short)
    else:
        key = job.epoch, AUGMENT, job.number
        sequence = np.random.SeedSequence(job.seed, spawn_key=key)
        image = random_crop(
            image, job.size, np.random.Generator(np.random.PCG64(sequence))
        )
    return _pixels(image)


def _pixels(image: Image) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
