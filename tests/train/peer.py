"""A small network in PyTorch, trained beside ours step by step.

In float64, from the same weights and batches. What is compared is made from the options
as ``train.py`` makes it; what it is compared with, from PyTorch's own classes.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinyflow import Tensor, nn, ops
from tinyflow.network import Network
from tinyflow.train import TrainConfig
from tinyflow.train.ema import EMA
from tinyflow.train.protocol import optimizer_of, schedule_of
from tinyflow.train.step import train_step

EPOCHS, STEPS, SIZE = 10, 10, 8


class Net(nn.Module):
    """Convolution, norm, a branch that may be dropped, dropout, classes."""

    def __init__(
        self,
        rng: np.random.Generator,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        **_: Any,
    ) -> None:
        self.conv = nn.Conv2d(3, 6, 3, bias=False, rng=rng)
        self.bn = nn.BatchNorm2d(6)
        self.branch = nn.Linear(6, 6, rng=rng)
        self.fc = nn.Linear(6, 4, rng=rng)
        self.depth = nn.StochasticDepth(stochastic_depth, rng=rng)
        self.drop = nn.Dropout(dropout, rng=rng)
        self.kept = SimpleNamespace()  # which images and features were, this step

    def forward(self, x: Any) -> Any:
        x = ops.relu(self.bn(self.conv(x))).mean((2, 3))
        images = self.depth(Tensor(np.ones((len(x), 1))))
        features = self.drop(Tensor(np.ones(x.shape)))
        self.kept.images, self.kept.features = images.data != 0, features.data != 0
        return self.fc((x + self.branch(x) * images) * features)


def network(name: str = "net") -> Network:
    return Network(name, Net, 32)


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(STEPS):
        labels = rng.integers(0, 4, SIZE)
        images = rng.normal(size=(SIZE, 3, 6, 6))
        images[:, 0] += 0.5 * labels[:, None, None]
        found.append((images, labels))
    return found


class Peer:
    """The same in PyTorch, written with its classes."""

    def __init__(self, torch: Any, model: nn.Module, config: TrainConfig) -> None:
        self.torch, self.config = torch, config
        self.net = torch.nn.Module()
        self.net.conv = torch.nn.Conv2d(3, 6, 3, bias=False)
        self.net.bn = torch.nn.BatchNorm2d(6)
        self.net.branch = torch.nn.Linear(6, 6)
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
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.net, avg_fn=self._average, use_buffers=True
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

    def _warm_up(self, steps: int) -> Any:
        config, to = self.config, self.torch.optim.lr_scheduler
        start = config.warmup_start
        if config.warmup_constant:
            return to.ConstantLR(self.optimizer, start, steps)
        if not start:  # PyTorch's begins above 0
            return to.LambdaLR(self.optimizer, lambda t: min(t / max(steps, 1), 1.0))
        return to.LinearLR(self.optimizer, start, 1.0, steps)

    def _scheduler(self) -> Any:
        config, to = self.config, self.torch.optim.lr_scheduler
        run, total = self.optimizer, EPOCHS * STEPS
        if config.schedule == "onecycle":
            return to.OneCycleLR(run, config.lr, total, cycle_momentum=False)
        warm = round(config.warmup_epochs * STEPS)
        parts = [self._warm_up(warm)] if warm else []
        if config.schedule == "cosine":
            rest = to.CosineAnnealingLR(run, total - warm, config.min_lr)
            return to.SequentialLR(run, [*parts, rest], [warm] if warm else [])
        if config.schedule == "step":
            whole = total if config.milestones[-1] < 1 else STEPS
            at = [int(m * whole) for m in config.milestones]
            parts.append(to.MultiStepLR(run, at, config.gamma))
        if config.schedule == "exponential":
            parts.append(to.StepLR(run, 15, config.gamma))
        return to.ChainedScheduler(parts or [to.ConstantLR(run, 1.0, 1)])

    def _average(self, average: Any, weight: Any, count: Any) -> Any:
        decay, t = self.config.ema or 0.0, int(count) - 1
        if self.config.ema_warm_up:
            decay = min(decay, (1 + t) / (10 + t))
        return decay * average + (1 - decay) * weight

    def _scale(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= factor

    @property
    def rate(self) -> float:
        rates = {group["lr"] for group in self.optimizer.param_groups}
        return rates.pop() if len(rates) == 1 else float("nan")

    def _logits(self, images: np.ndarray, kept: SimpleNamespace) -> Any:
        """With the images and features left out that ours left out."""
        torch, net, config = self.torch, self.net, self.config
        images_kept = torch.tensor(kept.images).double()
        features = torch.tensor(kept.features).double()
        x = torch.relu(net.bn(net.conv(torch.tensor(images)))).mean((2, 3))
        x = x + net.branch(x) * images_kept / (1 - (config.stochastic_depth or 0.0))
        return net.fc(x * features / (1 - (config.dropout or 0.0)))

    def step(
        self, images: np.ndarray, labels: np.ndarray, kept: SimpleNamespace
    ) -> tuple[float, int]:
        torch, config = self.torch, self.config
        self.optimizer.zero_grad()
        logits, right = self._logits(images, kept), torch.tensor(labels)
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


def compare(ours: TrainConfig, theirs: TrainConfig) -> set[float]:
    """Train for 100 steps with both, and compare after each; the rates there were.

    Args:
        ours: what our optimiser and schedule are made from.
        theirs: what PyTorch's are made from.
    """
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # they wait for each other longer than they compute
    options = ours.model_options
    model = ours.model.build(num_classes=4, **options).to(dtype="float64").train()
    with warnings.catch_warnings():  # SequentialLR steps before the optimiser
        warnings.simplefilter("ignore")
        peer = Peer(torch, model, theirs)
    rule = optimizer_of(ours, model)
    rates = schedule_of(ours, STEPS, EPOCHS * STEPS)
    ema, seen = EMA(model, ours.ema or 0.0, ours.ema_warm_up), set()
    how = {"label_smoothing": ours.label_smoothing, "clip_grad": ours.clip_grad}
    for epoch in range(EPOCHS):
        loss = correct = 0.0
        for step, batch in enumerate(batches()):
            rule.lr = ours.learning_rate * rates(epoch * STEPS + step)
            assert rule.lr == pytest.approx(peer.rate, rel=1e-12), (epoch, step)
            seen.add(rule.lr)
            done = train_step(model, *batch, rule, **how)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                other = peer.step(*batch, model.kept)
            ema.update()
            assert done.loss == pytest.approx(other[0], rel=1e-9)
            assert done.correct == other[1]
            loss, correct = loss + done.loss / STEPS, correct + done.correct
        row = {"train_loss": loss, "train_accuracy": correct / STEPS / SIZE}
        rates.observe(row)
        peer.end(*row.values())
    for held, net in (
        (model.state_dict(), peer.net),
        (ema.averages, peer.averaged.module),
    ):
        expected = net.state_dict()
        for name, array in held.items():
            other = expected[name].numpy()
            np.testing.assert_allclose(array, other, 1e-9, 1e-9, err_msg=name)
    assert peer.learned
    return seen
