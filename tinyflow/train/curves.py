"""The learning curves of a run as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinyflow.atomic import replacing
from tinyflow.drawing import own_settings
from tinyflow.train.metrics import EpochRow

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe & Ito 2008
DOTS = 30  # up to so many epochs, each is marked


def draw_curves(
    path: Path, rows: Sequence[EpochRow], title: str, chance: float
) -> None:
    """Draw loss, accuracy and learning rate over the epochs.

    Train and test differ in colour, line style and marker, so that the picture can be
    read in grey and by the colour-blind.

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
    for axes, label, train, test in (
        (
            loss,
            "cross-entropy loss (nats)",
            [row.train_loss for row in rows],
            [row.test_loss for row in rows],
        ),
        (
            accuracy,
            "accuracy (%)",
            [100 * row.train_accuracy for row in rows],
            [100 * row.test_accuracy for row in rows],
        ),
    ):
        axes.plot(
            epochs,
            train,
            color=BLUE,
            marker="o" if marks else "",
            label="train (running)",
            lw=3,
            ms=9,
        )
        axes.plot(
            epochs,
            test,
            color=ORANGE,
            marker="s" if marks else "",
            label="test",
            ls="--",
            lw=3,
            ms=9,
        )
        axes.set_ylabel(label)
    loss.set_ylim(0, 1.08 * max(max(r.train_loss, r.test_loss) for r in rows))
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
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=16)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
