"""A loss of another size: norms follow it exactly, and nothing else of the instrument.

The gradient of 2ᵏ L is 2ᵏ times that of L, digit for digit, until an entry leaves its
dtype's range. So must be every norm, and shares, cosines and all other ratios stay:
digit for digit where plain float64 sums suffice, as those of float32 always do.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

import models
from models.densenet import DenseBlock, Transition
from tests.flow.test_flow import Small
from tinyflow import Tape, Tensor, flow, fork, mark, nn, ops
from tinyflow.flow.blocks import find_blocks
from tinyflow.flow.claims.sums import layer_sum
from tinyflow.flow.compare import against_shortcut
from tinyflow.flow.counterfactual import first_weight
from tinyflow.flow.depth import ends, ratio, rms
from tinyflow.flow.probe import Probe, norm
from tinyflow.optim import grad_norm
from tinyflow.retain import EDGES

SIZES = set(
    "norms totals rms state_norms total veit singles weight norm rms rest".split()
) | {"of all"}
"""The fields that are norms."""

ELSEWHERE = {"seconds", "loss"}
"""Fields that say nothing about gradients."""


class Dense(nn.Module):
    """A dense block of three layers between a stem and a classifier."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1, rng=rng)
        self.block = DenseBlock(8, 3, rng)
        self.transition = Transition(self.block.channels, 16, rng)
        self.head = nn.Linear(16, 10, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.transition(self.block(self.stem(x)))
        return self.head(ops.global_avg_pool2d(maps))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain20": lambda: models.build_model("plain20", image_size=16),
    "resnet20": lambda: models.build_model("resnet20", image_size=16),
    "se_resnet20": lambda: models.build_model("se_resnet20", image_size=16),
    "vectors": lambda: Small(10),  # more paths than are enumerated
    "dense": Dense,
}


@cache
def probed(name: str, dtype: str, k: int) -> tuple[nn.Module, Probe]:
    """A network on one batch, from 2ᵏ times its loss."""
    rng = np.random.default_rng(1)
    shape = (7, 3, 2, 2) if name == "vectors" else (2, 3, 16, 16)
    images = rng.standard_normal(shape).astype(dtype)
    labels = rng.integers(0, 3, len(images))
    model = MODELS[name]().to(dtype=dtype)
    x = Tensor(images, name="images")
    with Tape(EDGES) as tape:
        logits = model(tape.watch(x))
        loss = ops.cross_entropy(logits, labels) * math.ldexp(1.0, k)
    tape.backward(loss)
    return model, Probe(tape, loss, x, True, logits)


def engine(model: nn.Module, p: Probe) -> Iterator[Any]:
    """What tape and optimisers say."""
    yield {"of all": grad_norm(model.parameters())}
    yield {f"closure of {n}": e for n, e in p.tape.closure().items()}
    yield [{"norm": n.norm} for n in p.tape.nodes[:-1] if n.grad is not None]
    yield [{"norm": e.norm} for n in p.tape.nodes[:-1] for e in n.edges if n.need[0]]


def depths(model: nn.Module, p: Probe) -> Iterator[Any]:
    """What the sweep over depths measures."""
    first, last = ends(p.tape)
    yield {"rms": [rms(first), rms(last)], "norm": norm(first.grad)}
    yield {"growth": ratio(norm(first.grad), norm(last.grad))}
    yield {"weight": norm(first_weight(p).grad)}


def blocks(model: nn.Module, p: Probe) -> Iterator[Any]:
    """Terms and gates."""
    terms = flow.block_terms(p.tape)
    yield from terms
    yield {"cosine": [against_shortcut(t) for t in terms]}


def paths(model: nn.Module, p: Probe) -> Iterator[Any]:
    """The spectrum and Veit's estimate."""
    yield flow.spectrum(p, veit_samples=2)


def branches(model: nn.Module, p: Probe) -> Iterator[Any]:
    """Counterfactuals."""
    block = find_blocks(p.tape)[2]
    for branch in ("residual", "shortcut", "squeeze"):
        if getattr(block, branch) is not None:
            yield flow.measure_branch(p, block.name, branch, 0.5)


