"""Claims that can be counted: parameters, computation, published error rates.

Nothing here depends on a seed; every number is a count of our networks (at 224 pixels
and 1000 classes unless it says otherwise) or is printed in the paper.
"""

from __future__ import annotations

import math
from functools import cache, partial

import numpy as np

from tinyflow import nn
from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.nets import network
from tinyflow.flow.claims.table import Decider, Found, claim
from tinyflow.flow.claims.verdict import Case
from tinyflow.flow.probe import probe
from tinyflow.network import Find, count_macs, count_parameters

SLIGHT = 0.01  # share of the computation up to which more of it is slight
TWO_RUNS = 1.96 * math.sqrt(2)  # of a standard deviation: 5 % for a difference of two
DEVIATION = 1.0  # in percent: Noh's bound for the accuracy of one network

# Top-1 error on ImageNet in percent, as printed in Noh's Tables 1 and 2 (from He et al.
# 2016, 10 crops, and Hu et al. 2018, one crop) and, for DenseNet, in its repository.
ERRORS = {
    "plain18": 27.94,
    "plain34": 28.54,
    "resnet18": 27.88,
    "resnet34": 25.03,
    "resnet50": 24.80,
    "resnet101": 23.17,
    "resnet152": 22.42,
    "se_resnet50": 23.29,
    "se_resnet101": 22.38,
    "se_resnet152": 21.57,
    "densenet121": 25.0,
    "densenet169": 23.6,
    "densenet201": 22.5,
    "densenet264": 22.1,
}
# Multiply-adds in 10⁹ as printed in Noh's Table 2. There the stride sits on the first
# convolution of a bottleneck; ours has it on the second, which costs 0.23 more.
PRINTED = {
    "resnet50": 3.86,
    "resnet101": 7.58,
    "resnet152": 11.30,
    "se_resnet50": 3.87,
    "se_resnet101": 7.60,
    "se_resnet152": 11.32,
}


@cache
def counts(
    find: Find, name: str, size: int = 224, classes: int = 1000
) -> tuple[int, int, int]:
    """Parameters, running statistics, and multiply-adds for one image."""
    known = network(name, find)
    model = known.build(num_classes=classes, image_size=size, seed=None)
    running = sum(b.size for _, b in model.named_buffers())
    return count_parameters(model), running, count_macs(model, size)


@cache
def additions(find: Find, name: str, size: int) -> int:
    """Entries of all sums H of one image: what the shortcuts add."""
    model = network(name, find).build(image_size=size, seed=None)
    image = np.zeros((1, 3, size, size), np.float32)
    tape = probe(model, image, np.zeros(1, int), training=False, retain="tensors").tape
    sums = [n for n in tape.nodes if n.op == "add" and len(n.shape) == 4]
    return sum(math.prod(n.shape) for n in sums)


FREE = (
    *((f"resnet{d}", f"plain{d}") for d in (20, 32, 44, 56, 110)),
    ("quadir_resnet", "quadir_twin"),
    ("resnet18", "plain18"),
    ("resnet34", "plain34"),
)


@claim(
    "quadir-free",
    source="Quadir 2019, overview",
    statement="shortcuts via identical mapping introduce no extra parameters and "
    "require no more computation",
    quantity="parameters, and multiply-adds plus the additions of the shortcuts, "
    "against the same net without shortcuts, 32 pixels and 10 classes; satisfied by no "
    f"more parameters and at most {SLIGHT:.0%} more computation",
    fresh=True,
)
def shortcuts_are_free(bench: Bench) -> Found:
    """Quadir, and He et al.: shortcuts cost nothing."""
    count, cases = partial(counts, bench.find), []
    for name, bare in FREE:
        with_, without = count(name, 32, 10), count(bare, 32, 10)
        added = additions(bench.find, name, 32)
        more = (with_[2] + added - without[2]) / without[2]
        numbers = {
            "more_parameters": with_[0] - without[0],
            "more_multiply_adds": with_[2] - without[2],
            "additions": added,
            "more_computation": more,
        }
        excluded = ""
        if name in ("resnet18", "resnet34"):
            excluded = "some shortcuts of ResNet-18 and -34 are projections"
        for kind, holds in (
            ("parameters", with_[0] == without[0]),
            ("computation", more <= SLIGHT),
        ):
            cases.append(Case(name, holds, numbers, {}, kind, excluded))
    most = max(c.numbers["more_computation"] for c in cases if not c.excluded)
    return Found(
        cases,
        decide=[Decider("more_computation", SLIGHT)],
        note=f"the additions are at most {most:.2%} of the multiply-adds",
    )


DENSE = {
    "named in the paper": (
        ("densenet121", "resnet50", 224),
        ("densenet121", "resnet50", 32),
        ("densenet201", "resnet50", 224),
    ),
    "nearest in error": (
        ("densenet169", "resnet101", 224),
        ("densenet201", "resnet152", 224),
        ("densenet264", "resnet152", 224),
    ),
}


