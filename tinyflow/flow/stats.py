"""The statistics of the verdicts: intervals over seeds, and what chance alone does.

An interval is Student's, 95 %, two-sided: mean ± t·s/√n over n independent values, one
per seed. A condition that seems to separate the cases is weighed against chance by an
exact permutation test: were the outcomes of each seed dealt out anew among its cases,
how often would as many meet the condition?
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom.
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t with so many degrees of freedom, 1 or more."""
    return T95[freedom - 1] if freedom <= len(T95) else 1.96 + 2.4 / freedom


@dataclass(frozen=True)
class Interval:
    """A number over the seeds.

    Attributes:
        what: its name.
        group: of which part it was taken (a network, say); empty for all cases.
        middle: mean over the seeds (geometric if it is a factor).
        low, high: ends of the 95 % interval; NaN with fewer than two seeds.
        n: seeds.
    """

    what: str
    group: str
    middle: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        name = f"{self.what} of {self.group}" if self.group else self.what
        if not self.n:
            return f"{name} not finite"
        if math.isnan(self.low):
            return f"{name} {self.middle:z.3g}"
        return f"{name} {self.middle:z.3g} ({self.low:z.3g} to {self.high:z.3g})"

    def straddles(self, border: float) -> bool:
        """Whether `border` lies inside, so that the seeds do not settle the side."""
        return self.low < border < self.high


def interval(
    values: Sequence[float], what: str = "", group: str = "", factor: bool = False
) -> Interval:
    """Student's interval of independent values; of their logarithms if `factor`.

    Values that are not finite (or not positive, if `factor`) are left out and not
    counted in `n`.
    """
    kept = np.array([v for v in values if math.isfinite(v) and (v > 0 or not factor)])
    if not kept.size:
        return Interval(what, group, math.nan, math.nan, math.nan, 0)
    x = np.log(kept) if factor else kept
    middle, half = float(x.mean()), math.nan
    if x.size > 1:
        half = student(x.size - 1) * float(x.std(ddof=1)) / math.sqrt(x.size)
    ends = (middle, middle - half, middle + half)
    if factor:
        with np.errstate(over="ignore"):
            middle, low, high = map(float, np.exp(ends))
        ends = (middle, low, high)
    return Interval(what, group, *ends, n=x.size)


def chance(strata: Sequence[tuple[int, int, int, int]]) -> float:
    """How likely it is by chance that at least so many true cases meet a condition.

    Args:
        strata: per seed (cases, cases that are true, cases that meet the condition,
            cases that are both).

    Returns:
        P(T ≥ t) for the total T of the last, if within every seed the truth were dealt
        out anew among the cases (a stratified Fisher test, exact).
    """
    law = np.ones(1)
    reached = 0
    for n, true, met, both in strata:
        ways = [
            math.comb(met, k) * math.comb(n - met, true - k) / math.comb(n, true)
            for k in range(min(met, true) + 1)
        ]
        law = np.convolve(law, ways)
        reached += both
    return min(1.0, float(law[reached:].sum()))


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and R² of the least-squares line; NaN below three points."""
    if len(points) < 3:
        return math.nan, math.nan
    x, y = np.array(points, dtype=float).T
    slope, height = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - slope * x - height) ** 2).sum())
    return float(slope), 1 - rest / spread if spread else math.nan


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Spearman's ρ, and how often a random order has a ρ as low (one-sided, exact).

    Up to eight pairs all orders are tried, beyond that 5,000 random ones.
    """
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    if not size:
        return math.nan, 1.0
    rho = float(x @ y) / size
    if len(x) <= 8:
        orders = np.array(list(itertools.permutations(y)))
    else:
        rng = np.random.default_rng(0)
        orders = np.array([y, *(rng.permutation(y) for _ in range(5000))])
    return rho, float((orders @ x <= rho * size + 1e-9).mean())


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, equal values sharing the mean of theirs."""
    v = np.array(values, dtype=float)
    below = (v[:, None] > v).sum(1)
    equal = (v[:, None] == v).sum(1)
    return np.asarray(below + (equal + 1) / 2)
