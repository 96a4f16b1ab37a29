"""Time the kernels, layer by layer, against PyTorch's on the same CPU.

    python -m benchmarks.kernels                  # all nets, batch 64
    python -m benchmarks.kernels --net resnet50 --batch 128

Each row is one layer shape of a network on 32x32 images: milliseconds of tinyflow on
NumPy alone, of its C kernels where they have been built (python -m tinyflow.native) and
of PyTorch for the output, the input gradient and the weight gradient; after each of our
engines the ratio of PyTorch's sum to its own (above 1, tinyflow is faster). PyTorch
runs in both of its memory formats and each pass counts the faster one. The last row
weights layers by how often they occur.

Below it the other kernels, on the maps of two of the network's layers, and a step of
SGD on the weights of all of its convolutions. PyTorch does not part batch
normalisation as we do, and has no time where it has no such kernel; the rows "bn" put
the parts together. Last come the slow references of the convolutions on one small
shape.

Both libraries' thread pools keep spinning for a while after a call and would slow the
other one down, so every measurement starts with a pause and an untimed call.
TINYFLOW_NUM_THREADS sets the threads of both our engines. Without PyTorch only
tinyflow's columns appear.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from benchmarks import conv_reference
from benchmarks.kernels_peers import (
    Calls,
    import_torch,
    torch_conv_calls,
    torch_map_calls,
    torch_pool_calls,
    torch_sgd_calls,
)
from benchmarks.layers import MAPS, NETS, POOLS, Layer
from tinyflow.kernels.engine import PLAIN
from tinyflow.kernels.geometry import Conv, Window
from tinyflow.kernels.layout import swap
from tinyflow.kernels.native import library
from tinyflow.kernels.plain.scratch import keep_freed_memory
from tinyflow.kernels.table import Engine

SMALL, SMALL_BATCH = Layer(1, 16, 16, 16), 8

PASSES = ("output", "dx", "dw")


def engines() -> dict[str, Engine]:
    """Plain array code and, if it has been built, the C kernels; says which."""
    found, reason = library.load()
    print(reason)
    if found is None:
        return {"numpy": PLAIN}
    from tinyflow.kernels.native.engine import NativeEngine

    return {"numpy": PLAIN, "native": NativeEngine(found)}


def array(*buffer_shape: int) -> Any:
    """Random numbers, stored as tinyflow stores them: (H, W, N, C)."""
    rng = np.random.default_rng(0)
    return swap(rng.standard_normal(buffer_shape, dtype=np.float32))


def conv_calls(engine: Engine, layer: Layer, batch: int) -> Calls:
    """The three passes of a convolution."""
    p = layer.kernel // 2
    how = Conv((layer.stride,) * 2, (p,) * 4, (1, 1), 1)
    x = array(layer.size, layer.size, batch, layer.c)
    w = array(layer.kernel, layer.kernel, layer.k, layer.c)
    g = engine.conv2d(x, w, how)
    return {
        "output": lambda: engine.conv2d(x, w, how),
        "dx": lambda: engine.conv2d_input_grad(g, w, x.shape, how),
        "dw": lambda: engine.conv2d_weight_grad(g, x, w.shape, how),
    }


class Reference(Engine):
    """The slow convolutions that say what the fast ones mean."""

    def conv2d(self, x: Any, w: Any, how: Any, bias: Any = None) -> Any:
        """See :func:`benchmarks.conv_reference.conv2d_forward`."""
        return conv_reference.conv2d_forward(x, w, how)

    def conv2d_input_grad(self, g: Any, w: Any, x_shape: Any, how: Any) -> Any:
        """See :func:`benchmarks.conv_reference.conv2d_input_grad`."""
        return conv_reference.conv2d_input_grad(g, w, x_shape, how)

    def conv2d_weight_grad(self, g: Any, x: Any, w_shape: Any, how: Any) -> Any:
        """See :func:`benchmarks.conv_reference.conv2d_weight_grad`."""
        return conv_reference.conv2d_weight_grad(g, x, w_shape, how)


def map_calls(engine: Engine, c: int, size: int, batch: int) -> Calls:
    """Batch normalisation with its ReLU, in parts and whole, and a ReLU's gradient."""
    x = array(size, size, batch, c)
    g = x[::-1].copy(order="K")
    mean, var = engine.moments(x)
    scale = 1 / np.sqrt(var + 1e-5)
    shift = -mean * scale
    y = engine.normalize(x, scale, shift, relu=True)

    def forward() -> None:
        engine.moments(x)
        engine.normalize(x, scale, shift, relu=True)

    def backward() -> None:
        masked = engine.normalize_sums(g, x, mean, y)[2]
        engine.normalize_input_grad(masked, x, scale, shift, mean)

    return {
        "moments": lambda: engine.moments(x),
        "normalize+relu": lambda: engine.normalize(x, scale, shift, relu=True),
        "bn+relu": forward,
        "relu+sums": lambda: engine.normalize_sums(g, x, mean, y),
        "bn input grad": lambda: engine.normalize_input_grad(g, x, scale, shift, mean),
        "bn+relu backward": backward,
        "relu grad": lambda: engine.relu_grad(g, y),
    }


