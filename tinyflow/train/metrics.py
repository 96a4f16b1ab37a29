"""One row per epoch: what is measured, and the files it goes to.

``metrics.csv`` has what options and seed decide, ``times.csv`` what the machine does.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from tinyflow.atomic import appending
from tinyflow.reading import Unreadable, number, read_table, whole

MOST = 100_000_000
"""Bytes of the longest metrics.csv that is read: a million epochs."""


@dataclass(frozen=True)
class EpochRow:
    """What one epoch measured; the columns of ``metrics.csv``, in this order.

    Attributes:
        epoch: from 1.
        train_loss: mean over the epoch's images of the loss that was minimised, each
            taken before the step it caused, in nats; label smoothing included.
        train_accuracy: share of those images classified rightly, 0 to 1.
        val_loss, val_accuracy: as the next two, over the validation images; nan if
            there are none.
        test_loss: mean cross-entropy over the test images after the epoch, in nats.
        test_accuracy: share of test images classified rightly, 0 to 1.
        lr: learning rate of the epoch's last step.
        grad_norm: mean over the steps of the global L2 norm before clipping.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    test_loss: float
    test_accuracy: float
    lr: float
    grad_norm: float


@dataclass(frozen=True)
class Times:
    """What an epoch took; the columns of ``times.csv``, in this order.

    Attributes:
        epoch: from 1.
        images_per_second: training images per second of training time.
        seconds: wall time of the epoch, validation and test included.
        peak_memory_mb: largest resident memory of the process so far, 10⁶ bytes; on a
            GPU this is the host's share.
    """

    epoch: int
    images_per_second: float
    seconds: float
    peak_memory_mb: float


COLUMNS = tuple(field.name for field in fields(EpochRow))
METRICS, TIMES = "metrics.csv", "times.csv"


class MetricsFiles:
    """The two files: a heading each, then one row per epoch, at once.

    Args:
        metrics, times: new files, or with `again` those of a run that goes on.
    """

    def __init__(self, metrics: Path, times: Path, again: bool = False) -> None:
        self.metrics, self.times = metrics, times
        for path, kind in ((metrics, EpochRow), (times, Times)):
            if not again:
                with path.open("x", encoding="utf-8", newline="") as file:
                    file.write(",".join(f.name for f in fields(kind)) + "\n")

    @contextmanager
    def adding(self, row: EpochRow, took: Times) -> Iterator[None]:
        """A row each, six significant digits, taken back if the block raises."""
        with appending(self.times, _line(took)), appending(self.metrics, _line(row)):
            yield


def read_metrics(path: Path) -> list[EpochRow]:
    """The rows of a ``metrics.csv``, without one that was cut short.

    Raises:
        Unreadable: there is no such file, or it is damaged.
    """
    try:
        return [
            EpochRow(whole(epoch), *map(_number, rest))
            for epoch, *rest in read_table(path, COLUMNS, MOST)
        ]
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(f"{path} is damaged: {error}") from error


def _number(text: str) -> float:
    return math.nan if text == "nan" else number(text)  # no validation images


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in 10⁶ bytes; nan on Windows."""
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6  # bytes, KiB


def _line(row: EpochRow | Times) -> str:
    return ",".join(_text(entry) for entry in astuple(row)) + "\n"


def _text(entry: float) -> str:
    return str(entry) if isinstance(entry, int) else f"{entry:.6g}"
