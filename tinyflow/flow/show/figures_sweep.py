"""Two questions over many probes: against depth, and over training."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tinyflow.flow.show.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    RED,
    TERMS,
    at_least_decades,
    frame,
    log_axis,
    short,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tinyflow.flow.depth import DepthPoint
    from tinyflow.flow.trace import Row

KINDS = {
    "plain": (RED, "s", "--", "plain net"),
    "resnet": (BLUE, "o", "-", "ResNet"),
    "se_resnet": (GREEN, "D", ":", "SE-ResNet"),
}
READERS: tuple[dict[str, Any], ...] = (  # of a map in a dense block
    {"color": BLUE, "marker": "s", "ls": "-", "label": "first reader"},
    {"color": GREEN, "marker": "D", "ls": ":", "label": "middle reader"},
    {"color": RED, "marker": "^", "ls": "--", "label": "last reader"},
)
MOST = 4  # blocks that the figure over training can show


def depth_sweep(points: Sequence[DepthPoint], conditions: str) -> Figure:
    """First-layer gradient, and growth through the blocks, against depth."""
    with style():
        figure = frame(
            "Plain and residual nets: the first layer's gradient as they get deeper",
            f"initial weights · {conditions}",
            "How to read: each point is a network at its initial weights, one batch; "
            "the line joins the geometric means over the seeds. Left: ‖∂L/∂W‖ of the "
            "first convolution. Right: the gradient at the input of the first block "
            "divided by that at the last map before the classifier: above 1 (grey "
            "line) it grew on its way back, below 1 it shrank. A straight line here is "
            "an exponential law in depth. Both scales are powers of ten.",
        )
        left, right = figure.subplots(1, 2)
        _against_depth(left, points, "weight", "‖∂L/∂W‖ of the first layer")
        _against_depth(right, points, "growth", "growth, first block / last map")
        right.axhline(1, color=GREY, lw=2, zorder=0.8)
        right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return figure


def _against_depth(
    axes: Axes, points: Sequence[DepthPoint], what: str, label: str
) -> None:
    depths = sorted({p.depth for p in points})
    shown: list[float] = []
    for kind in dict.fromkeys(p.kind for p in points):
        colour, marker, line, name = KINDS.get(kind, (BLACK, "v", "-.", kind))
        middle = []
        for depth in depths:
            here = [
                v
                for p in points
                if (p.kind, p.depth) == (kind, depth)
                and math.isfinite(v := float(getattr(p, what)))
                and v > 0
            ]
            axes.plot([depth] * len(here), here, ls="", marker=marker, color=colour,
                      alpha=0.45, ms=7)  # fmt: skip
            middle.append(
                math.exp(fmean(map(math.log, here))) if here else float("nan")
            )
            shown += here
        axes.plot(
            depths, middle, color=colour, marker=marker, ls=line, ms=10, label=name
        )
    log_axis(axes.yaxis)
    at_least_decades(axes, [*shown, 1.0] if what == "growth" else shown)
    axes.set_xticks(depths, [str(d) for d in depths])
    axes.set_xlabel("weighted layers")
    axes.set_ylabel(label)


def training(points: Sequence[Row], name: str, conditions: str) -> Figure:
    """Size and share of the terms over the steps, of a few blocks, first to last."""
    with style():
        figure = frame(
            f"{name}: how the terms of a block's gradient change in training",
            conditions,
            "How to read: a column per block (in a DenseNet: per map, with some of its "
            "readers), the first to the left; steps of training "
            "run to the right. Above: the size of each term, in powers of ten. Below: "
            "its signed share in the gradient of the block's input; shares add up to "
            "1, and one below the zero line works against the sum. Every panel of a "
            "row has the same scale.",
        )
        blocks = _spread(list(dict.fromkeys(p.block for p in points)), MOST)
        panels = figure.subplots(
            2, len(blocks), sharex=True, sharey="row", squeeze=False
        )
        for column, block in enumerate(blocks):
            above, below = panels[:, column]
            above.set_title(_label(block), parse_math=False)
            below.axhline(0, color=BLACK, lw=1.6)
            for term, line in _drawn([p.term for p in points if p.block == block]):
                here = [p for p in points if (p.block, p.term) == (block, term)]
                line = {"markevery": max(1, len(here) // 8), "ms": 8, **line}
                steps = [p.step for p in here]
                above.plot(steps, [p.norm or math.nan for p in here], **line)
                if term != "x":
                    shares = [math.nan if p.share is None else p.share for p in here]
                    below.plot(steps, shares, **line)
            below.set_xlabel("step")
            below.locator_params(axis="x", nbins=3, integer=True)
        log_axis(panels[0, 0].yaxis)
        chosen = set(blocks)
        seen = [p.norm for p in points if p.block in chosen and p.term not in "Hy"]
        at_least_decades(panels[0, 0], seen)
        panels[0, 0].set_ylabel("norm")
        panels[1, 0].set_ylabel("signed share")
        found: dict[str, Any] = {}
        for axes in panels[0]:
            found |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(list(found.values()), list(found), loc="outside right center")
        return figure


def _label(block: str) -> str:
    """A block's name, short enough for a column: ``block 3, x21`` of a dense block."""
    layer = re.search(r"denseblock(\d+)\.denselayer(\d+)", block)
    if layer is not None:
        return f"block {layer[1]}, x{layer[2]}"
    if (before := re.search(r"transition(\d+)\.", block)) is not None:
        return f"block {int(before[1]) + 1}, x0"
    return "block 1, x0" if ".pool0." in block else short(block)[-16:]


def _drawn(terms: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Which terms of a block are drawn, and how: its own, or some of its readers."""
    total = {"color": GREY, "lw": 6, "alpha": 0.45, "label": "their sum"}
    found = [t for t in TERMS if t in terms]
    if found:
        return [("x", total), *((t, TERMS[t]) for t in found)]
    readers = _spread([t for t in dict.fromkeys(terms) if t != "x"], len(READERS))
    return [("x", total), *zip(readers, READERS, strict=False)]


def _spread(names: list[str], most: int) -> list[str]:
    """At most so many of `names`, evenly, the first and the last among them."""
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
