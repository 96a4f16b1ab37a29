"""What is done to the images of a training batch, in its order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinyflow.backend import Array
from tinyflow.data.augment import cut_out, random_crop_flip
from tinyflow.data.mixing import Mixed, mixup
from tinyflow.data.randaugment import rand_augment

_CROP, _CHANGE, _CUT, _MIX = range(1, 5)

Draw = Callable[[int], np.random.Generator]
"""Gives the generator of one purpose: what one draws does not shift the others."""


@dataclass(frozen=True)
class Augmentation:
    """Crop and flip, RandAugment, and on the normalised images cutout and mixup.

    Attributes:
        crop: whether images are cropped and mirrored, see `random_crop_flip`.
        changes: of RandAugment for each image, see `rand_augment`; 0 is none.
        magnitude: of RandAugment.
        cutout: side of the square that is cut out, in pixels; 0 is none.
        mixup: α, see `mixup`; 0 is none.
    """

    crop: bool = False
    changes: int = 0
    magnitude: float = 9.0
    cutout: int = 0
    mixup: float = 0.0

    @property
    def only_crops(self) -> bool:
        """Whether nothing but crop and flip is done, if that."""
        return not (self.changes or self.cutout or self.mixup)

    def bytes(self, images: NDArray[np.uint8], draw: Draw) -> NDArray[np.uint8]:
        """What is done before images are normalised."""
        if self.crop:
            images = random_crop_flip(images, draw(_CROP))
        if self.changes:
            options = {"count": self.changes, "magnitude": self.magnitude}
            images = rand_augment(images, draw(_CHANGE), **options)  # type: ignore[arg-type]
        return images

    def floats(
        self, images: Array, labels: Array, draw: Draw
    ) -> tuple[Array, Array | Mixed]:
        """What is done afterwards; `images` may be written to."""
        if self.cutout:
            cut_out(images, draw(_CUT), self.cutout)
        if self.mixup:
            return mixup(images, labels, draw(_MIX), self.mixup)
        return images, labels
