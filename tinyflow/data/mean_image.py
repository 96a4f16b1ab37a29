"""The mean image of a set, which He et al. 2015 (section 4.2) subtract from each."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyflow.data.base import Dataset, ImageSet

LARGEST = 1e6
"""Of a mean that is read, as of those of channels."""


def mean_image(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """m[c, i, j] = Σₙ x[n, c, i, j] / (255 N), of N > 0 images (N, C, S, S).

    The sums are exact, and rounded once.
    """
    return np.asarray(images.sum(0, dtype=np.int64) / (255.0 * len(images)))


def centred(data: ImageSet, mean: NDArray[np.float64]) -> Dataset:
    """The same images, to be normalised to y = x / 255 - m."""
    return replace(data.in_memory(), mean=mean, std=(1.0,) * data.in_channels)


def written(mean: NDArray[np.float64]) -> dict[str, Any]:
    """A mean image for JSON, every bit of it, with its CRC-32."""
    content = mean.astype("<f8").tobytes()
    text = base64.b64encode(content).decode()
    return {"float64": text, "crc32": zlib.crc32(content)}


def read(
    told: dict[str, Any], shape: tuple[int, int, int]
) -> NDArray[np.float64] | None:
    """What `written` gave of an image of this shape; None for anything else."""
    text, crc = (told.get(key) for key in ("float64", "crc32"))
    size = 8 * math.prod(shape)
    if not isinstance(text, str) or len(text) != -(-size // 3) * 4:
        return None
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(content) != size or zlib.crc32(content) != crc:
        return None
    mean = np.frombuffer(content, "<f8").astype(np.float64).reshape(shape)
    return mean if (np.abs(mean) <= LARGEST).all() else None
