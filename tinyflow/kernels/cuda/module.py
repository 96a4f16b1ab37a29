"""Compiled units, and what every launch has in common: checks, vectors, tiles.

An activation array is passed in the shape of memory: rows (M, C), or images
(N, H, W, C). float32 is ``float32``; bfloat16 is the dtype of that name or, where there
is none, its bits in a ``uint16`` array. Nothing here waits for the device.

Sums over many blocks are finished by the last block of a launch. Which one that is, is
not known before, but what it does is: it adds up what the blocks left in memory, by
their index. To know that it is the last it counts with an atomic in :func:`counters`,
which are 0 between launches, since who counts to the end starts again from 0. Two
launches that run at the same time must not count in the same place. On one stream
launches follow each other, also where it is captured, and a graph is launched on the
stream it was captured on; another stream that takes part starts from that one and joins
it again, eagerly or captured. So a stream with counters of its own is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from tinyflow.backend import Array, _cupy, array_module
from tinyflow.kernels.cuda.device import Gpu
from tinyflow.kernels.cuda.source import VECTOR_BYTES, Variant, text, widest

Dims: TypeAlias = tuple[int, ...]

NULL = np.uint64(0)
"""The pointer to nothing."""

THREADS = 256
"""Threads of a block; THREADS in common.cuh."""

DEEP = 4
"""Rows a thread asks for at a time; DEEP in common.cuh."""

BLOCKS = 512
"""Blocks a pass is spread over, about: a few for each multiprocessor of a large GPU."""

SUM_THREADS = 512
"""Threads of a block that adds up columns; SUM_THREADS in common.cuh."""

SUM_COLUMNS = 16
"""Columns it adds up, at most; SUM_COLUMNS in common.cuh."""

MANY = 8
"""Rows a thread asks for at a time there; MANY in common.cuh."""

SUM_BLOCKS = 128
"""Blocks that add up columns, about: one for each multiprocessor of a large GPU. It is
the same for every GPU, and so is the order of the sums."""

SUM_BYTES = 32
"""Bytes of a row that one block adds up: a sector, the least that a cache fetches."""

ALONE = 2048
"""Rows that one block adds up alone. On an H100, for 2048 rows of 128 columns: batch
statistics 3.8 µs so and 4.7 by several blocks, their gradients 4.6 and 4.3."""


class Module(Protocol):
    """A compiled unit."""

    def get_function(self, name: str) -> Callable[..., None]:
        """The kernel of that name: call it with (grid, block, arguments)."""


def compile_with_cupy(variant: Variant) -> Module:
    """Compiled by NVRTC for the current device at first use, then kept on disk."""
    module: Module = _cupy().RawModule(
        code=text(variant.unit), options=("-std=c++14", *variant.options)
    )
    return module


_compile: Callable[[Variant], Module] = compile_with_cupy
_kernels: dict[tuple[Variant, str], Callable[..., None]] = {}


@contextmanager
def compiled_by(compiler: Callable[[Variant], Module]) -> Iterator[None]:
    """Take kernels from another compiler: the tests' host emulation."""
    global _compile, _kernels
    before = _compile, _kernels
    _compile, _kernels = compiler, {}
    try:
        yield
    finally:
        _compile, _kernels = before


def launch(variant: Variant, name: str, grid: Dims, block: Dims, *args: Any) -> None:
    """Launch a kernel on the current stream.

    Arguments are arrays, None for a null pointer, or NumPy scalars of exactly the
    kernel's types; a Python int is an int32, a Python float a float32.
    """
    kernel = _kernels.get((variant, name))
    if kernel is None:
        kernel = _compile(variant).get_function(name)
        _kernels[variant, name] = kernel
    kernel(grid, block, tuple(map(_argument, args)))


def _argument(value: Any) -> Any:
    if value is None:
        return NULL
    if type(value) is int:
        return np.int32(value)
    return np.float32(value) if type(value) is float else value


def address(x: Array) -> int:
    """Where the first entry lies."""
    if isinstance(x, np.ndarray):
        return int(x.ctypes.data)
    return int(x.data.ptr)  # CuPy


def dtype_of(name: str, *arrays: Array | None) -> str:
    """The one type of those activations, "float32" or "bfloat16"; TypeError if none."""
    found = {a.dtype.name for a in arrays if a is not None}
    if found == {"float32"}:
        return "float32"
    if found in ({"bfloat16"}, {"uint16"}):
        return "bfloat16"
    raise TypeError(f"{name}: needs float32 or bfloat16 throughout, got {found}")


def floats(name: str, size: int, *arrays: Array | None) -> None:
    """Check contiguous float32 vectors of that size; None is allowed."""
    for a in arrays:
        if a is not None and (
            a.dtype != np.float32 or a.shape != (size,) or not a.flags.c_contiguous
        ):
            raise TypeError(f"{name}: needs float32 ({size},), got {a.dtype} {a.shape}")


