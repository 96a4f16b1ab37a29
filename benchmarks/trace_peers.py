"""One way of benchmarks/trace.py to look at a backward pass in PyTorch, in a process.

    python -m benchmarks.trace_peers hooks resnet20 64

Ways: "plain" keeps no gradient but the parameters'; "hooks" calls ``retain_grad()`` on
every tensor that a PyTorch function returns; "torchlens" is TorchLens with activations
and gradients. Answers a number n with the milliseconds of n calls of forward + backward
after an untimed one and how many gradients of intermediate tensors a call recorded, and
"peak" with how far resident memory has risen above what it was before the network was
built, libraries loaded and TorchLens used once.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import models
from benchmarks.cpu_peers import data, resident_mb
from benchmarks.peers import Peer
from tinyflow.train.metrics import peak_memory_mb

Call = Callable[[], tuple[object, int]]
"""Forward + backward: whatever holds the gradients, and their number."""


class Keep(TorchFunctionMode):
    """Keeps every tensor computed inside it, and has it keep its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call `func` and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(x, torch.Tensor) and x.grad_fn is not None:
                x.retain_grad()
                self.kept.append(x)
        return result


class Module(torch.nn.Module):
    """The peer with its tensors registered, so that TorchLens knows whose they are."""

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.peer = peer
        for name, tensor in peer.p.items():
            key = name.replace(".", "_")
            if tensor.requires_grad:
                peer.p[name] = torch.nn.Parameter(tensor.detach())
                self.register_parameter(key, peer.p[name])
            else:
                self.register_buffer(key, tensor)
        peer.parameters = list(self.parameters())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits."""
        logits: torch.Tensor = self.peer(images)
        return logits


def build(way: str, name: str, batch: int) -> Call:
    """What one call does, given the way of looking."""
    peer = Peer(models.build_model(name))
    images, labels = (torch.from_numpy(array) for array in data(batch, 32))

    def forget() -> None:
        for parameter in peer.parameters:
            parameter.grad = None

    def plain() -> tuple[object, int]:
        forget()
        F.cross_entropy(peer(images), labels).backward()
        return None, 0

    def hooks() -> tuple[object, int]:
        forget()
        with Keep() as mode:
            loss = F.cross_entropy(peer(images), labels)
        loss.backward()
        return mode.kept, sum(x.grad is not None for x in mode.kept)

    if way != "torchlens":
        return {"plain": plain, "hooks": hooks}[way]
    module = Module(peer)

    def lens() -> tuple[object, int]:
        forget()
        trace = log(module, images, labels)
        return trace, trace.num_saved_grad_ops

    return lens


def log(module: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Any:
    """TorchLens's trace of a forward and a backward pass."""
    import torchlens

    options = torchlens.options.CaptureOptions(save_grads=True)
    trace = torchlens.trace(module, images, capture=options)
    logits = trace[trace.output_layers[0]].out
    trace.log_backward(F.cross_entropy(logits, labels))
    return trace


def timed(call: Call, count: int) -> dict[str, Any]:
    """Milliseconds of `count` calls, garbage collected in between, not in them."""
    call()
    times, gradients = [], 0
    for _ in range(count):
        gc.collect()
        start = time.perf_counter()
        held, gradients = call()
        times.append((time.perf_counter() - start) * 1e3)
        del held
    return {"ms": times, "gradients": gradients}


def serve(way: str, name: str, batch: str) -> None:
    """Answer lines until there are no more."""
    call = None
    for line in sys.stdin:
        try:
            if call is None:
                if way == "torchlens":  # most of it is loaded by its first trace
                    log(torch.nn.Linear(2, 2), torch.ones(2, 2), torch.tensor([0, 1]))
                before = resident_mb()
                call = build(way, name, int(batch))
            if line.strip() == "peak":
                answer = {"mb": peak_memory_mb() - before}
            else:
                answer = timed(call, int(line))
        except Exception as error:  # TorchLens: whatever another version does not have
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
