"""The errors of several runs over the epochs, in one picture.

As He et al. (2016, Figure 6) draw them: a colour for each run, thin lines for the
training error, bold ones for the test error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyflow.atomic import replacing
from tinyflow.drawing import own_settings
from tinyflow.train.runs import Run

FEW = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito 2008, without yellow."""
LONG = 30
"""From so many epochs on, the first tenth of them does not decide what is shown."""
DOTS = 12
NOT_TOLD = frozenset({"output", "data_dir", "resolved", "save_every", "trace_every"})
"""Options that tell nothing of how a run learned."""
FIRST = ("model", "dataset", "seed")
"""Options that come first in a label."""
RESOLVED = ("model", "lr", "optimizer", "weight_decay")
"""Options that may be left to the network: what they came to is told."""


def labels(runs: Sequence[Run]) -> list[str]:
    """What tells each run apart from the others: ``resnet20, lr 0.1``.

    Those that no option tells apart are called by their folders, too.
    """
    told = [_options(run.config) for run in runs]
    first: list[str] = [name for name in FIRST if any(name in t for t in told)]
    names = first + sorted({name for options in told for name in options} - set(first))
    texts = [{n: _said(n, options.get(n)) for n in names} for options in told]
    differ = [n for n in names if len({text[n] for text in texts}) > 1]
    found = [", ".join(text[n] for n in differ) for text in texts]
    twice = {label for label in found if found.count(label) > 1}
    return [
        ", ".join(filter(None, (label, str(run.place))))
        if label in twice or not label
        else label
        for label, run in zip(found, runs, strict=True)
    ]


def common(runs: Sequence[Run]) -> str:
    """What all of them share, for a title: ``resnet20 on cifar10``."""
    models = {run.model for run in runs}
    data = {run.dataset for run in runs}
    parts = [next(iter(found)) for found in (models, data) if len(found) == 1]
    return " on ".join(part for part in parts if part)


def _options(config: Mapping[str, Any]) -> dict[str, Any]:
    resolved = config.get("resolved")
    found = resolved if isinstance(resolved, dict) else {}
    options = {k: v for k, v in config.items() if k not in NOT_TOLD}
    return options | {name: found[name] for name in RESOLVED if name in found}


def _said(name: str, value: Any) -> str:
    if name in ("model", "dataset", "optimizer", "schedule"):
        return str(value)
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if isinstance(value, float):
        return f"{words} {value:g}"
    if isinstance(value, list):
        return f"{words} {','.join(f'{v:g}' for v in value)}"
    return f"no {words}" if value is None else f"{words} {value}"


def draw_errors(path: Path, runs: Sequence[Run], title: str = "") -> None:
    """Draw train and test error of every run, in %.

    Args:
        path: the PNG to write.
        runs: one or more, each with an epoch or more.
        title: above; "" is what all of them share.

    Raises:
        OSError: it cannot be written; what was at `path` is as it was.
    """
    with own_settings():
        _draw(path, runs, title or common(runs))


def _colours(count: int) -> list[Any]:
    if count <= len(FEW):
        return list(FEW[:count])
    from matplotlib import colormaps

    return [colormaps["turbo"](0.05 + 0.9 * i / (count - 1)) for i in range(count)]


def _highest(errors: Sequence[Sequence[float]]) -> float:
    """The top of the axis: long runs fall from errors that would hide the rest."""
    kept = [e[len(e) // 10 if len(e) >= LONG else 0 :] for e in errors]
    return min(100.0, 1.05 * max(map(max, kept))) or 1.0


def _draw(path: Path, runs: Sequence[Run], title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # draws on no screen
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    errors = []
    handles = []
    for run, label, colour in zip(runs, labels(runs), _colours(len(runs)), strict=True):
        epochs = [row.epoch for row in run.rows]
        train = [100 * (1 - row.train_accuracy) for row in run.rows]
        test = [100 * (1 - row.test_accuracy) for row in run.rows]
        errors += [train, test]
        dot = "o" if len(epochs) <= DOTS else ""
        axes.plot(epochs, train, color=colour, lw=1.1, marker=dot, ms=3)
        (bold,) = axes.plot(epochs, test, color=colour, lw=2.4, marker=dot, ms=6)
        handles.append(Line2D([], [], color=bold.get_color(), lw=4, label=label))
    axes.set_ylim(0, _highest(errors))
    axes.set_xlabel("epoch", fontsize=17)
    axes.set_ylabel("error (%)", fontsize=17)
    axes.set_title(title, fontsize=18, parse_math=False, pad=12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=15)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    handles += [
        Line2D([], [], color="#555555", lw=1.1, label="train (thin)"),
        Line2D([], [], color="#555555", lw=2.4, label="test (bold)"),
    ]
    legend = figure.legend(
        handles=handles,
        loc="outside right upper" if len(runs) > 1 else "outside lower center",
        ncols=1 if len(runs) > 1 else 3,
        fontsize=14 if len(runs) <= 14 else 10,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
