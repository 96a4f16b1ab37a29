"""One peer of ``benchmarks.gpu`` in its own process: trains a setting when told to.

    python -m benchmarks.gpu_peers tinyflow resnet20 128 32 tf32

Reads lines from standard input and answers each with a line of JSON: "warm up" (what
compiles and tunes happens now; seconds of the first step), "round" (milliseconds of a
step), "memory" (MiB that the allocator holds).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

import models

PEERS = ("tinyflow", "tinyflow-eager", "torch", "torch-graph", "torch-compile")

ROUND = 0.2  # seconds that the steps of a round take, about
LR, MOMENTUM, DECAY = 0.01, 0.9, 1e-4


@dataclass
class Ready:
    """A peer that has trained a few steps.

    Attributes:
        step: starts one more; does not wait for it.
        wait: waits for everything that was started.
        mib: memory that the allocator holds.
        first: seconds of the first step, which compiles and tunes.
        versions: of what ran.
    """

    step: Callable[[], object]
    wait: Callable[[], object]
    mib: Callable[[], float]
    first: float
    versions: dict[str, str]


def batch_of(batch: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The same images and labels for every peer."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, size, size), dtype=np.float32)
    return images, rng.integers(0, 10, batch)


def network_of(network: str, size: int, device: str) -> Any:
    """Ours, without the dropout of a VGG; PyTorch's side has none either."""
    model = models.build_model(network, image_size=size).to(device)
    if network.startswith("vgg"):
        model.classifier.eval()
    return model


def batch_there(batch: int, size: int, precision: str) -> tuple[Any, Any]:
    """Images and labels on the GPU, as a step of that precision takes them."""
    import cupy

    from tinyflow.kernels.engine import engine
    from tinyflow.train.precision import activations

    drawn, classes = batch_of(batch, size)
    images = cupy.asarray(drawn).astype(activations(precision, "cuda"))
    return engine(images).store(images), cupy.asarray(classes)


def tinyflow(network: str, batch: int, size: int, precision: str, eager: bool) -> Ready:
    """Captured or eager."""
    import cupy

    from tinyflow import Tape, Tensor, ops
    from tinyflow.kernels.cuda.graph import Recorder
    from tinyflow.kernels.cuda.settings import configure
    from tinyflow.optim import SGD
    from tinyflow.train.gpu.capture import CapturedStep

    configure(precision=precision, autotune=True)
    model = network_of(network, size, "cuda")
    images, labels = batch_there(batch, size, precision)
    optimizer = SGD(model.named_parameters(), LR, MOMENTUM, DECAY)
    said: list[str] = []
    recorder = Recorder()
    captured = CapturedStep(model, optimizer, recorder, say=said.append)

    def plain() -> None:
        with Tape(fuse=True) as tape:
            loss = ops.cross_entropy(model(Tensor(images)), labels)
        tape.backward(loss, release=True)
        optimizer.step()

    def replayed() -> None:
        if not captured.launch(images, labels):
            raise RuntimeError(said[-1] if said else "the step was not replayed")

    wait = cupy.cuda.runtime.deviceSynchronize
    warm = plain if eager else lambda: captured(images, labels)
    first = seconds_of(warm, wait)
    for _ in range(4):
        warm()
    if said:
        raise RuntimeError(said[-1])
    device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    pools = (cupy.get_default_memory_pool(), recorder.pool)
    return Ready(
        plain if eager else replayed,
        wait,
        lambda: sum(pool.total_bytes() for pool in pools) / 2**20,
        first,
        {"cupy": cupy.__version__, "gpu": device} | cudnn_versions(),
    )


def cudnn_versions() -> dict[str, str]:
    """Of cuDNN and its frontend, if they are there."""
    try:
        import cudnn
    except ImportError:
        return {"cudnn": "not installed"}
    return {
        "cudnn": str(cudnn.backend_version()),
        "cudnn-frontend": str(cudnn.__version__),
    }


def pytorch(network: str, batch: int, size: int, precision: str, kind: str) -> Ready:
    """Channels last, `cudnn.benchmark`, fused SGD; eager, as a graph, or compiled."""
    import torch

    from benchmarks.peers import Peer

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
    peer = Peer(models.build_model(network, image_size=size), channels_last=True)
    trained = {id(p) for p in peer.parameters}
    names = [name for name, p in peer.p.items() if id(p) in trained]
    peer.p = {name: p.detach().cuda() for name, p in peer.p.items()}
    peer.parameters = [peer.p[name].requires_grad_() for name in names]
    drawn, classes = batch_of(batch, size)
    images = torch.from_numpy(drawn).cuda().to(memory_format=torch.channels_last)
    labels = torch.from_numpy(classes).cuda()
    optimizer = torch.optim.SGD(
        peer.parameters, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True
    )
    mixed = precision == "bfloat16"

    def compute(x: Any) -> Any:
        # Without its cache autocast casts anew in each step, which a graph needs.
        with torch.autocast(
            "cuda", torch.bfloat16, enabled=mixed, cache_enabled=kind != "torch-graph"
        ):
            return torch.nn.functional.cross_entropy(peer(x), labels)

    forward = torch.compile(compute) if kind == "torch-compile" else compute

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward(images).backward()
        optimizer.step()

    run: Callable[[], object] = step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        first = seconds_of(step, torch.cuda.synchronize)
        for _ in range(4):
            step()
    torch.cuda.current_stream().wait_stream(side)
    if kind == "torch-graph":
        graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            forward(images).backward()
            optimizer.step()
        run = graph.replay
    return Ready(
        run,
        torch.cuda.synchronize,
        lambda: torch.cuda.max_memory_reserved() / 2**20,
        first,
        {
            "torch": torch.__version__,
            "torch-cudnn": str(torch.backends.cudnn.version()),
        },
    )


def build(peer: str, network: str, batch: int, size: int, precision: str) -> Ready:
    """The peer of that name, warmed up."""
    if peer.startswith("tinyflow"):
        return tinyflow(network, batch, size, precision, peer == "tinyflow-eager")
    return pytorch(network, batch, size, precision, peer)


def seconds_of(
    step: Callable[[], object], wait: Callable[[], object], steps: int = 1
) -> float:
    """Seconds of `steps` steps, the wait at the end included."""
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return time.perf_counter() - start


def timed(ready: Ready, steps: int) -> float:
    """Of steps of a peer."""
    return seconds_of(ready.step, ready.wait, steps)


def serve(peer: str, network: str, batch: str, size: str, precision: str) -> None:
    """Answer lines until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    ready, steps = None, 1
    with suppress(Exception):  # that it cannot be loaded is an answer, later
        import_module("torch" if peer.startswith("torch") else "cupy")
    for line in sys.stdin:
        try:
            if ready is None:
                ready = build(peer, network, int(batch), int(size), precision)
                steps = max(1, round(ROUND / (timed(ready, 3) / 3)))
                answer: dict[str, Any] = {
                    "versions": ready.versions,
                    "first_s": ready.first,
                }
            elif line.strip() == "memory":
                answer = {"mib": ready.mib()}
            else:
                answer = {"ms": timed(ready, steps) / steps * 1e3}
        except Exception as error:  # whatever it is, the parent goes on without us
            text = str(error).strip().split("\n")[0]
            answer = {"error": f"{type(error).__name__}: {text}"[:300]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
