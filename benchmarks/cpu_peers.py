"""One peer of benchmarks/cpu.py: a network of tinyflow or PyTorch in its own process.

    python -m benchmarks.cpu_peers tinyflow resnet20 step 64 32

Answers "run" with the milliseconds of a call (the median of a round), and "peak" with
how far resident memory has risen above what it was before the network was built.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import models
from tinyflow import Tape, Tensor, nn, ops
from tinyflow.kernels.plain.scratch import keep_freed_memory
from tinyflow.optim import SGD
from tinyflow.train.metrics import peak_memory_mb

ROUND = 0.4  # seconds


def data(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, the same for every peer."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, size, size), dtype=np.float32)
    return images, rng.integers(0, 10, batch)


def ours(name: str, what: str, batch: int, size: int) -> Callable[[], object]:
    """One call of tinyflow: a training step, or logits; memory as in train.py."""
    keep_freed_memory()
    model = models.build_model(name, image_size=size)
    images, labels = data(batch, size)
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        with Tape(fuse=True) as tape:
            loss = ops.cross_entropy(model(Tensor(images)), labels)
        tape.backward(loss, release=True)
        optimizer.step()

    def infer() -> object:
        return model(Tensor(images))

    if what != "step":
        model.eval()
    for _, module in model.named_modules():
        if isinstance(module, nn.Dropout | nn.StochasticDepth):
            module.eval()  # PyTorch's peer has none
    return step if what == "step" else infer


def theirs(
    name: str, what: str, batch: int, size: int, channels_last: bool
) -> Callable[[], object]:
    """The same call of PyTorch, with its fused SGD."""
    import torch

    from benchmarks.peers_small import peer_of

    peer = peer_of(models.build_model(name, image_size=size), channels_last)
    images, labels = (torch.from_numpy(array) for array in data(batch, size))
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

    peer.training = what == "step"
    return step if what == "step" else infer


def resident_mb() -> float:
    """Resident memory now, in 10⁶ bytes; the peak so far where that is not known."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return peak_memory_mb()


def timed(call: Callable[[], object]) -> float:
    """Median milliseconds of as many calls as fill a round, after a warm-up call."""
    call()
    times: list[float] = []
    end = time.perf_counter() + ROUND
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def serve(peer: str, name: str, what: str, batch: str, size: str) -> None:
    """Answer lines until there are no more."""
    if peer != "tinyflow":
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
    before = resident_mb()
    arguments = name, what, int(batch), int(size)
    if peer == "tinyflow":
        call = ours(*arguments)
    else:
        call = theirs(*arguments, channels_last=peer == "channels_last")
    for line in sys.stdin:
        if line.strip() == "peak":
            answer = {"mb": peak_memory_mb() - before}
        else:
            answer = {"ms": timed(call)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
