"""The options that every analysis shares, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tinyflow.backend import DeviceError
from tinyflow.data import DATASETS, DataError
from tinyflow.data.dataset import ANY_SIZE
from tinyflow.flow.probe import TOLERANCE, FlowError
from tinyflow.network import Find, Network, no_networks
from tinyflow.train.checkpoint import CheckpointError

FOUR = ("vgg", "resnet", "se_resnet", "densenet")
MODES = {"train": "batch statistics", "eval": "running statistics"}


@dataclass(frozen=True)
class Settings:
    """The options every analysis shares.

    Attributes:
        model: names for `find`; empty means the analysis' own choice.
        checkpoint: a run folder or weight file instead of initial weights.
        dataset: one of ``DATASETS``; None is the checkpoint's own, or shapes.
        data_dir: folder with the files of the data set; shapes needs none.
        image_size: width and height of the images of a folder, or of shapes; None means
            224 and 32, or those that the checkpoint was trained with.
        batch_size: images in the one batch; every number is conditional on it.
        seed: of the initial weights and the choice of images.
        dtype: float64 closes to 1e-12 and is the default; float32 is what trains.
        mode: "train" normalises with the batch's statistics, "eval" with running ones.
        device: "auto", "cpu" or "cuda".
        find: gives the network of a name, e.g. ``models.find``.
        named: the options that the user gave, as Python names; one of these that has
            no effect is refused.
    """

    model: tuple[str, ...] = ()
    checkpoint: Path | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    image_size: int | None = None
    batch_size: int = 16
    seed: int = 0
    dtype: str = "float64"
    mode: str = "train"
    device: str = "auto"
    find: Find = no_networks
    named: frozenset[str] = frozenset()

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
        if self.image_size is not None:
            self._check_image_size()
        if self.seed < 0:
            raise FlowError(f"--seed must be 0 or more, not {self.seed}")
        chosen = self.networks(())
        own = len(chosen) == 1 and chosen[0].file is not None
        if self.checkpoint is not None and chosen and not own:
            raise FlowError(
                "--checkpoint names its own network: leave --model out, or leave out "
                "--checkpoint to look at initial weights"
            )

    def _check_image_size(self) -> None:
        if self.checkpoint is not None:
            raise FlowError(
                "--checkpoint names the size of its images: leave --image-size out"
            )
        if self.dataset not in (None, *ANY_SIZE):
            raise FlowError(
                f"the images of {self.dataset} have one size: leave --image-size out"
            )

    def networks(self, default: tuple[str, ...]) -> tuple[Network, ...]:
        """The networks that `model` names, or else those of `default`, each once.

        Raises:
            FlowError: one does not exist, or two have the same name.
        """
        with as_flow_error():
            found = [self.find(name) for name in self.model or default]
        networks = {network.reference: network for network in found}
        names: dict[str, str] = {}
        for reference, network in networks.items():
            if (other := names.setdefault(network.name, reference)) != reference:
                raise FlowError(
                    f"{other} and {reference} have one name, after which tables and "
                    "files are called: rename one"
                )
        return tuple(networks.values())


@contextmanager
def as_flow_error() -> Iterator[None]:
    """Errors of the parts in use, as the one error of the instrument."""
    try:
        yield
    except FlowError:
        raise
    except (DataError, DeviceError, CheckpointError, ValueError) as error:
        raise FlowError(str(error)) from error
