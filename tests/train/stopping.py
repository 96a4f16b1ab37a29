"""Runs that are stopped, and all that they leave."""

from dataclasses import replace
from pathlib import Path

from tests.kernels.native.built import native as native
from tests.train.small import SMALL
from tests.train.small import place as place
from tinyflow.train.events import Event, Step

TIMES = ("times.csv", "log.txt", "config.json")
"""What differs between two runs: when, what the machine took, and where it is."""


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
    """Every byte that a run leaves, but for the times it measured."""
    files = sorted(p for p in folder.iterdir() if p.name not in TIMES)
    return {path.name: path.read_bytes() for path in files}


WHOLE = replace(
    SMALL, epochs=3, augment=True, trace_every=2, clip_grad=1.0, label_smoothing=0.1
)
SPLIT = replace(WHOLE, iterations=14, val_split=40, ema=0.9, ema_warm_up=True)
SPLIT = replace(SPLIT, rand_augment=1, cutout=8, mixup=0.5)
"""Averages, validation images, and a last epoch that is cut short."""
