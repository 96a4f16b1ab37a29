"""Factors of the learning rate that depend on how the run goes, epoch by epoch.

What they have seen is a few numbers, :meth:`Watching.state_dict`, so that a run can be
resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from tinyflow.ops.arguments import number
from tinyflow.state import needs_mapping


class Watching:
    """A factor that watches a metric.

    Args:
        watches: the name of the metric, a column of ``metrics.csv``.
    """

    state: ClassVar[Mapping[str, tuple[type, ...]]]
    """Names of the attributes that change, and what each may hold."""

    def __init__(self, watches: str) -> None:
        self.watches = watches

    def __call__(self, step: int) -> float:
        """The factor of a step, from 0."""
        raise NotImplementedError

    def observe(self, metric: float) -> None:
        """Take notice of what an epoch came to."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What has been seen: numbers that JSON can hold."""
        return {name: getattr(self, name) for name in self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave.

        Raises:
            ValueError: it is none of this factor's; nothing has been changed then.
        """
        self.take(self.checked(state))

    def checked(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """`state`, if it is one; ValueError if not."""
        who = type(self).__name__
        needs_mapping("load_state_dict", state)
        if state.keys() != self.state.keys():
            raise ValueError(f"{who} keeps {sorted(self.state)}, not {sorted(state)}")
        for name, value in state.items():
            kinds = self.state[name]
            if type(value) not in kinds or not (value is None or math.isfinite(value)):
                raise ValueError(f"{who}: {name} cannot be {value!r}")
        return dict(state)

    def take(self, state: Mapping[str, Any]) -> None:
        """Write what has been checked."""
        vars(self).update(state)


class Plateau(Watching):
    """y ← max(γ y, f) after more than `patience` epochs in a row that were no better.

    The rule of ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with its defaults: better
    is m < (1 - τ) m*, or with mode "max" m > (1 + τ) m*, where m* is the best so far.
    (Its `eps`, below which a fall of the rate is not worth it, is 0.)

    Args:
        watches: see :class:`Watching`.
        mode: "min" if lower is better, "max" if higher.
        gamma: γ in [0, 1).
        patience: epochs, at least 0.
        threshold: τ ≥ 0.
        cooldown: epochs after a fall in which none is counted as bad.
        floor: f, the lowest rate in parts of the highest.
    """

    state: ClassVar = {
        "factor": (int, float),
        "best": (int, float, type(None)),
        "bad": (int,),
        "resting": (int,),
    }

    def __init__(
        self,
        watches: str = "train_loss",
        mode: str = "min",
        gamma: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        cooldown: int = 0,
        floor: float = 0.0,
    ) -> None:
        super().__init__(watches)
        if mode not in ("min", "max"):
            raise ValueError(f"Plateau: mode must be 'min' or 'max', not {mode!r}")
        if not number("Plateau", gamma, "gamma", 0) < 1:
            raise ValueError(f"Plateau: gamma must lie in [0, 1), not {gamma}")
        self.mode, self.gamma = mode, gamma
        self.patience = number("Plateau", patience, "patience", 0)
        self.threshold = number("Plateau", threshold, "threshold", 0)
        self.cooldown = number("Plateau", cooldown, "cooldown", 0)
        self.floor = number("Plateau", floor, "floor", 0, 1)
        self.factor = 1.0
        self.best: float | None = None
        self.bad = self.resting = 0

    def __call__(self, step: int) -> float:
        """What the epochs seen so far have left."""
        return self.factor

    def observe(self, metric: float) -> None:
        """Count an epoch as better or bad."""
        if self._better(metric):
            self.best, self.bad = float(metric), 0
        else:
            self.bad += 1
        if self.resting > 0:
            self.resting, self.bad = self.resting - 1, 0
        if self.bad > self.patience:
            self.factor = max(self.factor * self.gamma, self.floor)
            self.resting, self.bad = int(self.cooldown), 0

    def _better(self, metric: float) -> bool:
        if self.best is None:
            return math.isfinite(metric)
        if self.mode == "min":
            return metric < self.best * (1 - self.threshold)
        return metric > self.best * (1 + self.threshold)


class UntilLearned(Watching):
    """y = s until the metric of an epoch is above `above`, then 1 for good.

    He et al. (2016, section 4.2) train ResNet-110 so: a rate of 0.01 until the training
    error is below 80 %, then 0.1.

    Args:
        above: of He et al. an accuracy of 0.2.
        low: s, the factor at first.
        watches: see :class:`Watching`.
    """

    state: ClassVar = {"learned": (bool,)}

    def __init__(
        self, above: float = 0.2, low: float = 0.1, watches: str = "train_accuracy"
    ) -> None:
        super().__init__(watches)
        self.above = number("UntilLearned", above, "above", 0)
        self.low = number("UntilLearned", low, "low", 0, 1)
        self.learned = False

    def __call__(self, step: int) -> float:
        """`low` or 1."""
        return 1.0 if self.learned else self.low

    def observe(self, metric: float) -> None:
        """Remember whether an epoch got there."""
        self.learned = self.learned or bool(metric > self.above)
