"""Batches on the GPU, fetched while the step before them is computed.

The host gathers the bytes of a batch into pinned memory, a stream of its own copies
them, and one kernel crops, mirrors and normalises them into the memory order and dtype
of the network: a quarter of the traffic of float32 images, and no wait for it.

Order and batches are those of :class:`tinyflow.data.Loader`. Augmentation has the same
distribution (`data/augment.py`) but random numbers of its own, a function of seed,
epoch, batch and image (Philox, Salmon et al. 2011): a run can be repeated on a GPU,
but its crops are not those of the CPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyflow.backend import Array, _cupy
from tinyflow.data import ImageSet, Loader
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.layout import from_nhwc

DEPTH = 3
"""Batches under way at once: one computed, one copied, one gathered."""

BORDER = 4
"""Pixels around an image before it is cropped, as in `data/augment.py`."""


@dataclass
class _Slot:
    """Memory of a batch on its way, used in turn."""

    host: Any
    """Pinned memory: uint8 images and int64 labels."""
    device: Any
    copied: Any
    """Event: the device has the bytes."""
    used: Any
    """Event: nothing reads the device's bytes any more."""


class _Epoch:
    """The batches of an epoch; :meth:`close` it where the epoch is left early.

    That waits for the copies under way. When one that was never closed is collected as
    garbage, nothing of the GPU is touched: its stream may be gone by then.
    """

    def __init__(
        self,
        batches: Generator[tuple[Array, Array], None, None],
        wait: Callable[[], object],
    ) -> None:
        self._batches, self._wait = batches, wait

    def __iter__(self) -> _Epoch:
        return self

    def __next__(self) -> tuple[Array, Array]:
        return next(self._batches)

    def close(self) -> None:
        """No more batches; what is on its way to memory has arrived."""
        self._batches.close()
        self._wait()


class DeviceLoader:
    """A Loader whose batches are made on the GPU.

    Args:
        loader: says which images, in which order, and whether they are augmented.
        dtype: of the images: float32, or ml_dtypes' bfloat16.
    """

    def __init__(self, loader: Loader, dtype: Any = np.float32) -> None:
        self.loader, self.dtype = loader, dtype
        self.cupy: Any = _cupy()
        data = loader.dataset
        self._table = self.cupy.asarray(
            launch.byte_table(np.array(data.mean), np.array(data.std))
        )
        self._everything = self.cupy.arange(loader.batch_size, dtype="int64")
        self._stream = self.cupy.cuda.Stream(non_blocking=True)
        self._slots = [self._slot() for _ in range(DEPTH)]

    @property
    def dataset(self) -> ImageSet:
        """The images and labels."""
        return self.loader.dataset

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return len(self.loader)

    def epoch(self, k: int, *, start: int = 0) -> _Epoch:
        """Images (N, C, H, W), channels last, and labels (N,), both on the GPU.

        They are in stream order on whatever stream is current when one is asked for.
        Arguments and errors as for :meth:`tinyflow.data.Loader.epoch`.
        """
        batches = self._batches(k, self.loader.raw(k, start=start))
        return _Epoch(batches, self._stream.synchronize)

    def _batches(
        self, k: int, raw: Iterator[Any]
    ) -> Generator[tuple[Array, Array], None, None]:
        waiting: deque[tuple[_Slot, int, int]] = deque()
        for turn, (index, images, labels) in enumerate(raw):
            slot = self._slots[turn % DEPTH]
            waiting.append((slot, index, self._send(slot, images, labels)))
            if len(waiting) == DEPTH - 1:
                yield self._make(k, *waiting.popleft())
        while waiting:
            yield self._make(k, *waiting.popleft())

    def _slot(self) -> _Slot:
        import cupyx

        shape = (self.loader.batch_size, *self.dataset.shape)
        n = shape[0]
        cuda = self.cupy.cuda
        slot = _Slot(
            (cupyx.empty_pinned(shape, np.uint8), cupyx.empty_pinned(n, np.int64)),
            (self.cupy.empty(shape, np.uint8), self.cupy.empty(n, np.int64)),
            cuda.Event(disable_timing=True),
            cuda.Event(disable_timing=True),
        )
        slot.used.record(cuda.get_current_stream())  # by whoever had the memory before
        return slot

    def _send(self, slot: _Slot, images: Array, labels: Array) -> int:
        """Start copying a batch; how many images it has."""
        n = len(labels)
        slot.copied.synchronize()  # of the batch before: its pinned memory is free
        self._stream.wait_event(slot.used)
        for host, device, part in zip(
            slot.host, slot.device, (images, labels), strict=True
        ):
            host[:n] = part
            device[:n].set(host[:n], stream=self._stream)
        slot.copied.record(self._stream)
        return n

    def _make(self, k: int, slot: _Slot, index: int, n: int) -> tuple[Array, Array]:
        """Turn the bytes into a batch, on the current stream."""
        stream = self.cupy.cuda.get_current_stream()
        stream.wait_event(slot.copied)
        pictures, labels = slot.device
        _, c, h, w = pictures.shape
        batch = self.cupy.full(1, index, dtype="uint32")
        shifts = self.loader.shifts
        out = launch.augment(
            pictures,
            self._everything[:n],
            self._table,
            self.cupy.empty((n, h, w, c), self.dtype),
            pad=BORDER if shifts else 0,
            mirror=shifts,
            seed=self.loader.seed,
            step=batch,
            stream=k,
        )
        chosen = labels[:n].copy()
        slot.used.record(stream)
        return from_nhwc(out), chosen
