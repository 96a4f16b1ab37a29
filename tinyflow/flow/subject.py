"""What is looked at: a network, a batch and how they meet, from a few settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import models
from tinyflow import nn
from tinyflow.backend import DeviceError, asarray, choose_device
from tinyflow.data import DATASETS, Batch, DataError, Dataset, Loader, load_dataset
from tinyflow.flow.probe import TOLERANCE, FlowError, Probe, probe
from tinyflow.train.checkpoint import CheckpointError, load_checkpoint

FOUR = ("vgg", "resnet", "se_resnet", "densenet")
MODES = {"train": "batch statistics", "eval": "running statistics"}
DATA_SEED = 0  # of the shapes pictures, whatever the seed of the weights
POOL = 1000  # shapes drawn, from which the batch is chosen


@dataclass(frozen=True)
class Settings:
    """The options every analysis shares.

    Attributes:
        model: names for ``models.build_model``; empty means the analysis' own choice.
        checkpoint: a run folder or weight file instead of initial weights.
        dataset: one of ``DATASETS``; None is the checkpoint's own, or shapes.
        data_dir: folder with the files of cifar10 or mnist.
        batch_size: images in the one batch; every number is conditional on it.
        seed: of the initial weights and the choice of images.
        dtype: float64 closes to 1e-12 and is the default; float32 is what trains.
        mode: "train" normalises with the batch's statistics, "eval" with running ones.
        device: "auto", "cpu" or "cuda".
    """

    model: tuple[str, ...] = ()
    checkpoint: Path | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    batch_size: int = 16
    seed: int = 0
    dtype: str = "float64"
    mode: str = "train"
    device: str = "auto"

    def validate(self) -> None:
        """Check what needs neither data nor disk.

        Raises:
            FlowError: with one sentence that names the option and what it may be.
        """
        for option, given, known in (
            ("dtype", self.dtype, tuple(TOLERANCE)),
            ("mode", self.mode, tuple(MODES)),
            ("dataset", self.dataset, (None, *DATASETS)),
        ):
            if given not in known:
                names = ", ".join(k for k in known if k)
                raise FlowError(f"--{option} {given!r} is unknown; choose {names}")
        if self.batch_size < 1:
            raise FlowError(f"--batch-size must be 1 or more, not {self.batch_size}")
        if self.seed < 0:
            raise FlowError(f"--seed must be 0 or more, not {self.seed}")
        if self.checkpoint is not None and self.model:
            raise FlowError(
                "--checkpoint names its own network: leave --model out, or leave out "
                "--checkpoint to look at initial weights"
            )
        for name in self.model:
            with as_flow_error():
                models.full_name(name)

    def names(self, default: tuple[str, ...]) -> tuple[str, ...]:
        """The networks to look at; for a checkpoint one, as yet without a name."""
        if self.checkpoint is not None:
            return ("",)
        return tuple(dict.fromkeys(self.model or default))


@dataclass(frozen=True)
class Subject:
    """A probe, and the words that say what it looked at.

    Attributes:
        name: full name of the network.
        state: "initial weights" or "epoch 3 of runs/…".
        dataset: name of the data.
        conditions: mode, precision, seed and batch in words, for titles.
        parameters: trainable numbers.
        probe: the recorded batch.
    """

    name: str
    state: str
    dataset: str
    conditions: str
    parameters: int
    probe: Probe


def look(settings: Settings, name: str = "") -> Subject:
    """Build or load one network, choose the batch, run it and keep every edge.

    Raises:
        FlowError: anything that cannot be used, in one sentence.
    """
    with as_flow_error():
        device, _ = choose_device(settings.device)
        dataset = settings.dataset or "shapes"
        state = "initial weights"
        model: nn.Module | None = None
        if settings.checkpoint is not None:
            model, told = load_checkpoint(settings.checkpoint)
            name, dataset = told.model, settings.dataset or told.dataset
            state = f"epoch {told.epoch} of {settings.checkpoint}"
        data = load_data(settings, dataset)
        if model is None:
            model = models.build_model(
                name,
                num_classes=data.num_classes,
                image_size=data.image_size,
                in_channels=data.in_channels,
                seed=settings.seed,
            )
        elif (told.in_channels, told.image_size, told.num_classes) != (
            data.in_channels,
            data.image_size,
            data.num_classes,
        ):
            raise FlowError(
                f"{settings.checkpoint} was trained on {told.dataset}, whose images "
                f"are not like those of {dataset}: use --dataset {told.dataset}"
            )
        images, labels = one_batch(settings, data)
        model.to(device, settings.dtype)
        seen = probe(
            model,
            asarray(images, device),
            labels,
            training=settings.mode == "train",
        )
    return Subject(
        name=models.full_name(name),
        state=state,
        dataset=dataset,
        conditions=conditions(settings, dataset),
        parameters=models.count_parameters(model),
        probe=seen,
    )


def conditions(settings: Settings, dataset: str | None = None, seeds: int = 1) -> str:
    """``shapes · batch statistics · float64 · seed 0 · batch of 16``."""
    last = settings.seed + seeds - 1
    return " · ".join(
        (
            dataset or settings.dataset or "shapes",
            MODES[settings.mode],
            settings.dtype,
            f"seed {settings.seed}"
            if seeds == 1
            else f"seeds {settings.seed} to {last}",
            f"batch of {settings.batch_size}",
        )
    )


def one_batch(settings: Settings, data: Dataset) -> Batch:
    """The batch that everything is measured on."""
    loader = Loader(data, settings.batch_size, seed=settings.seed, dtype=settings.dtype)
    return next(loader.epoch(0))


def load_data(settings: Settings, name: str) -> Dataset:
    """The training images, or as many as the batch is chosen from."""
    limit = max(POOL, settings.batch_size) if name == "shapes" else None
    data = load_dataset(name, settings.data_dir, seed=DATA_SEED, limit=limit)
    if settings.batch_size > len(data):
        raise FlowError(
            f"--batch-size {settings.batch_size} is more than the {len(data)} training "
            f"images of {name}: choose at most {len(data)}"
        )
    return data


@contextmanager
def as_flow_error() -> Iterator[None]:
    """Errors of the parts in use, as the one error of the instrument."""
    try:
        yield
    except FlowError:
        raise
    except (DataError, DeviceError, CheckpointError, ValueError) as error:
        raise FlowError(str(error)) from error
