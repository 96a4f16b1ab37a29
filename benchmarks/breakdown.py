"""Where a training step on the CPU spends its time, operator by operator.

    python -m benchmarks.breakdown --network densenet121
    TINYFLOW_ENGINE=native python -m benchmarks.breakdown --network densenet121

The step of ``benchmarks/cpu.py`` runs in a process with one thread and in one with all
of them. Each row is a method of the engine: calls in a step, milliseconds of both, and
the ratio between them. "rest" is what no engine sees: the tape, small arrays, Python.
Below stands the floor set by matrix products: the multiplications of all convolutions
(those with padding left out) at the speed of a product of 2048 x 2048 matrices.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.cpu_peers import ours
from benchmarks.process import Process
from tinyflow.kernels.engine import engine
from tinyflow.kernels.plain import threads
from tinyflow.kernels.window import windows

METHODS = (
    "conv2d",
    "conv2d_grads",
    "moments",
    "normalize_by",
    "normalize_sums",
    "normalize_input_grad",
    "channel_sum",
    "max_pool2d",
    "max_pool2d_input_grad",
    "avg_pool2d",
    "avg_pool2d_input_grad",
    "map_mean",
    "gate",
    "gate_grad",
    "relu",
    "relu_grad",
    "product",
    "add",
    "copy",
    "sgd",
)
SIDE = 2048


class Watch:
    """Adds up the time of an engine's methods; those within others count for them."""

    def __init__(self) -> None:
        self.engine = engine(np.zeros(1, np.float32))
        self.inside = False
        self.spent: dict[str, list[float]] = {}
        self.multiplications = 0
        for name in METHODS:
            setattr(self.engine, name, self.watched(name, getattr(self.engine, name)))

    def watched(self, name: str, method: Any) -> Any:
        """The method, timed."""

        def call(*args: Any, **keywords: Any) -> Any:
            if self.inside:
                return method(*args, **keywords)
            self.inside, start = True, time.perf_counter()
            try:
                return method(*args, **keywords)
            finally:
                self.inside = False
                taken = time.perf_counter() - start
                self.spent.setdefault(name, []).append(taken * 1e3)
                self.count(name, args)

        return call

    def count(self, name: str, args: tuple[Any, ...]) -> None:
        """Multiplications of a convolution: one product, or two in the backward."""
        if name == "conv2d":
            (x, w, how), products = args[:3], 1
        elif name == "conv2d_grads":
            _, x, w, how, need = args
            products = sum(need)
        else:
            return
        at = windows(x.shape[2:], how.window(w.shape[2:]))
        met = [sum(tap.hi - tap.lo for tap in axis) for axis in (at.rows, at.cols)]
        pairs = x.shape[0] * w.shape[0] * w.shape[1]
        self.multiplications += products * pairs * met[0] * met[1]


def measure(network: str, batch: int, steps: int) -> dict[str, Any]:
    """Medians over some steps, after two that warm up."""
    step = ours(network, "step", batch, 32)
    step(), step()
    watch, totals, found = Watch(), [], []
    for _ in range(steps):
        watch.spent, watch.multiplications = {}, 0
        start = time.perf_counter()
        step()
        totals.append((time.perf_counter() - start) * 1e3)
        found.append({name: sum(ms) for name, ms in watch.spent.items()})
    a = np.ones((SIDE, SIDE), np.float32)
    products = []
    for _ in range(5):
        start = time.perf_counter()
        watch.engine.product(a, a)
        products.append(time.perf_counter() - start)
    return {
        "engine": watch.engine.name,
        "threads": threads.wanted(),
        "total": statistics.median(totals),
        "ms": {name: statistics.median(f[name] for f in found) for name in found[0]},
        "calls": {name: len(ms) for name, ms in watch.spent.items()},
        "multiplications": watch.multiplications,
        "speed": SIDE**3 / min(products),
    }


def main(
    network: Annotated[str, typer.Option(help="A name of train.py --list-models.")],
    batch: Annotated[int, typer.Option(min=2)] = 64,
    steps: Annotated[int, typer.Option(min=1)] = 9,
    here: Annotated[bool, typer.Option("--here", hidden=True)] = False,
) -> None:
    """Show where a training step spends its time."""
    if here:
        for _ in sys.stdin:
            print(json.dumps(measure(network, batch, steps)), flush=True)
        return
    found = []
    for variables in ({"TINYFLOW_NUM_THREADS": "1"}, {}):
        if variables:
            variables["OPENBLAS_NUM_THREADS"] = "1"
        arguments = ("--network", network, "--batch", batch, "--steps", steps, "--here")
        peer = Process(
            "benchmarks.breakdown",
            *arguments,
            environment={
                "TINYFLOW_ENGINE": os.environ.get("TINYFLOW_ENGINE", "numpy"),
                **variables,
            },
        )
        try:
            found.append(peer.ask("run"))
        finally:
            peer.close()
    if any("error" in f for f in found):
        raise RuntimeError(f"{network}: {found}")
    one, all_ = found
    print(
        f"{network}, step, batch {batch}, 32x32, float32, {all_['engine']} kernels, ms"
    )
    print(
        f"{'':<24}{'calls':>6}{'1 thread':>10}{all_['threads']:>4} threads{'ratio':>7}"
    )
    rows = [(n, all_["calls"][n], one["ms"][n], ms) for n, ms in all_["ms"].items()]
    rest = (f["total"] - sum(f["ms"].values()) for f in found)
    rows = [*sorted(rows, key=lambda row: -row[2]), ("rest", "", *rest)]
    for name, calls, before, ms in [*rows, ("step", "", one["total"], all_["total"])]:
        print(f"{name:<24}{calls:>6}{before:>10.1f}{ms:>12.1f}{before / ms:>7.2f}")
    products, speed = (
        all_["multiplications"] / 1e9,
        max(f["speed"] for f in found) / 1e9,
    )
    print(
        f"products alone: {products:.1f} G multiplications at {speed:.0f} G/s, "
        f"{products / speed * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    typer.run(main)
