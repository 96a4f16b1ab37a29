"""The compiled library: where it lies, how it is built, and whether it is used.

Plain C with the compiler's own vectors, built once per machine by ``python -m
tinyflow.native`` and never required. Its name spells what it was built from, so that a
library of other sources or another processor is never loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tinyflow.backend import DeviceError
from tinyflow.kernels import threads

SOURCES = Path(__file__).parent
FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-shared",
    "-pthread",
)
ENGINES = ("auto", "numpy", "native")


class NativeError(DeviceError):
    """The compiled library cannot be built or used; the message says what to do."""


def library_path() -> Path:
    """Where this version's library lies, built or not."""
    digest = hashlib.sha256(" ".join((*FLAGS, platform.machine())).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(source.read_bytes())
    digest.update(_processor())
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = f"kernels-{digest.hexdigest()[:16]}.so"
    return Path(home) / "tinyflow" / name


def _processor() -> bytes:
    """What tells processors with other instructions apart."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line[:5] in (b"flags", b"Featu")), b"")


def build() -> Path:
    """Compile the library and return its path.

    Raises:
        NativeError: there is no compiler, or it fails.
    """
    names = (os.environ.get("CC"), "cc", "gcc", "clang")
    compiler = next((c for c in names if c and shutil.which(c)), None)
    if compiler is None:
        raise NativeError(
            "no C compiler found: install gcc or clang, or name one in CC; without it "
            "everything runs on NumPy"
        )
    path = library_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    command = [
        compiler,
        *FLAGS,
        "-o",
        str(fresh),
        *map(str, SOURCES.glob("*.c")),
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NativeError(f"{' '.join(command)}\nfailed:\n{done.stderr.strip()}")
    fresh.replace(path)  # whoever loads it finds all of it
    load.cache_clear()
    return path


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library and a reason: (None, why not) if NumPy does the work.

    The environment variable ``TINYFLOW_ENGINE`` decides: "auto" (the library if it has
    been built), "numpy", or "native" (the library or nothing).

    Raises:
        NativeError: the variable is wrong, or demands a library that is not there.
    """
    wish = os.environ.get("TINYFLOW_ENGINE", "auto")
    if wish not in ENGINES:
        raise NativeError(
            f"TINYFLOW_ENGINE is {wish!r}; use one of {', '.join(ENGINES)}"
        )
    if wish == "numpy":
        return None, "NumPy kernels (TINYFLOW_ENGINE=numpy)"
    path = library_path()
    if not path.exists():
        hint = "not built; python -m tinyflow.native builds it"
        if wish == "native":
            raise NativeError(f"TINYFLOW_ENGINE=native, but the C kernels are {hint}")
        return None, f"NumPy kernels (C kernels: {hint})"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeError(
            f"{path} cannot be loaded ({error}): delete it, or set "
            "TINYFLOW_ENGINE=numpy"
        ) from error
    number = library.tinyflow_set_threads(threads.wanted())
    return library, f"C kernels, {number} thread{'s' * (number > 1)}"
