"""One result of the instrument as a figure or a table, for a notebook or a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tinyflow.flow.blocks import Terms
from tinyflow.flow.dense import DenseBlock
from tinyflow.flow.importance import Importance
from tinyflow.flow.paths import Spectrum
from tinyflow.ops.arguments import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tinyflow.flow.show.layout import Table


def figure(found: Any, name: str = "", conditions: str = "") -> Figure:
    """The figure of what was measured; a notebook shows it, ``savefig`` writes it.

    Args:
        found: what :func:`block_terms`, :func:`importance` or :func:`spectrum`
            returned, or one of the blocks that :func:`dense_terms` did.
        name: of the network, in the title.
        conditions: what was looked at, below the title.

    Raises:
        TypeError: `found` is something else.
    """
    from tinyflow.flow.show import figures_blocks, figures_importance, figures_paths

    name = name or "A network"
    match found:
        case Spectrum():
            return figures_paths.spectrum(found, name, conditions)
        case DenseBlock():
            return figures_paths.heat_map(found, name, conditions)
        case [Terms(), *_] as blocks:
            return figures_blocks.terms(blocks, name, conditions)
        case [Importance(), *_] as branches:
            return figures_importance.importance(branches, name, conditions)
    raise _nothing_to_show("a figure", "one block of dense_terms", found)


def table(found: Any, title: str = "") -> Table:
    """The table of what was measured: printed, it explains its columns.

    Args:
        found: what :func:`block_terms`, :func:`dense_terms`, :func:`importance` or
            :func:`spectrum` returned.
        title: above it.

    Raises:
        TypeError: `found` is something else.
    """
    from tinyflow.flow.show import tables

    match found:
        case Spectrum():
            return tables.paths(found, title or "Paths by length")
        case [Terms(), *_] as blocks:
            return tables.blocks(blocks, title or "Blocks")
        case [Importance(), *_] as branches:
            return tables.importance(branches, title or "Residual branches")
        case [DenseBlock(), *_] as dense:
            return tables.dense(dense, title or "Dense blocks")
    raise _nothing_to_show("a table", "dense_terms", found)


def _nothing_to_show(what: str, dense: str, found: Any) -> TypeError:
    return TypeError(
        f"there is {what} of what block_terms, importance, spectrum or {dense} "
        "returned, not of "
        f"{shown(found)}"
    )
