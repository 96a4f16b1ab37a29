"""Writing files so that nobody ever meets half of one.

A reader, a crash, a full disk or an interrupt finds the file as it was before or as it
is to be, whole.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tinyflow.signals import deferred


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file anew, all or nothing.

    What the block writes to the path it is given, beside `path`, becomes `path` when
    the block ends: on the disk first, then under its name, with the permissions of a
    file that is plainly written there. If the block raises, `path` is as it was.

    Args:
        path: the file; a link is followed.

    Raises:
        OSError: the disk is full, the folder gone or closed, or `path` is no file.
    """
    path = Path(os.path.realpath(path))
    old = path.exists()
    if old and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    partial = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with deferred():
            partial.touch(exist_ok=False)
            if old:
                shutil.copymode(path, partial)
            mode = stat.S_IMODE(partial.stat().st_mode)
        yield partial
        partial.chmod(mode)  # whoever wrote may have made the file anew, closed
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (str(partial), None):  # say the name that the user knows
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with deferred():
            partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def appending(path: Path, text: str) -> Iterator[None]:
    """Append to a file that exists; if that or the block fails, it is cut back.

    Raises:
        OSError: it is gone, no file, or the disk is full.
    """
    with deferred(), path.open("r+b", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        left = memoryview(text.encode())
        try:
            while left:
                left = left[file.write(left) :]
            yield
        except BaseException as error:
            with suppress(OSError):
                file.truncate(before)
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)
            raise


def locked(handle: int) -> bool | None:
    """Lock an open file or folder for us alone, until it is closed or we are dead.

    Returns:
        True if it is ours, False if another process has it, None where there are no
        locks.
    """
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def synced(path: Path) -> int:
    """Put what was appended to a file on the disk; its length in bytes.

    Raises:
        OSError: it is gone or cannot be written.
    """
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        return file.seek(0, os.SEEK_END)


def cut_back(path: Path, length: int) -> None:
    """Take back what was appended to a file beyond that many bytes.

    Raises:
        OSError: it is gone or cannot be written.
    """
    with path.open("r+b") as file:
        file.truncate(length)


def _sync_folder(folder: Path) -> None:
    """Put the new name on the disk, where the system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
