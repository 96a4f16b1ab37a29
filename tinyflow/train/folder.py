"""The folder of a run: made late, removed again if nothing came of it."""

from __future__ import annotations

import os
from pathlib import Path

from tinyflow.train.config import ConfigError

RUNS = Path("runs")
FILES = (
    "config.json",
    "metrics.csv",
    "trace.csv",
    "curves.png",
    "last.safetensors",
    "best.safetensors",
)


def check_output(output: Path | None) -> None:
    """Check that a run folder could be made there, making nothing.

    Raises:
        ConfigError: the place is a file, is in use, or cannot be written to.
    """
    wanted = RUNS if output is None else output
    try:
        if output is not None and output.is_dir() and any(output.iterdir()):
            raise ConfigError(
                f"--output {output} already holds files, perhaps a finished run: "
                "choose a new folder"
            )
        place = wanted.absolute()
        while not place.exists():
            place = place.parent
        usable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError as error:
        raise ConfigError(
            f"--output {wanted} cannot be used ({error.strerror}): choose another"
        ) from error
    if not usable:
        why = "is not writable" if place.is_dir() else "is a file, not a folder"
        raise ConfigError(f"{place} {why}: choose another place with --output")


class RunFolder:
    """A folder that remembers which of its parents did not exist before.

    Args:
        output: where, or None for the first free ``runs/<stem>-<n>``.
        stem: how a run is called, ``<model>-<dataset>``.

    Raises:
        ConfigError: it cannot be made.
    """

    def __init__(self, output: Path | None, stem: str) -> None:
        self._made: list[Path] = []
        try:
            if output is not None:
                self._make_parents(output)
                if not output.is_dir():
                    output.mkdir()
                    self._made.append(output)
                self.path = output
                return
            self._make_parents(RUNS / stem)
            self.path = self._first_free(stem)
        except OSError as error:
            raise ConfigError(
                f"the run folder {output or RUNS / stem} cannot be made "
                f"({error.strerror}): choose another place with --output"
            ) from error

    def _make_parents(self, path: Path) -> None:
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir(exist_ok=True)
                self._made.append(parent)

    def _first_free(self, stem: str) -> Path:
        number = 1
        while True:
            path = RUNS / f"{stem}-{number}"
            try:  # mkdir is atomic: two runs started together get two numbers
                path.mkdir()
            except FileExistsError:
                number += 1
            else:
                self._made.append(path)
                return path

    def discard(self) -> None:
        """Remove what a run without a finished epoch has left, and what was made."""
        if self.path.is_dir():
            for name in FILES:
                (self.path / name).unlink(missing_ok=True)
        for folder in reversed(self._made):
            try:
                folder.rmdir()
            except OSError:  # another run is using it by now
                return
