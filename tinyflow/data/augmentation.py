"""What may be done to training images besides cropping and mirroring them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """RandAugment on the bytes, and cutout and mixup on the normalised images.

    Attributes:
        changes: of RandAugment for each image, see `rand_augment`; 0 is none.
        magnitude: of RandAugment.
        cutout: side of the square that is cut out, in pixels; 0 is none.
        mixup: α, see `mixup`; 0 is none.
    """

    changes: int = 0
    magnitude: float = 9.0
    cutout: int = 0
    mixup: float = 0.0

    def __bool__(self) -> bool:
        """Whether anything is done."""
        return bool(self.changes or self.cutout or self.mixup)
