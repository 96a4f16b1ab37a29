"""What it costs to look: a training backward at each retention level, and elsewhere.

    python -m benchmarks.trace --network resnet50

Time and peak memory of forward + backward with each level of ``Tape(retain=...)``,
relative to "leaves" (a plain backward); every level releases what it passes. Levels
take turns in one process for the times; memory is the peak of NumPy's allocations.

Then what keeping all gradients costs in PyTorch, relative to its own plain forward +
backward: with ``retain_grad()`` on every tensor, and with TorchLens. The network,
weights and images are the same. They record a tensor's gradient, as "tensors" does, not
the messages it is the sum of. Each is a process of its own
(``benchmarks/trace_peers.py``), one at a time, in two turns; memory is how far the
process's resident memory rises. What is not installed is left out.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
import tracemalloc
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import models
import tinyflow
from benchmarks.cpu_peers import data
from benchmarks.process import Process
from tinyflow import Tape, Tensor, ops
from tinyflow.kernels.native import library
from tinyflow.kernels.plain.scratch import keep_freed_memory
from tinyflow.retain import LEVELS

WAYS = {
    "plain": "forward + backward",
    "hooks": "retain_grad()",
    "torchlens": "TorchLens",
}


def levels(network: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """A row per retention level."""
    model = models.build_model(network)
    if network.startswith("vgg"):
        model.classifier.eval()  # PyTorch's peer has no dropout either
    array, labels = data(batch, 32)
    images = Tensor(array)

    def once(retain: str) -> Tape:
        with Tape(retain) as tape:
            loss = ops.cross_entropy(model(images), labels)
        tape.backward(loss, release=True)
        return tape

    times: dict[str, list[float]] = {level: [] for level in LEVELS}
    for level in LEVELS:
        once(level)
    for _ in range(rounds):
        for level in LEVELS:
            start = time.perf_counter()
            once(level)
            times[level].append((time.perf_counter() - start) * 1e3)
    rows = []
    for level in LEVELS:
        tracemalloc.start()
        tape = once(level)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        rows.append(
            {
                "library": "tinyflow",
                "what": level,
                "ms": statistics.median(times[level]),
                "mib": peak,
                **recorded(tape),
            }
        )
    return relative(rows)


def recorded(tape: Tape) -> dict[str, int]:
    """How many gradients of intermediate tensors, and messages, a tape has kept."""
    nodes = {node for node in tape.names.values() if node.index >= 0}
    edges = [edge for found in tape.uses.values() for edge in found]
    return {
        "gradients": sum(node.grad is not None for node in nodes),
        "messages": sum(edge.grad is not None for edge in edges),
    }


def elsewhere(network: str, batch: int, rounds: int) -> list[dict[str, Any]]:
    """A row per way to look in PyTorch; a line on what is not installed."""
    if installed("torch") is None:
        print("PyTorch is not installed (pip install torch): tinyflow only.")
        return []
    names = [way for way in WAYS if way != "torchlens" or installed("torchlens")]
    if "torchlens" not in names:
        print("TorchLens is not installed (pip install torchlens): left out.")
    times: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    gradients: dict[str, int] = {}
    for turn in (names, names[::-1]):
        for name in [name for name in turn if name in times]:
            try:
                run, peak = one_turn(name, network, batch, (rounds + 1) // 2)
            except RuntimeError as error:
                if name != "torchlens":
                    raise
                print(f"TorchLens {installed(name)} is left out: {error}")
                del times[name]
                continue
            times[name] += run["ms"]
            gradients[name] = run["gradients"]
            peaks[name].append(peak)
    return relative(
        [
            {
                "library": "torchlens" if name == "torchlens" else "pytorch",
                "what": name,
                "ms": statistics.median(times[name]),
                "mib": statistics.median(peaks[name]),
                "gradients": gradients[name],
            }
            for name in times
        ]
    )


def one_turn(
    name: str, network: str, batch: int, rounds: int
) -> tuple[dict[str, Any], float]:
    """The answer to `rounds` calls in a process of their own, and its peak in MiB."""
    peer = Process("benchmarks.trace_peers", name, network, batch)
    try:
        answers = [peer.ask(line) for line in (str(rounds), "peak")]
    finally:
        peer.close()
    for answer in answers:
        if "error" in answer:
            raise RuntimeError(f"{name}, {network}: {answer['error']}")
    return answers[0], answers[1]["mb"] * 1e6 / 2**20


def relative(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with ratios to the first."""
    for row in rows:
        row["time_ratio"] = row["ms"] / rows[0]["ms"]
        row["memory_ratio"] = row["mib"] / rows[0]["mib"]
    return rows


def installed(package: str) -> str | None:
    """Its version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cells(row: dict[str, Any]) -> str:
    """Time and memory of a row, absolute and relative."""
    return (
        f"{row['ms']:>9.1f}{row['time_ratio']:>7.2f}x{row['mib']:>9.0f}"
        f"{row['memory_ratio']:>7.2f}x"
    )


def main(
    network: Annotated[str, typer.Option(help="Which network.")] = "resnet50",
    batch: Annotated[int, typer.Option(help="Images.", min=2)] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds.", min=1)] = 7,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the rows here.")
    ] = None,
) -> None:
    """Compare the retention levels on one network at 32x32, float32, and PyTorch."""
    keep_freed_memory()
    # First, while this process is small: a child's peak starts at its parent's.
    theirs = elsewhere(network, batch, rounds)
    ours = levels(network, batch, rounds)
    print(f"{network}, batch {batch}, 32x32, float32: forward + backward")
    print(f"tinyflow {tinyflow.__version__}, {library.load()[1]}")
    print(f"{'retain':<12}{'ms':>9}{'time':>8}{'MiB':>9}{'memory':>8}")
    for row in ours:
        print(f"{row['what']:<12}{cells(row)}")
    last = ours[-1]
    print(
        f"edges keeps {last['gradients']} gradients of intermediate tensors and "
        f"{last['messages']} messages"
    )
    if theirs:
        names = [f"PyTorch {installed('torch')}"]
        if theirs[-1]["what"] == "torchlens":
            names.append(f"TorchLens {installed('torchlens')}")
        print(f"\n{', '.join(names)}")
        print(f"{'':<20}{'ms':>9}{'time':>8}{'MiB':>9}{'memory':>8}{'gradients':>11}")
        for row in theirs:
            print(f"{WAYS[row['what']]:<20}{cells(row)}{row['gradients']:>11}")
    if output is not None:
        facts = {
            "network": network,
            "batch": batch,
            "tinyflow": tinyflow.__version__,
            "engine": library.load()[1],
            "numpy": np.__version__,
            "pytorch": installed("torch"),
            "torchlens": installed("torchlens"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "date": date.today().isoformat(),
        }
        rows = [{**row, **facts} for row in ours + theirs]
        output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
