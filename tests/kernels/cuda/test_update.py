"""Optimisers and clipping on a GPU, kernel by kernel, against float64 NumPy."""

import numpy as np
import pytest

from tests.kernels.cuda.world import World, close, number, one, rng, stored
from tests.kernels.cuda.world import world as world
from tinyflow import Tensor
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.source import DTYPES
from tinyflow.optim import SGD, Adam, AdamW, Optimizer

OPTIMISERS = [
    (SGD, {}),
    (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "dampening": 0.5}),
    (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (Adam, {"weight_decay": 0.1}),
    (AdamW, {"betas": (0.8, 0.99), "weight_decay": 0.1}),
]
SIZES = [(3,), (4097,), (1, 1), (64, 130), (0,)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "options"), OPTIMISERS)
def test_optimisers(
    world: World, kind: type[Optimizer], options: dict, dtype: str
) -> None:
    """Five steps like tinyflow.optim's in float64, with clipping and another rate."""
    start = [rng(i).normal(size=s) for i, s in enumerate(SIZES)]
    right = [Tensor(p.astype(np.float32).astype(float), True) for p in start]
    theirs = kind(right, lr=0.05, **options)
    ours = [world.put(p.astype(np.float32)) for p in start]
    copies = [world.put(stored(p, "bfloat16")) for p in start]
    copies[1] = None
    grads = [world.put(stored(p, dtype)) for p in start]
    states = [[world.put(np.zeros(s, np.float32)) for s in SIZES] for _ in theirs.slots]
    table = launch.tensor_table(grads, ours, *states, copies=copies)
    lr, steps = one(world, 0.05), one(world, 0, "int32")
    rates = world.put(np.zeros(3, np.float32))
    for step in range(5):
        if step == 3:
            theirs.lr = 0.01
            lr[...] = 0.01
        for i, (g, p) in enumerate(zip(grads, right, strict=True)):
            fresh = stored(rng(step, i).normal(size=p.shape), dtype)
            g[...] = world.put(fresh)
            p.node.grad = number(fresh)
        norm = launch.gradient_norm(table, 60.0)
        grown = np.sqrt(sum((p.grad**2).sum() for p in right))
        close(world.get(norm), [grown, min(1, 60 / (grown + 1e-6))], "float32")
        for p in right:
            p.node.grad = p.grad * min(1, 60 / (grown + 1e-6))
        theirs.step()
        if kind is SGD:
            keys = {k: v for k, v in options.items() if k != "dampening"}
            damp = options.get("dampening", 0.0)
            launch.advance_sgd(steps, lr, rates, dampening=damp)
            launch.sgd_step(table, rates, clip=norm[1:], **keys)
        else:
            decay, betas = options["weight_decay"], options.get("betas", (0.9, 0.999))
            apart = kind is AdamW
            launch.advance_adam(
                steps, lr, rates, betas=betas, decoupled_decay=decay * apart
            )
            launch.adam_step(
                *(table, rates),
                **{"betas": betas, "weight_decay": decay * (not apart)},
                **{"decoupled": apart, "clip": norm[1:]},
            )
    for p, q, copy in zip(ours, right, copies, strict=True):
        np.testing.assert_allclose(world.get(p), q.data, rtol=2e-5, atol=2e-5)
        if copy is not None:
            found = stored(world.get(p), "bfloat16")
            np.testing.assert_array_equal(world.get(copy), found)


def test_gradients_that_moved(world: World) -> None:
    """Their new places are read, and nothing else of the table changes."""
    p, b = (world.put(np.zeros(5000, np.float32)) for _ in range(2))
    table = launch.tensor_table([world.put(np.ones(5000, np.float32))], [p], [b])
    moved = launch.with_gradients(table, [world.put(np.full(5000, 2, np.float32))])
    rates = world.put(np.array([0.5, 1, 0], np.float32))
    launch.sgd_step(table, rates, momentum=1.0)
    launch.sgd_step(moved, rates, momentum=1.0)
    assert (world.get(p) == -0.5 - 1.5).all() and (world.get(b) == 3).all()
    for wrong in ([], [world.put(np.ones(4999, np.float32))]):
        with pytest.raises(ValueError):
            launch.with_gradients(table, wrong)


def test_the_norm_of_nothing_is_0(world: World) -> None:
    table = launch.tensor_table([world.put(np.zeros(0, np.float32))])
    assert world.get(launch.gradient_norm(table, 1.0)).tolist() == [0, 1]


def test_a_norm_that_is_no_number_clips_nothing(world: World) -> None:
    table = launch.tensor_table([world.put(np.array([1, np.nan], np.float32))])
    assert world.get(launch.gradient_norm(table, 1.0))[1] == 1
