"""Schedules step by step as PyTorch's classes, and what they keep to be resumed."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

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

RATE = 0.4
CASES: dict[str, tuple[Factor, Callable[[Any, Any], Any]]] = {
    "linear": (warm_up(7, 0.25), lambda to, o: to.LinearLR(o, 0.25, 1.0, 7)),
    "held": (
        warm_up(7, 0.25, held=True),
        lambda to, o: to.ConstantLR(o, 0.25, 7),
    ),
    "from 0.01": (warm_up(40, 0.01), lambda to, o: to.LinearLR(o, 0.01, 1.0, 40)),
    "cosine": (cosine(40), lambda to, o: to.CosineAnnealingLR(o, 40)),
    "cosine to a floor": (
        cosine(40, floor=0.1),
        lambda to, o: to.CosineAnnealingLR(o, 40, eta_min=0.1 * RATE),
    ),
    "cosine after warm-up": (
        Schedule(warm_up(8, 0.1), cosine(40, 8, 0.2)),
        lambda to, o: to.SequentialLR(
            o,
            [
                to.LinearLR(o, 0.1, 1.0, 8),
                to.CosineAnnealingLR(o, 32, eta_min=0.2 * RATE),
            ],
            [8],
        ),
    ),
    "multi-step": (
        multi_step([30, 10, 10, 0]),
        lambda to, o: to.MultiStepLR(o, [0, 10, 10, 30]),
    ),
    "multi-step, half": (
        multi_step([3, 31], 0.5),
        lambda to, o: to.MultiStepLR(o, [3, 31], 0.5),
    ),
    "step": (every(9), lambda to, o: to.StepLR(o, 9)),
    "exponential": (every(1, 0.9), lambda to, o: to.ExponentialLR(o, 0.9)),
    "multi-step after warm-up": (
        Schedule(warm_up(5, 0.5), multi_step([4, 20], 0.3)),
        lambda to, o: to.ChainedScheduler(
            [to.LinearLR(o, 0.5, 1.0, 5), to.MultiStepLR(o, [4, 20], 0.3)]
        ),
    ),
    "one cycle": (one_cycle(40), lambda to, o: to.OneCycleLR(o, RATE, 40)),
    "one cycle, other shape": (
        one_cycle(40, 0.41, 10.0, 50.0),
        lambda to, o: to.OneCycleLR(
            o, RATE, 40, pct_start=0.41, div_factor=10, final_div_factor=50
        ),
    ),
    "one cycle down": (
        one_cycle(40, 0.0),
        lambda to, o: to.OneCycleLR(o, RATE, 40, pct_start=0.0),
    ),
    "no cycle": (one_cycle(1), lambda to, o: to.OneCycleLR(o, RATE, 1)),
}


def optimizer(torch: Any) -> Any:
    return torch.optim.SGD([torch.zeros(1)], lr=RATE, momentum=0.5)


@pytest.mark.parametrize("name", CASES)
def test_every_step_as_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    factor, theirs = CASES[name]
    with warnings.catch_warnings():  # steps of the optimiser are left out
        warnings.simplefilter("ignore")
        run = optimizer(torch)
        scheduler = theirs(torch.optim.lr_scheduler, run)
        for step in range(1 if name == "no cycle" else 40):
            rate = run.param_groups[0]["lr"]
            assert RATE * factor(step) == pytest.approx(rate, rel=1e-12, abs=1e-17)
            if step < 39 and name != "no cycle":
                scheduler.step()


def test_after_the_end_and_before_the_beginning() -> None:
    assert cosine(40)(99) == 0 and cosine(40, floor=0.25)(99) == 0.25
    assert cosine(40, 10)(3) == 1 and cosine(3, 3)(4) == 0
    assert one_cycle(40)(99) == one_cycle(40)(39) == pytest.approx(1 / 25e4)
    assert one_cycle(10, 0.1)(0) == 1  # where PyTorch divides by 0
    assert [warm_up(4)(t) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [warm_up(0)(0), warm_up(0, 0.5)(0), Schedule()(7)] == [1, 1, 1]


WALK = np.random.default_rng(0).normal(size=120).cumsum() + 50
PLATEAUS: list[dict[str, Any]] = [
    {},
    {"patience": 0},
    {"patience": 2, "gamma": 0.5, "cooldown": 3},
    {"patience": 3, "mode": "max", "threshold": 0.05},
    {"patience": 1, "gamma": 0.5, "floor": 0.1},
    {"patience": 1, "cooldown": 1, "threshold": 0.0},
]


@pytest.mark.parametrize("options", PLATEAUS)
@pytest.mark.parametrize("metrics", [WALK, np.round(WALK), np.full(30, 2.0)])
def test_plateaus_as_pytorch(options: dict[str, Any], metrics: np.ndarray) -> None:
    """Epoch by epoch, and the same from JSON at every epoch."""
    torch = pytest.importorskip("torch")
    run = optimizer(torch)
    renamed = {"gamma": "factor", "floor": "min_lr"}
    given = {renamed.get(k, k): v * (RATE if k == "floor" else 1)
             for k, v in options.items()}  # fmt: skip
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(run, eps=0, **given)
    ours, rates = Schedule(Plateau("loss", **options)), set()
    for metric in metrics:
        ours.observe({"loss": metric, "other": 1.0})
        oracle.step(metric)
        rates.add(rate := run.param_groups[0]["lr"])
        assert RATE * ours(0) == pytest.approx(rate, rel=1e-12)
        heir = Schedule(Plateau("loss", **options))
        heir.load_state_dict(json.loads(json.dumps(ours.state_dict())))
        assert heir.state_dict() == ours.state_dict()
        ours = heir
    assert len(rates) > 1


def test_a_low_rate_until_something_is_learned() -> None:
    """He et al. (2016): 0.01 until the training error is below 80 %, then 0.1."""
    schedule = Schedule(UntilLearned(), multi_step([5]))
    rates = []
    for epoch, accuracy in enumerate([0.1, 0.2, 0.19, 0.21, 0.1, 0.5]):
        rates.append(0.1 * schedule(epoch))
        schedule.observe({"train_accuracy": accuracy})
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.1, 0.01])
    assert schedule.state_dict() == {"0.UntilLearned": {"learned": True}}
    heir = Schedule(UntilLearned(), multi_step([5]))
    heir.load_state_dict(schedule.state_dict())
    assert [heir(4), heir(5)] == [1, 0.1]


GOOD = {"factor": 1, "best": None, "bad": 0, "resting": 0}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, r"state of a schedule with \[\], not with"),
        ({"0.UntilLearned": {}, "2.Plateau": GOOD}, "of a schedule with"),
        ({"0.UntilLearned": {}, "1.Plateau": GOOD}, "UntilLearned keeps"),
        ({"0.UntilLearned": {"learned": 1}, "1.Plateau": GOOD}, "learned cannot be 1"),
        (
            {"0.UntilLearned": {"learned": True}, "1.Plateau": {**GOOD, "bad": True}},
            "bad cannot be True",
        ),
        (
            {
                "0.UntilLearned": {"learned": True},
                "1.Plateau": {**GOOD, "best": math.nan},
            },
            "best cannot be nan",
        ),
        (
            {"0.UntilLearned": {"learned": True}, "1.Plateau": {**GOOD, "bad": 1.5}},
            "bad cannot be 1.5",
        ),
    ],
)
def test_state_of_another_schedule_changes_nothing(state: Any, words: str) -> None:
    schedule = Schedule(UntilLearned(), Plateau())
    before = schedule.state_dict()
    with pytest.raises(ValueError, match=words):
        schedule.load_state_dict(state)
    assert schedule.state_dict() == before


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: cosine(0), "total"),
        (lambda: cosine(9, floor=1.5), "floor"),
        (lambda: warm_up(-1), "steps"),
        (lambda: warm_up(3, 2.0), "start"),
        (lambda: warm_up(3, held=True), "start"),
        (lambda: every(0), "steps"),
        (lambda: multi_step([1], -1.0), "gamma"),
        (lambda: multi_step([-1]), "milestones"),
        (lambda: one_cycle(9, 1.0), "rise"),
        (lambda: one_cycle(9, start=0.5), "start"),
        (lambda: Plateau(gamma=1.0), "gamma"),
        (lambda: Plateau(mode="low"), "mode"),
        (lambda: Plateau(patience=-1), "patience"),
        (lambda: UntilLearned(low=2), "low"),
    ],
)
def test_wrong_options(make: Callable[[], object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()
