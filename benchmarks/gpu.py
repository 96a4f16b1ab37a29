"""Training steps on a GPU: tinyflow captured and eager against PyTorch, interleaved.

    python -m benchmarks.gpu --quick

Every peer is a process of its own (``benchmarks/gpu_peers.py``), and all peers of a
setting live at once and take turns, round by round, so that the clock of the GPU and
whatever else the machine does meets them all alike. A round is as many steps as fill a
fifth of a second, with one wait for the device at its end. The table gives the median
of the rounds, PyTorch's best time over tinyflow's captured one (above 1 we are
faster), and the memory each allocator holds. After every answer of a peer the file is
written anew; a peer that does not answer is killed, which is its error. With
``--limit`` the settings share that many seconds.

    python -m benchmarks.gpu --first --output FOLDER

is for a GPU that nothing has run on yet: see ``benchmarks/first.py``.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

import tinyflow
from benchmarks.first import FIRST_LIMIT, STAGES, run_stages
from benchmarks.gpu_peers import PEERS
from benchmarks.process import Process
from tinyflow.backend import DeviceError, choose_device
from tinyflow.train.config import PRECISIONS

WARM_UP, ANSWER = 300.0, 60.0
"""Seconds a peer has for its first answer, and for each other one."""

RESERVE = 5.0
"""Seconds a peer leaves for another one's start, and for the rounds."""

SMALL = ("resnet20", "resnet56", "vgg19", "resnet50", "se_resnet50", "densenet121")
LARGE = SMALL[2:]
SIZES = {128: 32, 512: 32, 64: 224}
"""Of the images, by the size of the batch."""

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Setting:
    """What is trained, and how."""

    network: str
    batch: int
    size: int
    precision: str

    def __str__(self) -> str:
        return f"{self.network} {self.batch} {self.size} {self.precision}"


@dataclass
class Row:
    """What one peer did with one setting; `error` says why it did nothing."""

    setting: Setting
    peer: str
    rounds: list[float] = field(default_factory=list)
    memory_mib: float | None = None
    first_step_s: float | None = None
    error: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def ms(self) -> float | None:
        """Median milliseconds of a step."""
        return statistics.median(self.rounds) if self.rounds else None

    def facts(self) -> dict[str, Any]:
        """The row as it is written to the file."""
        found = asdict(self.setting) | {"peer": self.peer, "ms": self.ms}
        rate = None if self.ms is None else self.setting.batch / self.ms * 1e3
        found |= {"images_per_second": rate, "memory_mib": self.memory_mib}
        found |= {"first_step_s": self.first_step_s}
        return found | {"rounds_ms": self.rounds, "error": self.error}


class Peer(Protocol):
    """A process that trains a setting; see :class:`benchmarks.process.Process`."""

    def ask(self, line: str, seconds: float) -> dict[str, Any]:
        """Send a line; its answer. A dict with "error" if it cannot go on."""

    def close(self) -> None:
        """End it."""


def start_peer(peer: str, setting: Setting) -> Process:
    """The process of a peer, which will train that setting."""
    return Process("benchmarks.gpu_peers", peer, *asdict(setting).values())


def measure(
    setting: Setting,
    peers: Sequence[str],
    rounds: int,
    start: Callable[[str, Setting], Peer] = start_peer,
    *,
    seconds: float = math.inf,
    keep: Callable[[Sequence[Row]], object] = lambda rows: None,
) -> list[Row]:
    """The rows of all peers; they take turns, and each begins as many rounds.

    Args:
        setting: what is trained.
        peers: by name, see `PEERS`.
        rounds: at most, of each peer; at least one is tried.
        start: starts a peer.
        seconds: for all of it. When a peer warms up, `RESERVE` for each later one and
            for the rounds are not its own, or half of what is left: one that takes for
            ever costs no other its rounds.
        keep: is given the rows after every answer.
    """
    rows = [Row(setting, peer) for peer in peers]
    running: list[tuple[Row, Peer]] = []
    end = time.monotonic() + seconds

    def ask(row: Row, peer: Peer, line: str, most: float) -> dict[str, Any]:
        answer = peer.ask(line, max(1.0, min(most, end - time.monotonic())))
        row.error = answer.get("error")
        return answer

    try:
        running += [(row, start(row.peer, setting)) for row in rows]
        for i, (row, peer) in enumerate(running):
            left = end - time.monotonic()
            most = max(left - RESERVE * (len(running) - i), left / 2)
            answer = ask(row, peer, "warm up", min(most, WARM_UP))
            row.versions = answer.get("versions", {})
            row.first_step_s = answer.get("first_s")
            keep(rows)
        for turn in range(rounds):
            if turn and time.monotonic() > end:
                break
            for row, peer in running if turn % 2 == 0 else running[::-1]:
                if row.error is None:
                    answer = ask(row, peer, "round", ANSWER)
                    if row.error is None:
                        row.rounds.append(float(answer["ms"]))
                    keep(rows)
        for row, peer in running:
            if row.error is None:
                row.memory_mib = ask(row, peer, "memory", ANSWER).get("mib")
                keep(rows)
    finally:
        for _, peer in running:
            peer.close()
    return rows


