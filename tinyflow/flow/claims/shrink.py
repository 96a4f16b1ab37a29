"""The shrink test: what is left of each term as one block's F is scaled towards zero.

The papers argue about the limit ∂F/∂x → 0. Here it is taken: the last weights of F are
multiplied by ε = 1, 0.1, 0.01, 0.001, in float64, and the slope of log‖term‖ against
log ε is fitted. A slope of 0 says that the term remains, 1 that it vanishes with F.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyflow import Tensor, nn
from tinyflow.backend import Array
from tinyflow.flow.blocks import Block, Terms, find_blocks, measure
from tinyflow.flow.probe import probe

EPSILONS = (1.0, 0.1, 0.01, 0.001)
CONSTANT = 0.5  # what F keeps if only its derivative is to shrink


@dataclass(frozen=True)
class Shrink:
    """One network, some of its blocks, each shrunk alone.

    Attributes:
        model, unit: which network, with which seed (and batch).
        blocks: names of the blocks.
        kinds: their kinds.
        followed: whether batch normalisation comes after the block.
        norms: per block, by term ("x", "H", "shortcut", …), a value per ε; with gates
            also "excess", ‖shortcut + gate‖ / ‖shortcut‖ - 1, which has a sign.
        closure: largest conservation error.
    """

    model: str
    unit: str
    blocks: tuple[str, ...]
    kinds: tuple[str, ...]
    followed: tuple[bool, ...]
    norms: tuple[dict[str, list[float]], ...]
    closure: float

    def setting(self, block: int) -> str:
        """Model, block and seed in a word."""
        return f"{self.model}:{self.blocks[block]}/{self.unit}"

    def slope(self, block: int, term: str, over: str | None = None) -> float:
        """Of log‖term‖, or of log(‖term‖ / ‖over‖), against log ε.

        Infinite if the term becomes exactly zero (dead units), NaN if it always is.
        """
        norms = self.norms[block]
        size = np.abs(norms[term])
        if over is not None:
            size = size / np.array(norms[over])
        if not (size > 0).all():
            return math.inf if size[0] > 0 else math.nan
        return float(np.polyfit(np.log(EPSILONS), np.log(size), 1)[0])

    def last(self, block: int, term: str, over: str) -> float:
        """‖term‖ / ‖over‖ at the smallest ε."""
        norms = self.norms[block]
        return norms[term][-1] / (norms[over][-1] or math.nan)


def shrink(
    build: Callable[[], nn.Module],
    name: str,
    unit: str,
    images: Array,
    labels: Array,
    *,
    places: tuple[float, ...] = (0.5, 1.0),
    constant: bool = False,
    training: bool = True,
) -> Shrink:
    """Shrink some blocks of a network, one at a time.

    Args:
        build: makes the network anew, in float64.
        name, unit: what to call it.
        images, labels: the batch.
        places: which blocks with a plain or identity shortcut, 0 (first) to 1 (last).
        constant: let F keep a constant, so that only ∂F/∂x shrinks.
        training: whether normalisation uses the batch's statistics.
    """
    model = build()
    start = probe(model, images, labels, training=training)
    usable = [
        b
        for b in find_blocks(start.tape)
        if b.kind in ("plain", "identity") and b.x.index >= 0
    ]
    chosen = sorted({round(a * (len(usable) - 1)) for a in places})
    norms, closure = [], 0.0
    for b in (usable[i] for i in chosen):
        weights = last_weights(model, b)
        kept = [w.data.copy() for w in weights]
        found: dict[str, list[float]] = {}
        for epsilon in EPSILONS:
            for i, (w, before) in enumerate(zip(weights, kept, strict=True)):
                w.data[...] = CONSTANT if constant and i else epsilon * before
            p = probe(model, images, labels, training=training)
            again = {x.name: x for x in find_blocks(p.tape)}
            t = measure(p.tape, again[b.name])
            closure = max(closure, t.closure)
            for term, size in t.norms.items():
                found.setdefault(term, []).append(size)
            if "gate" in t.norms:
                found.setdefault("excess", []).append(excess(t))
        for w, before in zip(weights, kept, strict=True):
            w.data[...] = before
        norms.append(found)
    return Shrink(
        model=name,
        unit=unit,
        blocks=tuple(usable[i].name for i in chosen),
        kinds=tuple(usable[i].kind for i in chosen),
        followed=tuple(
            any(n.op == "batch_norm" for n in start.tape.nodes[usable[i].h.index + 1 :])
            for i in chosen
        ),
        norms=tuple(norms),
        closure=closure,
    )


def excess(t: Terms) -> float:
    """‖shortcut + gate‖ / ‖shortcut‖ - 1, without losing the digits of a small gate."""
    part = t.norms["gate"] / (t.norms["shortcut"] or math.inf)
    more = part * (part + 2 * (t.cosines["shortcut,gate"] or 0.0))
    return more / (1 + math.sqrt(max(1 + more, 0.0)))


def last_weights(model: nn.Module, block: Block) -> list[Tensor]:
    """Weight and bias of the layer that made F, the ones to scale."""
    path = block.f.name.rpartition(".")[0]
    module = dict(model.named_modules())[path]
    found = [getattr(module, name, None) for name in ("weight", "bias")]
    return [w for w in found if isinstance(w, Tensor)]
