"""A GPU that nothing has run on yet: what works, how exactly, how fast, in minutes.

    python -m benchmarks.gpu --first --output FOLDER
    python -m benchmarks.gpu --first --output FOLDER --stage tests --stage speed

Every stage (``benchmarks/first_stages.py``) is a process with its share of the time
limit, and what one leaves over goes to the next ones. One that fails or is stopped
costs no other anything. What they find is added to two files of the folder:
``results.jsonl``, a fact a line, on disk before the next one is looked for, and
``log.txt``, what they print. The facts stand in a table at the end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

STAGES = {"checks": 40.0, "tests": 130.0, "parity": 90.0, "speed": 230.0, "train": 50.0}
"""The stages in their order, and their shares of the time."""

FIRST_LIMIT = 540.0
"""Seconds for all of them."""

ROOT = Path(__file__).parent.parent


class Facts:
    """Adds lines to the results.

    Args:
        folder: where they are.
        stage: whose they are.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self.path, self.stage = folder / "results.jsonl", stage

    def put(self, what: str, **facts: Any) -> None:
        """A line, on disk when this returns, and printed."""
        row = {"stage": self.stage, "what": what, **facts}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())
        print(text(row), flush=True)

    def of(self, what: str, work: Callable[..., Mapping[str, Any]], *on: Any) -> None:
        """A line of what `work` finds, or of its error; the traceback is printed."""
        start = time.perf_counter()
        try:
            found = dict(work(*on))
        except Exception as error:
            traceback.print_exc()
            found = {"error": sentence(error)}
        self.put(what, **found, took_s=round(time.perf_counter() - start, 2))


def sentence(error: BaseException) -> str:
    """What an error says, in a line."""
    return f"{type(error).__name__}: {str(error).strip()}".replace("\n", " ")[:300]


def text(row: Mapping[str, Any]) -> str:
    """A line of the table."""
    facts = [f"{k} {v}" for k, v in row.items() if k not in ("stage", "what")]
    return f"{row['stage']:<7} {row['what']}: {', '.join(facts)}"[:400]


def stage_command(stage: str, folder: Path, seconds: float) -> list[str]:
    """What runs a stage; told less than it has, so that it can end by itself."""
    words = [stage, str(folder), f"{max(1.0, seconds - 5):.1f}"]
    return [sys.executable, "-m", "benchmarks.first_stages", *words]


def run_stages(
    folder: Path,
    limit: float,
    stages: Sequence[str] | Mapping[str, float],
    command: Callable[[str, Path, float], list[str]] = stage_command,
) -> int:
    """Run them, one after the other; prints the table.

    Returns:
        0 if every stage came to its end, 1 if one did not, 2 if there is no such stage.
    """
    names = list(stages)
    if unknown := [name for name in names if name not in STAGES]:
        known = ", ".join(STAGES)
        print(f"no stage {', '.join(unknown)}; there are {known}", file=sys.stderr)
        return 2
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results, end, ended = folder / "results.jsonl", time.monotonic() + limit, []
    before = results.stat().st_size if results.exists() else 0
    for i, name in enumerate(names):
        share = STAGES[name] / sum(STAGES[n] for n in names[i:])
        seconds = (end - time.monotonic()) * share
        start = time.monotonic()
        ended.append(run_stage(command(name, folder, seconds), folder, seconds))
        took = round(time.monotonic() - start, 1)
        Facts(folder, name).put("the stage", ended=ended[-1], took_s=took)
    print("\n" + table(results, before))
    return int(any(how != "exit code 0" for how in ended))


def run_stage(command: list[str], folder: Path, seconds: float) -> str:
    """How the process ended; what it and its children print goes to the log."""
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            how = f"exit code {process.wait(seconds)}"
        except subprocess.TimeoutExpired:
            how = f"stopped after {seconds:.0f} s"
        finally:  # also those it has started, and on Ctrl-C
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return how


def table(results: Path, start: int = 0) -> str:
    """The lines of the results behind that byte, for people; details left out."""
    with results.open(encoding="utf-8") as file:
        file.seek(start)
        rows = [json.loads(line) for line in file]
    return "\n".join(text(row) for row in rows if not row.get("detail"))
