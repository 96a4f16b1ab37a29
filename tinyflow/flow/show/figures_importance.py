"""Share, cut and lesion of every residual branch, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinyflow.flow.importance import Importance, agreement
from tinyflow.flow.show.figures import (
    BLACK,
    BLUE,
    GREEN,
    RED,
    depth_ticks,
    frame,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def importance(found: Sequence[Importance], name: str, conditions: str) -> Figure:
    """Three panels over the blocks, each with its own scale."""
    with style():
        figure = frame(
            f"{name}: is a large share an important branch?",
            conditions,
            "How to read: one position per block, the image to the left, the loss to "
            "the right; each bar is its residual branch. Top: its signed share of the "
            "gradient at the block's input. Middle: how far the first layer's gradient "
            "moves, as a part of its length, if the branch sends nothing back. Bottom: "
            "how far the loss moves, in nats, if the branch computes nothing. "
            f"{agreement(found).said}",
        )
        panels = figure.subplots(3, 1, sharex=True)
        places = range(len(found))
        for axes, label, colour, hatch, values in (
            (panels[0], "share", BLUE, "", [i.share for i in found]),
            (panels[1], "cut", RED, "//", [i.cut for i in found]),
            (panels[2], "lesion, ΔL", GREEN, "..", [i.loss for i in found]),
        ):
            axes.bar(places, values, 0.7, color=colour, hatch=hatch, edgecolor="white")
            axes.axhline(0, color=BLACK, lw=1.6)
            axes.set_ylabel(label)
            axes.grid(axis="x", visible=False)
        depth_ticks(panels[-1], [i.block for i in found])
        figure.align_ylabels(list(panels))
        return figure
