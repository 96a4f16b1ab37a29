"""The optimiser and the schedule that options name."""

from __future__ import annotations

from typing import Any

from tinyflow import nn
from tinyflow.optim import SGD, Adam, AdamW, Optimizer, RMSprop, names_of_vectors
from tinyflow.train.checks import ConfigError
from tinyflow.train.config import TrainConfig
from tinyflow.train.schedules import (
    Factor,
    Schedule,
    cosine,
    every,
    multi_step,
    one_cycle,
    warm_up,
)
from tinyflow.train.watching import Plateau, UntilLearned


def optimizer_of(config: TrainConfig, model: nn.Module) -> Optimizer:
    """The optimiser of a model's parameters."""
    named, lr = list(model.named_parameters()), config.learning_rate
    pull: dict[str, Any] = {"weight_decay": config.decay}
    if not config.decay_norms:
        pull["no_decay"] = names_of_vectors(named)
    eps = 1e-8 if config.eps is None else config.eps
    own = {"betas": (config.betas[0], config.betas[1]), "eps": eps, **pull}
    match config.optimizer_name:
        case "sgd":
            return SGD(named, lr, config.momentum, nesterov=config.nesterov, **pull)
        case "rmsprop":
            own = {"alpha": config.alpha, "eps": eps, **pull}
            return RMSprop(named, lr, momentum=config.momentum, **own)
        case "adam":
            return Adam(named, lr, **own)
        case _:
            return AdamW(named, lr, **own)


def schedule_of(config: TrainConfig, steps: int, total: int) -> Schedule:
    """The factors of the rate, `steps` to an epoch and `total` in the run.

    Raises:
        ConfigError: nothing is left after the warm-up.
    """
    warmup = round(config.warmup_epochs * steps)
    if config.schedule != "onecycle" and 0 < total <= warmup and config.iterations:
        raise ConfigError(
            f"--warmup-epochs {config.warmup_epochs:g} are {warmup} steps, which "
            f"leaves nothing of --iterations {total}; choose less than that"
        )
    floor = config.min_lr / config.learning_rate
    factors: list[Factor] = []
    if config.slow_until is not None:
        factors.append(UntilLearned(config.slow_until))
    if config.schedule != "onecycle":
        factors.append(
            warm_up(warmup, config.warmup_start, held=config.warmup_constant)
        )
    match config.schedule:
        case "cosine":
            factors.append(cosine(total, warmup, floor))
        case "step":
            unit = 1 if config.iterations else steps
            reached = [round(m * (total if m < 1 else unit)) for m in config.milestones]
            factors.append(multi_step(reached, config.gamma))
        case "exponential":
            often = round((config.decay_epochs or 1) * steps)
            factors.append(every(max(often, 1), config.gamma))
        case "onecycle":
            factors.append(one_cycle(total))
        case "plateau":
            watched = "val_loss" if config.val_split else "train_loss"
            gamma, patience = config.gamma, config.patience
            plateau = Plateau(watched, gamma=gamma, patience=patience, floor=floor)
            factors.append(plateau)
    return Schedule(*factors)
