"""The stage of ``benchmarks/first.py`` that runs the tests marked gpu."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from typing import Any

from benchmarks.first import Facts

MODULE = "benchmarks.first_stages"
"""What this is part of: it starts itself again."""

BROKEN = (
    "illegaladdress",
    "illegal_address",
    "misaligned",
    "launchfail",
    "launch_fail",
)
"""In an error after which the GPU refuses this process everything."""


class Reporter:
    """A plugin of pytest: a line for each test that fails, and the counts.

    Args:
        facts: where to.
        end: when to stop.
    """

    def __init__(self, facts: Facts, end: float) -> None:
        self.facts, self.end = facts, end
        self.counts: Counter[str] = Counter()
        self.files: list[str] = []
        self.broken = False
        self.session: Any = None

    def pytest_sessionstart(self, session: Any) -> None:
        """Remember what is to be stopped."""
        self.session = session

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be read."""
        if report.failed:
            self._failed(report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test is over, or a part of it."""
        file = report.nodeid.split("::")[0]
        if file not in self.files:
            self.files.append(file)
        if report.failed:
            self._failed(report)
        elif report.skipped or report.when == "call":
            self.counts[report.outcome] += 1
        if self.broken:
            self.session.shouldstop = "the GPU refuses this process everything"
        elif time.monotonic() > self.end:
            self.session.shouldstop = "the time is up"

    def _failed(self, report: Any) -> None:
        self.counts["failed"] += 1
        crash = getattr(report.longrepr, "reprcrash", None)
        why = crash.message if crash else str(report.longrepr).strip().split("\n")[-1]
        many = {"detail": True} if self.counts["failed"] > 25 else {}
        self.facts.put(report.nodeid, failed=why.replace("\n", " ")[:240], **many)
        lower = str(report.longrepr).lower()
        self.broken = any(word in lower for word in BROKEN)


def tests(facts: Facts, end: float, *done: str) -> None:
    """``pytest -m gpu``, but for the files that are `done`.

    After an error that leaves this process without a GPU, a new one goes on with the
    files behind the one it happened in.
    """
    import pytest

    reporter, start = Reporter(facts, end), time.monotonic()
    options = ["-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    options += ["--tb=short", "-rs", *(f"--ignore={file}" for file in done)]
    code = pytest.main(options, plugins=[reporter])
    facts.put(
        "pytest -m gpu" + (", the rest" if done else ""),
        **{kind: reporter.counts[kind] for kind in ("passed", "failed", "skipped")},
        stopped=reporter.session.shouldstop if reporter.session else f"at once, {code}",
        took_s=round(time.monotonic() - start, 1),
    )
    if reporter.broken and reporter.files:
        left = f"{max(1.0, end - time.monotonic()):.1f}"
        words = ["tests", str(facts.path.parent), left, *done, *reporter.files]
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", MODULE, *words])
