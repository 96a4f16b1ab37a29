"""What a configuration may not be: each mistake one sentence on what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from tinyflow.data.dataset import ANY_SIZE

if TYPE_CHECKING:
    from tinyflow.train.config import TrainConfig


class ConfigError(ValueError):
    """Options that cannot be used: one sentence on what is wrong and what to do."""


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


def check_schedule(config: TrainConfig) -> None:
    """ConfigError for a rate that no schedule can give."""
    number_in("gamma", config.gamma, above=0, below=1)
    number_in("decay-epochs", config.decay_epochs, above=0)
    number_in("patience", config.patience)
    number_in("min-lr", config.min_lr)
    number_in("warmup-start", config.warmup_start, below=1)
    number_in("slow-until", config.slow_until, above=0, below=1)
    cycle = config.schedule == "onecycle"
    if config.warmup_constant and config.warmup_start is None and not cycle:
        raise ConfigError(
            "--warmup-constant needs --warmup-start: the part of the rate that it "
            "stays at, as in 0.1"
        )
    epochs = config.epochs if config.iterations is None else math.inf
    if not cycle and 0 < epochs <= config.warmup_epochs:
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
        _check_milestones(config)


def _check_milestones(config: TrainConfig) -> None:
    given, last, unit = config.milestones, config.epochs, "epochs"
    if config.iterations is not None:
        last, unit = config.iterations, "iterations"
    said = ",".join(f"{m:g}" for m in given)
    for m in given:
        number_in("milestones", m, above=0)
    if not given or list(given) != sorted(set(given)) or given[0] < 1 <= given[-1]:
        raise ConfigError(
            f"--milestones {said or '()'} must rise: all below 1, parts of the run as "
            f"in 0.5,0.75, or all 1 and more, {unit} as in "
            + ("82,123" if unit == "epochs" else "32000,48000")
        )
    if given[-1] >= last and given[-1] >= 1:
        raise ConfigError(
            f"--milestones {said} are not all reached in --{unit} {last}: leave out "
            "what lies behind, or give parts of the run, as in 0.5,0.75"
        )


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
        ("betas", kind not in ("adam", "adamw"), "is of adam and adamw"),
        ("alpha", kind != "rmsprop", "is of rmsprop"),
        ("eps", kind == "sgd", "is not for sgd"),
        ("magnitude", config.rand_augment == 0, "is of --rand-augment"),
        ("ema_warm_up", config.ema is None, "is of --ema"),
        ("epochs", "iterations" in named, "is what --iterations decides"),
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
        *(
            (name, idle, why)
            for name in ("warmup_start", "warmup_constant")
            for idle, why in (
                (cycle, "is not for onecycle, which has its own"),
                (config.warmup_epochs == 0, "is of --warmup-epochs, here 0"),
            )
        ),
        *(
            (name, config.dataset != "folder", "is of --dataset folder")
            for name in ("workers", "bad_images")
        ),
        (
            "image_size",
            config.dataset not in ANY_SIZE,
            "is of --dataset folder and shapes",
        ),
        ("download", config.dataset == "folder", "is not for folder: it is your own"),
        ("data_dir", config.dataset == "shapes", "is not for shapes, which is drawn"),
        ("download", config.dataset == "shapes", "is not for shapes, which is drawn"),
        ("mirror", "download" not in named, "is of --download"),
        ("num_classes", True, "is of --list-models; a data set has its own number"),
        ("filter", True, "is of --list-models"),
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
    others = sorted(set(named) - {"list_models", "num_classes", "filter"})
    if others:
        raise ConfigError(
            "--list-models prints all networks and trains none: leave "
            f"{_flags(others)} out"
        )
    whole_in("num-classes", num_classes, 1)


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


def choice(name: str, given: str, known: Collection[str]) -> None:
    """Refuse what is not one of the known."""
    if given not in known:
        raise ConfigError(f"--{name} {given!r} is unknown; choose {', '.join(known)}")


def whole_in(name: str, given: int | None, low: int, high: float = math.inf) -> None:
    """Refuse a number that is not from `low` to `high`."""
    if given is not None and not low <= given <= high:
        span = f"{low} to {high}" if high < math.inf else f"{low} or more"
        raise ConfigError(f"--{name} must be {span}, not {given}")


def number_in(
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
