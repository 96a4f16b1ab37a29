"""Which classes are taken for which, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyflow.drawing import own_settings

WRITTEN = 20
"""Up to so many classes, each cell has its number."""
NAMED = 120
"""Up to so many, each row and column has its name."""


def draw_confusion(
    path: Path, confusion: NDArray[np.int64], classes: Sequence[str], title: str
) -> None:
    """Draw the share of each class's images, in %, that is taken for each class.

    Args:
        path: the PNG to write.
        confusion: (K, K), images of the row's class taken for the column's.
        classes: K names.
        title: what was evaluated.

    Raises:
        OSError: it cannot be written.
    """
    with own_settings():
        _draw(path, confusion, [_short(name) for name in classes], title)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """y[i, j] = 100 c[i, j] / Σⱼ c[i, j], and 0 for a class without images."""
    counts = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    return np.asarray(100 * confusion / counts)


def _draw(
    path: Path, confusion: NDArray[np.int64], names: list[str], title: str
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws on no screen
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    count, part = len(names), shares(confusion)
    written, named = count <= WRITTEN, count <= NAMED
    side = 8.5 if count <= WRITTEN else 13.0
    figure = Figure(figsize=(side * 1.12, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title, fontsize=13 if written else 16, parse_math=False, wrap=True)
    scale = PowerNorm(1.0 if written else 0.5, 0, 100)  # so that a few % can be seen
    image = axes.imshow(part, cmap="Blues", norm=scale)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02)
    bar.set_label("share of the class's images (%)", fontsize=14)
    bar.ax.tick_params(labelsize=12)
    size = 13 if written else max(4.5, min(12, 700 / count))
    axes.set_xlabel("taken for", fontsize=15)
    axes.set_ylabel("class", fontsize=15)
    if named:
        places = range(count)
        axes.set_xticks(places, names, rotation=90, fontsize=size, parse_math=False)
        axes.set_yticks(places, names, fontsize=size, parse_math=False)
    if written:
        for i, j in np.ndindex(count, count):
            if confusion[i, j]:
                axes.text(
                    j,
                    i,
                    f"{part[i, j]:.0f}",
                    ha="center",
                    va="center",
                    color="white" if part[i, j] > 50 else "black",
                    fontsize=14 if count <= 10 else 9,
                )
    figure.savefig(path, format="png", dpi=110)
