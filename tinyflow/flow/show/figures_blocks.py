"""Gradient norms along depth, and the terms of one network block by block."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from tinyflow.flow.blocks import Terms
from tinyflow.flow.compare import Summary, against_shortcut
from tinyflow.flow.show.figures import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    RED,
    SKY,
    TERMS,
    at_least_decades,
    depth_ticks,
    drawn,
    frame,
    log_axis,
    stage_lines,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Drawn: TypeAlias = Mapping[str, Mapping[str, Any]]
"""How each term is drawn, in the order of the legend."""

NETS = (  # colour, marker
    (BLACK, "o"),
    (RED, "s"),
    (GREEN, "^"),
    (BLUE, "D"),
)
ACROSS = 5
"""Panels side by side; more networks make another row."""
MANY = 4
"""Terms, or pairs of them, from which a legend would be longer than its panel."""

PAIRS = {  # colour, marker, its size (the later ones lie on top), line, label
    "shortcut,residual": (BLACK, "o", 8.0, "-", "shortcut, residual"),
    "shortcut,gain": (BLACK, "o", 12.0, "-", "shortcut, gain"),
    "shortcut,gate": (SKY, "D", 8.0, ":", "shortcut, gate"),
    "gain,gate": (RED, "^", 5.0, "--", "gain, gate"),
}


def along_depth(summaries: Sequence[Summary], conditions: str) -> Figure:
    """‖∂L/∂x‖ from the first block to the last, a panel per network, on one scale."""
    with style():
        states = dict.fromkeys(s.state for s in summaries)
        figure = frame(
            "How large is the gradient along the depth of the network?",
            f"{', '.join(states)} · {conditions}",
            "How to read: each panel runs from the first block (left, next to the "
            "image) to the last (right, next to the loss); the gradient travels from "
            "right to left. Height is ‖∂L/∂x‖ at the input x of a block (in a "
            "DenseNet: of all maps a later layer still reads), over the whole batch, "
            "on the same scale of powers of ten in every panel; pale lines repeat the "
            "other networks. A line that falls to the left means a shrinking gradient, "
            "one that rises a growing one. Dashed: the size of the maps changes there, "
            "and norms with it.",
        )
        rows = -(-len(summaries) // ACROSS)
        columns = -(-len(summaries) // rows)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        panels, small = grid.ravel(), rows > 1
        for axes in panels[len(summaries) :]:
            axes.set_axis_off()
        for i, own in enumerate(summaries):
            axes = panels[i]
            colour, marker = NETS[i % len(NETS)]
            for other in summaries:
                if other is not own:
                    axes.plot(*_relative(other), color="#C4C4C4", lw=1.6, zorder=1)
            count = len(own.profile)
            axes.plot(
                *_relative(own),
                color=colour,
                marker=marker,
                ms=9 if count < 30 and not small else 5,
                zorder=3,
            )
            where = f"{count} blocks" if own.blocks else f"{count} states"
            axes.set_title(own.name, fontsize=15 if small else None)
            if not small:
                axes.set_xlabel(f"{where}, first → last")
            axes.set_xticks([0, 0.5, 1], ["1", "", str(count)])
            axes.set_xlim(-0.06, 1.06)
            for j in range(1, count):
                if own.profile[j].shape != own.profile[j - 1].shape:
                    axes.axvline(
                        (j - 0.5) / (count - 1), color=GREY, lw=1.1, ls=(0, (4, 4))
                    )
        log_axis(panels[0].yaxis)
        at_least_decades(panels[0], [p.norm for s in summaries for p in s.profile])
        if small:
            figure.supylabel("‖∂L/∂x‖ over the batch", fontsize=17)
        else:
            panels[0].set_ylabel("‖∂L/∂x‖ over the batch")
        return figure


def _relative(summary: Summary) -> tuple[list[float], list[float]]:
    """Depth from 0 to 1, and the norm there; a zero norm is a gap."""
    last = max(len(summary.profile) - 1, 1)
    return (
        [i / last for i in range(len(summary.profile))],
        [p.norm or float("nan") for p in summary.profile],
    )


def terms(blocks: Sequence[Terms], name: str, conditions: str) -> Figure:
    """Norms, signed shares and cosines of the terms of every block, three panels."""
    with style():
        found = drawn([t for b in blocks for t in b.shares])
        plain = list(found) == ["F"]
        figure = frame(
            f"{name}: what the gradient of each block consists of",
            conditions,
            _caption(found, blocks),
        )
        names = [b.name for b in blocks]
        rows = 2 if plain else 3
        panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        _norms(panels[0], blocks, found)
        if plain:
            _ratios(panels[1], blocks)
        else:
            _shares(panels[1], blocks, found)
            _cosines(panels[2], blocks)
        if len(found) > MANY:
            _one_legend(figure, panels[0], panels[-1])
        else:
            for axes in panels:
                _beside(axes)
        for axes in panels:
            stage_lines(axes, [b.shape for b in blocks])
        depth_ticks(panels[-1], names)
        figure.align_ylabels(panels)
        return figure


def _one_legend(figure: Figure, norms: Axes, cosines: Axes) -> None:
    """One for all three panels, as high as it needs."""
    lines, labels = norms.get_legend_handles_labels()
    more, said = cosines.get_legend_handles_labels()
    labels += [f"cosine: {label}" for label in said]
    figure.legend(lines + more, labels, loc="outside right upper", handlelength=2.2)


def _caption(found: Collection[str], blocks: Sequence[Terms]) -> str:
    start = (
        "How to read: one position per block, the image to the left, the loss to the "
        "right; the gradient travels from right to left. "
    )
    if list(found) == ["F"]:
        return start + (
            "Above: the gradient's size (powers of ten) where it enters the block, at "
            "H, and where it leaves, at x. There is no shortcut, so everything passes "
            "through F, and the two differ by what F does to it. Below: the second "
            "divided by the first; below 1 the block shrinks the gradient."
        )
    many = len(_pairs(blocks)) > MANY
    of = [
        [t for t in found if t in b.shares and t not in ("F", "other")] for b in blocks
    ]
    sums = dict.fromkeys(" + ".join(terms) for terms in of if terms)
    names = " or ".join(sums) if len(sums) <= 3 else "of its terms"
    names += " (where there is no shortcut, F alone)" if "F" in found else ""
    return start + (
        f"The gradient of a block's input is the sum {names}. Top: their sizes (powers "
        "of ten). Middle: the signed share of each in the sum; shares add up to 1, and "
        "one below the zero line works against the sum. Bottom: cosine of the angle "
        "between two terms; 1: same direction, 0: at right angles, -1: they cancel"
        f"{'; bars: from the lowest to the highest of a block' if many else ''}. "
        "Dashed vertical lines: the maps change their size."
    )


def _line(axes: Axes, values: Sequence[float | None], style: Mapping[str, Any]) -> None:
    y = [float("nan") if v is None else v for v in values]
    size = 8 if len(y) < 30 else 5.5
    axes.plot(range(len(y)), y, **{"ms": size, **style})


def _beside(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.005, 0.5), handlelength=2.2)


def _norms(axes: Axes, blocks: Sequence[Terms], found: Drawn) -> None:
    """Sizes, on powers of ten; a term of size zero leaves a gap."""
    total = {"color": GREY, "marker": "", "ls": "-", "lw": 6, "alpha": 0.45}
    if list(found) == ["F"]:
        entering = {"color": BLUE, "marker": "s", "ls": "--", "label": "at H (enters)"}
        _line(axes, [b.norms["H"] or None for b in blocks], entering)
        _line(
            axes,
            [b.norms["x"] or None for b in blocks],
            TERMS["F"] | {"label": "at x (leaves)"},
        )
    else:
        _line(
            axes, [b.norms["x"] or None for b in blocks], total | {"label": "their sum"}
        )
        for t, how in found.items():
            _line(axes, [b.norms.get(t) or None for b in blocks], how)
    log_axis(axes.yaxis)
    shown = [b.norms[t] for b in blocks for t in (*found, "x") if t in b.norms]
    at_least_decades(axes, shown)
    axes.set_ylabel("norm")


def _ratios(axes: Axes, blocks: Sequence[Terms]) -> None:
    axes.axhline(1, color=GREY, lw=1.8)
    _line(axes, [b.ratio or None for b in blocks], TERMS["F"] | {"label": "x / H"})
    log_axis(axes.yaxis)
    at_least_decades(axes, [b.ratio for b in blocks])
    axes.set_ylabel("norm ratio")


def _shares(axes: Axes, blocks: Sequence[Terms], found: Drawn) -> None:
    axes.axhline(0, color=BLACK, lw=1.6)
    axes.axhline(1, color=GREY, lw=1.2, ls=":")
    for t, how in found.items():
        _line(axes, [b.shares.get(t) for b in blocks], how)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.1), max(high, 1.1))
    axes.set_ylabel("signed share")


def _pairs(blocks: Sequence[Terms]) -> list[str]:
    """Two branches each, of all blocks that are nothing but branches."""
    found = [p for b in blocks if b.kind == "branches" for p in b.cosines]
    return list(dict.fromkeys(found))


def _ranges(axes: Axes, blocks: Sequence[Terms]) -> None:
    """The lowest and the highest cosine of two branches of each block, as a bar."""
    bars = []
    for i, block in enumerate(blocks):
        values = [v for v in block.cosines.values() if v is not None]
        if values and block.kind == "branches":
            bars.append((i, min(values), max(values)))
    axes.errorbar(
        [i for i, _, _ in bars],
        [(low + high) / 2 for _, low, high in bars],
        yerr=[(high - low) / 2 for _, low, high in bars],
        color=RED,
        ls="",
        lw=3,
        capsize=5,
        capthick=2,
        label="two branches",
    )


def _cosines(axes: Axes, blocks: Sequence[Terms]) -> None:
    axes.axhline(0, color=BLACK, lw=1.6)
    for pair, (colour, marker, size, line, label) in PAIRS.items():
        if any(pair in b.cosines for b in blocks):
            style: dict[str, Any] = {"color": colour, "marker": marker, "ls": line}
            style["label"] = label
            style["ms"] = size if len(blocks) < 30 else 0.7 * size
            _line(axes, [b.cosines.get(pair) for b in blocks], style)
    if any(len(b.shares) > 2 and "shortcut" in b.shares for b in blocks) and not any(
        pair in b.cosines for pair in PAIRS for b in blocks
    ):
        rest = TERMS["F"] | {"label": "shortcut, the rest"}
        _line(axes, [against_shortcut(b) for b in blocks], rest)
    if len(pairs := _pairs(blocks)) > MANY:
        _ranges(axes, blocks)
    else:
        for pair, how in drawn(pairs).items():
            said = how | {"label": pair.replace(",", ", ")}
            _line(axes, [b.cosines.get(pair) for b in blocks], said)
    axes.set_ylim(-1.08, 1.08)
    axes.set_yticks([-1, 0, 1])
    axes.set_ylabel("cosine")
