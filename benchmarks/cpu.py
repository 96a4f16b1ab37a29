"""Training steps and inference on the CPU against PyTorch, interleaved.

    python -m benchmarks.cpu --quick

Prints, per network, the ratio PyTorch time / tinyflow time (above 1 we are faster), of
medians over rounds in which both take turns. PyTorch runs in the better of its two
memory formats with fused SGD and the same number of threads. Between the libraries lie
pauses and a warm-up call: their thread pools keep spinning after a call and would
otherwise slow each other down.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import models
import tinyflow
from tinyflow import Tape, Tensor, ops
from tinyflow.kernels.scratch import keep_freed_memory
from tinyflow.optim import SGD

NETWORKS = ("resnet20", "resnet56", "vgg19", "resnet50", "se_resnet50", "densenet121")
PAUSE = 0.15  # seconds in which the other library's threads go to sleep


def ours(name: str, batch: int, size: int, training: bool) -> Callable[[], object]:
    """One call of tinyflow: a training step, or logits."""
    model = models.build_model(name, image_size=size)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, size, size), dtype=np.float32)
    labels = rng.integers(0, 10, batch)
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        with Tape(fuse=True) as tape:
            loss = ops.cross_entropy(model(Tensor(images)), labels)
        tape.backward(loss, release=True)
        optimizer.step()

    def infer() -> object:
        return model(Tensor(images))

    if name.startswith("vgg"):
        model.classifier.eval()
    if not training:
        model.eval()
    return step if training else infer


def theirs(
    name: str, batch: int, size: int, training: bool, channels_last: bool
) -> Callable[[], object]:
    """The same call of PyTorch."""
    import torch

    from benchmarks.peers import Peer

    peer = Peer(models.build_model(name, image_size=size), channels_last)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(
        rng.standard_normal((batch, 3, size, size), dtype=np.float32)
    )
    labels = torch.from_numpy(rng.integers(0, 10, batch))
    optimizer = torch.optim.SGD(
        peer.parameters, lr=0.01, momentum=0.9, weight_decay=1e-4, fused=True
    )

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(peer(images), labels).backward()
        optimizer.step()

    def infer() -> object:
        with torch.no_grad():
            return peer(images)

    peer.training = training
    return step if training else infer


def interleave(calls: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Milliseconds of each call in each round, taken in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            time.sleep(PAUSE)
            call()
            start = time.perf_counter()
            call()
            taken.append((time.perf_counter() - start) * 1e3)
    return times


def main(
    quick: Annotated[
        bool, typer.Option("--quick", help="Only training steps at batch 64, 32x32.")
    ] = False,
    network: Annotated[
        list[str] | None, typer.Option(help="Only these networks; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds per network.", min=1)] = 7,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the rows here.")
    ] = None,
) -> None:
    """Compare tinyflow with PyTorch on this machine's CPU."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: pip install -e '.[oracle]'", file=sys.stderr)
        raise typer.Exit(2) from None
    torch.set_num_threads(os.cpu_count() or 1)
    keep_freed_memory()  # of the whole process: both libraries gain
    settings = [(n, True, 64, 32) for n in network or NETWORKS]
    if not quick:
        settings += [(n, False, b, 32) for n in network or NETWORKS for b in (64, 1)]
        settings += [(n, True, 8, 224) for n in ("resnet50",)]
    print(
        f"tinyflow {tinyflow.__version__} NumPy {np.__version__} | PyTorch "
        f"{torch.__version__} | {os.cpu_count()} cores, {platform.machine()}, float32"
    )
    print(f"{'network':<14}{'pass':<10}{'batch':>6}{'size':>6}", end="")
    print(f"{'tinyflow ms':>13}{'PyTorch ms':>12}{'ratio':>8}")
    rows = []
    for name, training, batch, size in settings:
        calls = [ours(name, batch, size, training)]
        calls += [theirs(name, batch, size, training, last) for last in (False, True)]
        mine, plain, last = map(statistics.median, interleave(calls, rounds))
        best = min(plain, last)
        what = "step" if training else "inference"
        print(f"{name:<14}{what:<10}{batch:>6}{size:>6}", end="")
        print(f"{mine:>13.1f}{best:>12.1f}{best / mine:>8.2f}", flush=True)
        rows.append(
            {
                "network": name,
                "pass": what,
                "batch": batch,
                "size": size,
                "tier": "base",
                "ratio": best / mine,
                "tinyflow_ms": mine,
                "pytorch_ms": best,
                "pytorch_format": "contiguous" if plain <= last else "channels_last",
                "numpy": np.__version__,
                "pytorch": torch.__version__,
                "date": date.today().isoformat(),
            }
        )
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
