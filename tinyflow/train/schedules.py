"""Learning-rate schedules: functions from the step to a multiplier of the rate.

Steps are counted from 0 over the whole run, not per epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]
"""``schedule(step)``: what the learning rate of that step (from 0) is multiplied by."""


def constant(warmup_steps: int = 0) -> Schedule:
    """1, after a linear warm-up (t + 1) / warmup_steps."""
    return lambda step: _warmup(step, warmup_steps)


def cosine(total_steps: int, warmup_steps: int = 0) -> Schedule:
    """½ (1 + cos(π (t - w) / (T - w))), after w steps of warm-up (Loshchilov 2017).

    Args:
        total_steps: T ≥ 1; from there on the multiplier is 0.
        warmup_steps: w, in which the multiplier is (t + 1) / w.
    """

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return _warmup(step, warmup_steps)
        done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    return multiplier


def step_decay(
    milestones: Iterable[int], gamma: float = 0.1, warmup_steps: int = 0
) -> Schedule:
    """γⁿ with n the number of milestones (steps) reached; see :func:`constant`."""
    reached = sorted(milestones)
    return lambda step: (
        _warmup(step, warmup_steps) * gamma ** sum(step >= m for m in reached)
    )


def _warmup(step: int, warmup_steps: int) -> float:
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
