"""Runs the .cu files on the CPU: g++ compiles them, machine.cpp plays the GPU.

:func:`compile_on_host` stands in for CuPy behind ``module.compiled_by``, so the launch
functions themselves (grids, order of arguments, checks) are what the tests call, with
NumPy arrays for device arrays. Every launch is suspicious: arguments must have exactly
the kernel's types, arrays lie in a copy with a border that must stay untouched and is
NaN to whoever reads it, shared memory begins as NaN, and the order in which threads and
blocks run can be turned around.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tinyflow.kernels.cuda import source
from tinyflow.kernels.cuda.source import Variant

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")
ORDERS = ("rising", "falling", "shuffled")
FLAGS = ("-std=c++14", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-w")
KERNEL_FLAGS = (
    "-Wl,-Bsymbolic",  # a kernel may be called like a function of libc
    "-fsanitize=alignment",  # machine.cpp is the library this needs
    "-nodefaultlibs",
)
BORDER = 64  # bytes on either side of an argument

LETTERS = {
    "i": np.int32,
    "I": np.uint32,
    "q": np.int64,
    "Q": np.uint64,
    "f": np.float32,
    "d": np.float64,
    "F": np.float32,
    "D": np.float64,
    "H": np.uint16,
    "B": np.uint8,
    "L": np.int32,
    "U": np.uint32,
    "X": np.int64,
}
"""The letters of shim.h; capitals from F on are pointers."""

POINTERS = "FDHBLUXV"


class KernelError(AssertionError):
    """A launch did what no kernel may do."""


_order = "rising"


@contextmanager
def running(order: str) -> Iterator[None]:
    """Run threads and blocks in that order; see ORDERS."""
    global _order
    before, _order = _order, order
    try:
        yield
    finally:
        _order = before


def build(text: str, *options: str) -> Path:
    """The library of that C++ source; compiled once, then taken from a cache."""
    assert COMPILER is not None
    parts = [text, *options, *FLAGS, (HERE / "shim.h").read_text()]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"tinyflow-cuda-host-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # what lies there will be executed
        raise PermissionError(f"{folder} belongs to someone else")
    library = folder / f"{key}.so"
    if not library.exists():
        fresh = folder / f"{key}-{os.getpid()}.so"
        command = [COMPILER, *FLAGS, *options, "-x", "c++", "-", "-lm", "-o", fresh]
        done = subprocess.run(command, input=text, text=True, capture_output=True)
        if done.returncode:
            raise KernelError(done.stderr)
        fresh.replace(library)
    return library


@cache
def machine() -> ctypes.CDLL:
    """The scheduler, shared by all kernels."""
    path = build((HERE / "machine.cpp").read_text())
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library.machine_run.restype = ctypes.c_char_p
    return library


class HostModule:
    """What ``cupy.RawModule`` is on a GPU."""

    def __init__(self, text: str, names: list[str], *options: str) -> None:
        machine()
        exports = "".join(f"\nEXPORT({name})" for name in names)
        include = ("-include", str(HERE / "shim.h"))
        path = build(text + exports, *options, *KERNEL_FLAGS, *include)
        self.library = ctypes.CDLL(str(path))
        start = ctypes.c_void_p()
        self.library.shared_span.restype = ctypes.c_size_t
        size = self.library.shared_span(ctypes.byref(start))
        self.shared = (start, ctypes.c_size_t(size))

    def get_function(self, name: str) -> Callable[..., None]:
        """The kernel, to be called with (grid, block, arguments)."""
        run = getattr(self.library, f"run_{name}")
        letters = getattr(self.library, f"letters_{name}")
        letters.restype = ctypes.c_char_p
        types = letters().decode()

        def kernel(grid: tuple[int, ...], block: tuple[int, ...], args: Any) -> None:
            if len(args) != len(types):
                raise KernelError(f"{name}: {len(types)} arguments, {len(args)} given")
            memory = Memory([a for a in args if isinstance(a, np.ndarray)])
            values = [
                _value(name, i, letter, a, memory)
                for i, (letter, a) in enumerate(zip(types, args, strict=True))
            ]
            pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
            problem = machine().machine_run(
                run, pointers, _dims(grid), _dims(block), *self.shared,
                ORDERS.index(_order),
            )  # fmt: skip
            if problem:
                raise KernelError(f"{name}: {problem.decode()}")
            memory.give_back(name)

        return kernel


@cache
def compile_on_host(variant: Variant) -> HostModule:
    """The unit, compiled by g++."""
    names = source.kernels(variant.unit)
    return HostModule(source.text(variant.unit), names, *variant.options)


def _dims(dims: tuple[int, ...]) -> Any:
    if not all(type(d) is int and d > 0 for d in dims):
        raise KernelError(f"grids and blocks are positive ints, not {dims}")
    return (ctypes.c_uint * 3)(*(*dims, 1, 1)[:3])


def _value(name: str, i: int, letter: str, a: Any, memory: Memory) -> Any:
    """The argument's value as an array of one entry; KernelError on a wrong type."""
    where = f"{name}, argument {i}"
    if letter in POINTERS:
        if isinstance(a, np.ndarray):
            if letter != "V" and a.dtype != LETTERS[letter]:
                raise KernelError(f"{where}: {a.dtype} for {letter}")
            return np.array([memory.address(a)], np.uint64)
        if not (isinstance(a, np.uint64) and a == 0):
            raise KernelError(f"{where}: {a!r} for a pointer")
        return np.array([0], np.uint64)
    if not isinstance(a, np.generic) or a.dtype != LETTERS[letter]:
        raise KernelError(f"{where}: {a!r} for {letter}")
    return np.array([a])


class Memory:
    """Copies of the arrays of a launch, each between two borders of NaN."""

    def __init__(self, arrays: list[Any]) -> None:
        spans = sorted(_span(a) for a in arrays if a.size)
        self.blocks: list[tuple[int, int, Any]] = []
        for low, high in spans:
            if self.blocks and low < self.blocks[-1][1]:  # views of one buffer
                low, end, _ = self.blocks.pop()
                high = max(high, end)
            self.blocks.append((low, high, None))
        for i, (low, high, _) in enumerate(self.blocks):
            block = np.full(high - low + 2 * BORDER + 64, 255, np.uint8)
            at = BORDER + (low - block.ctypes.data - BORDER) % 64
            block[at : at + high - low] = _bytes(low, high)
            self.blocks[i] = (low, high, (block, at))

    def address(self, a: Any) -> int:
        """Where the copy of that array begins."""
        for low, high, (block, at) in self.blocks:
            if a.size and low <= a.ctypes.data < high:
                return int(block.ctypes.data + at + a.ctypes.data - low)
        return 0

    def give_back(self, name: str) -> None:
        """Copy everything back; KernelError if a border was written to."""
        for low, high, (block, at) in self.blocks:
            end = at + high - low
            if not ((block[:at] == 255).all() and (block[end:] == 255).all()):
                raise KernelError(f"{name}: wrote beside an array")
            _bytes(low, high)[:] = block[at:end]


def _span(a: Any) -> tuple[int, int]:
    low, high = np.lib.array_utils.byte_bounds(a)
    return int(low), int(high)


def _bytes(low: int, high: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))