@claim(
    "noh-flops",
    source="Noh 2021, section 4",
    statement="DenseNet needs more computation (FLOPs) than ResNet for one image",
    quantity="counted multiply-adds of the two, in pairs the paper names and in pairs "
    "of nearly the same published error; satisfied if DenseNet's are more",
    fresh=True,
)
def dense_costs_more(bench: Bench) -> Found:
    """DenseNet against ResNet, counted."""
    count, cases = partial(counts, bench.find), []
    for kind, pairs in DENSE.items():
        for dense, other, size in pairs:
            a, b = count(dense, size)[2], count(other, size)[2]
            numbers = {
                "ratio": a / b,
                "multiply_adds": a,
                "multiply_adds_of_resnet": b,
                "more_error": ERRORS[dense] - ERRORS[other],
            }
            if other in PRINTED and size == 224:
                numbers["printed_for_resnet"] = PRINTED[other] * 1e9
            setting = f"{dense}:{other} at {size}"
            cases.append(Case(setting, a > b, numbers, {"pixels": size}, kind))
    told = ", ".join(f"{c.setting} {c.numbers['ratio']:z.2f}" for c in cases)
    return Found(cases, decide=[Decider("ratio", 1.0)], note=f"ratios {told}")


@claim(
    "noh-se-cost",
    source="Noh 2021, section 4 and Table 2",
    statement="the computation of SE-ResNet is slightly more than ResNet's",
    quantity="counted multiply-adds of the two; satisfied if more, by at most "
    f"{SLIGHT:.0%}",
    fresh=True,
)
def gates_cost_little(bench: Bench) -> Found:
    """SE-ResNet against ResNet, counted, beside what Table 2 prints."""
    count, cases = partial(counts, bench.find), []
    for depth in (50, 101, 152):
        name, bare = f"se_resnet{depth}", f"resnet{depth}"
        more = count(name)[2] / count(bare)[2] - 1
        numbers = {"more": more, "printed": PRINTED[name] / PRINTED[bare] - 1}
        cases.append(Case(name, 0 < more <= SLIGHT, numbers))
    return Found(cases, decide=[Decider("more", SLIGHT)])


@claim(
    "noh-significance",
    source="Noh 2021, section 4",
    statement="the differences in Tables 1 and 2 are statistically significant, since "
    "the standard deviation of accuracies is less than 1 %",
    quantity="difference of two printed errors, one run each; satisfied if above "
    f"1.96 √2 × {DEVIATION:g} % = {TWO_RUNS * DEVIATION:z.2f} %",
    fresh=True,
)
def differences_are_significant(bench: Bench) -> Found:
    """A deviation below 1 % makes a difference of two runs significant above 2.77 %."""
    pairs = [(f"plain{d}", f"resnet{d}") for d in (18, 34)]
    pairs += [(f"resnet{d}", f"se_resnet{d}") for d in (50, 101, 152)]
    cases = []
    for worse, better in pairs:
        gain = ERRORS[worse] - ERRORS[better]
        holds = gain > TWO_RUNS * DEVIATION
        cases.append(Case(f"{better}:{worse}", holds, {"gain": gain}))
    needed = min(c.numbers["gain"] for c in cases) / TWO_RUNS
    return Found(
        cases,
        decide=[Decider("gain", TWO_RUNS * DEVIATION)],
        note=", ".join(f"{c.setting} {c.numbers['gain']:z.2f} %" for c in cases)
        + f"; all would be with a deviation below {needed:z.2f} %",
    )


TABLE_A1 = {"vgg19": 38.9, "resnet50": 23.6, "se_resnet50": 21.4, "densenet121": 7.0}


@claim(
    "noh-parameters",
    source="Noh 2021, Table A1",
    statement="VGG-19, ResNet-50, SE-ResNet-50 and DenseNet-121 have 38.9, 23.6, 21.4 "
    "and 7 million parameters",
    quantity="counted parameters at 32 pixels and 10 classes, with or without running "
    "statistics; satisfied if one of them rounds to the printed number",
    fresh=True,
)
def printed_parameters(bench: Bench) -> Found:
    """Table A1, counted."""
    count, cases = partial(counts, bench.find), []
    for name, printed in TABLE_A1.items():
        parameters, running, _ = count(name, 32, 10)
        either = [round(n / 1e6, 1) for n in (parameters, parameters + running)]
        numbers = {"parameters": parameters, "running": running, "printed": printed}
        cases.append(Case(name, printed in either, numbers))
    wrong = [c for c in cases if not c.holds]
    return Found(
        cases,
        decide=[Decider("parameters")],
        note="wrong: "
        + ", ".join(f"{c.setting} {c.numbers['parameters']:,}" for c in wrong),
    )


@claim(
    "zhao-depthwise",
    source="Zhao 2024, Table 3",
    statement="from 7x7x3 to 5x5x128 a depthwise and a pointwise convolution need "
    "10,275 multiplications, a regular one 86,400",
    quantity="counted multiply-adds; satisfied if equal",
    fresh=True,
)
def depthwise_counts(bench: Bench) -> Found:
    """Zhao's example, counted on two small nets."""
    three = nn.Conv2d(3, 3, 3, groups=3, bias=False, rng=None)
    nets = {
        "depthwise": (10_275, nn.Sequential(three, nn.Conv2d(3, 128, 1, rng=None))),
        "regular": (86_400, nn.Sequential(nn.Conv2d(3, 128, 3, rng=None))),
    }
    cases = []
    for name, (printed, model) in nets.items():
        counted = count_macs(model, 7)
        numbers = {"multiply_adds": counted, "printed": printed}
        cases.append(Case(name, counted == printed, numbers))
    few, many = (c.numbers["multiply_adds"] for c in cases)
    return Found(
        cases, decide=[Decider("multiply_adds")], note=f"ratio {many / few:z.1f}"
    )