def ratio(rows: Sequence[Row]) -> float | None:
    """PyTorch's best median over that of tinyflow's captured step."""
    ours = [r.ms for r in rows if r.peer == "tinyflow" and r.ms is not None]
    theirs = [r.ms for r in rows if r.peer.startswith("torch") and r.ms is not None]
    return min(theirs) / ours[0] if ours and theirs else None


def listed(things: Collection[object]) -> str:
    """As one reads it."""
    return ", ".join(map(str, things))


def heading(peers: Sequence[str]) -> str:
    """The first line of the table."""
    columns = "".join(f"{peer:>16}" for peer in peers)
    return (
        f"{'network':<13}{'batch':>6}{'size':>5} {'precision':<10}{columns}{'ratio':>7}"
    )


def line(rows: Sequence[Row]) -> str:
    """A setting's line: milliseconds (and MiB) of each peer, and the ratio."""
    s = rows[0].setting
    text = f"{s.network:<13}{s.batch:>6}{s.size:>5} {s.precision:<10}"
    for row in rows:
        memory = "" if row.memory_mib is None else f" ({row.memory_mib:.0f})"
        text += f"{'-' if row.ms is None else f'{row.ms:.2f}{memory}':>16}"
    found = ratio(rows)
    return text + ("      -" if found is None else f"{found:>7.2f}")


def settings(
    networks: Sequence[str], precisions: Sequence[str], batches: Sequence[int]
) -> Iterator[Setting]:
    """The grid; small networks have small images only."""
    for precision in precisions:
        for batch in batches:
            for network in networks:
                if (size := SIZES[batch]) == 32 or network in LARGE:
                    yield Setting(network, batch, size, precision)


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Two networks, batch 128, tf32, 3 rounds.")
    ] = False,
    network: Annotated[
        list[str] | None, typer.Option(help="Only these networks; may be repeated.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Only these precisions; may be repeated.")
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Only these batches (64: of 224 pixels); may be repeated."),
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help=f"Only these of {', '.join(PEERS)}.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of each peer.", min=1)] = 7,
    limit: Annotated[
        float | None, typer.Option(help="Seconds for the whole.", min=1)
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write here, not to results/gpu-<date>.json."),
    ] = None,
    first: Annotated[
        bool, typer.Option("--first", help="Checks, tests, parity, speed, training.")
    ] = False,
    stage: Annotated[
        list[str] | None,
        typer.Option(help=f"With --first: only these of {', '.join(STAGES)}."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="With --first: the folder for the results.")
    ] = None,
) -> None:
    """Compare tinyflow with PyTorch on this machine's GPU."""
    if first:
        folder = output or RESULTS / f"first-{date.today().isoformat()}"
        raise typer.Exit(run_stages(folder, limit or FIRST_LIMIT, stage or STAGES))
    try:
        choose_device("cuda")
    except DeviceError as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    networks = network or (("resnet20", "resnet50") if quick else SMALL)
    precisions = precision or (("tf32",) if quick else PRECISIONS)
    batches = batch or ((128,) if quick else tuple(SIZES))
    peers = peer or list(PEERS)
    known: tuple[tuple[Sequence[object], Collection[object]], ...]
    known = (precisions, PRECISIONS), (peers, PEERS), (batches, SIZES)
    for asked, there in known:
        if wrong := set(asked) - set(there):
            sentence = f"unknown {listed(wrong)}; choose from {listed(there)}"
            print(f"benchmarks.gpu: {sentence}", file=sys.stderr)
            raise typer.Exit(2)
    print(heading(peers))
    path = json_file or RESULTS / f"gpu-{date.today().isoformat()}.json"
    rows: list[Row] = []

    def keep(found: Sequence[Row]) -> None:
        write([*rows, *found], path)

    grid = list(settings(networks, precisions, batches))
    end = math.inf if limit is None else time.monotonic() + limit
    for i, setting in enumerate(grid):
        found = measure(
            setting,
            peers,
            3 if quick else rounds,
            seconds=(end - time.monotonic()) / (len(grid) - i),
            keep=keep,
        )
        rows.extend(found)
        print(line(found), flush=True)
        for row in found:
            if row.error is not None:
                print(f"  {row.peer}: {row.error}", flush=True)


def write(rows: Sequence[Row], path: Path) -> None:
    """Write what there is so far: on disk, whole, whatever ends the run."""
    versions: dict[str, str] = {}
    for row in rows:
        versions |= row.versions
    facts = {
        "date": date.today().isoformat(),
        "tinyflow": tinyflow.__version__,
        "python": platform.python_version(),
        "versions": versions,
        "rows": [row.facts() for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(json.dumps(facts, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


if __name__ == "__main__":
    typer.run(main)
