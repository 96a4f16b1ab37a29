"""``shapes``: ten classes of colour pictures, drawn from a seed.

Each picture shows one silhouette of random place, size, angle, stretch and
colour on a background with a gradient and a texture, among distracting lines
and dots, about half partly hidden by a strip, with noise. Four in five silhouettes
are brighter than their background; hue tells nothing about the class.

The pictures are the same on every machine: all randomness is the raw stream of
PCG64, which NumPy keeps stable, and the arithmetic is float32 with operations
that IEEE 754 rounds exactly (no sine, no exponential, no reduction). At another size
than 32x32 the scenes are the same, with finer edges and a noise of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinyflow.data.base import DataError, Dataset, check_limit
from tinyflow.data.silhouettes import F32, SILHOUETTES

SHAPES_CLASSES: tuple[str, ...] = tuple(f.__name__ for f in SILHOUETTES)
SHAPES_MEAN: tuple[float, ...] = (0.4115, 0.4093, 0.4116)
"""Red, green, blue means, computed over the 5,000 training images of seed 0."""
SHAPES_STD: tuple[float, ...] = (0.1939, 0.1943, 0.1963)
"""Standard deviations, computed over the 5,000 training images of seed 0."""
SHAPES_SIZE: dict[str, int] = {"train": 5_000, "test": 1_000}
"""Default number of images of each split."""

SIDE = 32
"""Width and height by default, in which places and lengths are measured."""
SIDES = range(8, 513)
"""Width and height may be of these."""

_CHUNK = 100  # images drawn together: their arrays stay in the cache
_SPLIT_KEY = {"train": 0, "test": 1}


def make_shapes(
    split: str = "train",
    *,
    seed: int = 0,
    size: int | None = None,
    limit: int | None = None,
    image_size: int = SIDE,
) -> Dataset:
    """Draw one split of the ``shapes`` data set.

    The first n images are the same for every `size`, and the number of images
    of any two classes among them differs by at most one.

    Args:
        split: ``"train"`` or ``"test"``; the two share no random numbers.
        seed: Seed of all pictures, 0 or more.
        size: Number of images in the split, at least 1; by default 5,000 for
            training and 1,000 for testing.
        limit: Draw only the first `limit` of them.
        image_size: Width and height, 8 to 512.

    Returns:
        A Dataset with images (N, 3, image_size, image_size).

    Raises:
        DataError: If the split is unknown, `seed` is negative, `size` is below 1,
            `limit` is not 1..`size` or `image_size` not 8..512.
    """
    if split not in SHAPES_SIZE:
        raise DataError(f"shapes has no split {split!r}: choose 'train' or 'test'.")
    if seed < 0:
        raise DataError(f"The seed of shapes must be 0 or more, not {seed}.")
    total = SHAPES_SIZE[split] if size is None else size
    if total < 1:
        raise DataError(f"The size of shapes must be 1 or more, not {total}.")
    count = total if limit is None else limit
    check_limit(count, total, f"shapes {split}")
    if image_size not in SIDES:
        raise DataError(
            f"shapes is drawn at {SIDES[0]} to {SIDES[-1]} pixels, not {image_size}."
        )
    images = np.empty((count, 3, image_size, image_size), np.uint8)
    labels = np.empty(count, np.int64)
    for chunk, first in enumerate(range(0, count, _CHUNK)):
        part = slice(first, min(first + _CHUNK, count))
        drawn, classes = _draw_chunk(
            _Stream(seed, _SPLIT_KEY[split], chunk), image_size
        )
        images[part] = drawn[: part.stop - first]
        labels[part] = classes[: part.stop - first]
    return Dataset("shapes", images, labels, SHAPES_CLASSES, SHAPES_MEAN, SHAPES_STD)


class _Stream:
    """Random numbers made from the raw 64-bit output of PCG64."""

    def __init__(self, seed: int, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))

    def uniform(self, low: float, high: float, *shape: int) -> F32:
        """Return float32 numbers in low..high of shape (_CHUNK, *shape)."""
        raw = np.asarray(self._bits.random_raw((_CHUNK, *shape)))
        unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        return np.float32(low) + unit * np.float32(high - low)

    def scalar(self, low: float, high: float) -> F32:
        """Return one float32 number per image, shape (_CHUNK, 1, 1)."""
        return self.uniform(low, high, 1, 1)

    def colour(self, low: float, high: float) -> F32:
        """Return one float32 colour per image, shape (_CHUNK, 3, 1, 1)."""
        return self.uniform(low, high, 3, 1, 1)

    def sign(self, negative: float, *shape: int) -> F32:
        """Return -1 with probability `negative`, else 1, (_CHUNK, *shape)."""
        draw = self.uniform(-negative, 1 - negative, *shape)
        out: F32 = np.copysign(np.float32(1), draw)
        return out

    def direction(self) -> tuple[F32, F32]:
        """Return the two parts of a random unit vector, each (_CHUNK, 1, 1).

        The rational circle needs no sine: t in -1..1 covers a right half, the
        sign the left one.
        """
        t, sign = self.scalar(-1, 1), self.sign(0.5, 1, 1)
        scale = sign / (np.float32(1) + t * t)
        return (np.float32(1) - t * t) * scale, (t + t) * scale

    def noise(self, side: int) -> F32:
        """Return float32 noise in -1..1, triangular, (_CHUNK, 3, side, side)."""
        shape = (2, _CHUNK, 3, side, -(-side // 8))
        raw = np.asarray(self._bits.random_raw(shape)).astype("<u8")
        both = raw.view(np.uint8)[..., :side].astype(np.float32)
        out: F32 = (both[0] - both[1]) * np.float32(1 / 255)
        return out


def _draw_chunk(rng: _Stream, side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw _CHUNK pictures; each run of ten holds every class once."""
    keys = rng.uniform(0, 1)
    labels = np.argsort(keys.reshape(-1, 10), axis=1, kind="stable").reshape(-1)
    # Pixel centres, measured from the middle of the picture.
    axis = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    axis *= np.float32(SIDE / side)
    x, y = axis[None, None, :], axis[None, :, None]

    base = rng.colour(30, 160)
    canvas = base + _gradient(rng, x, y, 30) + _texture(rng, x, y)
    _paint(canvas, _line(rng, x, y), base + rng.colour(-60, 60))
    for _ in range(2):
        _paint(canvas, _dot(rng, x, y), base + rng.colour(-60, 60))
    contrast = rng.sign(0.2, 1, 1, 1) * rng.scalar(50, 140)[:, None]
    fill = base + contrast * rng.colour(0.5, 1) + _gradient(rng, x, y, 25)
    _paint(canvas, _silhouette(rng, x, y, labels), fill)
    _paint(canvas, _strip(rng, x, y), base + rng.colour(-60, 60))
    canvas += rng.noise(side) * rng.scalar(5, 25)[:, None]
    np.clip(np.rint(canvas, out=canvas), 0, 255, out=canvas)
    return canvas.astype(np.uint8), labels.astype(np.int64)


