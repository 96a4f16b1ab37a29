"""The same options with several seeds, and how much the seed decides.

A series is a folder with a run for each seed and ``seeds.json``. Its runs are finished
one after the other; whatever ends the series, the finished ones are kept, and it goes
on with the one that was stopped.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from tinyflow import __version__
from tinyflow.atomic import replacing
from tinyflow.network import Find
from tinyflow.reading import Unreadable, kind, read_object
from tinyflow.train.checks import ConfigError, whole_in
from tinyflow.train.config import TrainConfig
from tinyflow.train.events import Report
from tinyflow.train.folder import CLAIM, RUNS, check_output, in_use
from tinyflow.train.loop import Result, Tracer
from tinyflow.train.record import config_of
from tinyflow.train.run import resume, silent, train
from tinyflow.train.runs import DAMAGED, FINISHED, SERIES, Run, look_at

MOST = 1000
"""Seeds of one series."""


@dataclass(frozen=True)
class Spread:
    """How far numbers lie apart.

    Attributes:
        values: of each seed.
        mean: their mean m.
        std: √(Σ (x - m)² / (n - 1)), None for a single one.
        low, high: the smallest and the largest.
    """

    values: tuple[float, ...]
    mean: float
    std: float | None
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """That of some numbers; None if there are none."""
        if not values:
            return None
        std = statistics.stdev(values) if len(values) > 1 else None
        mean = statistics.fmean(values)
        return cls(tuple(values), mean, std, min(values), max(values))

    def __str__(self) -> str:
        """``91.25 ± 0.21 %, 90.98 to 91.52``, if they are shares."""
        about = "" if self.std is None else f" ± {100 * self.std:.2f}"
        return (
            f"{100 * self.mean:.2f}{about} %, "
            f"{100 * self.low:.2f} to {100 * self.high:.2f}"
        )


@dataclass
class Series:
    """What a series has left.

    Attributes:
        folder: of it, or None if nothing was kept.
        seeds: all of them.
        runs: the finished ones, in the order of the seeds.
        interrupted: whether Ctrl-C ended it.
    """

    folder: Path | None
    seeds: tuple[int, ...]
    runs: list[Run] = field(default_factory=list)
    interrupted: bool = False

    @property
    def last(self) -> Spread | None:
        """Test accuracy after the last epoch."""
        return Spread.of([run.rows[-1].test_accuracy for run in self.runs])

    @property
    def best(self) -> Spread | None:
        """Test accuracy after the epoch that was best on the validation images."""
        found = [run.best for run in self.runs]
        return Spread.of([row.test_accuracy for row in found if row is not None])

    def write(self) -> None:
        """Write ``seeds.json``.

        Raises:
            OSError: it cannot be written.
        """
        if self.folder is None:
            return
        told = {
            "seeds": list(self.seeds),
            "finished": [run.seed for run in self.runs],
            "test_accuracy": self.last and vars(self.last),
            "best_on_validation": self.best and vars(self.best),
            "tinyflow": __version__,
        }
        with replacing(self.folder / SERIES) as partial:
            partial.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


Begin: TypeAlias = Callable[[int], Result]
Announce: TypeAlias = Callable[[str], None]
"""Told, before each run, which it is."""


def train_several(
    config: TrainConfig,
    count: int,
    report: Report = silent,
    tracer: Tracer | None = None,
    *,
    announce: Announce = silent,
) -> Series:
    """Train with the seeds s, s + 1, … s + `count` - 1, where s is that of `config`.

    Args:
        config: the options; `output` is the folder of the series.
        count: how many seeds, 1 to `MOST`.
        report, tracer: see :func:`tinyflow.train.run.train`.
        announce: see there.

    Raises:
        ConfigError, DataError, DeviceError, TrainError: see there; the finished runs
            are kept.
    """
    whole_in("seeds", count, 1, MOST)
    config.validate()
    folder = _new_folder(config)
    seeds = tuple(config.seed + i for i in range(count))
    series = Series(folder, seeds)

    def begin(seed: int) -> Result:
        place = folder / f"seed{seed}"
        return train(replace(config, seed=seed, output=place), report, tracer)

    try:
        series.write()
        _go(series, begin, begin, announce)
    finally:
        with suppress(OSError):  # somebody else has removed it, or put something there
            if not any(path.is_dir() for path in folder.iterdir()):
                (folder / SERIES).unlink(missing_ok=True)
                folder.rmdir()
                series.folder = None
    return series


def is_series(folder: Path) -> bool:
    """Whether a folder is that of a series."""
    try:
        return kind(folder / SERIES) == "file"
    except Unreadable:
        return False


def resume_several(
    folder: Path,
    find: Find,
    report: Report = silent,
    tracer: Tracer | None = None,
    *,
    data_dir: Path | None = None,
    said: Callable[[str], None] = silent,
    announce: Announce = silent,
) -> Series:
    """Go on with a series: what is finished stays, what was stopped is resumed.

    Args:
        folder: of the series.
        find, report, tracer, data_dir, said: see :func:`tinyflow.train.run.resume`.
        announce: see there.

    Raises:
        ConfigError: its folder is damaged, or nothing in it says its options.
        DataError, DeviceError, TrainError: see :func:`tinyflow.train.run.train`.
    """
    seeds = _seeds(folder)
    series = Series(folder, seeds)
    places = [folder / f"seed{seed}" for seed in seeds]
    began = [place for place in places if look_at(place) is not None]
    if not began:
        raise ConfigError(
            f"{folder} was left before its first run began: remove it and start anew"
        )
    config = config_of(began[0], find, data_dir)

    def begin(seed: int) -> Result:
        place = folder / f"seed{seed}"
        _clear(place)
        return train(replace(config, seed=seed, output=place), report, tracer)

    def go_on(seed: int) -> Result:
        place = folder / f"seed{seed}"
        return resume(place, find, report, tracer, data_dir=data_dir, said=said)

    _go(series, begin, go_on, announce)
    return series


def _go(series: Series, begin: Begin, go_on: Begin, announce: Announce) -> None:
    """Train what is not finished, until all is or somebody ends it."""
    try:
        series.interrupted = not all(
            _done(series, number, begin, go_on, announce)
            for number in range(len(series.seeds))
        )
    except KeyboardInterrupt:  # between two runs
        series.interrupted = True


def _done(
    series: Series,
    number: int,
    begin: Begin,
    go_on: Begin,
    announce: Announce,
) -> bool:
    """Finish one run of a series; False if that was interrupted."""
    assert series.folder is not None
    seed, count = series.seeds[number], len(series.seeds)
    place = series.folder / f"seed{seed}"
    run = look_at(place)
    if run is None or run.state != FINISHED:
        if run is not None and run.state == DAMAGED:
            raise ConfigError(f"{run.why}: remove {place}, and it is trained again")
        announce(f"seed {seed}, {number + 1} of {count}")
        if (begin(seed) if run is None else go_on(seed)).interrupted:
            return False
        run = look_at(place)
        if run is None or run.state != FINISHED:
            raise ConfigError(f"{place} was changed while it was trained")
    series.runs.append(run)
    series.write()
    return True


def _new_folder(config: TrainConfig) -> Path:
    check_output(config.output)
    try:
        if config.output is not None:
            config.output.mkdir(parents=True, exist_ok=True)
            return config.output
        RUNS.mkdir(exist_ok=True)
        number = 1
        while True:
            folder = RUNS / f"{config.model.name}-{config.dataset}-{number}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder
    except OSError as error:
        raise ConfigError(
            f"{error.filename} cannot be made ({error.strerror}): choose another place "
            "with --output"
        ) from error


def _seeds(folder: Path) -> tuple[int, ...]:
    path = folder / SERIES
    try:
        seeds: Any = read_object(path).get("seeds")
    except Unreadable as error:
        raise ConfigError(f"{error}: this series cannot be resumed") from error
    good = isinstance(seeds, list) and 1 <= len(seeds) <= MOST
    if not good or not all(type(s) is int and 0 <= s < math.inf for s in seeds):
        raise ConfigError(f"{path} does not say its seeds: it cannot be resumed")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{path} has a seed twice: it cannot be resumed")
    return tuple(seeds)


def _clear(place: Path) -> None:
    """Take away what a run that was killed before it wrote anything has left."""
    if place.is_dir() and not in_use(place):
        if [path.name for path in place.iterdir()] == [CLAIM]:
            (place / CLAIM).rmdir()
            place.rmdir()
