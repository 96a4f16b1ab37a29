"""Channels of several groups in turn, so that what follows sees all of the groups."""

from __future__ import annotations

from collections.abc import Sequence

from tinyflow.backend import Array, array_module
from tinyflow.kernels.engine import engine
from tinyflow.ops.arguments import array_of, whole
from tinyflow.ops.shape import concat
from tinyflow.tape import fusing, mark, record
from tinyflow.tensor import Tensor


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """The channels of `groups` groups, one after the other in turn.

    With g groups of m = C/g channels y[:, g i + j] = x[:, m j + i]: the first of each
    group, then the second of each, and so on (Zhang et al. 2017, arXiv:1707.01083).
    ∂L/∂x = the gradient with the order undone, which is a shuffle of m groups.

    Args:
        input: (N, C, …).
        groups: g, a divisor of C.

    Raises:
        ValueError: the channels do not make `groups` equal groups, or the input has
            fewer than two axes.
    """
    x = array_of("channel_shuffle", input)
    count = whole("channel_shuffle", groups, "groups", 1)
    if x.ndim < 2:
        raise ValueError(
            f"channel_shuffle: input must have channels, (N, C, ...), not {x.shape}"
        )
    size, rest = divmod(x.shape[1], count)
    if rest:
        raise ValueError(
            f"channel_shuffle: groups={count} must divide the {x.shape[1]} channels of "
            "input"
        )
    return record(
        "channel_shuffle",
        _shuffled(x, count, size),
        (input,),
        lambda g, need: (_shuffled(g, size, count),),
    )


def concat_shuffle(tensors: Sequence[Tensor], name: str) -> Tensor:
    """y = shuffle(H), H = [x₁ | … | xₙ] along the channels, shuffled in n groups.

    Two operators, and H is marked. Where nobody looks in between (no tape, or one that
    fuses) there is one, with the same bits, and H is never stored.

    Args:
        tensors: (N, C, …), all of one shape.
        name: of H, see :func:`tinyflow.tape.mark`.

    Raises:
        ValueError, TypeError: as :func:`tinyflow.ops.concat` and `channel_shuffle`.
    """
    arrays = [array_of("concat", t, f"tensors[{i}]") for i, t in enumerate(tensors)]
    alike = len({(a.shape, a.dtype, type(a)) for a in arrays}) == 1
    if not (fusing() and alike and arrays[0].ndim > 1):
        return channel_shuffle(mark(concat(tensors, 1), name), len(tensors))
    (n, size, *rest), count = arrays[0].shape, len(arrays)
    y = array_module(*arrays).empty_like(arrays[0], shape=(n, size * count, *rest))
    for j, x in enumerate(arrays):
        engine(x).copy(x, y[:, j::count])

    def pullback(g: Array, need: tuple[bool, ...]) -> list[Array]:
        h = _shuffled(g, size, count)
        return [h[:, j * size : (j + 1) * size] for j in range(count)]

    return record("channel_shuffle", y, tensors, pullback)


def _shuffled(x: Array, groups: int, size: int) -> Array:
    """The channels of `groups` groups of that size in turn, in the order of memory."""
    run = engine(x)
    y: Array = array_module(x).empty_like(x)
    for j in range(min(groups, size)):  # a slice of as many channels as there can be
        block = slice(j * max(groups, size), (j + 1) * max(groups, size))
        if groups <= size:
            run.copy(x[:, block], y[:, j::groups])
        else:
            run.copy(x[:, j::size], y[:, block])
    return y
