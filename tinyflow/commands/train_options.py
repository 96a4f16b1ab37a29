"""The options of ``train.py``: one for each field of ``TrainConfig``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyflow.network import Network
from tinyflow.train import ConfigError, TrainConfig
from tinyflow.train.config import EPOCHS, EPOCHS_LARGE, SCHEDULES
from tinyflow.train.recipes import RECIPES

HELP = {
    "recipe": f"A paper's options: {', '.join(RECIPES)}. What else you name stands in "
    "place of its; 'train.py recipes' prints them.",
    "dataset": "shapes (drawn, needs no files), cifar10, cifar100, cifar100_coarse, "
    "mnist, fashion_mnist, or folder: images in train/<class>/ and val/<class>/.",
    "data_dir": "Folder with the files of --dataset.",
    "image_size": "Width and height of images of folder, or of shapes; left out: 224 "
    "and 32.",
    "workers": "Of folder: processes that decode; left out: one less than cores.",
    "bad_images": "Of folder: refuse, or skip those that cannot be decoded.",
    "epochs": f"Passes over the images  [default: {EPOCHS}; ImageNet's networks: "
    f"{EPOCHS_LARGE}]",
    "iterations": "Steps of the whole run, instead of epochs.",
    "batch_size": "Images per step.",
    "lr": "Learning rate; left out: by the network; in a file of your own "
    f"{Network.lr:g} for sgd, {Network.adam_lr:g} for the others.",
    "optimizer": "sgd, adam, adamw or rmsprop; left out: by the network; in a file of "
    "your own adamw.",
    "schedule": f"Of the rate: {', '.join(SCHEDULES)}.",
    "milestones": "Of step: parts of the run, or epochs as in 82,123, or with "
    "--iterations steps.",
    "gamma": "Factor of step, exponential and plateau.",
    "decay_epochs": "Of exponential: after how many epochs.",
    "patience": "Of plateau: epochs without a lower validation or training loss.",
    "min_lr": "Lowest rate of cosine and plateau.",
    "weight_decay": "Pull to 0; left out: by the optimizer.",
    "decay_norms": "Pull norms and biases to 0, too.",
    "momentum": "Of sgd and rmsprop.",
    "betas": "Of adam and adamw.",
    "alpha": "Of rmsprop.",
    "eps": "Of all but sgd  [default: 1e-08]",
    "nesterov": "Nesterov's momentum, of sgd.",
    "label_smoothing": "Of the training loss, 0 to below 1.",
    "warmup_epochs": "Epochs in which the rate rises.",
    "warmup_start": "Part of the rate at its first step; left out: one step's.",
    "warmup_constant": "Stay at --warmup-start until the warm-up ends.",
    "slow_until": "A tenth of the rate until an epoch's training accuracy.",
    "clip_grad": "Largest gradient norm.",
    "ema": "Decay of averages of the weights, which are then tested and saved.",
    "ema_warm_up": "Lower decay at first.",
    "normalize": "channel (by mean and deviation of each) or pixel (minus mean image).",
    "augment": "Random crop and flip.",
    "rand_augment": "So many random changes of each training image (RandAugment).",
    "magnitude": "Of --rand-augment.",
    "cutout": "Side of the square cut out of each training image, in pixels.",
    "mixup": "Blends images and labels, with weights from Beta(this, this).",
    "dropout": "Probability; left out: the network's own.",
    "stochastic_depth": "Probability that the branch of the last block is dropped.",
    "seed": "Of weights, order and dropout.",
    "device": "auto, cpu or cuda.",
    "precision": "float32; on a GPU also tf32 or bfloat16.",
    "deterministic": "On a GPU: the same bits each time.",
    "capture": "On a GPU: replay the step.",
    "limit_train": "Use only so many training images.",
    "limit_test": "Use only so many test images.",
    "val_split": "So many training images choose the best epoch instead.",
    "num_classes": "Of the networks that --list-models counts.",
    "save_every": "When the state of the run is saved: epoch, '5 epochs' or "
    "'200 steps'.",
    "trace_every": "Write the block terms of every so many steps.",
    "tensorboard": "Write the numbers for TensorBoard, too (needs tensorboardX).",
    "output": "Run folder  [default: runs/<model>-<dataset>-<n>]",
}
"""What ``--help`` says of each."""

ENVIRONMENT = {"data_dir": "TINYFLOW_DATA"}
LEFT_OUT = ("epochs",)
"""Fields whose default is the network's own."""

KEYWORD = inspect.Parameter.KEYWORD_ONLY
OPTIONS: tuple[Field[Any], ...] = tuple(
    f for f in fields(TrainConfig) if f.name in HELP
)


def configured(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option per field of the configuration.

    ``command(context, configuration, own, …)`` becomes ``run(context, own, …, --lr,
    --seed, …)``; `configuration` is a dict of all of them.
    """
    own = inspect.signature(command, eval_str=True).parameters

    def run(**given: Any) -> None:
        context = given.pop("context")
        command(context, {f.name: given.pop(f.name) for f in OPTIONS}, **given)

    both = {n: p for n, p in own.items() if n != "configuration"}
    for f in OPTIONS:
        both[f.name] = inspect.Parameter(
            f.name, KEYWORD, annotation=_annotation(f), default=_default(f)
        )
    parameters = [p.replace(kind=KEYWORD) for p in both.values()]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def read(configuration: dict[str, Any]) -> dict[str, Any]:
    """The options as values of the configuration.

    Raises:
        ConfigError: one is no list of numbers.
    """
    read = dict(configuration)
    for f in OPTIONS:
        if _is_list(f) and isinstance(text := read[f.name], str):
            read[f.name] = _numbers(f.name, text)
    return read


def flags(options: Mapping[str, Any]) -> str:
    """Options of the configuration as they are written on the command line."""
    return " ".join(_flag(name, value) for name, value in options.items())


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    numbers = value if isinstance(value, tuple) else (value,)
    said = ",".join(f"{n:g}" if isinstance(n, float) else f"{n}" for n in numbers)
    return f"--{flag} {said}"


def _is_list(field: Field[Any]) -> bool:
    return "tuple" in str(field.type)


def _annotation(field: Field[Any]) -> Any:
    """What typer reads an option from."""
    name, flag = field.name, f"--{field.name.replace('_', '-')}"
    names = (f"{flag}/--no-{flag[2:]}",) if field.type == "bool" else (flag,)
    option = typer.Option(*names, help=HELP[name], envvar=ENVIRONMENT.get(name))
    kinds = {"bool": bool, "int": int, "float": float, "str": str, "Path": Path}
    kind: Any = str
    if not _is_list(field):
        kind = kinds[str(field.type).removesuffix(" | None")]
    return Annotated[kind | None if _default(field) is None else kind, option]


def _default(field: Field[Any]) -> Any:
    if field.name in LEFT_OUT:
        return None
    default: Any = field.default
    return ",".join(f"{n:g}" for n in default) if _is_list(field) else default


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--{name} {text!r} must be numbers with commas between them, as in 82,123"
        ) from None
