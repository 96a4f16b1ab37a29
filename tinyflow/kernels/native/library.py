"""The compiled library: how it is built, and whether it is used.

Plain C with the compiler's own vectors, built once per machine by ``python -m
tinyflow.native`` and never required. Its name spells what it was built from, so that a
library of other sources or another processor is never loaded; ``cache.py`` says from
where.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from tinyflow.backend import SettingError
from tinyflow.kernels import cores
from tinyflow.kernels.native import cache as place
from tinyflow.kernels.native.cache import NativeError

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
PATIENCE = 600
"""Seconds that a compiler gets."""


def library_path() -> Path:
    """Where this version's library lies; before it is built, what it will be called.

    Raises:
        NativeError: it must not be loaded from there, or there is no such place.
    """
    stem = _stem()
    return place.find(stem) or place.folder() / f"{stem}-unbuilt.so"


def _stem() -> str:
    """The beginning of its name: what it is built from, and what for."""
    digest = hashlib.sha256(" ".join((*FLAGS, platform.machine())).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(source.read_bytes())
    digest.update(_processor())
    return f"kernels-{digest.hexdigest()[:16]}"


def _processor() -> bytes:
    """What tells processors with other instructions apart."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line[:5] in (b"flags", b"Featu")), b"")


def build() -> Path:
    """Compile the library and return its path.

    It is made in a folder of its own and moved to its place when it is whole and can be
    loaded: whoever looks there finds all of it or nothing.

    Raises:
        NativeError: there is no compiler, it fails, or there is no place to put it.
    """
    compiler = _compiler()
    stem = _stem()
    try:
        folder = place.prepare()
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as work:
            fresh = Path(work, "kernels.so")
            sources = map(str, sorted(SOURCES.glob("*.c")))
            _compile([*compiler, *FLAGS, "-o", str(fresh), *sources, "-lm"], work)
            fresh.chmod(place.PRIVATE)
            _open(fresh)
            path = folder / f"{stem}-{place.checksum(fresh)}.so"
            fresh.replace(path)
        place.sweep(stem)
    except OSError as error:
        raise NativeError(f"the C kernels cannot be built: {_said(error)}") from error
    load.cache_clear()
    return path


def _compiler() -> list[str]:
    """The command, with its arguments: CC, or the first compiler there is.

    CFLAGS is not read: other flags would make another library of the same name.
    """
    wish = os.environ.get("CC", "").strip()
    try:
        command = shlex.split(wish)
    except ValueError as error:
        raise NativeError(f"CC is {wish!r}, which is no command: {error}") from error
    if command and shutil.which(command[0]) is None:
        raise NativeError(
            f"no C compiler found: CC is {wish!r}, and there is no such program; name "
            "another, or unset it"
        )
    for name in () if command else ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if not command:
        raise NativeError(
            "no C compiler found: install gcc or clang, or name one in CC; without it "
            "everything runs on NumPy"
        )
    return command


def _compile(command: list[str], folder: str) -> None:
    """Run the compiler; with it end whatever it has started."""
    said = Path(folder, "said")
    with said.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            failed = process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise NativeError(
                f"{command[0]} has not ended after {PATIENCE} s and was stopped: name "
                "another compiler in CC"
            ) from error
        finally:
            _end(process)
    if failed or not Path(folder, "kernels.so").exists():
        text = said.read_text(errors="replace").strip() or f"exit status {failed}"
        raise NativeError(f"{shlex.join(command)}\nfailed:\n{text}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, if they have not ended."""
    if process.poll() is None:
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()


def _open(path: Path) -> ctypes.CDLL:
    """Load it.

    Raises:
        NativeError: it is not ours, or not for this machine.
    """
    try:
        library = ctypes.CDLL(str(path))
        library.tinyflow_set_threads  # noqa: B018
    except (OSError, AttributeError) as error:
        raise NativeError(
            f"{_said(error)}; python -m tinyflow.native builds them anew"
        ) from error
    return library


def _said(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def settings() -> tuple[str, int]:
    """What the environment asks for: an engine, and how many threads.

    TINYFLOW_ENGINE is "auto", "numpy" or "native"; for TINYFLOW_NUM_THREADS see
    :func:`tinyflow.kernels.cores.wanted`.

    Raises:
        SettingError: one of the two is wrong.
    """
    engine = os.environ.get("TINYFLOW_ENGINE", "").strip().lower() or "auto"
    if engine not in ENGINES:
        raise SettingError(
            f"TINYFLOW_ENGINE is {engine[:40]!r}; use one of {', '.join(ENGINES)}"
        )
    return engine, cores.wanted()


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The library and a reason: (None, why not) if NumPy does the work.

    The environment variable ``TINYFLOW_ENGINE`` decides: "auto" (the library if it has
    been built and can be used), "numpy", or "native" (the library or nothing).

    Raises:
        SettingError: TINYFLOW_ENGINE or TINYFLOW_NUM_THREADS is wrong.
        NativeError: a library is demanded that is not there.
    """
    engine, number = settings()
    if engine == "numpy":
        return None, "NumPy kernels (TINYFLOW_ENGINE=numpy)"
    try:
        path = place.find(_stem())
        if path is not None:
            library = _open(path)
            number = library.tinyflow_set_threads(number)
            return library, f"C kernels, {number} thread{'s' * (number > 1)}"
        problem = "are not built; python -m tinyflow.native builds them"
    except Exception as error:  # what is optional stops nothing, whatever fails in it
        problem = f"cannot be used: {_said(error)}"
    if engine == "native":
        raise NativeError(f"TINYFLOW_ENGINE=native, but the C kernels {problem}")
    return None, f"NumPy kernels (the C kernels {problem})"