def dense(model: nn.Module, p: Probe) -> Iterator[Any]:
    """A dense block, and its sums with partial and total Jacobians."""
    (found,) = flow.dense_terms(p.tape)
    yield found
    yield from (layer_sum(p.tape, found, j) for j in (0, 2))


def same(what: str, a: Any, b: Any, k: int) -> int:
    """Check that `b` is `a`, norms 2ᵏ times as large; how many numbers that were."""
    if is_dataclass(a):
        a, b = ({f.name: getattr(x, f.name) for f in fields(x)} for x in (a, b))
    if isinstance(a, dict):
        assert list(a) == list(b)
        return sum(
            same(n if n in SIZES or what not in SIZES else what, a[n], b[n], k)
            for n in a
            if n not in ELSEWHERE
        )
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        return sum(same(what, *pair, k) for pair in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return same(what, a.tolist(), b.tolist(), k)
    if not isinstance(a, float):
        assert a == b, what
        return 0
    if what in SIZES:
        b = math.ldexp(b, -k)
    # Sums in another order: of whole units, or of arrays that were read with gaps.
    limit = {"of all": 1e-15, "exponent": 1e-9}.get(
        what, 0.0 if abs(k) < 100 else 1e-13
    )
    assert b == pytest.approx(a, rel=limit, abs=limit / 10, nan_ok=True), what
    return 1


EVERY = {
    "plain20": (engine, depths, blocks),
    "resnet20": (engine, depths, blocks, paths, branches),
    "se_resnet20": (engine, depths, blocks, paths, branches),
    "vectors": (engine, blocks, paths, branches),
    "dense": (engine, depths, dense),
}


@pytest.mark.parametrize(
    ("dtype", "k"),
    [("float32", -60), ("float32", 60), ("float64", -900), ("float64", 900)],
)
@pytest.mark.parametrize(
    ("name", "analysis"),
    [
        pytest.param(name, a, id=f"{name}-{a.__name__}")
        for name, analyses in EVERY.items()
        for a in analyses
    ],
)
def test_only_norms_follow_the_size_of_the_loss(
    name: str, analysis: Callable[..., Iterator[Any]], dtype: str, k: int
) -> None:
    found = [list(analysis(*probed(name, dtype, i))) for i in (0, k)]
    numbers = sum(same("", a, b, k) for a, b in zip(*found, strict=True))
    assert numbers >= 5


class Opposed(nn.Module):
    """A block whose branch takes back half of what its shortcut sends."""

    def forward(self, x: Tensor) -> Tensor:
        residual, shortcut = fork(x, "residual", "shortcut")
        return ops.relu(mark(residual * -0.5 + shortcut, "H"))


@pytest.mark.parametrize("size", [5e-324 * 2**30, 1e-200, 1.0, 1.6e308])
def test_a_block_at_the_ends_of_float64(size: float) -> None:
    x = Tensor(np.ones((1, 1)), requires_grad=True)
    with Tape(EDGES) as tape:
        y = nn.Sequential(Opposed())(x * 1.0)
    tape.backward(y, np.full((1, 1), size))
    (found,) = flow.block_terms(tape)
    assert found.norms == {
        **{"x": size / 2, "H": size, "y": size},
        **{"residual": size / 2, "shortcut": size},
    }
    assert found.shares == {"residual": -1, "shortcut": 2} and found.ratio == 0.5
    assert found.cosines == {"shortcut,residual": -1} and found.closure == 0
    assert found.cancellation == pytest.approx(1 / 3, rel=1e-15)
    assert found.flags == {"noh2": False, "triangle": True}
    # A gradient shorter than any sum of the two terms is noticed at every size.
    (block,) = find_blocks(tape)
    block.x.grad = 0.2 * block.x.grad
    (found,) = flow.block_terms(tape)
    assert not found.flags["triangle"] and found.closure > 1
