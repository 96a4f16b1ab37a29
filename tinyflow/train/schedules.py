"""Learning-rate schedules: products of factors, each a function of the step.

Steps are counted from 0 over the whole run, not per epoch. :mod:`.watching` has the
factors that depend on how the run goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from tinyflow.ops.arguments import number
from tinyflow.state import needs_mapping
from tinyflow.train.watching import Watching

Factor: TypeAlias = Callable[[int], float]
"""``factor(step)``, step from 0; a :class:`Watching` hears a metric as well."""


class Schedule:
    """y(t) = f₁(t) f₂(t) …, by which the learning rate of step t is multiplied.

    ``Schedule()`` is 1 throughout, ``Schedule(warm_up(500), cosine(9000, 500))`` rises
    and falls.

    >>> schedule = Schedule(warm_up(4), multi_step([6, 8]))
    >>> [round(schedule(t), 3) for t in range(10)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """

    def __init__(self, *factors: Factor) -> None:
        self.factors = factors
        self._watching = {
            f"{i}.{type(factor).__name__}": factor
            for i, factor in enumerate(factors)
            if isinstance(factor, Watching)
        }

    def __call__(self, step: int) -> float:
        """The product of the factors."""
        return math.prod(factor(step) for factor in self.factors)

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Tell what an epoch came to, by name; call it after each epoch.

        Raises:
            KeyError: a factor watches what is not among them.
        """
        for factor in self._watching.values():
            factor.observe(metrics[factor.watches])

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """What each watching factor has seen: numbers that JSON can hold."""
        return {name: factor.state_dict() for name, factor in self._watching.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` of such a schedule gave.

        Raises:
            ValueError: it is that of another schedule; nothing has been changed then.
        """
        needs_mapping("load_state_dict", state)
        if state.keys() != self._watching.keys():
            raise ValueError(
                f"this is the state of a schedule with {sorted(state)}, not with "
                f"{sorted(self._watching)}"
            )
        checked = [f.checked(state[name]) for name, f in self._watching.items()]
        for factor, found in zip(self._watching.values(), checked, strict=True):
            factor.take(found)


def warm_up(steps: int, start: float | None = None, *, held: bool = False) -> Factor:
    """y = s + (1 - s) t / w up to step w, then 1, as PyTorch's LinearLR.

    Args:
        steps: w ≥ 0; 0 is no warm-up.
        start: s, the factor of step 0. Without one y = (t + 1) / w, so that the first
            step counts and the w-th is whole.
        held: y = s up to step w instead, as PyTorch's ConstantLR; needs `start`.

    Raises:
        ValueError: an argument is out of its range.
    """
    w = number("warm_up", steps, "steps", 0)
    s = None if start is None else number("warm_up", start, "start", 0, 1)
    if held and s is None:
        raise ValueError("warm_up: held needs a start to be held at")

    def factor(step: int) -> float:
        if step >= w:
            return 1.0
        if s is None:
            return (step + 1) / w
        return s if held else s + (1 - s) * step / w

    return factor


def cosine(total: int, begin: int = 0, floor: float = 0.0) -> Factor:
    """y = f + (1 - f) ½ (1 + cos(π (t - b) / (T - b))) (Loshchilov & Hutter 2017).

    PyTorch's CosineAnnealingLR after b steps, held at the end.

    Args:
        total: T ≥ 1; from there on y = f.
        begin: b, up to which y = 1.
        floor: f, the lowest rate in parts of the highest.
    """
    number("cosine", total, "total", 1)
    f = number("cosine", floor, "floor", 0, 1)

    def factor(step: int) -> float:
        done = (step - begin) / max(total - begin, 1)
        done = min(max(done, 0.0), 1.0)
        return f + (1 - f) * 0.5 * (1 + math.cos(math.pi * done))

    return factor


def multi_step(milestones: Iterable[int], gamma: float = 0.1) -> Factor:
    """y = γⁿ with n the number of milestones (steps) reached: PyTorch's MultiStepLR."""
    reached = [number("multi_step", m, "milestones", 0) for m in milestones]
    number("multi_step", gamma, "gamma", 0)
    return lambda step: float(gamma ** sum(step >= m for m in reached))


def every(steps: int, gamma: float = 0.1) -> Factor:
    """y = γ^⌊t / n⌋ with n `steps`: PyTorch's StepLR; n = 1 is its ExponentialLR."""
    number("every", steps, "steps", 1)
    number("every", gamma, "gamma", 0)
    return lambda step: float(gamma ** (step // steps))


def one_cycle(
    total: int, rise: float = 0.3, start: float = 25.0, end: float = 1e4
) -> Factor:
    """Half a cosine up from 1/s to 1, and one down to 1/(s e) (Smith & Topin 2018).

    The rate of PyTorch's OneCycleLR, whose momentum stays what it is here. The peak is
    at step r T - 1, the end at T - 1.

    Args:
        total: T ≥ 1, the steps of the whole run; from there on y = 1/(s e).
        rise: r in [0, 1), the part of them before the peak.
        start: s ≥ 1, how many times lower the rate begins.
        end: e ≥ 1, how many times lower than that it ends.
    """
    number("one_cycle", total, "total", 1)
    low = 1 / number("one_cycle", start, "start", 1)
    lowest = low / number("one_cycle", end, "end", 1)
    if not number("one_cycle", rise, "rise", 0) < 1:
        raise ValueError(f"one_cycle: rise must lie in [0, 1), not {rise}")
    peak, last = rise * total - 1, total - 1

    def factor(step: int) -> float:
        if step < peak:
            return _between(low, 1.0, step / peak)
        return _between(1.0, lowest, min((step - peak) / (last - peak), 1.0))

    return factor


def _between(a: float, b: float, done: float) -> float:
    """From a to b along half a cosine."""
    return b + (a - b) * 0.5 * (1 + math.cos(math.pi * done))
