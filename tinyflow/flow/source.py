"""Where an analysis takes its images and weights from, and the words that say so.

Found once for all networks of an analysis. A checkpoint brings its own data set, the
folder of its files, and its epoch and seed; :meth:`Source.facts` puts all of it into
every ``summary.json`` and :meth:`Source.conditions` into every title.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyflow import nn
from tinyflow.backend import choose_device
from tinyflow.data import Batch, Dataset, Loader, load_dataset
from tinyflow.data.dataset import ANY_SIZE, FOLDER
from tinyflow.data.shapes import SHAPES_SIZE
from tinyflow.flow.probe import FlowError
from tinyflow.flow.settings import MODES, Settings, as_flow_error
from tinyflow.network import Network
from tinyflow.train.checkpoint import Metadata, load_checkpoint
from tinyflow.train.trained import network_of, recorded, seen

DATA_SEED = 0  # of the shapes pictures, whatever the seed of the weights
POOL = 1000  # shapes drawn, or images of a folder: of these the batch is chosen


@dataclass(frozen=True)
class Source:
    """The images, and the trained network if there is one.

    Attributes:
        settings: what was asked for.
        data: the training images, or as many as the batch is chosen from.
        device: "cpu" or "cuda".
        model, network, told: of the checkpoint, else None.
    """

    settings: Settings
    data: Dataset
    device: str
    model: nn.Module | None = None
    network: Network | None = None
    told: Metadata | None = None

    def batch(self) -> Batch:
        """The batch that everything is measured on, on the CPU."""
        s = self.settings
        return next(
            Loader(self.data, s.batch_size, seed=s.seed, dtype=s.dtype).epoch(0)
        )

    def fitting(self, default: Sequence[str]) -> tuple[tuple[Network, ...], str]:
        """The networks to look at, and a sentence on those of `default` left out.

        Raises:
            FlowError: none can take images of this size.
        """
        if self.network is not None:
            return (self.network,), ""
        networks = self.settings.networks(tuple(default))
        if self.settings.model:
            return networks, ""  # the user's own choice is tried, and refused in words
        small = too_small(networks, self.data)
        left = tuple(network for network in networks if network.name not in small)
        if small and left:
            return left, self.left_out(small)
        return networks, ""

    def left_out(self, names: Sequence[str]) -> str:
        """Say that these networks need larger images than there are."""
        size = self.data.image_size
        return (
            f"left out: {', '.join(names)}, which cannot take images of "
            f"{size}x{size} pixels ({self.data.name})"
        )

    @property
    def weights(self) -> str:
        """``initial weights`` or ``epoch 3 of runs/…, seed 5``."""
        if self.told is None:
            return "initial weights"
        other = self.told.dataset
        trained = "" if other == self.data.name else f", trained on {other}"
        return (
            f"epoch {self.told.epoch} of {self.settings.checkpoint}, "
            f"seed {self.told.seed}{trained}"
        )

    def conditions(self, seeds: int = 1) -> str:
        """``shapes, 10 classes · batch statistics · float64 · seed 0 · batch of 16``.

        With a checkpoint the seed, which then chooses nothing but the images, comes
        last.
        """
        s, last = self.settings, self.settings.seed + seeds - 1
        seed = f"seed {s.seed}" if seeds == 1 else f"seeds {s.seed} to {last}"
        size = f"batch of {s.batch_size}"
        return " · ".join(
            (
                f"{self.data.name}, {self.data.num_classes} classes",
                MODES[s.mode],
                s.dtype,
                *((f"{size}, {seed}",) if self.told else (seed, size)),
            )
        )

    def facts(self) -> dict[str, Any]:
        """The same and more for ``summary.json``."""
        s, data = self.settings, self.data
        weights: dict[str, Any] = {"weights": self.weights, "epoch": 0, "seed": s.seed}
        if self.told is not None:
            weights |= {
                "checkpoint": str(s.checkpoint),
                "epoch": self.told.epoch,
                "seed": self.told.seed,
                "trained_on": self.told.dataset,
                "test_accuracy": self.told.test_accuracy,
            }
        if np.ndim(data.mean) > 1:
            weights["mean_image"] = True
        return {
            "dataset": data.name,
            "classes": data.num_classes,
            "class_names": list(data.classes),
            "channels": data.in_channels,
            "image_size": data.image_size,
            "pixel_mean": np.reshape(data.mean, (data.in_channels, -1))
            .mean(1)
            .tolist(),
            "pixel_std": list(data.std),
            "normalisation": MODES[s.mode],
            "batch_size": s.batch_size,
            "batch_seed": s.seed,
            **weights,
        }


def too_small(networks: Iterable[Network], data: Dataset) -> tuple[str, ...]:
    """Names of the networks that need larger images than those of `data`."""
    return tuple(n.name for n in networks if n.smallest > data.image_size)


def find_source(settings: Settings) -> Source:
    """Read the checkpoint, if there is one, and the images.

    Raises:
        FlowError: anything that cannot be used, in one sentence.
    """
    with as_flow_error():
        device, _ = choose_device(settings.device)
        if settings.checkpoint is None:
            return Source(
                settings,
                _data(settings, settings.dataset or "shapes", settings.image_size),
                device,
            )
        found: list[Network] = []

        def find(name: str) -> Network:
            found.append(_named(settings, name))
            return found[0]

        model, told = load_checkpoint(settings.checkpoint, find)
        data = _data(settings, settings.dataset or told.dataset, told.image_size)
        if (told.in_channels, told.image_size, told.num_classes) != (
            data.in_channels,
            data.image_size,
            data.num_classes,
        ):
            raise FlowError(
                f"{settings.checkpoint} was trained on {told.dataset}, whose images "
                f"are not like those of {data.name}: use --dataset {told.dataset}"
            )
        return Source(settings, seen(data, told), device, model, found[0], told)


def _named(settings: Settings, label: str) -> Network:
    """The network that the weights of the checkpoint say they are of.

    That of a file of the user's own is found by the config.json of its run, or by
    ``--model``: weights alone never choose a file that is run.

    Raises:
        FlowError: what is wrong, to be said after what the weights say.
    """
    for network in settings.networks(()):
        if network.label != label:
            raise FlowError(f"leave --model out, which names {network.label}")
        return network
    return network_of(settings.checkpoint, label, settings.find)


def _data(settings: Settings, name: str, size: int | None = None) -> Dataset:
    """The images; those of a folder or of shapes have `size` pixels, if it is known."""
    folder = None
    if name != "shapes":
        folder = settings.data_dir or recorded(settings.checkpoint, name)
    elif "data_dir" in settings.named:
        raise FlowError(
            "shapes is drawn, not read: leave --data-dir out, or name the data set in "
            "that folder with --dataset"
        )
    limit = None
    if name == "shapes":
        limit = min(max(POOL, settings.batch_size), SHAPES_SIZE["train"])
    sized = size and name in ANY_SIZE
    given: dict[str, Any] = {"image_size": size} if sized else {}
    found = load_dataset(name, folder, seed=DATA_SEED, limit=limit, **given)
    if name == FOLDER:
        found = found.limit(min(len(found), max(POOL, settings.batch_size)))
    data = found.in_memory()
    if settings.batch_size > len(data):
        raise FlowError(
            f"--batch-size {settings.batch_size} is more than the {len(data)} training "
            f"images of {name}: choose at most {len(data)}"
        )
    return data
