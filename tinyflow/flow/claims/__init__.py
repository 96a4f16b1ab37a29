"""The claims of the papers, measured and judged: one table.

::

    from tinyflow.flow.claims import claims, to_rows
    found = claims(images, labels, find=models.find, seeds=[0, 1, 2])
    for row in to_rows(found):
        print(row["id"], row["verdict"], row["decided_by"], row["interval"])

Every claim is a function of a :class:`~tinyflow.flow.claims.bench.Bench`, registered by
:func:`~tinyflow.flow.claims.table.claim`: it turns numbers into cases, and
:func:`~tinyflow.flow.claims.verdict.judge` turns cases into a verdict by one rule.
Nothing here knows how a claim ends. ``to_rows(found, measured=True)`` lists the numbers
per model and seed, ``intervals=True`` their intervals; all are strict JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from difflib import get_close_matches
from statistics import StatisticsError
from typing import Any

from tinyflow.backend import Array
from tinyflow.flow.claims import (
    blocks,
    counts,
    dense,
    desmith,
    gates,
    paths,
    quadir,
    training,
)
from tinyflow.flow.claims.bench import Asked, Bench, Draw, Models, Trained
from tinyflow.flow.claims.setup import FULL, QUICK, Setup, train_briefly
from tinyflow.flow.claims.table import CLAIMS, Claim, to_rows
from tinyflow.flow.probe import FlowError
from tinyflow.flow.progress import Progress
from tinyflow.network import Find

__all__ = [
    "CLAIMS",
    "ROOMS",
    "Claim",
    "claims",
    "iter_claims",
    "to_rows",
    "train_briefly",
]

ROOMS = (blocks, gates, dense, counts, paths, quadir, training, desmith)
"""The modules that hold claims; each registers its own when imported."""


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
    find: Find,
    seeds: Sequence[int] = (0, 1, 2),
    dtype: str = "float32",
    trained: Models | Trained | None = None,
    quick: bool = True,
    setup: Setup | None = None,
    training: bool = True,
    only: Iterable[str] | None = None,
    num_classes: int = 10,
    draw: Draw | None = None,
    batches: int = 1,
    curves: Mapping[str, Sequence[Sequence[float]]] | None = None,
    progress: Progress | None = None,
) -> Iterator[Claim]:
    """Judge every claim at initialisation and, where trained networks are given, there.

    Args:
        images, labels: one normalised batch (N, C, S, S) and N class indices; 32 images
            are plenty.
        find: gives the network of a name, e.g. ``models.find``.
        seeds: of the initial weights.
        dtype: "float32" or "float64"; the shrink test always runs in float64.
        trained: networks by name, e.g. ``{"resnet20": [a, b]}``; a claim whose networks
            are not among them is left out of that part of the table.
        quick: the small networks (minutes), or those up to ResNet-110 as well.
        setup: which networks exactly, instead of `quick`.
        training: batch statistics, or running ones (which a fresh network has not yet).
        only: names from :data:`CLAIMS`; all if None.
        num_classes: outputs of the classifiers.
        draw: ``draw(seed, batch)``, images and labels like the first; each seed then
            has batches of its own. Without it all see the same one.
        batches: how many per seed; above 1 they need `draw`.
        curves: training losses by network, a list per seed, for the claims about
            convergence; left out without.
        progress: told what is measured, and how much there is to measure.

    Yields:
        The claims in the order of :data:`CLAIMS`, initialisation first, each as soon as
        it is judged.

    Raises:
        FlowError: `only` names a claim that does not exist, or there are several
            batches and nothing to draw them with.
    """
    if batches < 1 or (batches > 1 and draw is None):
        raise FlowError(
            f"batches={batches}: give 1 or more, and draw= where there are several"
        )
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
            find=find,
            progress=progress,
            draw=draw,
            batches=batches,
        )
    ]
    if trained:
        names = trained.models if isinstance(trained, Trained) else trained
        part = chosen.only(list(names))
        benches.append(
            replace(benches[0], trained=trained, setup=part, curves=curves or {})
        )
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


def claims(images: Array, labels: Array, **options: Any) -> list[Claim]:
    """All claims of :func:`iter_claims`, which says what it takes."""
    return list(iter_claims(images, labels, **options))
