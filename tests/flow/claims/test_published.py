"""Printed numbers that claims compare with, entered once more as papers set them."""

import re

import pytest

import models
from tinyflow.flow.claims import CLAIMS
from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.counts import ERRORS, PRINTED
from tinyflow.flow.claims.training import TABLES

# He et al. 2016, Table 2: top-1 error (10 crops) of 18 and of 34 layers.
HE_IMAGENET = """
plain   27.94 28.54
resnet  27.88 25.03
"""
# Hu et al. 2018, Table 2: error and GFLOPs of a ResNet trained again and of its SE net;
# in brackets how much lower its error is. Noh 2021, Table 2, prints the same.
HU = """
50   24.80 3.86  23.29 (1.51)  3.87
101  23.17 7.58  22.38 (0.79)  7.60
152  22.42 11.30 21.57 (0.85) 11.32
"""
# The README of github.com/liuzhuang13/DenseNet: growth rate 32, top-1 error.
HUANG = {121: 25.0, 169: 23.6, 201: 22.5, 264: 22.1}
# He et al. 2016, Table 6: error on CIFAR-10 by depth.
HE_CIFAR = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43}


def rows(table):
    return [line.split() for line in table.strip().splitlines()]


def test_error_rates_and_multiply_adds():
    errors, billions = {}, {}
    for kind, of_18, of_34 in rows(HE_IMAGENET):
        errors |= {f"{kind}18": float(of_18), f"{kind}34": float(of_34)}
    assert TABLES["Table 1"] == errors
    table_2 = {}
    for depth, plain, flops, gated, gain, more in rows(HU):
        found = {f"resnet{depth}": float(plain), f"se_resnet{depth}": float(gated)}
        assert float(plain) - float(gated) == pytest.approx(float(gain.strip("()")))
        billions |= zip(found, (float(flops), float(more)), strict=True)
        table_2 |= found
    assert TABLES["Table 2"] == table_2 and billions == PRINTED
    dense = {f"densenet{depth}": error for depth, error in HUANG.items()}
    assert errors | table_2 | dense == ERRORS
    cifar = {f"resnet{depth}": error for depth, error in HE_CIFAR.items()}
    assert TABLES["CIFAR ResNets"] == cifar
    assert len(TABLES) == 3


def found(name):
    return CLAIMS[name](Bench(None, [], (0,), find=models.find))


def test_noh_parameters_are_those_of_its_statement():
    claim = found("noh-parameters")
    printed = claim.statement.partition(" have ")[2]
    said = [float(n) for n in re.findall(r"\d[\d.]*", printed)]
    assert [row["printed"] for row in claim.measured] == said == [38.9, 23.6, 21.4, 7.0]
    right = {row["setting"]: row["share"] == 1 for row in claim.measured}
    assert right.pop("se_resnet50") is False and all(right.values())
    for row in claim.measured:
        both = row["parameters"], row["parameters"] + row["running"]
        near = min(abs(n / 1e6 - row["printed"]) for n in both)
        assert (near <= 0.05) == (row["setting"] != "se_resnet50")


def test_which_pairs_are_compared():
    pairs = [row["setting"] for row in found("noh-flops").measured]
    assert pairs == [
        "densenet121:resnet50 at 224",
        "densenet121:resnet50 at 32",
        "densenet201:resnet50 at 224",
        "densenet169:resnet101 at 224",
        "densenet201:resnet152 at 224",
        "densenet264:resnet152 at 224",
    ]
    by_name = {row["setting"]: row for row in found("noh-flops").measured}
    row = by_name["densenet201:resnet152 at 224"]
    assert row["more_error"] == pytest.approx(0.08) and row["share"] == 0
    assert row["ratio"] == pytest.approx(4.291 / 11.514, abs=1e-3)
    rises = [row["setting"] for row in found("noh-se-cost").measured]
    assert rises == ["se_resnet50", "se_resnet101", "se_resnet152"]
    for row, (*_, flops, _, _, more) in zip(
        found("noh-se-cost").measured, rows(HU), strict=True
    ):
        assert row["printed"] == pytest.approx(float(more) / float(flops) - 1)
    gains = {row["setting"]: row["gain"] for row in found("noh-significance").measured}
    assert gains == {
        "resnet18:plain18": pytest.approx(0.06),
        "resnet34:plain34": pytest.approx(3.51),
        "se_resnet50:resnet50": pytest.approx(1.51),
        "se_resnet101:resnet101": pytest.approx(0.79),
        "se_resnet152:resnet152": pytest.approx(0.85),
    }
    assert "below 0.02 %" in found("noh-significance").decided_by  # 0.06 / 2.77


def test_shortcuts_by_hand():
    """What ResNet-20's cost, and which nets are left out and why."""
    claim = found("quadir-free")
    by_name = {
        r["setting"]: r for r in claim.measured if r["evidence"] == "computation"
    }
    depths = [20, 32, 44, 56, 110]
    assert list(by_name) == [
        *(f"resnet{d}" for d in depths),
        "quadir_resnet",
        "resnet18",
        "resnet34",
    ]
    for depth in depths:
        n, row = (depth - 2) // 6, by_name[f"resnet{depth}"]
        maps = [(16, 32**2), (32, 16**2), (64, 8**2)]
        assert row["additions"] == n * sum(c * area for c, area in maps)
        stages = [9 * c * c * area for c, area in maps]  # of a convolution
        first = 9 * 3 * 16 * 32**2 + sum(s // 2 for s in stages[1:])
        multiply_adds = first + sum(2 * n * s for s in stages) - sum(stages[1:]) + 640
        assert row["more_computation"] == pytest.approx(
            row["additions"] / multiply_adds, rel=1e-12
        )
        assert row["more_parameters"] == row["more_multiply_adds"] == 0
    excluded = {name for name, row in by_name.items() if "excluded" in row}
    assert excluded == {"resnet18", "resnet34"}
