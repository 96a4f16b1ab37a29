"""A peer in a process of its own, that answers a line of JSON to each line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


class Process:
    """``python -m module arguments``, asked line by line.

    Args:
        module: what runs.
        arguments: its command line.
        environment: variables that differ from ours.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def ask(self, line: str, seconds: float | None = None) -> dict[str, Any]:
        """Send a line; its answer. A dict with "error" if it cannot go on.

        One that has not answered after `seconds` is killed, which is its error.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds or 0.0, stop)
        if seconds is not None:
            timer.start()
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except OSError:
            answer = ""
        timer.cancel()
        if late.is_set():
            return {"error": f"no answer to {line!r} within {seconds:.1f} s"}
        if not answer:
            return {"error": f"ended with exit code {self.process.wait()}"}
        found: dict[str, Any] = json.loads(answer)
        return found

    def close(self) -> None:
        """End it, whatever it does."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with suppress(OSError):  # it may be gone, with a line still on its way
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
