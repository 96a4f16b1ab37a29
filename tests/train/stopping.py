"""Runs that are stopped, and all that they leave."""

from dataclasses import replace
from pathlib import Path

from tests.kernels.native.built import native as native
from tests.train.small import SMALL, TIMING
from tests.train.small import place as place
from tinyflow.train.events import Event, Step
from tinyflow.train.metrics import COLUMNS

BYTES = ("last.safetensors", "best.safetensors", "trace.csv", "curves.png")


def traced(folder: Path, again: bool = False):
    """A trace of the loss, as the instrument writes its own."""
    path = folder / "trace.csv"
    if not again:
        path.write_text("step,loss\n")

    def write(step, loss, tape):
        with path.open("a") as file:
            file.write(f"{step},{loss!r}\n")

    write.path = path
    return write


def stopping(when):
    """Ctrl-C after so many steps of the process."""
    left = iter(range(when - 1, -1, -1))

    def report(event: Event) -> None:
        if isinstance(event, Step) and next(left) == 0:
            raise KeyboardInterrupt

    return report


def left_by(folder: Path):
    """All that a run leaves, but for the times it measured."""
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().split()]
    kept = [
        [c for n, c in zip(COLUMNS, row, strict=True) if n not in TIMING]
        for row in rows
    ]
    # A picture shows no times; weights and trace are bytes.
    return kept, {n: (folder / n).read_bytes() for n in BYTES if (folder / n).exists()}


WHOLE = replace(
    SMALL, epochs=3, augment=True, trace_every=2, clip_grad=1.0, label_smoothing=0.1
)
