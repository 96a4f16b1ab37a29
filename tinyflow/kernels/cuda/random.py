"""Dropout and augmentation from counter-based numbers: launches dropout.cu, augment.cu.

Both read the step from the device (``uint32``, one entry), so that a captured graph
draws new numbers each time it is replayed; :func:`advance` counts.
"""

from __future__ import annotations

import numpy as np

from tinyflow.backend import Array
from tinyflow.kernels.cuda.module import THREADS, aligned, dtype_of, empty_like, launch
from tinyflow.kernels.cuda.source import Variant, widest


def advance(step: Array) -> None:
    """Count a step: step ← step + 1, on the device."""
    launch(Variant("dropout"), "advance", (1,), (1,), step)


def dropout(
    x: Array,
    p: float,
    seed: int,
    step: Array,
    stream: int = 0,
    *,
    out: Array | None = None,
) -> Array:
    """The entry x / (1 - p) where a number drawn for the entry is at least p, else 0.

    The same call on the gradient is the pullback. `stream` tells layers apart; entries
    count in memory order, so x must be C-contiguous.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability must lie in [0, 1], not {p}")
    y, dtype = empty_like(x, out), dtype_of("dropout", x)
    if y.shape != x.shape or y.dtype != x.dtype:
        raise ValueError(f"dropout: out is {y.dtype} {y.shape}, x {x.dtype} {x.shape}")
    if not (x.flags.c_contiguous and y.flags.c_contiguous):
        raise ValueError("dropout: x must be contiguous")
    wide = widest(dtype)
    vector = wide if x.size % wide == 0 and aligned(x, y) else 1
    if x.size:
        variant, blocks = Variant("dropout", dtype, vector), THREADS * max(vector, 4)
        launch(
            *(variant, "dropout", (-(-x.size // blocks),), (THREADS,), x, y),
            *(np.int64(x.size), float(p), 0.0 if p == 1 else 1 / (1 - p)),
            *(np.uint64(seed), step, np.uint32(stream)),
        )
    return y


def byte_table(mean: Array, std: Array) -> Array:
    """(C, 256) float32: (byte / 255 - mean) / std, rounded once; a host array."""
    levels = np.arange(256) / 255.0
    mean, std = (np.asarray(v, np.float64)[:, None] for v in (mean, std))
    return ((levels - mean) / std).astype(np.float32)


def augment(
    images: Array,
    index: Array,
    table: Array,
    out: Array,
    *,
    pad: int = 4,
    mirror: bool = True,
    seed: int = 0,
    step: Array,
    stream: int = 0,
) -> Array:
    """A batch: images gathered, cropped at random, mirrored and normalised.

    Args:
        images: uint8 (count, C, H, W), in any memory order.
        index: int64 (N,): which images. Not checked.
        table: :func:`byte_table`, on the device.
        out: float32 or bfloat16 (N, H, W, C), contiguous; filled and returned.
        pad: black pixels around an image before it is cut; 0 for evaluation.
        mirror: flip half of the images left to right; False for evaluation.
        seed, step, stream: what the random numbers are a function of.
    """
    count, c, h, w = images.shape
    n = index.shape[0]
    if images.dtype != np.uint8 or index.dtype != np.int64 or pad < 0:
        raise TypeError(f"augment: needs uint8 and int64, not {images.dtype}, ...")
    if out.shape != (n, h, w, c) or not out.flags.c_contiguous:
        raise ValueError(f"augment: out must be contiguous {(n, h, w, c)}")
    if table.shape != (c, 256) or table.dtype != np.float32 or not count:
        raise ValueError(f"augment: the table is {table.dtype} {table.shape}")
    if n and out.size:
        image, *steps = map(int, images.strides)
        variant = Variant("augment", dtype_of("augment", out))
        grid = (-(-(h * w * c) // (4 * THREADS)), int(n))
        launch(
            *(variant, "augment", grid, (THREADS,)),
            *(images, np.int64(image), *steps, index),
            *(table, int(h), int(w), int(c), int(pad), int(mirror), np.uint64(seed)),
            *(step, np.uint32(stream), out),
        )
    return out
