"""Who sends to whom in a dense block, and how long the gradient's paths are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinyflow.flow.dense import DenseBlock
from tinyflow.flow.paths import Spectrum
from tinyflow.flow.show.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    RED,
    frame,
    log_axis,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EMPTY = "#EDEDED"


def heat_map(block: DenseBlock, name: str, conditions: str) -> Figure:
    """‖c‖ and the signed share of every (source, consumer) pair of a dense block."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    with style():
        figure = frame(
            f"{name}, {block.name.rpartition('.')[2]}: which later layer sends how "
            "much to which map",
            conditions,
            "How to read: row j is the map x_j (x_0 enters the block, layer j makes "
            "x_j), column l the layer that reads it, at the right the transition or "
            "the classifier (T or C). Left: the size of what that reader sends back to "
            "that map, in powers of ten: brighter is more. Right: its signed share in "
            "the map's gradient; a row adds up to 1, blue pulls with the sum, red "
            "against it, white is nothing. Grey: the layer comes too early to read it.",
        )
        left, right = figure.subplots(1, 2)
        sizes = np.ma.masked_invalid(block.norms)
        sizes = np.ma.masked_less_equal(sizes, 0)
        low, high = (
            (float(sizes.min()), float(sizes.max())) if sizes.count() else (1, 1)
        )
        if high <= low:
            low, high = low / 2, high * 2
        first = left.imshow(
            sizes,
            cmap=colormaps["cividis"].with_extremes(bad=EMPTY),
            norm=LogNorm(low, high),
        )
        shares = np.ma.masked_invalid(block.shares)
        reach = float(np.abs(shares.filled(0)).max()) or 1.0
        second = right.imshow(
            shares,
            cmap=colormaps["RdBu"].with_extremes(bad=EMPTY),
            norm=Normalize(-reach, reach),
        )
        for axes, drawn, title in (
            (left, first, "size ‖c‖"),
            (right, second, "signed share of the row"),
        ):
            _pair_axes(axes, block)
            axes.set_title(title)
            bar = figure.colorbar(drawn, ax=axes, shrink=0.92, pad=0.03)
            bar.outline.set_visible(False)
            if drawn is first:
                _powers(bar.ax, low, high)
        return figure


def _powers(axes: Axes, low: float, high: float) -> None:
    """Ticks at 1, 2 and 5 times powers of ten: two decades can be all there is."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    steps = (1,) if high / low > 100 else (1, 2, 5)
    ticks = [m * 10.0**e for e in range(-30, 31) for m in steps]
    axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _power(v)))


def _power(value: float) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    factor = round(value / 10.0**exponent)
    start = "" if factor == 1 else f"{factor}·"
    return f"{start}$10^{{{exponent}}}$"


def _pair_axes(axes: Axes, block: DenseBlock) -> None:
    rows, columns = block.norms.shape
    step = 1 if rows <= 14 else 2 if rows <= 30 else 4 if rows <= 50 else 8
    axes.set_yticks(
        range(0, rows, step), [f"$x_{{{j}}}$" for j in range(0, rows, step)]
    )
    places = [*range(0, columns - 1, step), columns - 1]
    if step > 1 and places[-1] - places[-2] < step:
        places.pop(-2)
    labels = [_reader(block.consumers[c]) for c in places]
    axes.set_xticks(places, labels)
    axes.set_xlabel("read by layer l")
    axes.set_ylabel("gradient of map")
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def _reader(consumer: str) -> str:
    if consumer.startswith("denselayer"):
        return consumer.removeprefix("denselayer")
    return consumer[:1].upper()


def spectrum(found: Spectrum, name: str, conditions: str) -> Figure:
    """Share and size of the gradient by path length, beside the number of paths."""
    with style():
        figure = frame(
            f"{name}: how long are the paths the gradient comes along?",
            conditions,
            f"How to read: position k collects, exactly, all paths from the loss to "
            f"the first block that cross k of the {found.blocks} residual branches and "
            "take the shortcut elsewhere. Above: bars are the signed share of these "
            "paths in the gradient (they add up to 1; below zero they work against "
            "it); the grey line is the share they have in the number of paths. Then: "
            "the size of their sum in powers of ten"
            + (
                ", beside Veit et al.'s estimate, number of paths times mean size of "
                "one; it adds up sizes as if all paths pointed the same way. Below: "
                "whether they do, the size of the sum over the root of the summed "
                "squares of its paths: 1 if they are at right angles (grey line), more "
                "if they align, up to the root of their number, less if they cancel."
                if found.veit
                else "."
            )
            + (
                " Diamonds: the part of each bar that crosses no gate."
                if found.gates
                else ""
            ),
        )
        above, below, *last = figure.subplots(2 + bool(found.veit), 1, sharex=True)
        _share_bars(above, found)
        k = np.array(found.lengths)
        positive = [v if v > 0 else float("nan") for v in found.norms]
        below.plot(k, positive, color=BLUE, marker="s", label="exact sum $\\|c_k\\|$")
        if found.veit:
            guess = [v if v > 0 else float("nan") for v in found.veit]
            below.plot(
                k, guess, color=RED, marker="^", ls="--", label="Veit's\nestimate"
            )
        below.axhline(found.total, color=GREY, lw=2, ls=":", label="whole gradient")
        log_axis(below.yaxis)
        below.set_ylabel("norm")
        for axes in last:
            _coherence(axes, found)
        panels = (above, below, *last)
        panels[-1].set_xlabel("k, residual branches crossed")
        step = next(s for s in (1, 2, 5, 10, 20, 50) if len(k) / s <= 20)
        below.set_xticks(range(0, len(k), step))
        below.set_xlim(-0.8, len(k) - 0.2)
        for axes in panels:
            axes.legend(loc="center left", bbox_to_anchor=(1.005, 0.5))
        figure.align_ylabels(panels)
        return figure


def _coherence(axes: Axes, found: Spectrum) -> None:
    """How far the paths of each length align, with its interval where estimated."""
    middle = np.array(found.coherence)
    ends = np.array(found.coherence_range).T
    axes.errorbar(
        found.lengths,
        middle,
        yerr=np.abs(ends - middle),
        color=GREEN,
        marker="D",
        ms=5,
        label="$\\|c_k\\|\\,/\\sqrt{\\Sigma\\|path\\|^2}$",
    )
    axes.axhline(1, color=GREY, lw=2, zorder=0.8)
    axes.set_ylim(0, max(1.5, 1.1 * float(np.nanmax(ends[1]))))
    axes.set_ylabel("coherence")


def _share_bars(axes: Axes, found: Spectrum) -> None:
    k = np.array(found.lengths)
    axes.bar(k, found.shares, width=0.78, color=BLUE, label="share of the\ngradient")
    ways = [float(p) for p in found.paths]
    total = sum(ways)
    axes.plot(
        k,
        [w / total for w in ways],
        color=GREY,
        lw=3,
        marker="o",
        ms=5,
        label="share of the\npaths",
    )
    if found.gates:
        ungated = [found.gates.get((length, 0), 0.0) for length in found.lengths]
        axes.plot(
            k,
            ungated,
            color=GREEN,
            marker="D",
            mec=BLACK,
            ls="",
            label="without any\ngate",
        )
    axes.axhline(0, color=BLACK, lw=1.6)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.04 * high), high)
    axes.set_ylabel("signed share")
