"""From options to a network, data and an optimiser, all of it tried out in memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyflow import Tensor, nn
from tinyflow.backend import choose_device
from tinyflow.data import Loader, load_dataset
from tinyflow.kernels.native.library import load
from tinyflow.optim import SGD, Adam, AdamW, Optimizer, RMSprop, names_of_vectors
from tinyflow.train import precision
from tinyflow.train.config import DTYPE, ConfigError, TrainConfig
from tinyflow.train.schedules import (
    Factor,
    Schedule,
    cosine,
    every,
    multi_step,
    one_cycle,
    warm_up,
)
from tinyflow.train.step import Batches, EagerStep, Stepper
from tinyflow.train.watching import Plateau, UntilLearned

if TYPE_CHECKING:
    from tinyflow.train.gpu.capture import CapturedStep

WIDER = 4
"""Batches of training in one of testing on a GPU: it keeps nothing for a gradient."""

DATA_SEED = 0  # of the shapes pictures: the data stay the same whatever --seed is


@dataclass(frozen=True, eq=False)
class Prepared:
    """Everything the loop needs; nothing has been written yet.

    Attributes:
        model: on `device`, in training mode.
        train, test: the batches.
        steps: optimiser steps per epoch. Training leaves out a last batch of a single
            image, in which batch normalisation may have nothing to normalise over;
            every other incomplete batch is used, and testing uses every image.
        optimizer, schedule: `schedule` counts steps over the whole run.
        device, reason: "cpu" or "cuda", and why.
        kernels: what does the work there.
        stepper: does the steps, each at once or as a captured one on a GPU.
    """

    model: nn.Module
    train: Batches
    test: Batches
    steps: int
    optimizer: Optimizer
    schedule: Schedule
    device: str
    reason: str
    kernels: str
    stepper: Stepper


def prepare(config: TrainConfig) -> Prepared:
    """Check the options, read the data, build the network and try one batch.

    Raises:
        ConfigError: options that are wrong in themselves or do not fit the data.
        DataError: data that are missing or damaged.
        DeviceError: a device that cannot be used.
    """
    config.validate()
    device, reason = choose_device(config.device)
    kernels = load()[1] if device == "cpu" else "CUDA kernels"
    dtype = precision.activations(config.precision, device)
    train_set, test_set = (
        load_dataset(
            config.dataset, config.data_dir, split, seed=DATA_SEED, limit=limit
        )
        for split, limit in (
            ("train", config.limit_train),
            ("test", config.limit_test),
        )
    )
    if config.num_classes not in (None, train_set.num_classes):
        raise ConfigError(
            f"{config.dataset} has {train_set.num_classes} classes, not "
            f"{config.num_classes}: leave --num-classes out when training"
        )
    if config.batch_size > len(train_set):
        raise ConfigError(
            f"--batch-size {config.batch_size} is more than the {len(train_set)} "
            f"training images: choose at most {len(train_set)}"
        )
    train = Loader(
        train_set,
        config.batch_size,
        seed=config.seed,
        augment=config.augment,
        dtype=DTYPE,
    )
    tested = config.batch_size
    if device == "cuda":  # the host launches as much for a batch, however large it is
        tested = _evenly(len(test_set), WIDER * config.batch_size)
    test = Loader(test_set, tested, shuffle=False, dtype=DTYPE)
    single = config.batch_size > 1 and len(train_set) % config.batch_size == 1
    steps = len(train) - single
    try:
        model = config.model.build(
            num_classes=train_set.num_classes,
            image_size=train_set.image_size,
            in_channels=train_set.in_channels,
            seed=config.seed,
        )
        with config.model.blamed():
            _try(model, train, min(config.batch_size, 2))  # no batch is smaller
    except ValueError as error:
        c, size = train_set.in_channels, train_set.image_size
        on = f"{config.dataset} ({c}x{size}x{size})"
        raise ConfigError(
            f"{config.model.name} cannot be trained on {on} with --batch-size "
            f"{config.batch_size}: {error}"
        ) from error
    model.to(device)
    optimizer = _optimizer(config, model)
    batches: tuple[Batches, Batches] = train, test
    stepper: Stepper = EagerStep(
        model, optimizer, device, config.label_smoothing, config.clip_grad
    )
    if device == "cuda":
        precision.choose(config.precision, config.deterministic)
        batches, captured = _on_gpu(config, model, optimizer, train, test, dtype)
        stepper = captured or stepper
    return Prepared(
        model,
        *batches,
        steps,
        optimizer,
        _schedule(config, steps),
        device,
        reason,
        kernels,
        stepper,
    )


def _on_gpu(
    config: TrainConfig,
    model: nn.Module,
    optimizer: Optimizer,
    train: Loader,
    test: Loader,
    dtype: Any,
) -> tuple[tuple[Batches, Batches], CapturedStep | None]:
    """Batches made on the GPU, and the step that is replayed there."""
    from tinyflow.kernels.cuda.graph import Recorder
    from tinyflow.train.gpu.capture import CapturedStep
    from tinyflow.train.gpu.prefetch import DeviceLoader

    batches = DeviceLoader(train, dtype), DeviceLoader(test, dtype)
    if not config.capture:
        return batches, None
    step = CapturedStep(
        model,
        optimizer,
        Recorder(),
        label_smoothing=config.label_smoothing,
        clip_grad=config.clip_grad,
        say=lambda sentence: print(sentence, file=sys.stderr),
    )
    return batches, step


def _try(model: nn.Module, loader: Loader, n: int) -> None:
    """Run `n` images in both modes, then put the running statistics back.

    Raises:
        ValueError: maps that shrink to nothing, nothing to normalise over …
    """
    data = loader.dataset
    before = {name: array.copy() for name, array in model.named_buffers()}
    images = np.zeros((n, *data.images.shape[1:]), loader.dtype)
    for training in (False, True):
        logits = model.train(training)(Tensor(images))
        if not isinstance(logits, Tensor):
            raise ValueError(f"its output is a {type(logits).__name__}, not a Tensor")
        if logits.shape != (n, data.num_classes):
            wanted = n, data.num_classes
            raise ValueError(f"its output is {logits.shape}, not {wanted}")
    for name, array in model.named_buffers():
        array[...] = before[name]


def _evenly(count: int, most: int) -> int:
    """The size of the fewest batches of about one size, and of at most `most`."""
    return -(-count // -(-count // most))


def _optimizer(config: TrainConfig, model: nn.Module) -> Optimizer:
    named, lr = list(model.named_parameters()), config.learning_rate
    pull: dict[str, Any] = {"weight_decay": config.decay}
    if not config.decay_norms:
        pull["no_decay"] = names_of_vectors(named)
    match config.optimizer_name:
        case "sgd":
            return SGD(named, lr, config.momentum, nesterov=config.nesterov, **pull)
        case "rmsprop":
            return RMSprop(named, lr, momentum=config.momentum, **pull)
        case "adam":
            return Adam(named, lr, **pull)
        case _:
            return AdamW(named, lr, **pull)


def _schedule(config: TrainConfig, steps: int) -> Schedule:
    """The factors of the rate, `steps` to an epoch."""
    total, warmup = config.epochs * steps, round(config.warmup_epochs * steps)
    floor = config.min_lr / config.learning_rate
    factors: list[Factor] = []
    if config.slow_until is not None:
        factors.append(UntilLearned(config.slow_until))
    if config.schedule != "onecycle":
        factors.append(warm_up(warmup, config.warmup_start))
    match config.schedule:
        case "cosine":
            factors.append(cosine(total, warmup, floor))
        case "step":
            reached = [
                round(m * (total if m < 1 else steps)) for m in config.milestones
            ]
            factors.append(multi_step(reached, config.gamma))
        case "exponential":
            often = round((config.decay_epochs or 1) * steps)
            factors.append(every(max(often, 1), config.gamma))
        case "onecycle":
            factors.append(one_cycle(total))
        case "plateau":
            gamma, patience = config.gamma, config.patience
            factors.append(
                Plateau("train_loss", gamma=gamma, patience=patience, floor=floor)
            )
    return Schedule(*factors)
