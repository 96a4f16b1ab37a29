"""The learning curves of a run as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinyflow.atomic import replacing
from tinyflow.drawing import own_settings
from tinyflow.train.metrics import EpochRow

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
"""Of Okabe & Ito 2008."""
LINES = (
    ("train", "train (running)", BLUE, "-", "o"),
    ("val", "validation", PURPLE, "-.", "^"),
    ("test", "test", ORANGE, "--", "s"),
)
DOTS = 30  # up to so many epochs, each is marked


def draw_curves(
    path: Path, rows: Sequence[EpochRow], title: str, chance: float
) -> None:
    """Draw loss, accuracy and learning rate over the epochs.

    Train, validation and test differ in colour, line style and marker, so that the
    picture can be read in grey and by the colour-blind.

    Args:
        path: the PNG to write.
        rows: at least one epoch.
        title: model, data set, seed, precision.
        chance: accuracy of guessing, 0 to 1, drawn as a line.

    Raises:
        OSError: it cannot be written; what was at `path` is as it was.
    """
    with own_settings():
        _draw(path, rows, title, chance)


def _draw(path: Path, rows: Sequence[EpochRow], title: str, chance: float) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws on no screen
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row.epoch for row in rows]
    marks = len(rows) <= DOTS
    figure = Figure(figsize=(16, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=20, parse_math=False)
    figure.get_layout_engine().set(w_pad=0.15)  # type: ignore[union-attr, call-arg]
    loss, accuracy, rate = figure.subplots(1, 3)
    highest = 0.0
    for name, label, color, dashes, mark in LINES:
        losses = [getattr(row, f"{name}_loss") for row in rows]
        if losses[0] != losses[0]:  # there are no validation images
            continue
        highest = max(highest, *losses)
        shares = [100 * getattr(row, f"{name}_accuracy") for row in rows]
        for axes, values in ((loss, losses), (accuracy, shares)):
            style = {"color": color, "ls": dashes, "marker": mark if marks else ""}
            axes.plot(epochs, values, label=label, lw=3, ms=9, **style)
    loss.set_ylabel("cross-entropy loss (nats)")
    accuracy.set_ylabel("accuracy (%)")
    loss.set_ylim(0, 1.08 * highest)
    accuracy.set_ylim(0, 100)
    accuracy.axhline(100 * chance, color="#555555", ls=":", lw=2.5, label="chance")
    rate.plot(
        epochs, [row.lr for row in rows], color=GREEN, marker="D" if marks else "", lw=3
    )
    rate.set_ylim(bottom=0)
    rate.set_ylabel("learning rate (last step)")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.xaxis.label.set_size(17)
        axes.yaxis.label.set_size(17)
        axes.tick_params(labelsize=15)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=16)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
