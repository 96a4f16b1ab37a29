"""The folder of a run or an analysis: claimed first, and left as it was found.

Whoever wants a folder makes ``.unfinished`` in it, which only one can; it goes when the
work has ended. Only what was made through a :class:`RunFolder` is ever removed by it.
"""

from __future__ import annotations

import atexit
import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from tinyflow.atomic import locked
from tinyflow.reading import reason
from tinyflow.signals import deferred
from tinyflow.train.checks import ConfigError

RUNS = Path("runs")
CLAIM = ".unfinished"
TRIES = 100  # to make a folder whose parents others remove at the same time


def check_output(output: Path | None) -> None:
    """Check that a folder could be made there, making nothing.

    Raises:
        ConfigError: the place is a file, is in use, or cannot be written to.
    """
    wanted = RUNS if output is None else output
    if "\0" in str(wanted):
        raise ConfigError(f"--output {str(wanted)!r} is no name of a folder")
    try:
        if output is not None and output.is_dir() and any(output.iterdir()):
            raise _taken(output, (output / CLAIM).exists())
        place = wanted.absolute()
        while not place.exists():
            if place.is_symlink():
                raise ConfigError(
                    f"{place} is a link to nowhere: choose another place with --output"
                )
            place = place.parent
        usable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError as error:
        raise ConfigError(
            f"--output {wanted} cannot be used ({reason(error)}): choose another"
        ) from error
    if not usable:
        why = "is not writable" if place.is_dir() else "is a file, not a folder"
        raise ConfigError(f"{place} {why}: choose another place with --output")


def _taken(output: Path, claimed: bool) -> ConfigError:
    if claimed:
        return ConfigError(
            f"--output {output} is in use by another run (or one was killed there: "
            "then remove the folder); choose a new folder"
        )
    return ConfigError(
        f"--output {output} already holds files, perhaps a finished run: choose a new "
        "folder"
    )


def in_use(place: Path) -> bool:
    """Whether a living process has claimed a folder, as far as the system tells."""
    try:
        handle = os.open(place / CLAIM, os.O_RDONLY)
    except OSError:
        return False
    try:
        return locked(handle) is False
    finally:
        os.close(handle)


class RunFolder:
    """A folder that is ours alone until :meth:`end`.

    Args:
        output: where, a new or an empty folder; or None for the first free
            ``runs/<stem>-<n>``.
        stem: how a run is called, ``<model>-<dataset>``.
        again: `output` is the folder of a run that has ended or was killed; all that
            lies in it is ours.

    Attributes:
        path: the folder, as it was named.
        place: the same, wherever the program goes.
        claim: a folder in it that is removed in the end, with all that is in it.
        kept: whether what was written stays.

    Raises:
        ConfigError: it cannot be made, holds files, or another run has it.
    """

    def __init__(self, output: Path | None, stem: str, again: bool = False) -> None:
        if not again:
            check_output(output)
        self.kept = again
        self._process = os.getpid()
        self._claimed = False
        self._made: list[Path] = []  # folders
        self._written: list[Path] = []
        self._handle: int | None = None
        try:
            with deferred():
                atexit.register(self.end)  # for an interrupt at a bad instant
                if again and output is not None:
                    self._name(output)
                    self._take(again)
                    for left in self.place.glob(".*.part"):  # half a file of a kill
                        left.unlink()
                    self._written = list(self.place.iterdir())
                else:
                    self._find(output, stem)
        except OSError as error:
            self.end()
            raise ConfigError(
                f"the run folder {output or RUNS / stem} cannot be made "
                f"({reason(error)}): choose another place with --output"
            ) from error
        except BaseException:
            self.end()
            raise

    def _find(self, output: Path | None, stem: str) -> None:
        number = 1
        while output is None:
            self._name(RUNS / f"{stem}-{number}")
            if self._make():
                break
            number += 1
        else:
            self._name(output)
            self._make()
        self._take(again=False)
        if os.listdir(self.place) != [CLAIM]:
            raise _taken(self.path, False)

    def _take(self, again: bool) -> None:
        """Make the claim, or take over that of a run that was killed."""
        try:
            self.claim.mkdir()
            found = False
        except FileExistsError:
            if not again:
                raise _taken(self.path, True) from None
            found = True
        with suppress(OSError):  # while it is open no other folder looks the same
            self._handle = os.open(self.claim, os.O_RDONLY)
        # The lock of a run that was killed goes with it; the claim that it made stays.
        ours = None if self._handle is None else locked(self._handle)
        if ours is False or (found and not ours):
            raise ConfigError(
                f"{self.path} is in use by another run: wait until it has ended, or, "
                f"if there is none, remove {self.claim}"
            )
        self._claimed = True

    def _name(self, path: Path) -> None:
        self.path, self.place = path, path.absolute()
        self.claim = self.place / CLAIM

    def _make(self) -> bool:
        """Make the folder and its parents; False if there was something already."""
        for left in reversed(range(TRIES)):
            try:
                for folder in reversed(self.place.parents):
                    if not folder.exists() and _new(folder):
                        self._made.append(folder)
                if new := _new(self.place):
                    self._made.append(self.place)
                return new
            except FileNotFoundError:  # another run removed a parent it had made
                if not left:
                    raise
        return False

    def file(self, name: str) -> Path:
        """Where to write a file that is removed with the run if nothing is kept.

        Raises:
            FileExistsError: somebody else has put one there.
        """
        path = self.place / name
        if path not in self._written:
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, "it is not this run's", str(path))
            self._written.append(path)
        return path

    def own(self, path: Path) -> None:
        """Count a file that the run has made as written by it."""
        self._written.append(path)

    def check(self) -> None:
        """See that the folder is still the one that was claimed.

        Raises:
            FileNotFoundError: it was removed, or replaced by another.
        """
        if not self._ours():
            raise FileNotFoundError(errno.ENOENT, "it was removed", str(self.path))

    def _ours(self) -> bool:
        if not self._claimed or self._process != os.getpid():
            return False
        try:
            found = os.stat(self.claim)
        except OSError:
            return False
        return self._handle is None or os.path.samestat(found, os.fstat(self._handle))

    def publish(self, last: str) -> None:
        """Move the files that lie in `claim` into the folder itself, `last` last.

        Raises:
            OSError: the folder is gone, or somebody else has put such a file there.
        """
        with deferred():
            self.check()
            names = os.listdir(self.claim)
            for name in sorted(names, key=lambda name: (name == last, name)):
                os.rename(self.claim / name, self.file(name))
            self.kept = True

    def end(self) -> None:
        """Give the folder up; unless it is `kept`, remove what was made in it.

        May be called more than once.
        """
        with deferred():
            atexit.unregister(self.end)
            made = self._made
            if self._ours():
                for path in () if self.kept else self._written:
                    with suppress(OSError):
                        path.unlink(missing_ok=True)
                shutil.rmtree(self.claim, ignore_errors=True)
            elif self._claimed:  # what is there now is not ours
                made = [folder for folder in made if folder != self.place]
            if self._handle is not None:
                os.close(self._handle)
            for folder in () if self.kept else reversed(made):
                try:
                    folder.rmdir()
                except OSError:  # another run is using it by now
                    break
            self._handle, self._claimed, self._made = None, False, []


def _new(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True
