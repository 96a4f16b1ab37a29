"""Spectra and counterfactuals against PyTorch: every path of a network, one by one."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is the oracle")

import torch

from tests.oracles.torch_nets import STATES, Case, angle, inner, same, size
from tinyflow import flow
from tinyflow.flow import paths as path_module

BLOCKS = 3


def every_path(case, ways):
    """The gradient at the first block's input along each path, by its crossings."""
    found = {}
    for route in itertools.product(*[("shortcut", *ways)] * BLOCKS):
        o = case.oracle(routes=dict(enumerate(route)))
        found[route] = torch.autograd.grad(o.loss, o.blocks[0]["x"])[0]
    return found


def added(paths, wanted):
    """The sum of the paths that `wanted` picks."""
    return sum(g for route, g in paths.items() if wanted(route))


def crossed(route):
    """How many residual branches a path crosses."""
    return sum(way != "shortcut" for way in route)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["resnet8", "resnet8b", "se_resnet8"])
def test_every_field_of_the_spectrum(name, state, training):
    case = Case(name, state, training)
    found = flow.spectrum(case.probe())
    gated = name.startswith("se")
    paths = every_path(case, ("gain", "gate") if gated else ("residual",))
    g = case.oracle().blocks[0]["x"].g
    by_length = [added(paths, lambda r, k=k: crossed(r) == k) for k in range(4)]
    assert size(sum(by_length) - g) / size(g) < 1e-13
    shares = [inner(c, g) / inner(g, g) for c in by_length]
    expected = {
        "blocks": BLOCKS,
        "lengths": [0, 1, 2, 3],
        "norms": [size(c) for c in by_length],
        "shares": shares,
        "paths": [1, 3, 3, 1],
        "total": size(g),
        "gates": {},
        "veit": [],
        "singles": [],
        "coherence": [],
        "coherence_range": [],
    }
    for k in range(4) if gated else ():
        for m in range(k + 1):
            part = added(
                paths, lambda r, k=k, m=m: (crossed(r), r.count("gate")) == (k, m)
            )
            expected["gates"][k, m] = inner(part, g) / inner(g, g)
    ours = asdict(found)
    assert 0 <= ours.pop("closure") < 1e-13 and ours.pop("seconds") > 0
    same(ours, expected)
    mean = shares[1] + 2 * shares[2] + 3 * shares[3]
    same(found.mean_length(), mean)
    for low, high in itertools.combinations_with_replacement(range(4), 2):
        same(found.share_between(low, high), sum(shares[low : high + 1]))


def looked_at(case, **how):
    """Sizes of all paths by length, their sums, and what a spectrum says of them."""
    every = every_path(case, ("residual",))
    each = [[g for r, g in every.items() if crossed(r) == k] for k in range(4)]
    return each, flow.spectrum(case.probe(), **how)


@pytest.mark.parametrize("state", STATES)
def test_few_paths_are_all_looked_at(state):
    each, found = looked_at(Case("resnet8", state), veit_samples=1)
    for k, here in enumerate(each):
        sizes = sorted(map(size, here))
        same(sorted(found.singles[k]), sizes)
        same(found.veit[k], len(here) * sum(sizes) / len(sizes))
        coherence = size(sum(here)) / math.sqrt(sum(v * v for v in sizes))
        same(found.coherence[k], coherence)
        assert found.coherence_range[k] == (found.coherence[k],) * 2


@pytest.mark.parametrize("state", STATES)
def test_of_many_paths_some_are_looked_at(state, monkeypatch):
    """Which, and which signs the branches get, the seed says."""
    monkeypatch.setattr(path_module, "ENUMERATED", 7)
    drawn = set()
    for samples, seed in itertools.product((1, 2), range(3)):
        each, found = looked_at(Case("resnet8", state), veit_samples=samples, seed=seed)
        for k, here in enumerate(each):
            singles = found.singles[k]
            sizes = list(map(size, here))
            assert len(singles) == min(samples, len(here))
            assert all(any(math.isclose(v, w) for w in sizes) for v in singles)
            same(found.veit[k], len(here) * sum(singles) / len(singles))
        drawn.add(round(found.singles[1][0], 12))
    assert len(drawn) > 1


@pytest.mark.parametrize("state", STATES)
def test_random_signs_leave_the_squares(state, monkeypatch):
    """Four draws of eight possible ones; the interval is Student's with t(3)."""
    monkeypatch.setattr(path_module, "ENUMERATED", 7)
    case = Case("resnet8", state)
    each, found = looked_at(case, veit_samples=1, seed=1)  # signs that differ
    low, high = found.coherence_range[1]
    assert low < high
    routes = [r for r in every_path(case, ("residual",))]
    for k, here in enumerate(each):
        taken = [[way != "shortcut" for way in r] for r in routes if crossed(r) == k]
        squares = []
        for signs in itertools.product((1.0, -1.0), repeat=BLOCKS):
            factors = [math.prod(itertools.compress(signs, t)) for t in taken]
            whole = sum(f * g for f, g in zip(factors, here, strict=True))
            squares.append(size(whole) ** 2)
        every = sum(size(g) ** 2 for g in here)
        same(sum(squares) / len(squares), every)  # unbiased
        for four in itertools.combinations_with_replacement(squares, 4):
            middle, spread = np.mean(four), np.std(four, ddof=1)
            coherence = size(sum(here)) / math.sqrt(middle)
            half = 3.182 * spread / 2 * coherence / (2 * middle)
            expected = coherence, max(0.0, coherence - half), coherence + half
            ours = found.coherence[k], *found.coherence_range[k]
            if np.allclose(ours, expected, rtol=1e-9):
                break
        else:
            raise AssertionError(f"length {k}: {ours} is no such draw")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("name", "branch"),
    [
        ("resnet8", "residual"),
        ("resnet8", "shortcut"),
        ("se_resnet8", "residual"),
        ("se_resnet8", "scale"),
        ("se_resnet8", "squeeze"),
    ],
)
def test_every_field_of_a_counterfactual(name, branch, state):
    case = Case(name, state)
    probe, oracle = case.probe(), case.oracle()
    g = oracle.p["conv1.weight"].grad
    for place, factor in itertools.product(range(BLOCKS), (0.0, 0.5, 1.0, -2.0)):
        block = oracle.blocks[place]["name"]
        changed = case.oracle(factors={(place, branch): factor}).p["conv1.weight"].grad
        found = asdict(flow.measure_branch(probe, block, branch, factor))
        expected = {
            "block": block,
            "branch": branch,
            "factor": factor,
            "norm_ratio": size(changed) / size(g),
            "change": size(changed - g) / size(g),
            "cosine": angle(changed, g),
        }
        same(found, expected)
