"""Training steps and inference on the CPU against PyTorch, interleaved.

    python -m benchmarks.cpu --quick

Every peer is a process of its own (``benchmarks/cpu_peers.py``): tinyflow with NumPy
alone ("base"), with its C kernels ("compiled") where they have been built, and PyTorch
in both memory formats with fused SGD. All have the same number of threads. They take
turns, round by round, and only one lives at a time: thread pools that spin disturb
nobody, and all are given the same pages of memory. A round is a process that warms up
for 0.4 s and is then timed for as long. The table gives medians, the ratio PyTorch's
better format / tinyflow (above 1 we are faster), and how far memory rose above what the
process held before it built the network.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import tinyflow
from benchmarks.process import Process
from tinyflow.kernels.native.library import library_path

SMALL = ("mobilenet_v2", "shufflenet_v2_x1_0", "efficientnet_b0")
NETWORKS = ("resnet20", "resnet56", "vgg19", "resnet50", "se_resnet50", "densenet121")
FORMATS = ("contiguous", "channels_last")
TIERS = {"base": "numpy", "compiled": "native"}

Setting = tuple[str, str, int, int]  # network, pass, batch, size


def settings(quick: bool, networks: Sequence[str]) -> list[Setting]:
    """Training steps at batch 64; all else unless `quick`."""
    found: list[Setting] = [(name, "step", 64, 32) for name in networks]
    if not quick:
        found += [(n, "inference", b, 32) for n in networks for b in (64, 1)]
        found += [(n, "step", 8, 224) for n in networks if n == "resnet50"]
        found += [(n, "inference", 1, 224) for n in networks if n in SMALL]
    return found


def measure(setting: Setting, tiers: Sequence[str], rounds: int) -> dict[str, Any]:
    """Median milliseconds and peak memory (10⁶ bytes) of each peer."""
    names = (*tiers, *FORMATS)
    times: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else names[::-1]:
            ms, mb = one_round(name, setting)
            times[name].append(ms)
            peaks[name].append(mb)
    median = statistics.median
    return {name: (median(times[name]), median(peaks[name])) for name in names}


def one_round(name: str, setting: Setting) -> tuple[float, float]:
    """Milliseconds and peak memory of one peer."""
    tier = TIERS.get(name)
    peer = Process(
        "benchmarks.cpu_peers",
        name if tier is None else "tinyflow",
        *setting,
        environment={"TINYFLOW_ENGINE": tier or "auto"},
    )
    try:
        answers = [peer.ask(line) for line in ("run", "run", "peak")]
    finally:
        peer.close()
    for answer in answers:
        if "error" in answer:
            raise RuntimeError(f"{name}, {setting}: {answer['error']}")
    return float(answers[1]["ms"]), float(answers[2]["mb"])


def rows(setting: Setting, found: dict[str, Any], facts: dict[str, str]) -> list[Any]:
    """A row per tier, against PyTorch's better format and its memory in that one."""
    best = min(FORMATS, key=lambda name: found[name][0])
    theirs, their_peak = found[best]
    named = dict(zip(("network", "pass", "batch", "size"), setting, strict=True))
    return [
        {
            **named,
            "tier": tier,
            "ratio": theirs / found[tier][0],
            "tinyflow_ms": found[tier][0],
            "pytorch_ms": theirs,
            "tinyflow_peak_mb": found[tier][1],
            "pytorch_peak_mb": their_peak,
            "pytorch_format": best,
            **facts,
        }
        for tier in TIERS
        if tier in found
    ]


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Only training steps at batch 64, 32x32.")
    ] = False,
    network: Annotated[
        list[str] | None, typer.Option(help="Only these networks; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds per setting.", min=1)] = 5,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the rows here.")
    ] = None,
) -> None:
    """Compare tinyflow with PyTorch on this machine's CPU."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        print("PyTorch is not installed: pip install -e '.[oracle]'", file=sys.stderr)
        raise typer.Exit(2) from None
    tiers = [t for t in TIERS if t == "base" or library_path().exists()]
    if len(tiers) == 1:
        print("No C kernels (python -m tinyflow.native builds them): base tier only.")
    facts = {
        "tinyflow": tinyflow.__version__,
        "numpy": np.__version__,
        "pytorch": torch,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "date": date.today().isoformat(),
    }
    print(
        f"tinyflow {tinyflow.__version__}, NumPy {np.__version__} | PyTorch {torch} | "
        f"{facts['machine']}, float32; peaks in MB"
    )
    print(f"{'network':<20}{'pass':<10}{'batch':>5}{'size':>5}  {'tier':<9}", end="")
    print(f"{'tinyflow ms':>12}{'PyTorch ms':>11}{'ratio':>7}{'peak':>7}{'theirs':>7}")
    written: list[Any] = []
    for setting in settings(quick, network or (*NETWORKS, *SMALL)):
        for row in rows(setting, measure(setting, tiers, rounds), facts):
            name, what, batch, size = setting
            print(f"{name:<20}{what:<10}{batch:>5}{size:>5}  {row['tier']:<9}", end="")
            print(f"{row['tinyflow_ms']:>12.1f}{row['pytorch_ms']:>11.1f}", end="")
            print(f"{row['ratio']:>7.2f}{row['tinyflow_peak_mb']:>7.0f}", end="")
            print(f"{row['pytorch_peak_mb']:>7.0f}", flush=True)
            written.append(row)
    if output is not None:
        output.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