def _paint(canvas: F32, distance: F32, colour: F32) -> None:
    """Blend `colour` in where `distance` is negative, with soft edges."""
    sharper = np.float32(canvas.shape[-1] / SIDE)
    cover = np.clip(np.float32(0.5) - distance * sharper, 0, 1)[:, None]
    canvas += (colour - canvas) * cover


def _gradient(rng: _Stream, x: F32, y: F32, strength: float) -> F32:
    """Return a linear ramp per channel, up to about +-`strength` at the edges."""
    rate = strength / SIDE
    across, down = rng.colour(-rate, rate), rng.colour(-rate, rate)
    return across * x[:, None] + down * y[:, None]


def _texture(rng: _Stream, x: F32, y: F32) -> F32:
    """Return grey waves of random direction, length 4..12 pixels and depth."""
    c, s = rng.direction()
    phase = (c * x + s * y) * rng.scalar(1 / 12, 1 / 4) + rng.scalar(0, 1)
    wave = np.abs(phase - np.floor(phase) - np.float32(0.5)) - np.float32(0.25)
    out: F32 = (wave * rng.scalar(0, 40))[:, None]
    return out


def _line(rng: _Stream, x: F32, y: F32) -> F32:
    """Return the distance to a thin line piece."""
    c, s = rng.direction()
    dx, dy = x - rng.scalar(-14, 14), y - rng.scalar(-14, 14)
    along = np.abs(c * dx + s * dy) - rng.scalar(3, 12)
    out: F32 = np.maximum(along, np.abs(c * dy - s * dx) - rng.scalar(0.4, 1.1))
    return out


def _dot(rng: _Stream, x: F32, y: F32) -> F32:
    """Return the distance to a small disc."""
    dx, dy = x - rng.scalar(-15, 15), y - rng.scalar(-15, 15)
    out: F32 = np.sqrt(dx * dx + dy * dy) - rng.scalar(0.8, 2.5)
    return out


def _strip(rng: _Stream, x: F32, y: F32) -> F32:
    """Return the distance to a strip across the picture; half have none."""
    c, s = rng.direction()
    width = rng.scalar(-1.7, 1.7)  # negative: nothing is painted
    out: F32 = np.abs(c * x + s * y - rng.scalar(-9, 9)) - width
    return out


def _silhouette(rng: _Stream, x: F32, y: F32, labels: NDArray[np.intp]) -> F32:
    """Return the distance to the silhouette of each image's class."""
    c, s = rng.direction()
    r = rng.scalar(8, 13)
    room = np.float32(15) - r
    dx = x - room * rng.scalar(-1, 1)
    dy = y - room * rng.scalar(-1, 1)
    stretch = rng.scalar(0.85, 1.15)
    u, v = (c * dx + s * dy) * stretch, (c * dy - s * dx) / stretch
    out = np.empty_like(u)
    for label, distance in enumerate(SILHOUETTES):
        mine = labels == label
        out[mine] = distance(u[mine], v[mine], r[mine])
    return out
