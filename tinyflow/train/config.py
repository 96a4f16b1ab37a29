"""All options of a training run, checked before anything is computed or written."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tinyflow.backend import DEVICES
from tinyflow.data import DATASETS
from tinyflow.network import Network

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
EPOCHS, EPOCHS_LARGE = 4, 2  # of most networks, and of those for ImageNet
WEIGHT_DECAY = {"sgd": 5e-4, "adam": 0.0, "adamw": 0.01, "rmsprop": 0.0}
SCHEDULES = ("constant", "cosine", "step", "exponential", "onecycle", "plateau")
MILESTONES = (0.5, 0.75)  # of all steps (He et al. 2016)
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
        schedule: one of `SCHEDULES`: constant; half a cosine down to `min_lr`; times
            `gamma` from each of the `milestones` on, or every `decay_epochs` epochs, or
            after more than `patience` epochs in which the training loss fell no
            further; or PyTorch's one cycle, which has a warm-up of its own.
        milestones: of "step", rising: all below 1, shares of all steps, or all 1 and
            more, epochs (fractions too).
        gamma: of "step", "exponential" and "plateau", between 0 and 1.
        decay_epochs: of "exponential", which needs it; fractions too.
        patience: epochs, of "plateau".
        min_lr: the lowest rate of "cosine" and "plateau".
        weight_decay: λ in the optimiser's own sense; None means what `WEIGHT_DECAY`
            says.
        decay_norms: whether λ is also for parameters with one axis or none: the weights
            of norms, and all biases.
        momentum: of SGD and RMSprop, in [0, 1); the others ignore it.
        nesterov: Nesterov's momentum, of SGD.
        label_smoothing: ε of the training loss, in [0, 1); the test loss has none.
        warmup_epochs: epochs (fractions too) of linear warm-up.
        warmup_start: the part of the rate that it begins at; None means that the first
            step is a step of the warm-up like the others.
        slow_until: a tenth of the rate until the training accuracy of an epoch is above
            this (He et al. 2016 for ResNet-110: 0.2), or None.
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
    milestones: tuple[float, ...] = MILESTONES
    gamma: float = 0.1
    decay_epochs: float | None = None
    patience: int = 10
    min_lr: float = 0.0
    weight_decay: float | None = None
    decay_norms: bool = True
    momentum: float = 0.9
    nesterov: bool = False
    label_smoothing: float = 0.0
    warmup_epochs: float = 0.5
    warmup_start: float | None = None
    slow_until: float | None = None
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
        interval(self.save_every)
        if self.seed < 0:
            raise ConfigError(f"--seed must be 0 or more, not {self.seed}")
        _number("lr", self.lr, above=0)
        _number("clip-grad", self.clip_grad, above=0)
        _number("weight-decay", self.weight_decay)
        _number("momentum", self.momentum, below=1)
        _number("label-smoothing", self.label_smoothing, below=1)
        _number("warmup-epochs", self.warmup_epochs)
        if self.nesterov and self.momentum == 0:
            raise ConfigError("--nesterov needs a --momentum above 0")
        _check_schedule(self)
        if self.augment and self.dataset == "mnist":
            raise ConfigError(
                "--augment mirrors images, which changes digits: leave it out for mnist"
            )
        if self.dataset != "shapes" and self.data_dir is None:
            raise ConfigError(
                f"{self.dataset} is read from files: name their folder with --data-dir "
                "or the environment variable TINYFLOW_DATA, or use --dataset shapes"
            )


def interval(text: str) -> tuple[int, str]:
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


def _check_schedule(config: TrainConfig) -> None:
    """ConfigError for a rate that no schedule can give."""
    _number("gamma", config.gamma, above=0, below=1)
    _number("decay-epochs", config.decay_epochs, above=0)
    _number("patience", config.patience)
    _number("min-lr", config.min_lr)
    _number("warmup-start", config.warmup_start, below=1)
    _number("slow-until", config.slow_until, above=0, below=1)
    if config.schedule != "onecycle" and 0 < config.epochs <= config.warmup_epochs:
        raise ConfigError(
            f"--warmup-epochs {config.warmup_epochs:g} leaves nothing of --epochs "
            f"{config.epochs}; choose less than that"
        )
    if config.schedule == "exponential" and config.decay_epochs is None:
        raise ConfigError(
            "--schedule exponential needs --decay-epochs: after how many epochs the "
            f"rate is multiplied by --gamma, {config.gamma:g}"
        )
    if config.min_lr >= config.learning_rate:
        raise ConfigError(
            f"--min-lr {config.min_lr:g} must be below --lr, {config.learning_rate:g}"
        )
    if config.schedule == "step":
        _check_milestones(config.milestones, config.epochs)


def _check_milestones(given: tuple[float, ...], epochs: int) -> None:
    said = ",".join(f"{m:g}" for m in given)
    for m in given:
        _number("milestones", m, above=0)
    if not given or list(given) != sorted(set(given)) or given[0] < 1 <= given[-1]:
        raise ConfigError(
            f"--milestones {said or '()'} must rise: all below 1, parts of the run as "
            "in 0.5,0.75, or all 1 and more, epochs as in 82,123"
        )
    if given[-1] >= epochs and given[-1] >= 1:
        raise ConfigError(
            f"--milestones {said} are not all reached in --epochs {epochs}: leave out "
            "what lies behind, or give parts of the run, as in 0.5,0.75"
        )


def default_epochs(model: Network) -> int:
    """Epochs of a run that names none: it takes minutes on two cores, not hours."""
    return EPOCHS_LARGE if (model.native or 0) > 32 else EPOCHS


def check_named(config: TrainConfig, named: Collection[str]) -> None:
    """Refuse options that the user named although they change nothing.

    Raises:
        ConfigError: with one sentence that names the option and what to do.
    """
    kind, schedule = config.optimizer_name, config.schedule
    own = f"and {kind} has its own"
    cycle = schedule == "onecycle"
    for option, idle, why in (
        ("momentum", kind not in ("sgd", "rmsprop"), f"is of sgd and rmsprop, {own}"),
        ("nesterov", kind != "sgd", f"is of sgd, {own}"),
        ("decay_norms", config.decay == 0, f"is of --weight-decay, 0 with {kind}"),
        *(
            (name, schedule not in of, f"is of --schedule {' or '.join(of)}")
            for name, of in (
                ("milestones", ("step",)),
                ("gamma", ("step", "exponential", "plateau")),
                ("decay_epochs", ("exponential",)),
                ("patience", ("plateau",)),
                ("min_lr", ("cosine", "plateau")),
            )
        ),
        ("warmup_epochs", cycle, "is not for onecycle, which has its own"),
        ("warmup_start", cycle, "is not for onecycle, which has its own"),
        ("warmup_start", config.warmup_epochs == 0, "is of --warmup-epochs, here 0"),
        ("data_dir", config.dataset == "shapes", "is not for shapes, which is drawn"),
        ("download", config.dataset == "shapes", "is not for shapes, which is drawn"),
        ("mirror", "download" not in named, "is of --download"),
        ("num_classes", True, "is of --list-models; a data set has its own number"),
    ):
        if option in named and idle:
            raise ConfigError(f"{_flags([option])} {why}: leave it out")


def check_resuming(named: Collection[str]) -> None:
    """Refuse what a run that goes on has options of its own for.

    Raises:
        ConfigError: with one sentence that names the options.
    """
    if others := sorted(set(named) - {"resume", "data_dir"}):
        raise ConfigError(
            f"--resume goes on with the options of the run: leave {_flags(others)} out "
            "(only --data-dir may say where its data lie now)"
        )


def check_listing(named: Collection[str], num_classes: int | None) -> None:
    """Refuse what means nothing beside ``--list-models``.

    Raises:
        ConfigError: with one sentence that names the options.
    """
    others = sorted(set(named) - {"list_models", "num_classes"})
    if others:
        raise ConfigError(
            "--list-models prints all networks and trains none: leave "
            f"{_flags(others)} out"
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


def _flags(names: Iterable[str]) -> str:
    """Options as they stand on the command line."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


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
