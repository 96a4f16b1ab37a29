"""The options of a run in ``config.json``: each as given, and what they came to."""

from __future__ import annotations

import json
import platform
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from tinyflow import __version__
from tinyflow.atomic import replacing
from tinyflow.backend import array_module
from tinyflow.network import Find, count_parameters
from tinyflow.reading import Unreadable, kind, read_object
from tinyflow.train.checks import ConfigError
from tinyflow.train.config import DTYPE, TrainConfig
from tinyflow.train.git import git_state
from tinyflow.train.prepare import DATA_SEED, Prepared

CONFIG = "config.json"
KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "Path": (str,),
    "None": (type(None),),
    "tuple[float, ...]": (list,),
}
"""What JSON has for the types of the options."""


def write_config(config: TrainConfig, ready: Prepared, path: Path) -> None:
    """Write the options, and beside them under "resolved" what they came to.

    Raises:
        OSError: it cannot be written.
    """
    told: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(config)}
    told["model"] = config.model.reference
    told |= {
        name: str(place) if place else None
        for name, place in (("data_dir", config.data_dir), ("output", config.output))
    }
    xp = array_module(ready.model.parameters()[0].data)
    told["resolved"] = {
        "model": config.model.name,
        "model_sha256": config.model.sha256,
        "parameters": count_parameters(ready.model),
        "num_classes": ready.train.dataset.num_classes,
        "image_size": ready.train.dataset.image_size,
        "in_channels": ready.train.dataset.in_channels,
        "train_images": len(ready.train.dataset),
        "val_images": 0 if ready.val is None else len(ready.val.dataset),
        "test_images": len(ready.test.dataset),
        "data_seed": DATA_SEED,
        "optimizer": config.optimizer_name,
        "lr": config.learning_rate,
        "weight_decay": config.decay,
        "steps_per_epoch": ready.steps,
        "steps": ready.total,
        "device": ready.device,
        "device_reason": ready.reason,
        "kernels": ready.kernels,
        "dtype": DTYPE,
        "precision": config.precision,
        "tinyflow": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cupy": xp.__version__ if xp is not np else None,
        "git": git_state(config.model.file.parent if config.model.file else Path()),
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def config_of(folder: Path, find: Find, data_dir: Path | None = None) -> TrainConfig:
    """The options that the run in a folder was started with.

    Args:
        folder: of the run.
        find: gives the network of a name.
        data_dir: where its data lie now, if elsewhere.

    Raises:
        ConfigError: it is no run folder, its options are not ours, or the file of the
            network has changed.
    """
    path = folder / CONFIG
    try:
        if kind(path) == "nothing":
            raise ConfigError(
                f"{folder} is no run folder, it holds no {CONFIG}: give --resume the "
                "folder that train.py made"
            )
        told = read_object(path)
    except Unreadable as error:
        raise ConfigError(f"{error}: this run cannot be resumed") from error
    resolved = told.pop("resolved", None)
    known = {f.name: str(f.type) for f in fields(TrainConfig)}
    if not isinstance(resolved, dict) or sorted(told) != sorted(known):
        differ = ", ".join(sorted(set(told) ^ set(known))[:5]) or "resolved"
        raise ConfigError(
            f"{path} was written by another version of tinyflow (it differs in "
            f"{differ}): resume the run with that one"
        )
    for name, value in told.items():
        named = "str" if name == "model" else known[name]
        kinds = [k for part in named.split(" | ") for k in KINDS[part]]
        numbers = value if isinstance(value, list) else []
        if type(value) not in kinds or {type(n) for n in numbers} - {int, float}:
            raise ConfigError(f"{path} is damaged: its {name} is {value!r}")
    try:
        told["model"] = find(told["model"])
    except ValueError as error:
        raise ConfigError(f"{path} is of {told['model']!r}: {error}") from error
    if told["model"].sha256 != resolved.get("model_sha256"):
        raise ConfigError(
            f"{told['model'].file} has changed since the run in {folder} began: put it "
            "back as it was, or start a new run"
        )
    for name, value in told.items():
        if isinstance(value, list):
            told[name] = tuple(value)
    told["output"] = folder
    told["data_dir"] = data_dir or (told["data_dir"] and Path(told["data_dir"]))
    config = TrainConfig(**told)
    try:
        config.validate()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config
