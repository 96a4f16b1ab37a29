"""How the figures look: one frame, one palette, and a caption that says how to read it.

Colours are Okabe & Ito's (2008), which the colour-blind can tell apart; every series
also has its own marker or line style. Text is 15 points or more on a 16:9 page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyflow.drawing import own_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"

TERMS: dict[str, dict[str, Any]] = {  # how each term of a block is always drawn
    "F": {"color": BLACK, "marker": "o", "ls": "-", "label": "through F"},
    "shortcut": {"color": BLUE, "marker": "s", "ls": "-", "label": "shortcut"},
    "residual": {"color": RED, "marker": "^", "ls": "--", "label": "residual"},
    "gain": {"color": RED, "marker": "^", "ls": "--", "label": "gain"},
    "gate": {"color": GREEN, "marker": "D", "ls": ":", "label": "gate"},
    "other": {"color": PINK, "marker": "v", "ls": "-.", "label": "other uses"},
}

BRANCHES: tuple[dict[str, Any], ...] = (  # terms with names of their own, in order
    {"color": BLUE, "marker": "s", "ls": "-"},
    {"color": RED, "marker": "^", "ls": "--"},
    {"color": GREEN, "marker": "D", "ls": ":"},
    {"color": ORANGE, "marker": "v", "ls": "-."},
    {"color": SKY, "marker": "P", "ls": (0, (5, 1, 1, 1, 1, 1))},
    {"color": PINK, "marker": "X", "ls": (0, (1, 1))},
    {"color": BLACK, "marker": "<", "ls": "-"},
    {"color": GREY, "marker": ">", "ls": "--"},
    {"color": RED, "marker": "p", "ls": ":"},
    {"color": GREEN, "marker": "*", "ls": "-."},
    {"color": ORANGE, "marker": "h", "ls": "-"},
    {"color": SKY, "marker": "d", "ls": "--"},
)


def drawn(names: Collection[str]) -> dict[str, dict[str, Any]]:
    """How each of these terms is drawn, in the order of the legend.

    Those with names of their own look like none of the others.
    """
    known = {name: how for name, how in TERMS.items() if name in names}
    others = [name for name in dict.fromkeys(names) if name not in TERMS]
    taken = {(how["color"], how["marker"]) for how in known.values()}
    free = [how for how in BRANCHES if (how["color"], how["marker"]) not in taken]
    own = {name: free[i % len(free)] | {"label": name} for i, name in enumerate(others)}
    return own | known


STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 16,
    "axes.labelsize": 17,
    "axes.titlesize": 18,
    "axes.titleweight": "bold",
    "xtick.labelsize": 15,
    "ytick.labelsize": 15,
    "legend.fontsize": 16,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.9,
    "lines.linewidth": 2.6,
    "lines.markersize": 8,
    "hatch.linewidth": 0.8,
    "svg.hashsalt": "tinyflow",  # ids that do not change from run to run
    "svg.fonttype": "path",  # letters as outlines: the same on every machine
}
SIZE = (16.0, 9.0)
CAPTION = 16
WRAP = 138  # letters of a caption line
WRAP_CONDITIONS = 120


@contextmanager
def style() -> Iterator[None]:
    """Our settings of Matplotlib inside the block; what the caller had, outside."""
    with own_settings(STYLE):
        yield


def frame(title: str, conditions: str, caption: str) -> Figure:
    """An empty 16:9 page: title and conditions above, caption below.

    Args:
        title: what is shown, of which network.
        conditions: network, data, mode, precision, seed, batch.
        caption: how to read it.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from tinyflow.flow.show.page import Page

    figure = Page(figsize=SIZE, layout="constrained")
    figure.style = STYLE
    left, height = 0.012, SIZE[1] * 72
    names: dict[str, Any] = {"va": "top", "parse_math": False}  # a path may hold a $
    figure.text(left, 0.985, title, fontsize=23, fontweight="bold", **names)
    under = textwrap.wrap(conditions, WRAP_CONDITIONS)
    figure.text(left, 0.938, "\n".join(under), fontsize=17, color="#333333", **names)
    top = 0.888 - 0.034 * (len(under) - 1)
    lines = textwrap.wrap(caption, WRAP)
    figure.text(
        left, 0.014, "\n".join(lines), fontsize=CAPTION, va="bottom", linespacing=1.3
    )
    bottom = 0.025 + len(lines) * CAPTION * 1.42 / height
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.1, rect=(0.005, bottom, 0.99, top - bottom))
    return figure


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path.png`` (150 dpi) and ``path.svg``, the same bytes every time.

    Args:
        figure: as made by one of the figure functions.
        path: without suffix; dots in it are kept.
    """
    written = []
    with style():
        for suffix, options in (
            ("png", {"dpi": 150, "metadata": {"Software": None}}),
            ("svg", {"metadata": {"Date": None}}),
        ):
            file = path.with_name(f"{path.name}.{suffix}")
            figure.savefig(file, format=suffix, **options)
            written.append(file)
    return written


def log_axis(axis: Any) -> None:
    """A logarithmic axis, its ticks written as powers of ten."""
    from matplotlib.ticker import LogFormatterMathtext, LogLocator, NullFormatter

    axis.axes.set_yscale("log") if axis.axis_name == "y" else axis.axes.set_xscale(
        "log"
    )
    axis.set_major_locator(LogLocator(10, numticks=8))
    axis.set_major_formatter(LogFormatterMathtext())
    axis.set_minor_formatter(NullFormatter())


def at_least_decades(axes: Axes, values: Sequence[float], decades: float = 2.0) -> None:
    """A log y axis around the positive values that spans so many decades or more.

    Too short an axis would make a factor of 1.1 look like a collapse.
    """
    import math

    logs = [math.log10(v) for v in values if v > 0]
    if not logs:
        return
    low, high = min(logs) - 0.15, max(logs) + 0.15
    spare = max(0.0, decades - (high - low)) / 2
    axes.set_ylim(10 ** (low - spare), 10 ** (high + spare))


def depth_ticks(axes: Axes, names: Sequence[str], most: int = 20) -> None:
    """Block names below a position axis, upright up to 8, else turned; thinned out.

    The first and the last name are always among those that are written.
    """
    last = len(names) - 1
    step = -(-len(names) // most)
    places = list(range(0, len(names), step))
    if places[-1] != last:
        if last - places[-1] < step:
            places.pop()
        places.append(last)
    turned = len(places) > 8
    axes.set_xticks(
        places,
        [short(names[i]) for i in places],
        parse_math=False,
        rotation=55 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
    )
    axes.set_xlim(-0.6, last + 0.6)


def short(name: str) -> str:
    """``features.block3`` → ``block3``; ``layer1.0`` stays."""
    return name.removeprefix("features.")


def stage_lines(axes: Axes, shapes: Sequence[tuple[int, ...]]) -> None:
    """A thin dashed line wherever the maps change their size or width."""
    for i in range(1, len(shapes)):
        if shapes[i] != shapes[i - 1]:
            axes.axvline(i - 0.5, color=GREY, lw=1.2, ls=(0, (4, 4)), zorder=0.5)
