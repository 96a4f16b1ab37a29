"""The numbers of a run for TensorBoard, in an events file of its folder.

Every number stands at the step after which it was measured. TensorBoard shows a folder
of runs: ``tensorboard --logdir runs``.
"""

from __future__ import annotations

import importlib
import math
import time
from dataclasses import asdict
from typing import Any

from tinyflow.train.checks import ConfigError
from tinyflow.train.events import Event, Start, Step
from tinyflow.train.folder import RunFolder
from tinyflow.train.metrics import EpochRow

EVERY = 20
"""Steps between two points within an epoch."""
PACKAGE = "tensorboardX"


def check_board() -> None:
    """See that the package is there that writes for TensorBoard.

    Raises:
        ConfigError: it is not.
    """
    try:
        importlib.import_module(PACKAGE)
    except ImportError as error:
        raise ConfigError(
            f"--tensorboard needs the package {PACKAGE} ({error}): install it with "
            f"python -m pip install {PACKAGE}, or leave --tensorboard out"
        ) from error


class BoardReport:
    """Writes the means of every so many steps, and every number of an epoch.

    Points that were written after the state with which the run goes on are taken back.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._writer: Any = None
        self._start: Start | None = None

    def __call__(self, event: Event) -> None:
        """Write what is due.

        Raises:
            OSError: it cannot be written.
        """
        if isinstance(event, Start):
            self._begin(event)
        elif self._start is None:
            return
        elif isinstance(event, Step):
            at = (event.epoch - 1) * self._start.steps + event.step
            if at % EVERY == 0:
                told = {
                    "step/loss": event.loss,
                    "step/accuracy": event.accuracy,
                    "step/images_per_second": event.images_per_second,
                    "step/rate": event.lr,
                }
                self._write(at, told)
        elif isinstance(event, EpochRow):
            values = asdict(event)
            at = min(values.pop("epoch") * self._start.steps, self._start.total)
            self._write(at, {f"epoch/{name}": value for name, value in values.items()})
            self._writer.flush()

    def close(self) -> None:
        """Write what is still to be written."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, start: Start) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event as Proto
        from tensorboardX.proto.event_pb2 import SessionLog

        self._start = start
        place = self._folder.place
        before = set(place.glob("events.*"))
        # Two of one second have one name, but not after the same step.
        self._writer = EventsWriter(str(place / "events"), f".{start.done}")
        for path in set(place.glob("events.*")) - before:
            self._folder.own(path)
        if start.done:
            log = SessionLog(status=SessionLog.START)
            after = Proto(wall_time=time.time(), step=start.done + 1, session_log=log)
            self._writer.write_event(after)

    def _write(self, at: int, values: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event as Proto
        from tensorboardX.proto.summary_pb2 import Summary

        points = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in values.items()
            if math.isfinite(value)
        ]
        summary = Summary(value=points)
        self._writer.write_event(Proto(wall_time=time.time(), step=at, summary=summary))
