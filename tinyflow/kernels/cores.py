"""How many threads may work: what was asked for, and the cores there are."""

from __future__ import annotations

import math
import os
from functools import cache
from pathlib import Path

from tinyflow.backend import SettingError

VARIABLE = "TINYFLOW_NUM_THREADS"


@cache
def wanted() -> int:
    """TINYFLOW_NUM_THREADS, else OMP_NUM_THREADS, and never more than the cores.

    Threads that wait awake on a core they share wait for each other's turn: more of
    them than cores may not end a step. OMP_NUM_THREADS belongs to OpenMP, which takes a
    list there, one number a level: its first counts, and what is no number does not.

    Raises:
        SettingError: TINYFLOW_NUM_THREADS is no whole number from 1 on.
    """
    most = available()
    if wish := os.environ.get(VARIABLE, "").strip():
        number = _whole(wish)
        if number is None:
            raise SettingError(
                f"{VARIABLE} is {wish[:40]!r}; set it to a whole number from 1 on, or "
                "unset it to use every core"
            )
        return min(number, most)
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(_whole(first.strip()) or most, most)


def _whole(text: str) -> int | None:
    """The number that the text is in plain digits, from 1 on; else None."""
    plain = text.isascii() and text.isdigit() and len(text) < 20
    return (int(text) or None) if plain else None


def available() -> int:
    """Cores that this process may use: those it may run on, within its quota."""
    return max(1, math.ceil(min(len(mine()) or os.cpu_count() or 1, quota())))


@cache
def mine() -> set[int]:
    """The cores that this process may run on; none where the system does not say."""
    try:
        return os.sched_getaffinity(0)
    except (AttributeError, OSError):
        return set()


def quota(groups: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> float:
    """Cores' worth of time that Linux grants our control group; inf without limit.

    Containers are limited so: ``docker run --cpus 2``. A group's parents limit it too.

    Args:
        groups: the file that lists our groups, ``number:controllers:path``.
        root: where their tree lies.
    """
    try:
        lines = Path(groups).read_text().splitlines()
    except (OSError, ValueError):
        return math.inf
    found = [math.inf]
    for _, controllers, path in (s.split(":", 2) for s in lines if s.count(":") > 1):
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = Path(root, controllers)
        inner = base / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(base):
                found.append(_limit(folder))
    return min(found)


def _limit(folder: Path) -> float:
    """Of one group: the second version of control groups, or the first."""
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            words = " ".join((folder / name).read_text() for name in names).split()
            time, period = map(float, words)
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if time > 0 and period > 0:
            return time / period
    return math.inf
