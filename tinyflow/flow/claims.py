"""The claims of the papers, measured and judged: one table.

::

    from tinyflow.flow.claims import claims, to_rows
    found = claims(images, labels, seeds=[0, 1, 2])
    for row in to_rows(found):
        print(row["id"], row["mode"], row["verdict"], row["decided_by"])

Every claim is a function of a :class:`~tinyflow.flow.claims_bench.Bench`: it turns
numbers into cases, and :func:`~tinyflow.flow.claims_verdict.judge` turns cases into a
verdict by one rule. Nothing here knows how a claim ends. ``to_rows(found,
measured=True)`` lists the numbers per model and seed; both are strict JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from difflib import get_close_matches
from statistics import StatisticsError
from typing import Any

from tinyflow.backend import Array
from tinyflow.flow.claims_bench import Asked, Bench, Models, Trained
from tinyflow.flow.claims_blocks import (
    plain_depth,
    plain_equation,
    plain_limit,
    residual_equation,
    residual_limit,
    residual_remains,
)
from tinyflow.flow.claims_dense import (
    dense_bound,
    dense_law,
    dense_printed,
    dense_sum,
    order_of_four,
)
from tinyflow.flow.claims_gates import (
    gate_against_residual,
    gate_component,
    gate_equation,
    gate_limit,
)
from tinyflow.flow.claims_paths import (
    damped_gradient,
    damped_variance,
    full_gradient,
    path_decay,
    relu_identity,
    short_paths,
)
from tinyflow.flow.claims_setup import FULL, QUICK, Setup, train_briefly
from tinyflow.flow.claims_verdict import Claim, to_rows
from tinyflow.flow.probe import FlowError
from tinyflow.flow.progress import Progress

__all__ = ["CLAIMS", "Claim", "claims", "iter_claims", "to_rows", "train_briefly"]

CLAIMS: dict[str, Callable[[Bench], Claim | None]] = {
    "noh1-equation": plain_equation,
    "noh1-limit": plain_limit,
    "noh1-depth": plain_depth,
    "noh2-equation": residual_equation,
    "noh2-remains": residual_remains,
    "noh2-limit": residual_limit,
    "noh3-equation": gate_equation,
    "noh3-limit": gate_limit,
    "noh3-component": gate_component,
    "noh3-first-layer": gate_against_residual,
    "noh5-sum": dense_sum,
    "noh5-printed": dense_printed,
    "noh6-bound": dense_bound,
    "noh6-law": dense_law,
    "noh-order": order_of_four,
    "quadir-relu": relu_identity,
    "quadir-full": full_gradient,
    "veit-short-paths": short_paths,
    "veit-decay": path_decay,
    "desmith-gradient": damped_gradient,
    "desmith-variance": damped_variance,
}


def check_names(only: Iterable[str] | None) -> list[str]:
    """The claims that `only` names, each once; all of :data:`CLAIMS` if None.

    Raises:
        FlowError: there is no such claim.
    """
    wanted = list(CLAIMS) if not only else list(dict.fromkeys(only))
    for name in wanted:
        if name not in CLAIMS:
            near = get_close_matches(name, CLAIMS, 3, 0.4) or list(CLAIMS)
            raise FlowError(f"unknown claim {name!r}; there are {', '.join(near)}, …")
    return wanted


def iter_claims(
    images: Array,
    labels: Array,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    dtype: str = "float32",
    trained: Models | Trained | None = None,
    quick: bool = True,
    setup: Setup | None = None,
    training: bool = True,
    only: Iterable[str] | None = None,
    num_classes: int = 10,
    progress: Progress | None = None,
) -> Iterator[Claim]:
    """Judge every claim at initialisation and, where trained networks are given, there.

    Args:
        images, labels: one normalised batch (N, C, S, S) and N class indices; 32 images
            are plenty.
        seeds: of the initial weights.
        dtype: "float32" or "float64"; the shrink test always runs in float64.
        trained: networks by name, e.g. ``{"resnet20": [a, b]}``; a claim whose networks
            are not among them is left out of that part of the table.
        quick: the small networks (minutes), or those up to ResNet-110 as well.
        setup: which networks exactly, instead of `quick`.
        training: batch statistics, or running ones (which a fresh network has not yet).
        only: names from :data:`CLAIMS`; all if None.
        num_classes: outputs of the classifiers.
        progress: told what is measured, and how much there is to measure.

    Yields:
        The claims in the order of :data:`CLAIMS`, initialisation first, each as soon as
        it is judged.

    Raises:
        FlowError: `only` names a claim that does not exist.
    """
    wanted = check_names(only)
    chosen = setup or (QUICK if quick else FULL)
    benches = [
        Bench(
            images,
            labels,
            tuple(seeds),
            dtype,
            setup=chosen,
            training=training,
            num_classes=num_classes,
            progress=progress,
        )
    ]
    if trained:
        names = trained.models if isinstance(trained, Trained) else trained
        part = chosen.only(list(names))
        benches.append(replace(benches[0], trained=trained, setup=part))
    if progress is not None:
        progress.plan(sum(planned(bench, wanted) for bench in benches))
    for bench in benches:
        for name in wanted:
            if (claim := CLAIMS[name](bench)) is not None:
                yield claim


def planned(bench: Bench, wanted: Iterable[str]) -> float:
    """How much these claims will measure, found by asking without measuring."""
    asked = Asked(**{f.name: getattr(bench, f.name) for f in fields(bench) if f.init})
    for name in wanted:
        with suppress(StatisticsError):  # a median of no numbers
            CLAIMS[name](asked)
    return sum(asked.amount.values())


def claims(images: Array, labels: Array, **how: Any) -> list[Claim]:
    """All claims of :func:`iter_claims`, which says what it takes."""
    return list(iter_claims(images, labels, **how))
