"""How ImageNet is cropped: at random for training, in the middle or ten times to test.

Sizes are in pixels; an image (W, H) is a Pillow image, as Pillow orders them; images
(N, C, H, W) are an array. Every resize is bilinear and antialiased: each new pixel is a
mean over the old ones, weighted by a triangle as wide as two new pixels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinyflow.data.base import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom; the last two are outside, as in Pillow."""
Number = TypeVar("Number", bound=np.generic)

SCALE = (0.08, 1.0)
"""Of a random crop: its part of the image's area."""
RATIO = (3 / 4, 4 / 3)
"""Of a random crop: width over height."""
TRIES = 10
LONG = 16
"""How many times as long as wide an image may be and still be resized as a whole."""


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """Where a random crop lies, by the rule of torchvision's ``RandomResizedCrop``.

    Area a ~ U(`SCALE`) · W H and ratio r = exp U(ln `RATIO`) give a window of
    w = round √(a r) times h = round √(a / r) pixels, which lies anywhere with the same
    probability. If it does not fit, another is drawn, at most `TRIES` times; then it is
    the largest window in the middle whose ratio is in `RATIO`.

    Args:
        width, height: of the image, at least 1.
        rng: source of all randomness.
    """
    low, high = (math.log(ratio) for ratio in RATIO)
    for _ in range(TRIES):
        area = width * height * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(rng.integers(0, height - h + 1))
            left = int(rng.integers(0, width - w + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_crop(image: Image, size: int, rng: np.random.Generator) -> Image:
    """A random window of an image, `size` pixels wide and high, half of them mirrored.

    ImageNet's augmentation: Szegedy et al. 2015, section 6; see :func:`random_box`.
    """
    from PIL.Image import Resampling, Transpose

    window = image.crop(random_box(*image.size, rng))
    window = window.resize((size, size), Resampling.BILINEAR)
    if rng.random() < 0.5:
        window = window.transpose(Transpose.FLIP_LEFT_RIGHT)
    return window


def short_side(size: int) -> int:
    """What the shorter side becomes before the middle is cut out: 256 for 224."""
    return round(size * 256 / 224)


def resized(image: Image, short: int) -> Image:
    """An image whose shorter side has become `short` pixels.

    The longer side becomes ⌊`short` · longer / shorter⌋, as in torchvision's
    ``Resize``. Of an image that is more than `LONG` times as long as wide only so much
    of the middle is looked at: nothing else bounds what resizing the whole would take.
    """
    from PIL.Image import Resampling

    width, height = image.size
    most = LONG * min(width, height)
    left, top = (max(0, (side - most) // 2) for side in (width, height))
    if left or top:
        image = image.crop((left, top, width - left, height - top))
    width, height = image.size
    shorter = min(width, height)
    width, height = short * width // shorter, short * height // shorter
    return image.resize((width, height), Resampling.BILINEAR)


def centre_crop(image: Image, size: int, short: int) -> Image:
    """The middle of an image that was :func:`resized`.

    The window begins at round((side - `size`) / 2), as in torchvision's ``CenterCrop``.

    Args:
        image: any.
        size: of the window, 1..`short`.
        short: the new length of the shorter side.
    """
    image = resized(image, short)
    width, height = image.size
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def ten_crop(images: NDArray[Number], size: int) -> NDArray[Number]:
    """The four corners and the middle of each image, then their mirror images.

    The test of Krizhevsky et al. 2012, section 4.1, and of He et al. 2016: a network
    sees the ten, and :func:`log_mean_probability` is its answer.

    Args:
        images: (N, C, H, W), bytes or normalised.
        size: of the windows, 1..min(H, W).

    Returns:
        A new array (N, 10, C, `size`, `size`): top left, top right, bottom left,
        bottom right, middle, and the same five mirrored left to right.

    Raises:
        DataError: the images are not (N, C, H, W), or no window fits.
    """
    if images.ndim != 4:
        raise DataError(
            f"Ten crops need images of shape (N, C, H, W), not {images.shape}."
        )
    height, width = images.shape[2:]
    if not 1 <= size <= min(height, width):
        raise DataError(
            f"A window of {size} pixels does not fit into {width}x{height}: choose 1 "
            f"to {min(height, width)}."
        )
    down, right = height - size, width - size
    corners = ((0, 0), (0, right), (down, 0), (down, right))
    places = (*corners, (round(down / 2), round(right / 2)))
    five = np.stack(
        [images[:, :, y : y + size, x : x + size] for y, x in places], axis=1
    )
    return np.concatenate([five, five[..., ::-1]], axis=1)


def log_mean_probability(logits: NDArray[Any]) -> NDArray[Any]:
    """y = log(mean over i of softmax(xᵢ)): what a network makes of the ten crops.

    Probabilities are averaged, not logits (Krizhevsky et al. 2012); their logarithm
    is finite also where they would be rounded to 0.

    Args:
        logits: (N, 10, K), or any number of crops.

    Returns:
        (N, K), of the same dtype.
    """
    x = logits - logits.max(-1, keepdims=True)
    x -= np.log(np.exp(x).sum(-1, keepdims=True))
    x -= np.log(x.dtype.type(logits.shape[1]))
    mean: NDArray[Any] = np.logaddexp.reduce(x, axis=1)
    return mean
