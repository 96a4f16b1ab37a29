"""From options to a network, data and an optimiser, all of it tried out in memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyflow import Tensor, nn
from tinyflow.backend import choose_device
from tinyflow.data import ImageSet, Loader
from tinyflow.data.mean_image import centred, mean_image
from tinyflow.heads import logits_of
from tinyflow.kernels.native.library import load
from tinyflow.optim import Optimizer
from tinyflow.train import precision
from tinyflow.train.checks import ConfigError
from tinyflow.train.config import DTYPE, TrainConfig
from tinyflow.train.ema import EMA
from tinyflow.train.images import images_of
from tinyflow.train.protocol import optimizer_of, schedule_of
from tinyflow.train.schedules import Schedule
from tinyflow.train.step import Batches, EagerStep, Stepper

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
        train, val, test: the batches; validation images are None if there are none.
        total: optimiser steps of the whole run.
        steps: those of an epoch. Training leaves out a last batch of a single
            image, in which batch normalisation may have nothing to normalise over;
            every other incomplete batch is used, and testing uses every image.
        optimizer, schedule: `schedule` counts steps over the whole run.
        ema: averages of the weights, or None.
        device, reason: "cpu" or "cuda", and why.
        kernels: what does the work there.
        stepper: does the steps, each at once or as a captured one on a GPU.
    """

    model: nn.Module
    train: Batches
    val: Batches | None
    test: Batches
    total: int
    steps: int
    optimizer: Optimizer
    schedule: Schedule
    ema: EMA | None
    device: str
    reason: str
    kernels: str
    stepper: Stepper

    @property
    def epochs(self) -> int:
        """Epochs of the run; the last may be cut short."""
        return -(-self.total // self.steps)

    def stepped(self) -> None:
        """Take notice of a step that is done, or will have been on a GPU."""
        if self.ema is not None:
            self.ema.update()

    def averaged(self) -> AbstractContextManager[None]:
        """Where the model has the averages of its weights, if there are any."""
        return nullcontext() if self.ema is None else self.ema.swapped()


def prepare(config: TrainConfig) -> Prepared:
    """Check the options, read the data, build the network and try one batch.

    Raises:
        ConfigError: options that are wrong in themselves or do not fit the data.
        DataError: data that are missing or damaged.
        DeviceError: a device that cannot be used.
    """
    config.validate()
    device, reason = choose_device(config.device)
    if device == "cuda" and (config.augmentation or config.normalize == "pixel"):
        raise ConfigError(
            "--rand-augment, --cutout, --mixup and --normalize pixel work on a CPU "
            "only: leave them out, or train with --device cpu"
        )
    kernels = load()[1] if device == "cpu" else "CUDA kernels"
    dtype = precision.activations(config.precision, device)
    train_set, test_set = (
        images_of(config, split, DATA_SEED) for split in ("train", "test")
    )
    if config.num_classes not in (None, train_set.num_classes):
        raise ConfigError(
            f"{config.dataset} has {train_set.num_classes} classes, not "
            f"{config.num_classes}: leave --num-classes out when training"
        )
    val_set = None
    if config.val_split is not None:
        train_set, val_set = _split(train_set, config.val_split)
    if config.batch_size > len(train_set):
        raise ConfigError(
            f"--batch-size {config.batch_size} is more than the {len(train_set)} "
            f"training images: choose at most {len(train_set)}"
        )
    if config.normalize == "pixel":
        mean = mean_image(train_set.in_memory().images)
        train_set, test_set = (centred(s, mean) for s in (train_set, test_set))
        val_set = val_set and centred(val_set, mean)
    train = Loader(
        train_set,
        config.batch_size,
        seed=config.seed,
        augment=config.augment,
        more=config.augmentation,
        dtype=DTYPE,
    )

    def judging(images: ImageSet) -> Loader:
        size = config.batch_size
        if device == "cuda":  # the host launches as much for a batch of any size
            size = _evenly(len(images), WIDER * size)
        return Loader(images, size, shuffle=False, dtype=DTYPE)

    judges = [judging(test_set)] + ([judging(val_set)] if val_set else [])
    single = config.batch_size > 1 and len(train_set) % config.batch_size == 1
    steps = len(train) - single
    total = config.iterations or config.epochs * steps
    schedule = schedule_of(config, steps, total)
    try:
        model = config.model.build(
            num_classes=train_set.num_classes,
            image_size=train_set.image_size,
            in_channels=train_set.in_channels,
            seed=config.seed,
            **config.model_options,
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
    optimizer = optimizer_of(config, model)
    batches: list[Batches] = [train, *judges]
    stepper: Stepper = EagerStep(
        model, optimizer, device, config.label_smoothing, config.clip_grad
    )
    if device == "cuda":
        precision.choose(config.precision, config.deterministic)
        batches, captured = _on_gpu(config, model, optimizer, [train, *judges], dtype)
        stepper = captured or stepper
    ema = None if config.ema is None else EMA(model, config.ema, config.ema_warm_up)
    return Prepared(
        model,
        batches[0],
        batches[2] if val_set else None,
        batches[1],
        total,
        steps,
        optimizer,
        schedule,
        ema,
        device,
        reason,
        kernels,
        stepper,
    )


def _on_gpu(
    config: TrainConfig,
    model: nn.Module,
    optimizer: Optimizer,
    loaders: Sequence[Loader],
    dtype: Any,
) -> tuple[list[Batches], CapturedStep | None]:
    """Batches made on the GPU, and the step that is replayed there."""
    from tinyflow.kernels.cuda.graph import Recorder
    from tinyflow.train.gpu.capture import CapturedStep
    from tinyflow.train.gpu.prefetch import DeviceLoader

    batches: list[Batches] = [DeviceLoader(loader, dtype) for loader in loaders]
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
    images = np.zeros((n, *data.shape), loader.dtype)
    for training in (False, True):
        output = model.train(training)(Tensor(images))
        logits = logits_of(output) if training else output
        if not isinstance(logits, Tensor):
            raise ValueError(f"its output is a {type(logits).__name__}, not a Tensor")
        if logits.shape != (n, data.num_classes):
            wanted = n, data.num_classes
            raise ValueError(f"its output is {logits.shape}, not {wanted}")
    for name, array in model.named_buffers():
        array[...] = before[name]


def _split(data: ImageSet, held_out: int) -> tuple[ImageSet, ImageSet]:
    """Training images, and those held out of them for validation.

    Which ones is drawn once and for all, so that every run leaves out the same.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    if held_out >= len(data):
        raise ConfigError(
            f"--val-split {held_out} leaves nothing of the {len(data)} training "
            f"images: choose at most {len(data) - 1}"
        )
    order = np.random.Generator(np.random.PCG64(DATA_SEED)).permutation(len(data))
    return data[np.sort(order[held_out:])], data[np.sort(order[:held_out])]


def _evenly(count: int, most: int) -> int:
    """The size of the fewest batches of about one size, and of at most `most`."""
    return -(-count // -(-count // most))
