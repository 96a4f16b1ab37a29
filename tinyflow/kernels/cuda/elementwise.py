"""Sums, ReLU, bias and gates on rows (M, C): launches elementwise.cu."""

from __future__ import annotations

from tinyflow.backend import Array
from tinyflow.kernels.cuda.module import (
    APPLY_BLOCKS,
    Dims,
    Rows,
    aligned,
    counters,
    empty_like,
    floats,
    launch,
    new_floats,
    rows,
    sum_tiles,
    tiles,
)
from tinyflow.kernels.cuda.source import Variant, widest


def combine(
    x: Array,
    *,
    other: Array | None = None,
    bias: Array | None = None,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """The sum x + other + bias of the column, no less than 0 with `relu`."""
    y = empty_like(x, out)
    of = rows("elementwise", "combine", x, other, y)
    floats("combine", of.c, bias)
    if bias is None:
        of = _flat(of, x, other, y)
    if of.m and of.c:
        t = tiles(of.m, of.c, of.variant.vector, APPLY_BLOCKS)
        ldx, ldo, ldy = of.steps
        launch(
            *(of.variant, "combine", t.grid, t.block, x, ldx, other, ldo, bias),
            *(y, ldy, of.m, of.c, t.chunk, int(relu)),
        )
    return y


def relu(x: Array, out: Array | None = None) -> Array:
    """The maximum of x and 0."""
    return combine(x, relu=True, out=out)


def add(x: Array, other: Array, relu: bool = False, out: Array | None = None) -> Array:
    """The sum x + other, no less than 0 with `relu`."""
    return combine(x, other=other, relu=relu, out=out)


def bias_add(
    x: Array, bias: Array, relu: bool = False, out: Array | None = None
) -> Array:
    """The sum x + bias of the column (float32), no less than 0 with `relu`."""
    return combine(x, bias=bias, relu=relu, out=out)


def relu_grad(g: Array, y: Array, out: Array | None = None) -> Array:
    """The gradient g where y > 0, else 0."""
    dx = empty_like(g, out)
    of = _flat(rows("elementwise", "relu_grad", g, y, dx), g, y, dx)
    if of.m and of.c:
        t = tiles(of.m, of.c, of.variant.vector, APPLY_BLOCKS)
        ldg, ldy, ldd = of.steps
        launch(
            *(of.variant, "relu_gradient", t.grid, t.block, g, ldg, y, ldy, dx, ldd),
            *(of.m, of.c, t.chunk),
        )
    return dx


def sigmoid(x: Array, g: Array | None = None, out: Array | None = None) -> Array:
    """The sigmoid s of x, in float32; with g the gradient g s (1 - s)."""
    y = empty_like(x, out)
    of = _flat(rows("elementwise", "sigmoid", x, g, y), x, g, y)
    if of.m and of.c:
        t = tiles(of.m, of.c, of.variant.vector, APPLY_BLOCKS)
        ldx, ldg, ldy = of.steps
        launch(
            *(of.variant, "sigmoid", t.grid, t.block, x, ldx, g, ldg, y, ldy),
            *(of.m, of.c, t.chunk),
        )
    return y


def bias_grad(
    g: Array, *, y: Array | None = None, masked: Array | None = None
) -> Array:
    """Σ g' over the rows, float32 (C,).

    With `y`, the output of a fused ReLU, g' = g where y > 0, and goes to `masked`; else
    g' = g.
    """
    of = rows("elementwise", "bias_grad", g, y, masked)
    if (y is None) != (masked is None):
        raise ValueError("bias_grad: y and masked go together")
    if of.m < 1:
        raise ValueError("bias_grad: there are no rows")
    t = sum_tiles(of.m, of.c, of.variant.vector)
    partial = new_floats(g, t.chunks, of.c) if t.chunks > 1 else None
    sums = new_floats(g, of.c)
    ldg, ldy, lds = of.steps
    launch(
        *(of.variant, "column_sums", t.grid, t.block, g, ldg, y, ldy, masked, lds),
        *(of.m, of.c, t.chunk, partial, counters(g), sums),
    )
    return sums


def gate(
    x: Array,
    gates: Array,
    *,
    residual: Array | None = None,
    relu: bool = False,
    out: Array | None = None,
) -> Array:
    """The gated s x, plus the residual, no less than 0 with `relu`.

    Args:
        x: rows (N H W, C).
        gates: s, (N, C), contiguous.
        residual, relu: see above.
        out: y, if it exists already.
    """
    y = empty_like(x, out)
    of = rows("elementwise", "gate", x, residual, y)
    of = _with_gates("gate", of, x, gates)
    if of.m and of.c:
        area, grid, block = _samples(of, gates)
        ldx, ldr, ldy = of.steps
        launch(
            *(of.variant, "gate", grid, block, x, ldx, gates, residual, ldr, y, ldy),
            *(of.m, of.c, area, int(relu)),
        )
    return y


def gate_grad(
    g: Array,
    x: Array,
    gates: Array,
    *,
    y: Array | None = None,
    masked: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Gradients dx = s g', ds = Σ g' x of a sample.

    With `y`, the output of a fused ReLU, g' = g where y > 0; `masked` gets it, the
    gradient of the residual.
    """
    if masked is not None and y is None:
        raise ValueError("gate_grad: masked needs y")
    dx, ds = empty_like(x, out), empty_like(gates)
    of = rows("elementwise", "gate_grad", g, x, y, dx, masked)
    of = _with_gates("gate_grad", of, x, gates, ds)
    if of.m and of.c:
        area, grid, block = _samples(of, gates)
        ldg, ldx, ldy, ldd, lds = of.steps
        launch(
            *(of.variant, "gate_gradient", grid, block, g, ldg, x, ldx, gates, y, ldy),
            *(dx, ldd, masked, lds, ds, of.m, of.c, area),
        )
    return dx, ds


def _with_gates(name: str, of: Rows, x: Array, *gates: Array) -> Rows:
    """`of`, its vectors narrowed to what the gates allow; ValueError if they misfit."""
    z = rows("elementwise", name, *gates)
    n = max(z.m, 1)
    if z.c != of.c or of.m % n or any(s != z.c for s in z.steps):
        raise ValueError(f"{name}: gates {gates[0].shape} do not fit rows {x.shape}")
    if z.variant.dtype != of.variant.dtype:
        raise TypeError(f"{name}: gates and rows differ in type")
    return (
        of if z.variant.vector >= of.variant.vector else of._replace(variant=z.variant)
    )


def _samples(of: Rows, z: Array) -> tuple[int, Dims, Dims]:
    """Rows of a sample, and a grid of one row of blocks for each sample."""
    area = of.m // z.shape[0]
    t = tiles(area, of.c, of.variant.vector)
    return area, (t.grid[0], int(z.shape[0])), t.block


def _flat(of: Rows, *matrices: Array | None) -> Rows:
    """The same entries as a matrix of one vector a row, where nothing lies between."""
    wide = widest(of.variant.dtype)
    gaps = any(s not in (0, of.c) for s in of.steps)
    if gaps or of.m * of.c % wide or not aligned(*matrices):
        return of
    variant = Variant(of.variant.unit, of.variant.dtype, wide)
    steps = tuple(wide if s else 0 for s in of.steps)
    return Rows(variant, of.m * of.c // wide, wide, steps)
