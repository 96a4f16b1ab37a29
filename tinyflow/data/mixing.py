"""Mixup: images and labels of a batch blended with those of another order of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tinyflow.backend import Array


@dataclass(frozen=True, eq=False)
class Mixed:
    """Labels of blended images: `weight` of the first, the rest of the second.

    Attributes:
        first, second: class indices (N,).
        weight: λ in [0, 1].
    """

    first: Array
    second: Array
    weight: float

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self.first)

    @property
    def greater(self) -> Array:
        """The label that has the greater part of each image."""
        return self.first if self.weight >= 0.5 else self.second


def mixup(
    images: Array, labels: Array, rng: np.random.Generator, alpha: float
) -> tuple[Array, Mixed]:
    """x ← λ x + (1 - λ) x', with λ drawn from Beta(α, α) once for the batch.

    x' are the images of the batch in a random order; the loss is the same blend of the
    losses of both labels (Zhang, Cissé, Dauphin & Lopez-Paz 2018, arXiv:1710.09412).

    Args:
        images: (N, C, H, W), normalised; not modified.
        labels: (N,).
        rng: source of all randomness.
        alpha: α above 0.

    Returns:
        The blended images in the dtype of `images`, and their labels.
    """
    weight = float(rng.beta(alpha, alpha))
    order = rng.permutation(len(images))
    part = images.dtype.type(weight)
    blended = part * images + (1 - part) * images[order]
    return blended, Mixed(labels, labels[order], weight)
