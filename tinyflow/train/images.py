"""The images of a run, and what is said of those that are broken."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from tinyflow.data import ImageFolder, ImageSet, load_dataset
from tinyflow.data.dataset import FOLDER
from tinyflow.train.line import duration
from tinyflow.train.report import EVERY

if TYPE_CHECKING:
    from tinyflow.train.config import TrainConfig

NAMED = 3
"""Broken files that are named; of the others the number is said."""


class Looking:
    """Says how far the images of a split have been looked at, about every 5 s."""

    def __init__(self, split: str) -> None:
        self.split = split
        self.begun = self.shown = time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        """Print what is due."""
        now = time.monotonic()
        if now - self.shown >= EVERY:
            self.shown = now
            left = (now - self.begun) * (of - done) / done
            _say(
                f"looked at {done:,} of {of:,} {self.split} images, "
                f"about {duration(left)} left"
            )


def images_of(config: TrainConfig, split: str, seed: int) -> ImageSet:
    """The images of one split that a run is for; those left out are said on stderr.

    Args:
        config: the options.
        split: "train" or "test".
        seed: of drawn images.

    Raises:
        DataError: they are missing or damaged.
    """
    given: dict[str, Any] = {}
    if config.dataset == FOLDER:
        given = {
            "workers": config.workers,
            "bad_images": config.bad_images,
            "checked": Looking(split),
        }
    if config.image_size is not None:
        given["image_size"] = config.image_size
    limit = config.limit_train if split == "train" else config.limit_test
    found = load_dataset(
        config.dataset, config.data_dir, split, seed=seed, limit=limit, **given
    )
    if isinstance(found, ImageFolder) and found.skipped:
        named = " ".join(found.skipped[:NAMED])
        more = len(found.skipped) - NAMED
        _say(
            f"left out {len(found.skipped):,} {split} images: {named}"
            + (f" And {more:,} more." if more > 0 else "")
        )
    return found


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
