"""Random crop and flip on bytes, normalisation to floats, and cutout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike, NDArray

from tinyflow.data.base import DataError, Mean

T = TypeVar("T", bound=np.generic)


def random_crop_flip(
    images: NDArray[np.uint8], rng: np.random.Generator, *, pad: int = 4
) -> NDArray[np.uint8]:
    """Shift each image by up to `pad` pixels and mirror half of them.

    Each image is surrounded by `pad` black pixels, a window of the original size
    is cut at a uniformly random place, and with probability 1/2 the window is
    mirrored left to right. This is the usual CIFAR-10 augmentation (He et al.
    2016, "Deep Residual Learning for Image Recognition", section 4.2).

    Args:
        images: uint8 (N, C, H, W); not modified.
        rng: Source of all randomness; advanced by 3 N draws.
        pad: Border in pixels, at least 0.

    Returns:
        A new uint8 array (N, C, H, W).

    Raises:
        DataError: If `pad` is negative or `images` is not uint8 (N, C, H, W).
    """
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            "Augmentation needs uint8 images of shape (N, C, H, W), not "
            f"{images.dtype} of shape {images.shape}."
        )
    if pad < 0:
        raise DataError(f"The crop border must be 0 or more pixels, not {pad}.")
    return crop_flip(images, rng, pad)


def crop_flip(images: NDArray[T], rng: np.random.Generator, pad: int = 4) -> NDArray[T]:
    """As `random_crop_flip`, of any dtype: 0 is what comes in from outside."""
    count, _, height, width = images.shape
    top = rng.integers(0, 2 * pad + 1, count)
    left = rng.integers(0, 2 * pad + 1, count)
    mirror = rng.integers(0, 2, count).astype(bool)
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    cropped: NDArray[T] = windows[np.arange(count), :, top, left]
    cropped[mirror] = cropped[mirror][..., ::-1]
    return cropped


def cut_out(
    images: NDArray[np.floating[Any]], rng: np.random.Generator, side: int
) -> None:
    """Set a square of each image to 0, its mean, in place.

    Its centre is a uniformly random pixel, so that a part may lie outside (DeVries &
    Taylor 2017, arXiv:1708.04552).

    Args:
        images: normalised, (N, C, H, W).
        rng: source of all randomness; advanced by 2 N draws.
        side: of the square in pixels, at least 1.
    """
    size, (height, width) = (len(images),), images.shape[2:]
    rows, columns = rng.integers(0, height, size), rng.integers(0, width, size)
    for image, row, column in zip(images, rows, columns, strict=True):
        y, x = row - side // 2, column - side // 2
        image[:, max(y, 0) : y + side, max(x, 0) : x + side] = 0


def normalize(
    images: NDArray[np.uint8],
    mean: Mean | Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = np.float32,
) -> NDArray[np.floating[Any]]:
    """Return ``(images / 255 - mean) / std`` for each channel, or each pixel.

    Args:
        images: uint8 (N, C, H, W).
        mean: C means of the pixels scaled to 0..1, or an image of them, (C, H, W),
            or one for each image, (N, C, H, W).
        std: C positive standard deviations of the pixels scaled to 0..1.
        dtype: Floating-point type of the result.

    Returns:
        Array of `dtype`, shape (N, C, H, W): computed in float64 and rounded once to
        `dtype`.

    Raises:
        DataError: If the images are not uint8 (N, C, H, W), `mean` is none of these,
            `std` has not C values, or `dtype` is not a floating-point type.
    """
    kind = np.dtype(dtype)
    if kind.kind != "f":
        raise DataError(f"Images are normalised to a float type, not {kind}.")
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(
            "Normalisation needs uint8 images of shape (N, C, H, W), not "
            f"{images.dtype} of shape {images.shape}."
        )
    channels, shape = images.shape[1], np.shape(mean)
    if len(shape) > 1 and shape not in (images.shape[1:], images.shape):
        raise DataError(
            f"A mean image of shape {shape} does not fit images of shape "
            f"{images.shape[1:]}."
        )
    if (len(shape) == 1 and len(mean) != channels) or len(std) != channels:
        raise DataError(
            f"Images of {channels} channels need as many means and standard "
            f"deviations, not {len(mean)} and {len(std)}."
        )
    levels = np.arange(256) / 255.0
    if len(shape) > 1:
        scale = np.reshape(std, (channels, 1, 1))
        out: NDArray[np.floating[Any]] = ((levels[images] - mean) / scale).astype(kind)
        return out
    out = np.empty(images.shape, kind)
    for channel in range(channels):
        table = ((levels - mean[channel]) / std[channel]).astype(kind)
        out[:, channel] = table[images[:, channel]]
    return out
