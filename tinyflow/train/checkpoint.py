"""Weights on disk: one safetensors file that says which network it belongs to."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

import models
from tinyflow import nn
from tinyflow.backend import Array, asnumpy

LAST, BEST = "last", "best"
KEY = "tinyflow"  # of our entry in the file's metadata


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used: what, where and what to do."""


@dataclass(frozen=True)
class Metadata:
    """What is needed to build the network again, and where its weights come from.

    Attributes:
        model, num_classes, image_size, in_channels: arguments of ``build_model``.
        dataset, seed: of the run.
        epoch: the epoch after which the weights were saved, from 1.
        test_accuracy: at that epoch, 0 to 1.
    """

    model: str
    num_classes: int
    image_size: int
    in_channels: int
    dataset: str
    seed: int
    epoch: int
    test_accuracy: float


def save_checkpoint(path: Path, model: nn.Module, metadata: Metadata) -> None:
    """Write parameters and running statistics to `path`, all or nothing.

    The file is written next to `path` and moved over it when complete, so a reader, or
    a crash, never meets half a file.

    Raises:
        OSError: the disk is full or the folder gone; `path` is as it was.
    """
    # safetensors writes memory as it lies, so every array must be C-contiguous
    tensors = {
        name: np.ascontiguousarray(asnumpy(array))
        for name, array in model.state_dict().items()
    }
    text = {KEY: json.dumps(asdict(metadata))}  # one entry: their order is not kept
    partial = path.with_name(f".{path.name}.part")
    try:
        safetensors.numpy.save_file(tensors, partial, metadata=text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(
    source: str | os.PathLike[str], which: str = LAST
) -> tuple[nn.Module, Metadata]:
    """Build the network a checkpoint belongs to and give it the saved weights.

    Args:
        source: a ``.safetensors`` file, or the folder of a run.
        which: which file of a folder, "last" or "best" (best on the test set).

    Returns:
        The network, on the CPU and in evaluation mode, and the metadata.

    Raises:
        CheckpointError: there is no such file, it is damaged or not one of ours, or
            its weights do not fit the network it names.
    """
    if which not in (LAST, BEST):
        raise CheckpointError(f"a run keeps {LAST!r} and {BEST!r}, not {which!r}")
    path = Path(source)
    if path.is_dir():
        path = path / f"{which}.safetensors"
        if not path.is_file():
            raise CheckpointError(
                f"{path.parent} holds no {path.name}: it is not a run folder, or its "
                "first epoch was not finished; train one with train.py"
            )
    if not path.is_file():
        raise CheckpointError(
            f"there is no checkpoint {path}: give a run folder or a .safetensors file"
        )
    tensors, text = _read(path)
    metadata = _metadata(path, text)
    try:
        model = models.build_model(
            metadata.model,
            num_classes=metadata.num_classes,
            image_size=metadata.image_size,
            in_channels=metadata.in_channels,
            seed=metadata.seed,
        )
        model.load_state_dict(tensors)
    except ValueError as error:
        raise CheckpointError(
            f"{path} does not fit {metadata.model!r} as this version builds it: {error}"
        ) from error
    return model.eval(), metadata


def _read(path: Path) -> tuple[dict[str, Array], str | None]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, (file.metadata() or {}).get(KEY)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file ({error}); use another"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _metadata(path: Path, text: str | None) -> Metadata:
    try:
        known = Metadata(**json.loads(text or ""))
        for field in fields(Metadata):
            if type(getattr(known, field.name)).__name__ != field.type:
                raise TypeError(field.name)
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{path} does not say which network it belongs to, so it was not "
            "written by train.py; build the model yourself and use load_state_dict"
        ) from None
    return known
