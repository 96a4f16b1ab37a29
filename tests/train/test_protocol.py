"""The first 100 steps of a run are PyTorch's: optimiser, schedule, options, averages.

In float64, from the same weights and batches. What is compared is made from the options
as ``train.py`` makes it.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tinyflow import nn, ops
from tinyflow.network import Network
from tinyflow.train import TrainConfig
from tinyflow.train.ema import EMA
from tinyflow.train.protocol import optimizer_of, schedule_of
from tinyflow.train.step import train_step

EPOCHS, STEPS, SIZE = 10, 10, 8
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


class Net(nn.Module):
    def __init__(self, rng: np.random.Generator) -> None:
        self.conv = nn.Conv2d(3, 6, 3, bias=False, rng=rng)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4, rng=rng)

    def forward(self, x: Any) -> Any:
        return self.fc(ops.relu(self.bn(self.conv(x))).mean((2, 3)))


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(STEPS):
        labels = rng.integers(0, 4, SIZE)
        images = rng.normal(size=(SIZE, 3, 6, 6))
        images[:, 0] += 0.5 * labels[:, None, None]
        found.append((images, labels))
    return found


def configuration(optimizer: str, schedule: str, option: str) -> TrainConfig:
    config = TrainConfig(
        Network("net", lambda **_: Net(np.random.default_rng(0)), 32),
        optimizer=optimizer if optimizer in RATES else None,
        schedule=schedule if "," not in schedule and schedule != "slow" else "step",
        epochs=EPOCHS,
        weight_decay=0.02,
        warmup_epochs=1.2,
        warmup_start=0.25,
    )
    given = OPTIMIZERS[optimizer] | SCHEDULES[schedule] | OPTIONS[option]
    config = replace(config, **given)
    config = replace(config, lr=RATES[config.optimizer_name])
    config.validate()
    return config


class Peer:
    """The same in PyTorch, written with its classes."""

    def __init__(self, torch: Any, model: nn.Module, config: TrainConfig) -> None:
        self.torch, self.config = torch, config
        self.net = torch.nn.Sequential()
        self.net.conv = torch.nn.Conv2d(3, 6, 3, bias=False)
        self.net.bn = torch.nn.BatchNorm2d(6)
        self.net.relu = torch.nn.ReLU()
        self.net.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.net.flat = torch.nn.Flatten()
        self.net.fc = torch.nn.Linear(6, 4)
        self.net.double()
        state = {k: torch.tensor(v) for k, v in model.state_dict().items()}
        self.net.load_state_dict(state, strict=False)
        self.optimizer = self._optimizer()
        self.scheduler = self._scheduler()
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            *(self.optimizer, "min", config.gamma, config.patience),
            **{"min_lr": config.min_lr, "eps": 0},
        )
        self.learned = config.slow_until is None
        self._scale(1.0 if self.learned else 0.1)
        swa = torch.optim.swa_utils
        self.averaged = swa.AveragedModel(
            self.net, multi_avg_fn=swa.get_ema_multi_avg_fn(0.95), use_buffers=True
        )
        self.averaged.update_parameters(self.net)

    def _optimizer(self) -> Any:
        config, optim = self.config, self.torch.optim
        groups = [{"params": [p]} for p in self.net.parameters()]
        for group in groups:
            if not config.decay_norms and group["params"][0].ndim <= 1:
                group["weight_decay"] = 0.0
        lr = {"lr": config.lr, "weight_decay": config.weight_decay}
        momentum = {"momentum": config.momentum}
        return {
            "sgd": lambda: optim.SGD(
                groups, nesterov=config.nesterov, **momentum, **lr
            ),
            "adam": lambda: optim.Adam(groups, **lr),
            "adamw": lambda: optim.AdamW(groups, **lr),
            "rmsprop": lambda: optim.RMSprop(groups, **momentum, **lr),
        }[config.optimizer_name]()

    def _scheduler(self) -> Any:
        config, to = self.config, self.torch.optim.lr_scheduler
        run, total, warm = self.optimizer, EPOCHS * STEPS, 12
        if config.schedule == "onecycle":
            return to.OneCycleLR(run, config.lr, total, cycle_momentum=False)
        linear = to.LinearLR(run, 0.25, 1.0, warm)
        if config.schedule == "cosine":
            rest = to.CosineAnnealingLR(run, total - warm, config.min_lr)
            return to.SequentialLR(run, [linear, rest], [warm])
        if config.schedule == "step":
            at = [25, 50] if config.milestones[-1] != 0.75 else [50, 75]
            return to.ChainedScheduler([linear, to.MultiStepLR(run, at, config.gamma)])
        if config.schedule == "exponential":
            return to.ChainedScheduler([linear, to.StepLR(run, 15, config.gamma)])
        return linear

    def _scale(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    @property
    def rate(self) -> float:
        rates = {group["lr"] for group in self.optimizer.param_groups}
        return rates.pop() if len(rates) == 1 else float("nan")

    def step(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
        torch, config = self.torch, self.config
        self.optimizer.zero_grad()
        logits, right = self.net(torch.tensor(images)), torch.tensor(labels)
        loss = torch.nn.functional.cross_entropy(
            logits, right, label_smoothing=config.label_smoothing
        )
        loss.backward()
        if config.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), config.clip_grad)
        self.optimizer.step()
        self.scheduler.step()
        self.averaged.update_parameters(self.net)
        return loss.item(), int((logits.argmax(1) == right).sum())

    def end(self, loss: float, accuracy: float) -> None:
        """Of an epoch."""
        if self.config.schedule == "plateau":
            self.plateau.step(loss)
        if not self.learned and accuracy > self.config.slow_until:
            self.learned = True
            self._scale(10.0)


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
    torch = pytest.importorskip("torch")
    config = configuration(optimizer, schedule, option)
    model = Net(np.random.default_rng(0)).to(dtype="float64").train()
    with warnings.catch_warnings():  # SequentialLR steps before the optimiser
        warnings.simplefilter("ignore")
        peer = Peer(torch, model, config)
    rule, rates = (
        optimizer_of(config, model),
        schedule_of(config, STEPS, EPOCHS * STEPS),
    )
    ema, seen = EMA(model, 0.95), set()
    how = {"label_smoothing": config.label_smoothing, "clip_grad": config.clip_grad}
    for epoch in range(EPOCHS):
        loss = correct = 0.0
        for step, batch in enumerate(batches()):
            rule.lr = config.learning_rate * rates(epoch * STEPS + step)
            assert rule.lr == pytest.approx(peer.rate, rel=1e-12), (epoch, step)
            seen.add(rule.lr)
            done = train_step(model, *batch, rule, **how)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = peer.step(*batch)
            ema.update()
            assert done.loss == pytest.approx(theirs[0], rel=1e-9)
            assert done.correct == theirs[1]
            loss, correct = loss + done.loss / STEPS, correct + done.correct
        row = {"train_loss": loss, "train_accuracy": correct / STEPS / SIZE}
        rates.observe(row)
        peer.end(*row.values())
    for ours, net in (
        (model.state_dict(), peer.net),
        (ema.averages, peer.averaged.module),
    ):
        held = net.state_dict()
        for name, array in ours.items():
            expected = held[name].numpy()
            np.testing.assert_allclose(array, expected, 1e-9, 1e-9, err_msg=name)
    assert peer.learned and len(seen) > 12
