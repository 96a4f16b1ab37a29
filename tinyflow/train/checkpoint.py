"""Weights on disk: one safetensors file that says which network it belongs to."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tinyflow import nn
from tinyflow.backend import asnumpy
from tinyflow.data import mean_image
from tinyflow.data.base import Mean
from tinyflow.network import Find
from tinyflow.reading import Unreadable, kind, parse_object
from tinyflow.tensorfile import TensorFile, open_tensors, write_tensors

LAST, BEST = "last", "best"
KEY = "tinyflow"  # of our entry in the file's metadata
FORMAT, NEWEST = 1, 2
"""Of that entry, the newest where its mean is an image. A key more is no new format,
since unknown keys are ignored."""
SPARE = 1_000_000
"""Numbers a network may have beyond what its file holds and still be built: then the
sentence that refuses it can name the weight that differs."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used: what, where and what to do."""


@dataclass(frozen=True)
class Metadata:
    """What is needed to build the network again, and where its weights come from.

    Attributes:
        model: the network's :attr:`~tinyflow.network.Network.label`.
        num_classes, image_size, in_channels: what it was built with.
        dataset, seed: of the run.
        epoch: the epoch after which the weights were saved, from 1.
        test_accuracy: at that epoch, 0 to 1.
        classes: their names, in the order of the outputs.
        mean, std: of each channel, with which images were normalised; or the mean image
            and ones.

    A file of an earlier version says neither of the last three, which are None then.
    """

    model: str
    num_classes: int
    image_size: int
    in_channels: int
    dataset: str
    seed: int
    epoch: int
    test_accuracy: float
    classes: tuple[str, ...] | None = None
    mean: Mean | None = None
    std: tuple[float, ...] | None = None


NAMES = [field.name for field in fields(Metadata)]
LATER = ("classes", "mean", "std")


def save_checkpoint(path: Path, model: nn.Module, metadata: Metadata) -> None:
    """Write parameters and running statistics to `path`, all or nothing.

    The file is written next to `path` and moved over it when complete, so a reader, or
    a crash, never meets half a file.

    Raises:
        OSError: the disk is full or the folder gone; `path` is as it was.
    """
    tensors = {name: asnumpy(array) for name, array in model.state_dict().items()}
    entry = {"format": FORMAT, **asdict(metadata)}
    if isinstance(metadata.mean, np.ndarray):
        entry |= {"format": NEWEST, "mean": mean_image.written(metadata.mean)}
    write_tensors(path, tensors, {KEY: json.dumps(entry)})


def load_checkpoint(
    source: str | os.PathLike[str], find: Find, which: str = LAST
) -> tuple[nn.Module, Metadata]:
    """Build the network a checkpoint belongs to and give it the saved weights.

    Args:
        source: a ``.safetensors`` file, or the folder of a run.
        find: gives the network of a name: ``models.find``, or ``lambda name: mine``
            for one's own.
        which: which file of a folder, "last" or "best" (on validation images).

    Returns:
        The network, on the CPU and in evaluation mode, and the metadata.

    Raises:
        CheckpointError: there is no such file, it is damaged or not one of ours, or
            its weights do not fit the network it names.
    """
    if which not in (LAST, BEST):
        raise CheckpointError(f"a run keeps {LAST!r} and {BEST!r}, not {which!r}")
    path = Path(source)
    try:
        path = _file(path, which)
        with open_tensors(path) as file:
            metadata = _metadata(path, file.metadata.get(KEY))
            return _build(path, metadata, file, find).eval(), metadata
    except Unreadable as error:
        raise CheckpointError(f"{error}; use another checkpoint") from error


def _file(path: Path, which: str) -> Path:
    """The weight file that `path` is, or that lies in the run folder `path`."""
    found = kind(path)
    if found == "folder":
        path = path / f"{which}.safetensors"
        if (found := kind(path)) == "nothing":
            said = (
                "it is not a run folder, or its first epoch was not finished; train "
                "one with train.py"
            )
            if which == BEST and kind(path.with_name(f"{LAST}.safetensors")) == "file":
                said = "only validation images (--val-split) choose one; use last"
            raise CheckpointError(f"{path.parent} holds no {path.name}: {said}")
    if found == "nothing":
        raise CheckpointError(
            f"there is no checkpoint {path}: give a run folder or a .safetensors file"
        )
    return path


