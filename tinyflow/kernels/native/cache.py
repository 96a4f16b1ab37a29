"""Where the compiled library lies, and whether it may be loaded from there.

Loading a library runs what is in it. So it is taken only from a folder that belongs to
the user and that nobody else can write to, and only if it is whole: its name holds the
checksum of its bytes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from tinyflow.backend import DeviceError

PRIVATE = 0o700


class NativeError(DeviceError):
    """The compiled library cannot be built or used; the message says what to do."""


def folder() -> Path:
    """The folder of our libraries, there or not: tinyflow in the user's cache.

    That is XDG_CACHE_HOME or, if it is unset or relative (when its specification says
    to ignore it), .cache in the home folder.

    Raises:
        NativeError: there is no home folder.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():
        try:
            home = Path.home() / ".cache"
        except RuntimeError:  # no HOME, and no such user
            home = Path()
    if not home.is_absolute():
        raise NativeError(
            "there is no home folder to keep them in: set XDG_CACHE_HOME to a folder "
            "of your own"
        )
    return home / "tinyflow"


def checksum(path: Path) -> str:
    """Of a file's bytes, 16 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def find(stem: str) -> Path | None:
    """The library ``<stem>-<checksum>.so``; None if there is none.

    Raises:
        NativeError: there is one that must not be loaded, or is damaged.
        OSError: the folder is closed to us.
    """
    place = folder()
    try:
        names = sorted(name for name in os.listdir(place) if _belongs(name, stem))
    except FileNotFoundError:
        return None
    problem = None
    for path in (place / name for name in names):
        check(path)
        if f"{stem}-{checksum(path)}.so" == path.name:
            return path.resolve()
        problem = f"{path} is damaged; python -m tinyflow.native builds them anew"
    if problem:
        raise NativeError(problem)
    return None


def sweep(stem: str) -> None:
    """Delete the damaged ones."""
    place = folder()
    for path in [place / name for name in os.listdir(place) if _belongs(name, stem)]:
        if f"{stem}-{checksum(path)}.so" != path.name:
            path.unlink(missing_ok=True)


def _belongs(name: str, stem: str) -> bool:
    return name.startswith(f"{stem}-") and name.endswith(".so")


def prepare() -> Path:
    """The folder, made if it was not there, for nobody but us.

    Raises:
        NativeError: others can write to it.
        OSError: it cannot be made.
    """
    place = folder()
    missing = [p for p in (place, *place.parents) if not p.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(PRIVATE)  # whatever the umask is
    check(place)
    return place


def check(path: Path) -> None:
    """Refuse what others could have put there, or could yet.

    The file and its folders up to the user's cache must belong to the user and be
    writable by nobody else. Those above may be the system's, and writable by others if
    these can touch only what is theirs, as in /tmp.

    Raises:
        NativeError: who can write where.
    """
    if not hasattr(os, "geteuid"):  # on Windows the user's folders are closed already
        return
    ours = folder().parent.resolve()
    real = path.resolve(strict=True)
    for place in (real, *real.parents):
        found = place.stat()
        inner = place.is_relative_to(ours)
        owners = {os.geteuid()} if inner else {os.geteuid(), 0}
        open_ = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        sticky = not inner and found.st_mode & stat.S_ISVTX
        if found.st_uid not in owners:
            raise NativeError(
                f"{place} belongs to user {found.st_uid}, who could have put anything "
                "there: set XDG_CACHE_HOME to a folder of your own"
            )
        if open_ and not sticky:
            raise NativeError(
                f"others can write to {place}: chmod go-w it, after a look at what is "
                "in there, or set XDG_CACHE_HOME to a folder of your own"
            )
