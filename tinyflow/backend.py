"""Where arrays live: NumPy on the CPU, CuPy on an NVIDIA GPU.

The only file that imports CuPy, and it does so only when a GPU is asked for, so that
``import tinyflow`` costs nothing on a machine without one. Everything else asks
:func:`array_module` for the library an array belongs to and writes ``xp.exp(x)``.
"""

from __future__ import annotations

import ctypes
import os
import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A NumPy array or, on a GPU, the CuPy array of the same shape and dtype."""

DEVICES = ("auto", "cpu", "cuda")

NO_MEMORY = ("cudaErrorMemoryAllocation", "ERROR_OUT_OF_MEMORY", "ALLOC_FAILED")
"""How CUDA and its libraries say it where they do not raise a MemoryError."""

FAILURES = ("CUDARuntimeError", "CUDADriverError", "CUBLASError")
"""What CuPy raises when a call of CUDA fails."""


class DeviceError(RuntimeError):
    """The device asked for cannot be used here; the message says what to do."""


class SettingError(DeviceError):
    """An environment variable of ours is wrong; the message says what it may be."""


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
    """A host copy of a device array, in its memory order; a host array itself."""
    if isinstance(array, np.ndarray):
        return array
    order, back = _memory_order(array)
    result: Array = _cupy().asnumpy(array.transpose(order)).transpose(back)
    return result


def asarray(array: Array, device: str) -> Array:
    """`array` on `device` ("cpu" or "cuda"), copied only if it lives elsewhere.

    A copy has the memory order of `array`, which CuPy alone would not keep.
    """
    if device == "cpu":
        return asnumpy(array)
    if not isinstance(array, np.ndarray):
        return array
    order, back = _memory_order(array)
    result: Array = _cupy().asarray(array.transpose(order)).transpose(back)
    return result


def _memory_order(array: Array) -> tuple[list[int], list[int]]:
    """The axes from the widest stride to the narrowest, and the way back."""
    order = sorted(range(array.ndim), key=lambda i: -abs(array.strides[i]))
    return order, sorted(range(array.ndim), key=order.__getitem__)


def device_of(array: Array) -> str:
    """Return "cpu" for a NumPy array and "cuda" for a CuPy array."""
    return "cpu" if array_module(array) is np else "cuda"


def numbers(*scalars: Array | float) -> list[float]:
    """0-d arrays, or numbers, as Python numbers; from a GPU all in one transfer."""
    xp = array_module(*scalars)
    if xp is np:
        return [float(s) for s in scalars]
    found: list[float] = xp.stack(scalars, dtype="float64").tolist()
    return found


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


def explain(error: BaseException) -> str | None:
    """One sentence if the machine failed, not the program: memory, or the GPU.

    None for every other error.
    """
    if (full := no_memory(error)) is not None:
        return f"{full}: choose a smaller --batch-size or network"
    if type(error).__name__ in FAILURES:
        text = _first_line(error)
        return f"the GPU failed ({text}): see nvidia-smi, or use --device cpu"
    return None


def no_memory(error: BaseException) -> str | None:
    """Which memory is full, and why, if that is what an error says; else None."""
    text = _first_line(error)
    if not isinstance(error, MemoryError) and all(w not in text for w in NO_MEMORY):
        return None
    where = "the GPU's memory" if _of_the_gpu(error) else "memory"
    return f"{where} is full ({text.rstrip('.') or 'no more could be had'})"


def _of_the_gpu(error: BaseException) -> bool:
    library = type(error).__module__.partition(".")[0]
    return library in ("cupy", "cupy_backends", "cudnn")


def _first_line(error: BaseException) -> str:
    """What an error says, shortened to the line that says it.

    CuPy's import error puts that line last, after several that do not know.
    """
    lines = [line.strip(" =") for line in str(error).splitlines()]
    lines = [line for line in lines if line]
    if "Original error:" in lines[:-1]:
        return lines[lines.index("Original error:") + 1]
    return lines[0] if lines else ""


def _why_no_cuda() -> str | None:
    """A sentence saying why a GPU cannot be used and what to do, or None if one can."""
    speaks = _driver_version()
    try:
        cupy = _cupy()
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            return f"CuPy cannot be loaded ({_first_line(error)}); {_install(speaks)}"
        if speaks is None:
            return "this machine has no NVIDIA driver, hence no GPU to compute on"
        return f"CuPy is not installed; {_install(speaks)}"
    except ImportError as error:
        return f"CuPy cannot be loaded ({_first_line(error)}); {_install(speaks)}"
    try:  # importing CuPy succeeds without a GPU; the first device call raises
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return _why_no_device(cupy, error)
    if count < 1:
        return "CuPy found no GPU; see nvidia-smi"
    try:  # what a wrong or incomplete CuPy cannot do: compile a kernel, call cuBLAS
        x = cupy.ones((2, 2), "float32")
        float((x @ x + x).sum())
    except Exception as error:
        if sentence := _memory(error):
            return sentence
        return (
            f"CuPy sees a GPU but cannot compute on it ({_first_line(error)}); "
            f"{_install(speaks)}"
        )
    return None


def _memory(error: Exception) -> str | None:
    if isinstance(error, MemoryError) or "MemoryAllocation" in str(error):
        return "the GPU has no free memory; see nvidia-smi for what holds it"
    return None


def _why_no_device(cupy: ModuleType, error: Exception) -> str:
    """What the CUDA runtime's first answer means, and what to do."""
    text = _first_line(error)
    runtime = cupy.cuda.runtime
    if text.startswith("cudaErrorInsufficientDriver"):
        speaks, needs = runtime.driverGetVersion(), runtime.runtimeGetVersion() // 1000
        if not speaks:
            return "this machine has no NVIDIA driver, hence no GPU to compute on"
        return (
            f"the driver is too old for this CuPy: it speaks CUDA {_dotted(speaks)}, "
            f"CuPy needs {needs}; update the driver"
            + (f", or {_install(speaks)}" if speaks >= 12000 else "")
        )
    if text.startswith("cudaErrorNoDevice"):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        return "the driver shows no GPU; " + (
            "see nvidia-smi"
            if hidden is None
            else f"CUDA_VISIBLE_DEVICES={hidden!r} may hide it"
        )
    return f"CuPy found no usable GPU ({text}); see nvidia-smi"


def _install(speaks: int | None) -> str:
    """What to install for a driver that speaks this version of CUDA, 12040 for 12.4."""
    extras = [12, 13] if speaks is None else [13 if speaks >= 13000 else 12]
    names = " or ".join(f"'tinyflow-autograd[cuda{n}]'" for n in extras)
    which = "" if speaks is None else f" (the driver speaks CUDA {_dotted(speaks)})"
    return f"pip install {names}{which}"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _driver_version() -> int | None:
    """The CUDA version the NVIDIA driver speaks, 12040 for 12.4; None without one."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed else version.value
