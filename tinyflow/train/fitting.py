"""Which batch would fit, found by trying, where memory did not suffice for a step."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from tinyflow import Tape
from tinyflow.backend import array_module, no_memory
from tinyflow.kernels.plain.helpers import dismiss
from tinyflow.kernels.plain.scratch import let_go
from tinyflow.train.prepare import Prepared

SPARE = 96 << 20
"""Bytes of the host's memory that a run needs beside its steps: to draw its curves."""


class StepMemory(MemoryError):
    """Memory did not suffice for a training step; says which memory, and why."""


@contextmanager
def of_a_step() -> Iterator[None]:
    """Where an error that says that memory is full becomes a :class:`StepMemory`."""
    try:
        yield
    except Exception as error:
        if (full := no_memory(error)) is None:
            raise
        raise StepMemory(full) from error


def release(error: BaseException) -> None:
    """Let go of the arrays that the functions an error came through still hold.

    Its traceback goes with them: cleared frames would hold their functions' closures.
    """
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__context__
    gc.collect()  # what a tape holds holds the tape
    dismiss()
    let_go()


def largest_fit(ready: Prepared, size: int, traced: bool = False) -> tuple[int, int]:
    """The largest of `size` / 2, `size` / 4, …, 1 images of which a step fits.

    What is tried is all of a step but its update, on black images, while room is held
    for the optimiser's state and for `SPARE`. Nothing remains of it: parameters,
    running statistics, random state and the optimiser are as before. (On a GPU, what
    draws the layers' random numbers there has moved on.)

    Where a process may have hardly more address space than it takes at rest (within
    200 MB, ``ulimit -v``), the answer may be too low or too high: what the C library
    holds for each thread differs from run to run.

    Args:
        ready: what is trained.
        size: of the batch that did not fit.
        traced: whether every edge is retained.

    Returns:
        That size, 0 if not even the smallest fits, and the smallest that was tried. A
        size that fails otherwise, as one image may that cannot be normalised, is none.
    """
    smallest = size
    while size > 1:
        size //= 2
        try:
            _try(ready, size, traced)
        except Exception as error:
            full = no_memory(error)
            release(error)
            if full is None:
                break
            smallest = size
        else:
            return size, size
    return 0, smallest


def _try(ready: Prepared, size: int, traced: bool) -> None:
    def look(loss: float, tape: Tape) -> None:
        pass

    optimizer, batches = ready.optimizer, ready.train
    xp = array_module(ready.model.parameters()[0].data)
    held = [
        optimizer._fresh(p.data)
        for name, p in optimizer.parameters.items()
        if name not in optimizer.state
    ]
    spare = np.empty(SPARE, np.uint8)
    c, height, width = batches.dataset.shape
    images = xp.zeros((size, height, width, c), batches.dtype).transpose(0, 3, 1, 2)
    labels = xp.zeros(size, np.int64)
    ready.stepper.eager(images, labels, look if traced else None, update=False)
    del held, spare


def advice(ready: Prepared, size: int, traced: bool) -> str:
    """What to do where a step of so many images did not fit."""
    fits, smallest = largest_fit(ready, size, traced)
    if fits:
        return f"a batch of {fits} fits: use --batch-size {fits}"
    return f"not even a batch of {smallest} fits: choose a smaller network"
