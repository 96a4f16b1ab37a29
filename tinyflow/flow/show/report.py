"""Where an analysis goes: a folder that is complete or not there at all."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyflow.flow.probe import FlowError
from tinyflow.reading import reason
from tinyflow.train import folder as place
from tinyflow.train.checks import ConfigError

SUMMARY = "summary.json"  # moved last: where it is, everything is


class WriteError(FlowError):
    """The disk failed, not the one who asked."""


def check_output(output: Path | None) -> None:
    """Check, before anything is computed, that a folder can be made there.

    Raises:
        FlowError: the place is taken, a file, or cannot be written to.
    """
    try:
        place.check_output(output)
    except ConfigError as error:
        raise FlowError(str(error)) from error


class Folder:
    """An analysis being written, into a hidden folder within its final place.

    Attributes:
        partial: where files are written until :func:`folder` moves them.
        path: where they are afterwards.
    """

    def __init__(self, claimed: place.RunFolder) -> None:
        self._claimed = claimed
        self.partial, self.path = claimed.claim, claimed.path

    @property
    def complete(self) -> bool:
        """Whether the files are in their place."""
        return self._claimed.kept

    @contextmanager
    def drawing(self, name: str) -> Iterator[None]:
        """Say which figure it was that could not be drawn.

        Raises:
            WriteError: Matplotlib failed.
        """
        try:
            yield
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise WriteError(
                f"the figure {name} cannot be drawn ({type(error).__name__}: {error})"
            ) from error

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
    """A folder that is complete when the block ends; not there at all if it raises.

    It is claimed when the block begins, so that no other run or analysis takes it.

    Args:
        output: where, or None for the first free ``runs/analysis-<stem>-<n>``.
        stem: what the analysis is called.

    Raises:
        FlowError: it cannot be made, or is in use.
        WriteError: it cannot be written.
    """
    try:
        claimed = place.RunFolder(output, f"analysis-{stem}")
    except ConfigError as error:
        raise FlowError(str(error)) from error
    try:
        yield Folder(claimed)
        claimed.publish(SUMMARY)
    except OSError as error:
        where = error.filename or claimed.path
        raise WriteError(
            f"{where} cannot be written ({reason(error)}): free space or choose "
            "another --output"
        ) from error
    finally:
        claimed.end()


def strict(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(v) for v in value]
    return value
