"""Where an analysis goes: a folder that is complete or not there at all."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyflow.flow.probe import FlowError

RUNS = Path("runs")


def check_output(output: Path | None) -> None:
    """Check, before anything is computed, that a folder can be made there.

    Raises:
        FlowError: the place is taken, a file, or cannot be written to.
    """
    if output is not None and (output.is_symlink() or output.exists()):
        if not output.is_dir() or any(output.iterdir()):
            raise FlowError(f"--output {output} already exists: choose a new folder")
    place = (output or RUNS / "new").absolute().parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise FlowError(f"{place} is a file, not a folder: choose another --output")
    if not os.access(place, os.W_OK | os.X_OK):
        raise FlowError(f"{place} is not writable: choose another --output")


class Folder:
    """An analysis being written, into a hidden folder beside its final place.

    Attributes:
        partial: where files are written until :func:`folder` moves them.
        path: where they are afterwards.
    """

    def __init__(self, partial: Path, path: Path) -> None:
        self.partial, self.path = partial, path

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write strict JSON: what is not a finite number becomes null."""
        text = json.dumps(strict(content), indent=1, allow_nan=False)
        (self.partial / name).write_text(text + "\n", encoding="utf-8")

    def csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows at full precision; a key that a row lacks is left empty there."""
        if not rows:
            return
        with open(self.partial / name, "w", encoding="utf-8", newline="") as file:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


@contextmanager
def folder(output: Path | None, stem: str) -> Iterator[Folder]:
    """A folder that appears, whole, when the block ends; not at all if it raises.

    Args:
        output: where, or None for the first free ``runs/analysis-<stem>-<n>``.
        stem: what the analysis is called.

    Raises:
        FlowError: it cannot be written.
    """
    parent = (output or RUNS / stem).absolute().parent
    made = [p for p in (parent, *parent.parents) if not p.exists()]
    partial: Path | None = None
    try:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".analysis-", dir=parent))
            partial.chmod(0o755)
            place = Folder(partial, output or partial)
            yield place
            place.path = _move(partial, output, stem)
        except OSError as error:
            where = error.filename or output or RUNS
            raise FlowError(
                f"{where} cannot be written ({error.strerror}): choose another --output"
            ) from error
    except BaseException:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        for p in made:
            try:
                p.rmdir()
            except OSError:
                break
        raise


def _move(partial: Path, output: Path | None, stem: str) -> Path:
    if output is not None:
        os.replace(partial, output)  # onto nothing, or an empty folder
        return output
    number = 1
    while True:
        path = RUNS / f"analysis-{stem}-{number}"
        if not path.exists():
            try:
                os.rename(partial, path)
                return path
            except OSError:  # somebody else took the number meanwhile
                if not path.exists():
                    raise
        number += 1


def strict(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    return value
