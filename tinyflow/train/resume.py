"""The state of a run in a file: all it needs to go on as if it had never stopped.

``state.safetensors`` in the run folder holds weights, running statistics and optimiser
state, every bit of them; its metadata hold, as JSON, where the run is, the random state
of its layers, what its files were long, and what computed it. Order and augmentation of
the images are functions of seed and epoch, so that a position is enough for them. The
file is the last thing written: whatever was appended elsewhere after it is cut off when
the run goes on, and is computed anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.random import Generator

from tinyflow import __version__, nn
from tinyflow.atomic import cut_back, synced
from tinyflow.backend import asnumpy
from tinyflow.data import ImageFolder
from tinyflow.reading import Unreadable, kind, parse_object
from tinyflow.tensorfile import open_tensors, write_tensors
from tinyflow.train.checkpoint import KEY
from tinyflow.train.checks import ConfigError
from tinyflow.train.metrics import EpochRow
from tinyflow.train.prepare import Prepared

STATE = "state.safetensors"
FORMAT = 1
MODEL, OPTIMIZER, AVERAGES = "model/", "optimizer/", "ema/"


@dataclass
class Position:
    """Where a run is, between two steps.

    Attributes:
        epoch: the one being trained, from 1.
        step: how many of its steps are done.
        images, correct, loss_sum, norm_sum: sums over these, see ``metrics.csv``.
        seconds: that they took.
        rows: what the finished epochs measured, unrounded.
        lengths: of the files that grow, in bytes by name.
    """

    epoch: int = 1
    step: int = 0
    images: int = 0
    correct: int = 0
    loss_sum: float = 0.0
    norm_sum: float = 0.0
    seconds: float = 0.0
    rows: list[EpochRow] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=dict)

    def turn(self, row: EpochRow) -> None:
        """An epoch is finished: the next one begins."""
        self.rows.append(row)
        self.epoch, self.step, self.images, self.correct = self.epoch + 1, 0, 0, 0
        self.loss_sum = self.norm_sum = self.seconds = 0.0


def facts(ready: Prepared) -> dict[str, Any]:
    """What the bits of a run depend on besides its options."""
    decoded = isinstance(ready.train.dataset, ImageFolder)
    return {
        "data": {
            split: batches.dataset.checksum()
            for split, batches in (
                ("train", ready.train),
                ("val", ready.val),
                ("test", ready.test),
            )
            if batches is not None
        },
        "device": ready.device,
        "kernels": ready.kernels,
        "tinyflow": __version__,
        "numpy": np.__version__,
        **({"pillow": PIL.__version__} if decoded else {}),
    }


def save_state(
    path: Path, ready: Prepared, position: Position, known: Mapping[str, Any]
) -> None:
    """Write the state of a run, all or nothing.

    Args:
        path: in the folder of the run, whose other files in `position.lengths` are
            brought up to date and to the disk first.
        ready: what is trained.
        position: where it is.
        known: what :func:`facts` found.

    Raises:
        OSError: the disk is full or the folder gone; the state there is as it was.
    """
    for name in position.lengths:
        position.lengths[name] = synced(path.with_name(name))
    tensors = {MODEL + n: a for n, a in ready.model.state_dict().items()}
    tensors |= {OPTIMIZER + n: a for n, a in ready.optimizer.state_dict().items()}
    if ready.ema is not None:
        tensors |= {AVERAGES + n: a for n, a in ready.ema.state_dict().items()}
    entry = {
        "format": FORMAT,
        "position": asdict(position) | {"rows": [_written(r) for r in position.rows]},
        "schedule": ready.schedule.state_dict(),
        "generators": {n: g.bit_generator.state for n, g in _generators(ready.model)},
        "facts": dict(known),
    }
    text = json.dumps(entry, default=np.ndarray.tolist)
    arrays = {name: asnumpy(array) for name, array in tensors.items()}
    write_tensors(path, arrays, {KEY: text})


def load_state(
    folder: Path,
    ready: Prepared,
    known: Mapping[str, Any],
    said: Callable[[str], None],
) -> Position:
    """Give a prepared run the state in its folder, all of it or none.

    Args:
        folder: of the run.
        ready: the network, data and optimiser as the run's options made them.
        known: what :func:`facts` found.
        said: told, in a sentence each, what now differs from where the run began, so
            that it may go on with other bits.

    Returns:
        Where it is.

    Raises:
        ConfigError: there is no state, it is damaged, or of another network or data.
    """
    path = folder / STATE
    try:
        if kind(path) == "nothing":
            raise ConfigError(
                f"{folder} holds no {STATE}: the run is finished, or did not begin"
            )
        with open_tensors(path) as file:
            entry = _entry(path, file.metadata.get(KEY))
            arrays = {name: file.read(name) for name in file.entries}
        position = _position(path, entry["position"])
        _compare(path, entry["facts"], known, said)
        _restore(ready, arrays, entry)
    except Unreadable as error:
        raise ConfigError(
            f"{error}: this run cannot be resumed; its weights up to the last finished "
            "epoch are in last.safetensors"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{path} does not fit the network and the options in {folder}/config.json: "
            f"{error}"
        ) from error
    return position


def cut(folder: Path, lengths: Mapping[str, int]) -> None:
    """Take back what was appended to files of a run after its state was saved.

    Raises:
        ConfigError: a file is gone or shorter than it was.
        OSError: it cannot be written.
    """
    for name, length in lengths.items():
        path = folder / name
        if kind(path) != "file" or path.stat().st_size < length:
            raise ConfigError(
                f"{path} is gone or shorter than when the state of the run was saved "
                f"({length} bytes): this run cannot be resumed"
            )
    for name, length in lengths.items():
        cut_back(folder / name, length)


def _generators(model: nn.Module) -> list[tuple[str, Generator]]:
    return list(model.named(lambda held: isinstance(held, Generator)))


def _entry(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise Unreadable(f"{path} is not the state of a run")
    found = parse_object(text, f"what {path} says of its run")
    if (format := found.get("format")) != FORMAT:
        raise ConfigError(
            f"{path} was written by another version of tinyflow (its format is "
            f"{format!r:.60}, not {FORMAT}): resume the run with that one"
        )
    for name in ("position", "schedule", "generators", "facts"):
        if not isinstance(found.get(name), dict):
            raise Unreadable(f"{path} does not say the {name} of its run")
    return found


def _position(path: Path, told: dict[str, Any]) -> Position:
    """The position in a file, every number of it checked."""
    try:
        rows = [_row(row) for row in told.pop("rows")]
        lengths = {str(n): _count(v) for n, v in told.pop("lengths").items()}
        position = Position(**told, rows=rows, lengths=lengths)
        for f in fields(Position)[:7]:
            check = _count if f.type == "int" else _finite
            setattr(position, f.name, check(told[f.name]))
        if any("/" in n or "\\" in n or n.startswith(".") for n in lengths):
            raise ValueError("a file outside the run folder")
        if position.epoch != len(rows) + 1:
            raise ValueError(f"epoch {position.epoch} after {len(rows)} finished ones")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unreadable(f"{path} does not say where its run is ({error})") from error
    return position


def _written(row: EpochRow) -> dict[str, float | None]:
    """A row for JSON, which knows no NaN."""
    return {
        name: None if value != value else value for name, value in asdict(row).items()
    }


def _row(told: dict[str, Any]) -> EpochRow:
    numbers = {f.name: told[f.name] for f in fields(EpochRow)}
    epoch = _count(numbers.pop("epoch"))
    return EpochRow(epoch, **{n: _finite(v, n) for n, v in numbers.items()})


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{str(value)[:60]} is no count")
    return value


def _finite(value: Any, name: str = "") -> float:
    if value is None and name.startswith("val_"):  # no validation images
        return float("nan")
    if type(value) not in (int, float) or not np.isfinite(value):
        raise ValueError(f"{str(value)[:60]} is no number")
    return float(value)


def _compare(
    path: Path,
    then: dict[str, Any],
    now: Mapping[str, Any],
    said: Callable[[str], None],
) -> None:
    if then.get("data") != now["data"]:
        raise ConfigError(
            f"the images are not those that the run of {path} began with: give it the "
            "same files with --data-dir"
        )
    for name in ("device", "kernels", "tinyflow", "numpy", "pillow"):
        if (was := then.get(name)) != now.get(name):
            said(
                f"{name}: {now[name]}, where the run had {str(was)[:60]}: it goes on, "
                "but not bit for bit as it would have"
            )


def _restore(
    ready: Prepared, arrays: Mapping[str, Any], entry: Mapping[str, Any]
) -> None:
    generators = dict(_generators(ready.model))
    if list(generators) != list(entry["generators"]):
        raise ValueError("its layers draw random numbers elsewhere")
    states = {
        name: _like(g.bit_generator.state, entry["generators"][name])
        for name, g in generators.items()
    }
    parts: dict[str, dict[str, Any]] = {MODEL: {}, OPTIMIZER: {}, AVERAGES: {}}
    for name, array in arrays.items():
        begin = f"{name.partition('/')[0]}/"
        if begin not in parts:
            raise ValueError(f"it holds {name[:60]!r}, which no run has")
        parts[begin][name.removeprefix(begin)] = array
    if ready.ema is not None:
        ready.ema.load_state_dict(parts[AVERAGES])
    elif parts[AVERAGES]:
        raise ValueError("it holds averages of weights, which this run does not keep")
    ready.schedule.load_state_dict(entry["schedule"])
    ready.model.load_state_dict(parts[MODEL])
    ready.optimizer.load_state_dict(parts[OPTIMIZER])
    for name, state in states.items():
        generators[name].bit_generator.state = state


def _like(own: Any, told: Any) -> Any:
    """A random state from JSON, in the types of one of the same kind."""
    if isinstance(own, dict):
        if not isinstance(told, dict) or list(own) != list(told):
            raise ValueError("the random state of a layer is of another kind")
        return {name: _like(own[name], told[name]) for name in own}
    if isinstance(own, np.ndarray):
        return np.array(told, own.dtype).reshape(own.shape)
    if type(own) is not type(told):
        raise ValueError("the random state of a layer is of another kind")
    return told
