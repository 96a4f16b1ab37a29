"""Where arrays live: NumPy on the CPU, CuPy on an NVIDIA GPU.

The only file that imports CuPy, and it does so only when a GPU is asked for, so that
``import tinyflow`` costs nothing on a machine without one. Everything else asks
:func:`array_module` for the library an array belongs to and writes ``xp.exp(x)``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A NumPy array or, on a GPU, the CuPy array of the same shape and dtype."""

DEVICES = ("auto", "cpu", "cuda")


class DeviceError(RuntimeError):
    """The device asked for cannot be used here; the message says what to do."""


def _cupy() -> ModuleType:
    import cupy

    module: ModuleType = cupy
    return module


def array_module(*arrays: object) -> ModuleType:
    """The library that owns `arrays`: CuPy if any is a device array, else NumPy."""
    for array in arrays:
        if not isinstance(array, np.ndarray) and hasattr(
            array, "__cuda_array_interface__"
        ):
            return _cupy()
    return np


def asnumpy(array: Array) -> Array:
    """A host copy of a device array; a host array itself."""
    if isinstance(array, np.ndarray):
        return array
    result: Array = _cupy().asnumpy(array)
    return result


def asarray(array: Array, device: str) -> Array:
    """`array` on `device` ("cpu" or "cuda"), copied only if it lives elsewhere."""
    if device == "cpu":
        return asnumpy(array)
    result: Array = _cupy().asarray(array)
    return result


def device_of(array: Array) -> str:
    """Return "cpu" for a NumPy array and "cuda" for a CuPy array."""
    return "cpu" if array_module(array) is np else "cuda"


def _why_no_cuda() -> str | None:
    """A sentence saying why a GPU cannot be used, or None if one can."""
    try:
        cupy = _cupy()
    except ImportError:
        return (
            "CuPy is not installed; install the extra that matches your driver: "
            "pip install 'tinyflow-autograd[cuda12]' or '[cuda13]'"
        )
    try:  # importing CuPy succeeds without a GPU; the first device call raises
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return (
            f"CuPy found no usable GPU ({error}); check the driver with nvidia-smi "
            "and that the installed CuPy matches its CUDA version"
        )
    return None if count > 0 else "CuPy found no GPU; check nvidia-smi"


def choose_device(name: str) -> tuple[str, str]:
    """Turn "auto", "cpu" or "cuda" into a usable device and the reason for it.

    Returns:
        ``(device, reason)``, the device being "cpu" or "cuda".

    Raises:
        DeviceError: the name is unknown, or "cuda" was asked for and cannot be used.
    """
    if name not in DEVICES:
        raise DeviceError(
            f"unknown device {name!r}; choose one of {', '.join(DEVICES)}"
        )
    if name == "cpu":
        return "cpu", "as asked"
    problem = _why_no_cuda()
    if problem is None:
        return "cuda", "as asked" if name == "cuda" else "a GPU is available"
    if name == "cuda":
        raise DeviceError(f"--device cuda cannot be used: {problem}")
    return "cpu", problem