def pool_calls(engine: Engine, batch: int, pool: tuple[int, ...]) -> Calls:
    """A maximum over windows and its gradient."""
    c, size, kernel, stride, padding = pool
    how = Window((kernel,) * 2, (stride,) * 2, (padding,) * 4)
    x = array(size, size, batch, c)
    y, taps = engine.max_pool2d(x, how)
    return {
        "max pool": lambda: engine.max_pool2d(x, how),
        "max pool dx": lambda: engine.max_pool2d_input_grad(y, taps, x.shape, how),
    }


def sgd_calls(engine: Engine, layers: list[Layer]) -> Calls:
    """A step with momentum and weight decay on the weights of all convolutions."""
    entries = []
    for layer in layers:
        shape = layer.kernel, layer.kernel, layer.k, layer.c
        entries += [tuple(array(*shape) for _ in "pgb") for _ in range(layer.count)]
    how = {
        "lr": 1e-6,
        "decay": 1e-4,
        "momentum": 0.9,
        "dampening": 0,
        "nesterov": False,
    }
    return {"sgd": lambda: engine.sgd(entries, [how] * len(entries))}


def measure(calls: Calls, gap: float, repeat: int) -> dict[str, list[float]]:
    """Milliseconds of each pass, `repeat` times, after a pause and an untimed call."""
    times: dict[str, list[float]] = {}
    for name, call in calls.items():
        time.sleep(gap)
        call()
        times[name] = []
        for _ in range(repeat):
            begin = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - begin) * 1e3)
    return times


