"""Batches of a data set in an order that depends only on seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinyflow import display
from tinyflow.data.augment import crop_flip, cut_out, normalize, random_crop_flip
from tinyflow.data.augmentation import Augmentation
from tinyflow.data.base import DataError, ImageSet
from tinyflow.data.mixing import mixup
from tinyflow.data.randaugment import rand_augment

RawBatch = tuple[int, NDArray[np.uint8], NDArray[np.int64]]
"""Number of a batch in its epoch, images as bytes (N, C, H, W), and labels (N,)."""

Batch = tuple[NDArray[np.floating[Any]], Any]
"""Normalised images (N, C, H, W) and labels: int64 (N,), or `Mixed` by mixup."""

_ORDER, _CROP, _CHANGE, _CUT, _MIX = 0, 1, 3, 4, 5
"""What random numbers are for; 2 are the crops of `picture.py`."""

NOTHING = Augmentation()


class Loader:
    """Serves an image set, a Dataset or an ImageFolder, batch by batch.

    ``for images, labels in loader`` runs through one epoch: the first time epoch 0,
    then 1, …; :meth:`epoch` serves one by number.

    The order of epoch k and the augmentation of each of its batches are drawn
    from ``(seed, k)`` alone, never from what was drawn before, so a run that
    resumes at epoch k, or at batch b of it, sees the batches it would have seen.
    """

    def __init__(
        self,
        dataset: ImageSet,
        batch_size: int,
        *,
        shuffle: bool = True,
        augment: bool = False,
        more: Augmentation = NOTHING,
        seed: int = 0,
        dtype: DTypeLike = np.float32,
        drop_last: bool = False,
    ) -> None:
        """Describe how to serve `dataset`; nothing is computed yet.

        Args:
            dataset: The images and labels.
            batch_size: Images per batch, at least 1.
            shuffle: Draw a new order for each epoch; else keep the set's order.
            augment: Apply `random_crop_flip` with a border of 4 pixels, or what the
                set itself does instead (`ImageSet.crops`). It mirrors images, which
                suits objects but not digits or letters.
            more: What else is done to the images. `raw` has nothing of it.
            seed: Seed of order and augmentation, 0 or more.
            dtype: Floating-point type of the images.
            drop_last: Leave out a last batch smaller than `batch_size`; else
                serve it.

        Raises:
            DataError: If the set is empty, `batch_size` is below 1, or above the
                size of the set with `drop_last`, if `seed` is negative, if
                `dtype` is not a floating-point type, or if the set has a mean image
                and crops by itself.
        """
        if len(dataset) == 0:
            raise DataError(f"{dataset.name} holds no images, so there is no batch.")
        if batch_size < 1:
            raise DataError(f"The batch size must be 1 or more, not {batch_size}.")
        if drop_last and batch_size > len(dataset):
            raise DataError(
                f"A batch size of {batch_size} with drop_last leaves no batch of the "
                f"{len(dataset)} images of {dataset.name}: choose a smaller one."
            )
        if seed < 0:
            raise DataError(f"The loader's seed must be 0 or more, not {seed}.")
        if np.dtype(dtype).kind != "f":
            raise DataError(
                f"The loader's dtype must be a float type, not {np.dtype(dtype)}."
            )
        if augment and dataset.crops and np.ndim(dataset.mean) > 1:
            raise DataError(
                f"{dataset.name} crops its images by itself, where a mean image cannot "
                "follow: augment nothing, or give it a mean for each channel."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment, self.more = augment, more
        self.seed = seed
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.drop_last = drop_last
        self.next_epoch = 0

    def __repr__(self) -> str:
        return f"Loader({self.dataset!r}, {display.options(vars(self))})"

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the next epoch."""
        k = self.next_epoch
        self.next_epoch += 1
        return self.epoch(k)

    @property
    def shifts(self) -> bool:
        """Whether the batches of :meth:`raw` are still to be cropped and mirrored."""
        return self.augment and not self.dataset.crops

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def epoch(self, k: int, *, start: int = 0) -> Iterator[Batch]:
        """Iterate over the batches of epoch `k`.

        Args:
            k: Number of the epoch, 0 or more.
            start: Index of the first batch to serve; earlier ones are skipped
                at no cost and those that follow are as in a full epoch.

        Returns:
            An iterator of ``(images, labels)``: images of `dtype` (N, C, H, W)
            normalised with the set's mean and std (a pixel that a crop brings in from
            outside is 0 where the mean is an image), labels int64 (N,). Both are
            new arrays that the caller may change.

        Raises:
            DataError: If `k` is negative or `start` is not 0..len(self).
        """
        return self._batches(k, self.raw(k, start=start))

    def raw(self, k: int, *, start: int = 0) -> Iterator[RawBatch]:
        """The batches of epoch `k` as bytes: not normalised, nor, if `shifts`, cropped.

        For whoever does that elsewhere; arguments and errors as for :meth:`epoch`.
        """
        if k < 0:
            raise DataError(f"Epochs are numbered from 0, so there is no epoch {k}.")
        if not 0 <= start <= len(self):
            raise DataError(
                f"An epoch has {len(self)} batches, so it cannot start at {start}."
            )
        return self._chosen(k, start)

    def _chosen(self, k: int, start: int) -> Iterator[RawBatch]:
        data = self.dataset
        order = np.arange(len(data))
        if self.shuffle:
            order = self._rng(k, None, _ORDER).permutation(len(data))
        b = self.batch_size
        chosen = [order[i * b : (i + 1) * b] for i in range(start, len(self))]
        key = (self.seed, k) if self.augment else None
        with closing(data.served(chosen, key)) as served:
            for images, batch, index in zip(served, chosen, count(start)):
                yield index, images, data.labels[batch]

    def _batches(self, k: int, raw: Iterator[RawBatch]) -> Iterator[Batch]:
        std, more = self.dataset.std, self.more
        for index, images, labels in raw:
            draw, mean = partial(self._rng, k, index), self.dataset.mean
            if self.shifts:
                if np.ndim(mean) > 1:  # it is cut and mirrored as the images are
                    mean = crop_flip(np.broadcast_to(mean, images.shape), draw(_CROP))
                images = random_crop_flip(images, draw(_CROP))
            if more.changes:
                images = rand_augment(
                    images,
                    draw(_CHANGE),
                    count=more.changes,
                    magnitude=more.magnitude,
                )
            floats = normalize(images, mean, std, self.dtype)
            if more.cutout:
                cut_out(floats, draw(_CUT), more.cutout)
            if more.mixup:
                yield mixup(floats, labels, draw(_MIX), more.mixup)
            else:
                yield floats, labels

    def _rng(self, k: int, index: int | None, purpose: int) -> np.random.Generator:
        """The generator of one purpose, of an epoch or a batch of it.

        Each is independent of all others: what one draws does not shift them.
        """
        key = (k, purpose) if index is None else (k, purpose, index)
        sequence = np.random.SeedSequence(self.seed, spawn_key=key)
        return np.random.Generator(np.random.PCG64(sequence))
