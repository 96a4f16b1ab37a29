"""Where the CUDA sources lie, and which macros make which variant of one.

A *unit* is one .cu file. It is compiled for one type of activations (float32 or
bfloat16) and one vector length, so a :class:`Variant` names a binary completely.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

DTYPES = ("float32", "bfloat16")
"""What activations may be. Parameters, statistics and sums are always float32."""

VECTOR_BYTES = 16
"""The widest access of one thread."""

UNITS = {
    "augment": False,
    "dropout": True,
    "elementwise": True,
    "im2col": True,
    "loss": False,
    "norm": True,
    "norm_grad": True,
    "optim": False,
    "outcome": False,
    "pool": True,
    "product": False,
}
"""Every unit, and whether it knows vectors: if not, it has only VEC = 1."""


@dataclass(frozen=True)
class Variant:
    """A unit, the type of its activations, and how many a thread takes at once.

    Raises:
        ValueError: there is no such variant.
    """

    unit: str
    dtype: str = "float32"
    vector: int = 1

    def __post_init__(self) -> None:
        """Check that it is one of :func:`variants`."""
        if self.unit not in UNITS or self.dtype not in DTYPES:
            raise ValueError(f"no such CUDA unit or type: {self.unit}, {self.dtype}")
        wide = widest(self.dtype) if UNITS[self.unit] else 1
        if self.vector not in (1, wide):
            raise ValueError(f"{self.unit} for {self.dtype} has vectors of 1 or {wide}")

    @property
    def path(self) -> Path:
        """The .cu file."""
        return FOLDER / f"{self.unit}.cu"

    @property
    def options(self) -> tuple[str, ...]:
        """What every compiler is told: the macros."""
        macros = [f"-DVEC={self.vector}"]
        if self.dtype == "bfloat16":
            macros.append("-DBF16=1")
        return tuple(macros)

    def __str__(self) -> str:
        return f"{self.unit}-{self.dtype}-{self.vector}"


def widest(dtype: str) -> int:
    """How many numbers of that type fill the widest access."""
    return VECTOR_BYTES // {"float32": 4, "bfloat16": 2}[dtype]


def variants() -> list[Variant]:
    """Every variant of every unit."""
    return [
        Variant(unit, dtype, vector)
        for unit, vectors in UNITS.items()
        for dtype in DTYPES
        for vector in ((1, widest(dtype)) if vectors else (1,))
    ]


@cache
def text(unit: str) -> str:
    """The source of a unit as one text, its own headers put in place.

    A compiler that gets it needs no include path, and a cache keyed by the text sees a
    change in a header.
    """
    return _with_headers((FOLDER / f"{unit}.cu").read_text(encoding="ascii"))


def _with_headers(source: str) -> str:
    def header(match: re.Match[str]) -> str:
        inner = (FOLDER / match[1]).read_text(encoding="ascii")
        return _with_headers(inner.replace("#pragma once\n", ""))

    return re.sub(r'^#include "(\w+\.cuh)"$', header, source, flags=re.MULTILINE)


def kernels(unit: str) -> list[str]:
    """The names of the kernels a unit defines."""
    return re.findall(r"__global__ void\s+(?:__\w+__\(.*?\)\s+)?(\w+)\(", text(unit))