class Clock(NamedTuple):
    """How contenders are compared, and who takes part."""

    torch: Any
    ours: dict[str, Engine]
    rounds: int
    gap: float
    repeat: int

    def formats(self) -> dict[str, Any]:
        """PyTorch's memory formats by name; none without PyTorch."""
        names = ("contiguous_format", "channels_last")
        return {n: getattr(self.torch, n) for n in names} if self.torch else {}

    def compare(self, contenders: dict[str, Calls]) -> dict[str, dict[str, float]]:
        """Medians of every call by contender, PyTorch's faster format as "torch"."""
        seen: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
        for _ in range(self.rounds):
            for name, calls in contenders.items():
                for step, times in measure(calls, self.gap, self.repeat).items():
                    seen[name].setdefault(step, []).extend(times)
        medians = {
            name: {step: statistics.median(times) for step, times in steps.items()}
            for name, steps in seen.items()
        }
        theirs = [medians.pop(name) for name in self.formats()]
        if theirs:
            best = {step: min(t[step] for t in theirs) for step in theirs[0]}
            medians["torch"] = best
        return medians

    def conv(
        self, layer: Layer, batch: int, reference: bool = False
    ) -> dict[str, list[float]]:
        """Medians of a convolution in PASSES' order."""
        contenders = {n: conv_calls(e, layer, batch) for n, e in self.ours.items()}
        if reference:
            contenders["reference"] = conv_calls(Reference(), layer, batch)
        for name, form in self.formats().items():
            contenders[name] = torch_conv_calls(self.torch, layer, batch, form)
        if layer.c == 3:  # nobody asks for the gradient of the images
            for calls in contenders.values():
                del calls["dx"]
        found = self.compare(contenders)
        return {
            name: [times.get(step, 0.0) for step in PASSES]
            for name, times in found.items()
        }

    def others(self, net: str, batch: int) -> None:
        """Rows of the kernels that are no convolutions."""
        ours, forms, torch = self.ours.items(), self.formats().items(), self.torch
        for c, size in MAPS[net]:
            calls = {name: map_calls(e, c, size, batch) for name, e in ours}
            for name, form in forms:
                calls[name] = torch_map_calls(torch, c, size, batch, form)
            self.print_others(f"{c} @{size}", calls)
        if net in POOLS:
            pool = POOLS[net]
            calls = {name: pool_calls(e, batch, pool) for name, e in ours}
            for name, form in forms:
                calls[name] = torch_pool_calls(torch, batch, pool, form)
            c, size, kernel, stride, _ = pool
            self.print_others(f"{kernel}x{kernel}/{stride} {c} @{size}", calls)
        layers = NETS[net]
        calls = {name: sgd_calls(e, layers) for name, e in ours}
        for name, form in forms:
            calls[name] = torch_sgd_calls(torch, layers, form)
        self.print_others("all weights", calls)

    def print_others(self, label: str, contenders: dict[str, Calls]) -> None:
        """A row for every call."""
        found = self.compare(contenders)
        for step in found["numpy"]:
            times = {n: [t[step]] if step in t else [] for n, t in found.items()}
            print_row(f"{step} {label}", times)


def main(
    net: Annotated[str, typer.Option(help="a network, or all")] = "all",
    batch: Annotated[int, typer.Option(help="images per call")] = 64,
    rounds: Annotated[int, typer.Option(help="turns of each library per layer")] = 2,
    repeat: Annotated[int, typer.Option(help="timed calls per turn")] = 5,
    gap: Annotated[float, typer.Option(help="seconds of pause before a turn")] = 0.12,
    threads: Annotated[int, typer.Option(help="PyTorch's threads; 0: its choice")] = 0,
) -> None:
    """Print one table per network."""
    if net != "all" and net not in NETS:
        raise typer.BadParameter(f"choose all or one of {', '.join(NETS)}")
    keep_freed_memory()
    torch = import_torch()
    if torch is not None and threads:
        torch.set_num_threads(threads)
    if core := os.environ.get("OPENBLAS_CORETYPE"):
        print(f"note: OPENBLAS_CORETYPE={core} overrides NumPy's choice of kernels")
    clock = Clock(torch, engines(), rounds, gap, repeat)
    for name in NETS if net == "all" else [net]:
        print(f"\n{name}, batch {batch}, float32, ms: output dx dw")
        total: dict[str, list[float]] = {}
        for layer in NETS[name]:
            result = clock.conv(layer, batch)
            print_row(f"{layer.count} x {layer}", result)
            for who, times in result.items():
                sums = total.setdefault(who, [0.0] * len(PASSES))
                for i, ms in enumerate(times):
                    sums[i] += layer.count * ms
        print_row("all layers", total)
        print(f"\n{name}, batch {batch}, float32, ms: other kernels")
        clock.others(name, batch)
    print(f"\nslow reference, batch {SMALL_BATCH}, float32, ms: output dx dw")
    print_row(str(SMALL), clock.conv(SMALL, SMALL_BATCH, reference=True))


def print_row(label: str, result: dict[str, list[float]]) -> None:
    """The label, the times of each contender, and how many times faster ours are."""
    theirs = sum(result.get("torch", []))
    cells = []
    for name, times in result.items():
        cell = f"{name} " + (" ".join(f"{ms:8.3f}" for ms in times) or f"{'-':>8}")
        if "torch" in result and name != "torch":
            ratio = f"{theirs / sum(times):.2f}" if theirs else "-"
            cell += f" ratio {ratio:>5}"
        cells.append(cell)
    print(f"{label:30} | " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    typer.run(main)
