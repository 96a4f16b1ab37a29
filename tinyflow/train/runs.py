"""What lies in a folder of runs: each in a few words, whatever became of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyflow.reading import Unreadable, kind, read_object, reason
from tinyflow.train.folder import in_use
from tinyflow.train.loop import Result
from tinyflow.train.metrics import METRICS, EpochRow, read_metrics
from tinyflow.train.record import CONFIG
from tinyflow.train.resume import STATE

SERIES = "seeds.json"
"""Lies in a folder that holds runs which differ in nothing but the seed."""
FINISHED, STOPPED, RUNNING, DAMAGED = "finished", "stopped", "running", "damaged"


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it; what a damaged one does not tell is None.

    Attributes:
        place: its folder.
        begun: when, in seconds since 1970.
        state: "finished"; "stopped", and can be resumed; "running"; or "damaged".
        why: what is damaged.
        config: its options and what they came to, as ``config.json`` has them.
        rows: of its finished epochs.
    """

    place: Path
    begun: float
    state: str
    why: str
    config: dict[str, Any]
    rows: list[EpochRow]

    @property
    def model(self) -> str | None:
        """The name of its network."""
        return _text(_resolved(self.config).get("model"))

    @property
    def dataset(self) -> str | None:
        """The name of its data set."""
        return _text(self.config.get("dataset"))

    @property
    def seed(self) -> int | None:
        """Its seed."""
        return _count(self.config.get("seed"))

    @property
    def epochs(self) -> int | None:
        """How many it is to have in the end."""
        return _epochs(self.config)

    @property
    def last(self) -> EpochRow | None:
        """The last finished epoch."""
        return self.rows[-1] if self.rows else None

    @property
    def best(self) -> EpochRow | None:
        """The first epoch of the highest accuracy on the validation images, if any."""
        return Result(self.place, self.rows).best

    def to_json(self) -> dict[str, Any]:
        """All of it, but for the options."""
        best = self.best
        return {
            "folder": str(self.place),
            "begun": self.begun,
            "state": self.state,
            "why": self.why or None,
            "model": self.model,
            "dataset": self.dataset,
            "seed": self.seed,
            "epochs_done": self.last.epoch if self.last else 0,
            "epochs": self.epochs,
            "test_accuracy": _known(self.last.test_accuracy) if self.last else None,
            "best": best
            and {
                "epoch": best.epoch,
                "val_accuracy": best.val_accuracy,
                "test_accuracy": _known(best.test_accuracy),
            },
        }


def list_runs(folder: Path) -> list[Run]:
    """The runs in a folder, the one that began first first.

    What is no run is passed over; a folder that is a run itself is the only one.

    Raises:
        Unreadable: the folder is not there, or closed.
    """
    if (what := kind(folder)) != "folder":
        raise Unreadable(f"{folder} is {'not there' if what == 'nothing' else what}")
    found = [run for place in _places(folder) if (run := look_at(place)) is not None]
    return sorted(found, key=lambda run: (run.begun, str(run.place)))


def _places(folder: Path) -> Iterator[Path]:
    """The folder itself, what lies in it, and what lies in a series there."""
    yield folder
    for place in _inside(folder):
        yield place
        if (place / SERIES).is_file():
            yield from _inside(place)


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(place for place in folder.iterdir() if place.is_dir())
    except OSError as error:
        raise Unreadable(f"{folder} cannot be read ({reason(error)})") from error


def look_at(place: Path) -> Run | None:
    """The run in a folder; None if the folder is none of a run."""
    path = place / CONFIG
    config: dict[str, Any] = {}
    rows: list[EpochRow] = []
    begun, state, why = 0.0, DAMAGED, ""
    try:
        if kind(path) == "nothing":
            return None
        begun = path.stat().st_mtime
        config = read_object(path)
        rows = read_metrics(place / METRICS)
        state, why = _state(place, config, rows)
    except Unreadable as error:
        why = str(error)
    except OSError as error:
        why = f"{path} cannot be read ({reason(error)})"
    return Run(place, begun, state, why, config, rows)


def _state(
    place: Path, config: dict[str, Any], rows: list[EpochRow]
) -> tuple[str, str]:
    if (epochs := _epochs(config)) is None:
        return DAMAGED, f"{place / CONFIG} does not say how many epochs there are"
    if in_use(place):
        return RUNNING, ""
    if kind(place / STATE) == "file":
        return STOPPED, ""
    if [row.epoch for row in rows] == list(range(1, epochs + 1)):
        return FINISHED, ""
    return DAMAGED, f"{place} has no {STATE}, and its epochs are not all there"


def _epochs(config: dict[str, Any]) -> int | None:
    """The epochs asked for, or those that the steps asked for come to."""
    found = _resolved(config)
    steps, each = _count(found.get("steps")), _count(found.get("steps_per_epoch"))
    return math.ceil(steps / each) if steps and each else _count(config.get("epochs"))


def _resolved(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("resolved")
    return found if isinstance(found, dict) else {}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None