def step(name: str, x: Array) -> int:
    """Distance of two rows of a matrix (M, C), in entries; its columns are adjacent."""
    if x.ndim != 2:
        raise ValueError(f"{name}: needs rows (M, C), got {x.shape}")
    (m, c), (down, right) = x.shape, x.strides
    if x.size == 0:
        return int(c)
    if c > 1 and right != x.itemsize:
        raise ValueError(f"{name}: the columns of a row must be adjacent")
    if m <= 1:
        return int(c)
    if down < c * x.itemsize or down % x.itemsize:
        raise ValueError(f"{name}: rows overlap or run backwards")
    return int(down // x.itemsize)


class Rows(NamedTuple):
    """Matrices of one shape and type that one kernel walks over together."""

    variant: Variant
    m: int
    c: int
    steps: tuple[int, ...]
    """Distance of two rows, one for each matrix; 0 for None."""


def rows(unit: str, name: str, *matrices: Array | None) -> Rows:
    """Check them and choose the widest vector all of them allow."""
    dtype, first = dtype_of(name, *matrices), matrices[0]
    assert first is not None
    for a in matrices:
        if a is not None and a.shape != first.shape:
            raise ValueError(f"{name}: shapes {first.shape} and {a.shape} differ")
    steps = tuple(0 if a is None else step(name, a) for a in matrices)
    m, c = first.shape
    wide = widest(dtype)
    fits = all(n % wide == 0 for n in (c, *steps)) and aligned(*matrices)
    return Rows(Variant(unit, dtype, wide if fits else 1), int(m), int(c), steps)


def aligned(*arrays: Array | None) -> bool:
    """Whether each begins at a multiple of 16 bytes."""
    return all(a is None or address(a) % 16 == 0 for a in arrays)


def as_rows(name: str, x: Array) -> Array:
    """The rows (N H W, C) of an image (N, H, W, C), a view; see :func:`step`."""
    if x.ndim != 4:
        raise ValueError(f"{name}: needs images (N, H, W, C), got {x.shape}")
    matrix: Array = x.reshape(-1, x.shape[3]) if x.size else x.reshape(0, 1)
    if x.size and address(matrix) != address(x):
        raise ValueError(f"{name}: the pixels must follow each other evenly in memory")
    return matrix


class Tiles(NamedTuple):
    """How blocks share the columns and rows of a matrix; Tile in common.cuh."""

    grid: Dims
    block: Dims
    chunk: int
    """Rows of a chunk."""

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return self.grid[1]


def tiles(m: int, c: int, vector: int, blocks: int = BLOCKS, deep: int = DEEP) -> Tiles:
    """Tiles of an (m, c) matrix for about `blocks` blocks, at least a few rows each.

    Up to 64 threads lie along a row, evenly spread: 48 vectors make one tile of 48, not
    two of 32. A thread takes whole groups of `deep` rows where there are enough: as
    many as it asks for at a time.
    """
    width, x = _across(c, vector, 64)
    y = max(1, min(THREADS // x, m))
    unit = y * deep
    chunk = unit * max(1, -(-m * width // (unit * blocks)))
    chunk = max(chunk, -(-m // 65535))
    return Tiles((width, -(-m // chunk)), (x, y), chunk)


def sum_tiles(m: int, c: int, vector: int) -> Tiles:
    """Tiles of an (m, c) matrix whose columns are added up.

    They are SUM_BYTES wide, so that few blocks share a column: the fewer, the less the
    last of them has to do. One is enough where there are at most ALONE rows, or tiles
    for the whole GPU. A thread takes MANY rows, or several groups of MANY if a block
    has too few threads for that; their number is a multiple of 16 down the rows.
    """
    wide = SUM_BYTES // (VECTOR_BYTES if vector > 1 else 4)
    width, x = _across(c, vector, wide)
    rows = m if m <= ALONE else min(m, -(-m * width // SUM_BLOCKS))
    y = min(-(-rows // (16 * MANY)), SUM_THREADS // (16 * x)) * 16
    chunk = y * MANY * -(-rows // (y * MANY))
    return Tiles((width, -(-m // chunk)), (x, y), chunk)


def _across(c: int, vector: int, wide: int) -> tuple[int, int]:
    """Tiles along a row of c entries, and their threads, at most `wide`."""
    across = -(-c // vector)
    width = -(-across // wide)
    return width, -(-across // width)


APPLY_BLOCKS = 16 * BLOCKS
"""Blocks of a pass that adds nothing up across them."""


def counters(like: Array) -> Array:
    """Zeros to count finished blocks in, uint32 (SUM_BLOCKS,), of the current stream.

    A launch of several chunks has fewer tiles of columns than that: one counter each.
    """
    if isinstance(like, np.ndarray):
        return _counters.setdefault((-1, 0), np.zeros(SUM_BLOCKS, np.uint32))
    gpu = Gpu()
    key = gpu.number(), gpu.stream()
    if key not in _counters:
        with gpu.outside():  # set to 0 once, not by each replay of what is captured
            _counters[key] = array_module(like).zeros(SUM_BLOCKS, np.uint32)
    return _counters[key]


_counters: dict[tuple[int, int], Array] = {}
"""By device and stream; never freed, for a graph may count in them."""


def empty_like(x: Array, out: Array | None = None) -> Array:
    """`out`, or a new C-contiguous array of x's shape, dtype and library."""
    if out is not None:
        return out
    new: Array = array_module(x).empty(x.shape, x.dtype)
    return new


def new_floats(like: Array, *shape: int) -> Array:
    """A new float32 array of `like`'s library."""
    new: Array = array_module(like).empty(shape, np.float32)
    return new
