"""A trained network, found by its run folder or weight file, and the images for it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from tinyflow import nn
from tinyflow.data import DATASETS, ImageSet, load_dataset
from tinyflow.data.dataset import ANY_SIZE, FOLDER
from tinyflow.data.shapes import SHAPES_CLASSES, SHAPES_MEAN, SHAPES_STD
from tinyflow.data.sources import SOURCES
from tinyflow.network import Find, Network, is_own
from tinyflow.reading import Unreadable, kind, read_object
from tinyflow.train.checkpoint import LAST, CheckpointError, Metadata, load_checkpoint
from tinyflow.train.record import CONFIG

Images = TypeVar("Images", bound=ImageSet)
FROM_FILES = (
    "name their folder with --data-dir or the environment variable TINYFLOW_DATA"
)


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with its weights.

    Attributes:
        source: the run folder or weight file, as it was named.
        model: in evaluation mode, on the CPU.
        told: what its file says of it.
        config: of its run, as it was written; empty if there is none.
    """

    source: Path
    model: nn.Module
    told: Metadata
    config: Mapping[str, Any]

    def known(self) -> Metadata:
        """What the file says, with class names and normalisation.

        Those that a file of an earlier version does not say are its data set's.

        Raises:
            CheckpointError: nobody says them.
        """
        told, names = self.told, ("classes", "mean", "std")
        missing = [name for name in names if getattr(told, name) is None]
        if not missing:
            return told
        if told.dataset == "shapes":
            own: Any = SHAPES_CLASSES, SHAPES_MEAN, SHAPES_STD
        elif (of := SOURCES.get(told.dataset)) is not None:
            own = of.classes, of.mean, of.std
        else:
            raise CheckpointError(
                f"{self.source} does not say its {', '.join(missing)}, nor is "
                f"{told.dataset} a data set that is known here: train the network again"
            )
        found = dict(zip(names, own, strict=True))
        return replace(told, **{name: found[name] for name in missing})

    def images(
        self,
        dataset: str | None = None,
        data_dir: Path | None = None,
        limit: int | None = None,
    ) -> ImageSet:
        """The test images, to be normalised as those of its training were.

        Args:
            dataset: their name; None is the one that it was trained on.
            data_dir: folder with its files; None is that of the run.
            limit: only the first so many.

        Raises:
            CheckpointError: their classes or sizes are not the network's.
            DataError: they are missing or damaged.
        """
        name, told = dataset or self.told.dataset, self.told
        if name in DATASETS and name != "shapes" and data_dir is None:
            data_dir = recorded(self.source, name)
        given: dict[str, Any] = {}
        if name in ANY_SIZE:
            given["image_size"] = told.image_size
        if name == FOLDER:
            skip = self.config.get("bad_images") == "skip"
            given |= {
                "channels": told.in_channels,
                "bad_images": "skip" if skip else "refuse",
            }
        data = load_dataset(name, data_dir, "test", limit=limit, **given)
        shape = (told.in_channels, told.image_size, told.num_classes)
        if shape != (data.in_channels, data.image_size, data.num_classes):
            raise CheckpointError(
                f"{self.source} takes {_shape(*shape)}, but {name} has "
                f"{_shape(data.in_channels, data.image_size, data.num_classes)}: use "
                f"--dataset {told.dataset}"
            )
        if told.classes not in (None, data.classes):
            theirs = next(
                (a, b)
                for a, b in zip(told.classes or (), data.classes, strict=True)
                if a != b
            )
            raise CheckpointError(
                f"{self.source} tells other classes apart than {name} has, {theirs[0]} "
                f"where that has {theirs[1]}: use --dataset {told.dataset}"
            )
        return seen(data, told)


def seen(data: Images, told: Metadata) -> Images:
    """An image set as a network sees it: normalised as it was in its training."""
    given = {"mean": told.mean, "std": told.std}
    part: Any = data
    found: Images = replace(part, **{n: v for n, v in given.items() if v is not None})
    return found


def _shape(channels: int, size: int, classes: int) -> str:
    return f"{channels}x{size}x{size} images of {classes} classes"


def find_trained(
    source: Path, find: Find, which: str = LAST, model: str | None = None
) -> Trained:
    """The network of a run folder or weight file.

    Args:
        source: the folder or file.
        find: gives the network of a name.
        which: of a folder, "last" or "best".
        model: where its network is now, if it is the user's own and its file has moved.

    Raises:
        CheckpointError: see :func:`tinyflow.train.checkpoint.load_checkpoint`.
    """

    def named(label: str) -> Network:
        if model is None:
            return network_of(source, label, find)
        if (network := find(model)).label != label:
            raise ValueError(f"leave --model out, which names {network.label}")
        return network

    network, told = load_checkpoint(source, named, which)
    try:
        config = read_config(source)
    except Unreadable as error:
        raise CheckpointError(str(error)) from error
    return Trained(source, network, told, config)


def network_of(source: Path | None, label: str, find: Find) -> Network:
    """The network that weights say they are of.

    That of a file of the user's own is found by the config.json of its run: weights
    alone never choose a file that is run.

    Raises:
        ValueError: what is wrong, to be said after what the weights say.
    """
    if not is_own(label):
        return find(label)
    config = read_config(source)
    reference = config.get("model")
    if not isinstance(reference, str) or Path(reference).name != label:
        raise ValueError(
            f"it is in a file of somebody's own, and no {CONFIG} beside the weights "
            f"says where: name it with --model PATH/{label}"
        )
    try:
        network = find(reference)
    except ValueError as error:
        raise ValueError(
            f"{error}; if it has moved, name it with --model PATH/{label}"
        ) from error
    resolved = config.get("resolved")
    then = resolved.get("model_sha256") if isinstance(resolved, dict) else None
    if network.sha256 != then:
        print(
            f"{network.file} has changed since {source} was trained; "
            "its network is taken as it is now",
            file=sys.stderr,
        )
    return network


def recorded(source: Path | None, name: str) -> Path:
    """The folder that a run took its images from.

    Raises:
        CheckpointError: nothing says it, or it is not there.
    """
    try:
        config = read_config(source)
    except Unreadable as error:
        raise CheckpointError(
            f"{name} is read from files, and {error}: {FROM_FILES}"
        ) from error
    folder = config.get("data_dir") if config.get("dataset") == name else None
    if not isinstance(folder, str):
        raise CheckpointError(f"{name} is read from files: {FROM_FILES}")
    if not Path(folder).expanduser().is_dir():
        raise CheckpointError(
            f"{source} was trained on {name} from {folder}, which is not there: "
            f"{FROM_FILES}"
        )
    return Path(folder).expanduser()


def read_config(source: Path | None) -> dict[str, Any]:
    """The config.json beside some weights or in a run folder; empty if there is none.

    Raises:
        Unreadable: it is damaged.
    """
    if source is None:
        return {}
    path = (source if source.is_dir() else source.parent) / CONFIG
    return {} if kind(path) == "nothing" else read_object(path)
