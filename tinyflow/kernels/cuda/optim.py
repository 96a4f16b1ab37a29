"""Optimisers: one launch for all parameters. Launches optim.cu.

Tables of addresses say where the tensors lie. Gradients that stay where they are from
step to step (as they do in a captured graph) need one table for good; for those that
move :func:`with_gradients` makes the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda.module import THREADS, address, counters, dtype_of, launch
from tinyflow.kernels.cuda.source import Variant

CHUNK = 4096
"""Entries a block takes; CHUNK in optim.cu."""


class TensorTable(NamedTuple):
    """Where tensors lie, and how they are cut into chunks: device arrays."""

    dtype: str
    """Of the gradients."""
    addresses: Array
    """(slots, tensors), int64."""
    chunk_tensor: Array
    chunk_index: Array
    sizes: Array
    kept: tuple[Any, ...]
    """The tensors: alive as long as the table."""

    @property
    def chunks(self) -> int:
        """How many blocks there are."""
        return len(self.chunk_tensor)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What every kernel of optim.cu begins with."""
        return (
            *(self.addresses, self.addresses.shape[1]),
            *(self.chunk_tensor, self.chunk_index, self.sizes),
        )


def tensor_table(
    gradients: Sequence[Array],
    parameters: Sequence[Array] | None = None,
    *states: Sequence[Array],
    copies: Sequence[Array | None] | None = None,
) -> TensorTable:
    """The table of those tensors; for the norm alone, gradients are enough.

    Args:
        gradients: all float32 or all bfloat16.
        parameters: float32.
        states: float32: the momentum of SGD, or m and then v of Adam.
        copies: bfloat16 copies of the parameters, written by each step.

    All arrays of one parameter have one shape and one memory order without gaps.
    """
    if not gradients:
        raise ValueError("tensor_table: there are no gradients")
    dtype, n = dtype_of("tensor_table", *gradients), len(gradients)
    floats = [s for s in (parameters, *states) if s is not None]
    for kind in {a.dtype.name for s in floats for a in s} - {"float32"}:
        raise TypeError(f"tensor_table: parameters and states are float32, not {kind}")
    if copies is not None and any(c is not None for c in copies):
        if dtype_of("tensor_table", *copies) != "bfloat16":
            raise TypeError("tensor_table: copies are bfloat16")
    nothing: Sequence[Array | None] = [None] * n
    slots = [gradients, parameters or nothing, copies or nothing, *states]
    table = np.zeros((len(slots), n), np.int64)
    for row, slot in enumerate(slots):
        for i, (g, a) in enumerate(zip(gradients, slot, strict=True)):
            if a is not None:
                _same_layout(a, g)
                table[row, i] = address(a)
    sizes = np.array([g.size for g in gradients], np.int32)
    counts = -(-sizes // CHUNK)
    xp = array_module(*gradients)
    return TensorTable(
        dtype,
        xp.asarray(table),
        xp.asarray(np.repeat(np.arange(n, dtype=np.int32), counts)),
        xp.asarray(np.concatenate([np.arange(c, dtype=np.int32) for c in counts])),
        xp.asarray(sizes),
        tuple(slots),
    )


def with_gradients(table: TensorTable, gradients: Sequence[Array]) -> TensorTable:
    """The same table for other gradients of the same shapes, type and layout."""
    before = table.kept[0]
    if len(gradients) != len(before):
        raise ValueError(f"with_gradients: {len(gradients)} for {len(before)} tensors")
    if dtype_of("with_gradients", *gradients) != table.dtype:
        raise TypeError(f"with_gradients: the table is for {table.dtype}")
    for g, old in zip(gradients, before, strict=True):
        _same_layout(g, old)
    addresses = table.addresses.copy()
    places = np.array([address(g) for g in gradients], np.int64)
    addresses[0] = array_module(addresses).asarray(places)
    return table._replace(addresses=addresses, kept=(gradients, *table.kept[1:]))


def _same_layout(a: Array, g: Array) -> None:
    """ValueError unless a and g have one shape and memory order without gaps."""
    extent = sum((s - 1) * d for s, d in zip(a.shape, a.strides, strict=True))
    dense = min((*a.strides, 0)) >= 0 and extent + a.itemsize == a.nbytes
    same = [
        s <= 1 or d * g.itemsize == e * a.itemsize
        for s, d, e in zip(a.shape, a.strides, g.strides, strict=False)
    ]
    if a.shape != g.shape or (a.size and not (dense and all(same))):
        raise ValueError(
            f"tensor_table: {a.shape} {a.strides} lies unlike {g.shape} {g.strides}"
        )


def advance_sgd(
    steps: Array, lr: Array, rates: Array, *, dampening: float = 0.0
) -> None:
    """Count a step and set `rates` (float32, 3) for :func:`sgd_step`.

    `steps` is an int32 array of one entry, `lr` a float32 one.
    """
    _launch_one("advance_sgd", steps, lr, float(dampening), rates)


def advance_adam(
    steps: Array,
    lr: Array,
    rates: Array,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    decoupled_decay: float = 0.0,
) -> None:
    """Count a step and set `rates` (float32, 3) for :func:`adam_step`."""
    beta1, beta2, decay = (np.float64(v) for v in (*betas, decoupled_decay))
    _launch_one("advance_adam", steps, lr, beta1, beta2, decay, rates)


def _launch_one(name: str, *args: Any) -> None:
    launch(Variant("optim"), name, (1,), (1,), *args)


def sgd_step(
    table: TensorTable,
    rates: Array,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    clip: Array | None = None,
) -> None:
    """One step of :class:`tinyflow.optim.SGD` for every tensor of the table.

    `clip` is a float64 array of one entry: the factor for all gradients, or NaN, which
    leaves every tensor as it is.
    """
    _needs(table, "sgd_step", 4 if momentum else 3, clip)
    _launch(
        *(table, "sgd", rates, clip, float(momentum), float(weight_decay)),
        int(nesterov),
    )


def adam_step(
    table: TensorTable,
    rates: Array,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    clip: Array | None = None,
) -> None:
    """One step of :class:`tinyflow.optim.Adam`, or of AdamW with `decoupled`.

    The decay of AdamW is not given here but to :func:`advance_adam`.
    """
    if decoupled and weight_decay:
        raise ValueError("adam_step: AdamW's decay belongs to advance_adam")
    _needs(table, "adam_step", 5, clip)
    (beta1, beta2), rest = betas, [1 - b for b in betas]
    _launch(
        *(table, "adam", rates, clip, float(beta1), float(rest[0]), float(beta2)),
        *(float(rest[1]), float(eps), float(weight_decay), int(decoupled)),
    )


def _needs(table: TensorTable, name: str, slots: int, clip: Array | None) -> None:
    if table.addresses.shape[0] < slots:
        raise ValueError(f"{name}: the table lacks parameters or state")
    if clip is not None and (clip.dtype != np.float64 or clip.size != 1):
        raise TypeError(f"{name}: clip is {clip.dtype} {clip.shape}, not one float64")


def _launch(table: TensorTable, name: str, *args: Any) -> None:
    if table.chunks:
        launch(
            *(Variant("optim", table.dtype), name, (table.chunks,), (THREADS,)),
            *(*table.arguments, *args),
        )


def gradient_norm(table: TensorTable, max_norm: float = float("inf")) -> Array:
    """The norm √Σ g² and the factor min(1, max_norm / (norm + 10⁻⁶)), float64 (2,).

    The second, as a view of one entry, is `clip` of a step.
    """
    xp = array_module(table.addresses)
    out: Array
    if not table.chunks:
        out = xp.arange(2, dtype=np.float64)  # the norm 0, the factor 1
        return out
    out, partial = xp.empty(2, np.float64), xp.empty(table.chunks, np.float64)
    _launch(table, "squares", partial, counters(partial), np.float64(max_norm), out)
    return out
