"""The first 100 steps are PyTorch's: optimiser, schedule, options, averages."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from tests.train.peer import EPOCHS, compare, network
from tinyflow.train import TrainConfig

RATES = {"sgd": 0.2, "adam": 0.01, "adamw": 0.01, "rmsprop": 0.003}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.8},
    "nesterov": {"optimizer": "sgd", "nesterov": True},
    "adam": {},
    "adamw": {},
    "rmsprop": {"momentum": 0.5},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {},
    "cosine": {"min_lr": 1e-3},
    "step": {"milestones": (0.25, 0.5)},
    "step, by epochs": {"schedule": "step", "milestones": (2.5, 5), "gamma": 0.3},
    "exponential": {"decay_epochs": 1.5, "gamma": 0.5},
    "onecycle": {},
    "plateau": {"patience": 0, "gamma": 0.5, "min_lr": 1e-3},
    "slow": {"schedule": "step", "slow_until": 0.23},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {"decay_norms": False, "clip_grad": 0.3, "label_smoothing": 0.1},
}


def configuration(optimizer: str, schedule: str, option: str) -> TrainConfig:
    config = TrainConfig(
        network(),
        optimizer=optimizer if optimizer in RATES else None,
        schedule=schedule if "," not in schedule and schedule != "slow" else "step",
        epochs=EPOCHS,
        weight_decay=0.02,
        warmup_epochs=1.2,
        warmup_start=0.25,
        ema=0.95,
    )
    given = OPTIMIZERS[optimizer] | SCHEDULES[schedule] | OPTIONS[option]
    config = replace(config, **given)
    config = replace(config, lr=RATES[config.optimizer_name])
    config.validate()
    return config


def cases() -> list[Any]:
    """Every combination; those that say nothing new about two of the three are slow."""
    new = [("sgd", name, "all") for name in SCHEDULES]
    new += [(name, "slow", "all") for name in OPTIMIZERS] + [("sgd", "slow", "plain")]
    every = itertools.product(OPTIMIZERS, SCHEDULES, OPTIONS)
    return [
        pytest.param(*case, marks=() if case in new else pytest.mark.slow)
        for case in every
    ]


@pytest.mark.parametrize(("optimizer", "schedule", "option"), cases())
def test_100_steps_are_those_of_pytorch(
    optimizer: str, schedule: str, option: str
) -> None:
    config = configuration(optimizer, schedule, option)
    assert len(compare(config, config)) > 12
