"""What it costs to look: a training backward at each retention level.

    python -m benchmarks.trace --network resnet50

Time and peak memory of forward + backward with each level of ``Tape(retain=...)``,
relative to "leaves" (a plain backward); every level releases what it passes. Levels
take turns in one process for the times; memory is the peak of NumPy's allocations.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from typing import Annotated

import numpy as np
import typer

import models
from tinyflow import Tape, Tensor, ops
from tinyflow.tape import RETAIN


def main(
    network: Annotated[str, typer.Option(help="Which network.")] = "resnet50",
    batch: Annotated[int, typer.Option(help="Images.", min=2)] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds.", min=1)] = 7,
) -> None:
    """Compare the retention levels on one network at 32x32, float32."""
    model = models.build_model(network)
    rng = np.random.default_rng(0)
    images = Tensor(rng.standard_normal((batch, 3, 32, 32), dtype=np.float32))
    labels = rng.integers(0, 10, batch)

    def once(retain: str) -> None:
        with Tape(retain) as tape:
            loss = ops.cross_entropy(model(images), labels)
        tape.backward(loss, release=True)

    times: dict[str, list[float]] = {level: [] for level in RETAIN}
    for level in RETAIN:
        once(level)
    for _ in range(rounds):
        for level in RETAIN:
            start = time.perf_counter()
            once(level)
            times[level].append((time.perf_counter() - start) * 1e3)
    peaks = {}
    for level in RETAIN:
        tracemalloc.start()
        once(level)
        peaks[level] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    print(f"{network}, batch {batch}, 32x32, float32: forward + backward")
    print(f"{'retain':<12}{'ms':>9}{'time':>8}{'MiB':>9}{'memory':>8}")
    base = statistics.median(times["leaves"])
    for level in RETAIN:
        median = statistics.median(times[level])
        print(
            f"{level:<12}{median:>9.1f}{median / base:>7.2f}x{peaks[level]:>9.0f}"
            f"{peaks[level] / peaks['leaves']:>7.2f}x"
        )


if __name__ == "__main__":
    typer.run(main)