class _Weights(np.random.Generator):
    """Zeros for initial weights, as long as there are not far more than in a file.

    What a file claims about its network can so take no more memory than the file
    itself. The dropout of the network draws what it drew in training.
    """

    left: float = math.inf

    def standard_normal(self, size: Any = None, *args: Any, **options: Any) -> Any:
        """An array of zeros, or a ValueError."""
        shape = () if size is None else tuple(np.atleast_1d(size).tolist())
        self.left -= math.prod(shape)
        if self.left < 0:
            raise ValueError("the network needs more weights than the file holds")
        return np.zeros(shape, np.float32)


def _build(path: Path, metadata: Metadata, file: TensorFile, find: Find) -> nn.Module:
    """The network with its weights, if names and shapes in the file are its own."""
    try:
        network = find(metadata.model)
    except ValueError as error:
        raise CheckpointError(f"{path} is of {metadata.model!r}: {error}") from error
    zeros = _Weights(np.random.PCG64(metadata.seed))
    zeros.left = SPARE + sum(math.prod(e.shape) for e in file.entries.values())
    try:
        model = network.build(
            num_classes=metadata.num_classes,
            image_size=metadata.image_size,
            in_channels=metadata.in_channels,
            seed=zeros,
        )
        nothing = np.float32(0)  # in any shape, without memory
        shapes = {n: np.broadcast_to(nothing, e.shape) for n, e in file.entries.items()}
        model.load_state_dict(shapes)
        model.load_state_dict({name: file.read(name) for name in file.entries})
    except Unreadable:
        raise
    except ValueError as error:
        raise CheckpointError(
            f"{path} does not fit {metadata.model!r} as this version builds it: {error}"
        ) from error
    return model


def _metadata(path: Path, text: str | None) -> Metadata:
    if text is None:
        raise CheckpointError(
            f"{path} does not say which network it belongs to, so it was not "
            "written by train.py; build the model yourself and use load_state_dict"
        )
    told = parse_object(text, f"what {path} says of its network")
    written = told.get("format", FORMAT)
    if type(written) is not int or written < 1:
        raise Unreadable(f"{path} does not say its format: {_shown(written)}")
    if written > NEWEST:
        raise CheckpointError(
            f"{path} was written by a newer tinyflow (format {_shown(written)}, this "
            f"one reads up to {NEWEST}): update tinyflow"
        )
    told = dict.fromkeys(LATER) | told
    if missing := [name for name in NAMES if name not in told]:
        raise Unreadable(
            f"{path} does not say its {', '.join(missing)}, so it was not written by "
            "train.py"
        )
    for name in NAMES:
        want = _unlike(name, told[name]) if name not in LATER else _unlisted(name, told)
        if want is not None:
            raise Unreadable(
                f"{path} does not say a usable {name}: {_shown(told[name])} is not "
                f"{want}"
            )
    told["test_accuracy"] = float(told["test_accuracy"])
    for name in LATER:
        if isinstance(told[name], list):
            told[name] = tuple(told[name])
    if isinstance(told["mean"], dict):
        told["mean"] = mean_image.read(told["mean"], _shape(told))
    return Metadata(**{name: told[name] for name in NAMES})


def _unlike(name: str, value: Any) -> str | None:
    """What a value of the metadata should be and is not, or None if it is."""
    if name in ("model", "dataset"):
        return None if _is_name(value, 100) else "a name"
    if name == "test_accuracy":
        good = type(value) in (int, float) and 0 <= value <= 1
        return None if good else "a number from 0 to 1"
    low, high = (0, math.inf) if name == "seed" else (1, 2**63)
    good = type(value) is int and low <= value < high
    return None if good else f"a whole number from {low} on"


def _unlisted(name: str, told: dict[str, Any]) -> str | None:
    """As `_unlike`, of a value for each class or channel; those are known by then."""
    value = told[name]
    if value is None:
        return None
    if name == "mean" and isinstance(value, dict):
        shape = _shape(told)
        good = mean_image.read(value, shape) is not None
        return None if good else f"a whole mean image of shape {shape}"
    if name == "classes":
        count, what = told["num_classes"], "names"
        good = isinstance(value, list) and all(_is_name(v, 255) for v in value)
    else:
        low = -1e6 if name == "mean" else 1e-6
        count, what = told["in_channels"], f"numbers from {low:g} to 1e+06"
        good = isinstance(value, list) and all(
            type(v) in (int, float) and low <= v <= 1e6 for v in value
        )
    return None if good and len(value) == count else f"a list of {count} {what}"


def _shape(told: dict[str, Any]) -> tuple[int, int, int]:
    """Of an image, (C, S, S)."""
    return told["in_channels"], told["image_size"], told["image_size"]


def _is_name(value: Any, most: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most and value.isprintable()


def _shown(value: Any) -> str:
    """A value in a sentence, not longer than one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
