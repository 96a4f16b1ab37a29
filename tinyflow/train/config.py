"""All options of a training run, checked before anything is computed or written."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from tinyflow.backend import DEVICES
from tinyflow.data import DATASETS
from tinyflow.network import Network

OPTIMIZERS = ("sgd", "adam", "adamw")
EPOCHS, EPOCHS_LARGE = 4, 2  # of most networks, and of those for ImageNet
WEIGHT_DECAY = {"sgd": 5e-4, "adam": 0.0, "adamw": 0.01}
SCHEDULES = ("constant", "cosine", "step")
MILESTONES = (0.5, 0.75)  # of all steps, where "step" divides by ten (He et al. 2016)
PRECISIONS = ("float32", "tf32", "bfloat16")
DTYPE = "float32"  # of parameters, statistics and loss, whatever the precision


class ConfigError(ValueError):
    """Options that cannot be used: one sentence on what is wrong and what to do."""


@dataclass(frozen=True)
class TrainConfig:
    """The options of one run.

    Attributes:
        model: the network, e.g. ``models.find("resnet20")``, or one's own:
            ``Network("mine", MyNet)``.
        dataset: one of ``tinyflow.data.DATASETS``.
        data_dir: folder with the files of the data set; shapes needs none.
        epochs: passes over the training images, at least 1.
        batch_size: images per step, at least 1.
        lr: learning rate after warm-up; None means the model's own for the optimiser.
        optimizer: one of `OPTIMIZERS`; None means SGD for the networks designed for
            32x32 images and AdamW for the others: those designed for ImageNet learn
            nothing on small images from the first few hundred steps of SGD.
        schedule: one of `SCHEDULES`: constant; half a cosine down to 0; or a tenth
            from each of the `MILESTONES` on.
        weight_decay: λ, for every parameter, in the optimiser's own sense; None means
            what `WEIGHT_DECAY` says.
        momentum: of SGD, in [0, 1); the others ignore it.
        label_smoothing: ε of the training loss, in [0, 1); the test loss has none.
        warmup_epochs: epochs (fractions too) of linear warm-up.
        clip_grad: largest global gradient norm, or None.
        augment: random crop and flip of the training images.
        seed: of the initial weights, the order of the images and dropout. The shapes
            data set itself is always the one of seed 0, so that runs are comparable.
        device: "auto", "cpu" or "cuda".
        precision: one of `PRECISIONS`, of convolutions and products; a CPU has float32
            only.
        deterministic: on a GPU, only algorithms that give the same bits every time; a
            CPU has no others.
        capture: on a GPU, record the step once and replay it.
        limit_train, limit_test: use only the first so many images.
        num_classes: None, or the data set's number of classes.
        save_every: when the state of the run is saved, so that it can be resumed:
            "epoch", "5 epochs" or "200 steps", or only 200.
        trace_every: stream the block terms of every so many steps, or None.
        output: the run folder to make, or None for ``runs/<model>-<dataset>-<n>``.
    """

    model: Network
    dataset: str = "shapes"
    data_dir: Path | None = None
    epochs: int = EPOCHS
    batch_size: int = 64
    lr: float | None = None
    optimizer: str | None = None
    schedule: str = "cosine"
    weight_decay: float | None = None
    momentum: float = 0.9
    label_smoothing: float = 0.0
    warmup_epochs: float = 0.5
    clip_grad: float | None = None
    augment: bool = False
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    deterministic: bool = False
    capture: bool = True
    limit_train: int | None = None
    limit_test: int | None = None
    num_classes: int | None = None
    save_every: str = "epoch"
    trace_every: int | None = None
    output: Path | None = None

    @property
    def learning_rate(self) -> float:
        """`lr`, or the default that stands for it."""
        if self.lr is not None:
            return float(self.lr)
        sgd = self.optimizer_name == "sgd"
        return self.model.lr if sgd else self.model.adam_lr

    @property
    def lower_rate(self) -> float:
        """A learning rate to try where this one was too high."""
        usual = replace(self, lr=None).learning_rate
        return usual if self.learning_rate >= 10 * usual else self.learning_rate / 10

    @property
    def optimizer_name(self) -> str:
        """`optimizer`, or the default that stands for it."""
        if self.optimizer is not None:
            return self.optimizer
        return "sgd" if (self.model.native or 224) <= 32 else "adamw"

    @property
    def decay(self) -> float:
        """`weight_decay`, or the default that stands for it."""
        if self.weight_decay is not None:
            return float(self.weight_decay)
        return WEIGHT_DECAY[self.optimizer_name]

    def validate(self) -> None:
        """Check everything that needs neither data nor disk.

        Raises:
            ConfigError: with one sentence that names the option and what it may be.
        """
        if not isinstance(self.model, Network):
            raise ConfigError(
                f"model must be a Network, not {self.model!r}: write models.find(name) "
                'or Network("mine", MyNet)'
            )
        _choice("dataset", self.dataset, DATASETS)
        _choice("optimizer", self.optimizer_name, OPTIMIZERS)
        _choice("schedule", self.schedule, SCHEDULES)
        _choice("precision", self.precision, PRECISIONS)
        _choice("device", self.device, DEVICES)
        for name, number in (
            ("epochs", self.epochs),
            ("batch-size", self.batch_size),
            ("limit-train", self.limit_train),
            ("limit-test", self.limit_test),
            ("trace-every", self.trace_every),
        ):
            if number is not None and number < 1:
                raise ConfigError(f"--{name} must be 1 or more, not {number}")
        every(self.save_every)
        if self.seed < 0:
            raise ConfigError(f"--seed must be 0 or more, not {self.seed}")
        _number("lr", self.lr, above=0)
        _number("clip-grad", self.clip_grad, above=0)
        _number("weight-decay", self.weight_decay)
        _number("momentum", self.momentum, below=1)
        _number("label-smoothing", self.label_smoothing, below=1)
        _number("warmup-epochs", self.warmup_epochs)
        if self.warmup_epochs > 0 and self.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"--warmup-epochs {self.warmup_epochs:g} leaves nothing of --epochs "
                f"{self.epochs}; choose less than that"
            )
        if self.augment and self.dataset == "mnist":
            raise ConfigError(
                "--augment mirrors images, which changes digits: leave it out for mnist"
            )
        if self.dataset != "shapes" and self.data_dir is None:
            raise ConfigError(
                f"{self.dataset} is read from files: name their folder with --data-dir "
                "or the environment variable TINYFLOW_DATA, or use --dataset shapes"
            )


def every(text: str) -> tuple[int, str]:
    """How often: (200, "steps") for "200" and "200 steps", (1, "epochs") for "epoch".

    Raises:
        ConfigError: it is none of these.
    """
    found = re.fullmatch(r"\s*(\d{0,9})\s*(steps?|epochs?)?\s*", text)
    number = int(found[1] or bool(found[2])) if found else 0
    if found is None or number < 1:
        raise ConfigError(
            f"--save-every {text!r} is no number of steps or epochs: write epoch, "
            "'5 epochs' or '200 steps'"
        )
    return number, (found[2] or "step").rstrip("s") + "s"


def default_epochs(model: Network) -> int:
    """Epochs of a run that names none: it takes minutes on two cores, not hours."""
    return EPOCHS_LARGE if (model.native or 0) > 32 else EPOCHS


def check_named(config: TrainConfig, named: Collection[str]) -> None:
    """Refuse options that the user named although they change nothing.

    Raises:
        ConfigError: with one sentence that names the option and what to do.
    """
    kind = config.optimizer_name
    for option, idle, why in (
        ("momentum", kind != "sgd", f"is of sgd, and {kind} has its own"),
        ("data_dir", config.dataset == "shapes", "is not for shapes, which is drawn"),
        ("download", config.dataset == "shapes", "is not for shapes, which is drawn"),
        ("mirror", "download" not in named, "is of --download"),
        ("num_classes", True, "is of --list-models; a data set has its own number"),
    ):
        if option in named and idle:
            name = option.replace("_", "-")
            raise ConfigError(f"--{name} {why}: leave it out")


def check_resuming(named: Collection[str]) -> None:
    """Refuse what a run that goes on has options of its own for.

    Raises:
        ConfigError: with one sentence that names the options.
    """
    if others := sorted(set(named) - {"resume", "data_dir"}):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ConfigError(
            f"--resume goes on with the options of the run: leave {names} out (only "
            "--data-dir may say where its data lie now)"
        )


def check_listing(named: Collection[str], num_classes: int | None) -> None:
    """Refuse what means nothing beside ``--list-models``.

    Raises:
        ConfigError: with one sentence that names the options.
    """
    others = sorted(set(named) - {"list_models", "num_classes"})
    if others:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ConfigError(
            f"--list-models prints all networks and trains none: leave {names} out"
        )
    if num_classes is not None and num_classes < 1:
        raise ConfigError(f"--num-classes must be 1 or more, not {num_classes}")


def idle_on_cpu(named: Collection[str]) -> list[str]:
    """Sentences on options that the user named and that only a GPU knows."""
    said = {
        "deterministic": "a CPU computes the same bits every time",
        "capture": "only a GPU records its steps",
    }
    return [f"--{n} changes nothing: {why}" for n, why in said.items() if n in named]


def _choice(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ConfigError(f"--{name} {given!r} is unknown; choose {', '.join(known)}")


def _number(
    name: str,
    given: float | None,
    *,
    above: float | None = None,
    below: float = math.inf,
) -> None:
    """Refuse what is not finite, not above `above` (or below 0), or too large."""
    if given is None:
        return
    low = given > above if above is not None else given >= 0
    if math.isfinite(given) and low and given < below:
        return
    text = f"above {above:g}" if above is not None else "0 or more"
    if below < math.inf:
        text += f" and below {below:g}"
    raise ConfigError(f"--{name} must be a finite number, {text}, not {given}")
