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
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from benchmarks import conv_reference
from tinyflow.kernels.engine import PLAIN
from tinyflow.kernels.geometry import Conv, Window
from tinyflow.kernels.layout import swap
from tinyflow.kernels.native import library
from tinyflow.kernels.plain.scratch import keep_freed_memory
from tinyflow.kernels.table import Engine


class Layer(NamedTuple):
    """A square convolution and how often the network has it."""

    count: int
    c: int
    k: int
    size: int
    kernel: int = 3
    stride: int = 1

    def __str__(self) -> str:
        """Like ``3x3/2 128>128 @8``."""
        step = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}{step} {self.c}>{self.k} @{self.size}"


NETS = {
    "resnet20": [
        Layer(1, 3, 16, 32),
        Layer(6, 16, 16, 32),
        Layer(1, 16, 32, 32, stride=2),
        Layer(5, 32, 32, 16),
        Layer(1, 32, 64, 16, stride=2),
        Layer(5, 64, 64, 8),
    ],
    "resnet50": [
        Layer(1, 3, 64, 32, 7, 2),
        Layer(1, 64, 64, 8, 1),
        Layer(2, 256, 64, 8, 1),
        Layer(3, 64, 64, 8),
        Layer(4, 64, 256, 8, 1),
        Layer(1, 256, 128, 8, 1),
        Layer(3, 512, 128, 4, 1),
        Layer(1, 128, 128, 8, stride=2),
        Layer(3, 128, 128, 4),
        Layer(4, 128, 512, 4, 1),
        Layer(1, 256, 512, 8, 1, 2),
        Layer(1, 512, 256, 4, 1),
        Layer(5, 1024, 256, 2, 1),
        Layer(1, 256, 256, 4, stride=2),
        Layer(5, 256, 256, 2),
        Layer(6, 256, 1024, 2, 1),
        Layer(1, 512, 1024, 4, 1, 2),
        Layer(1, 1024, 512, 2, 1),
        Layer(2, 2048, 512, 1, 1),
        Layer(1, 512, 512, 2, stride=2),
        Layer(2, 512, 512, 1),
        Layer(3, 512, 2048, 1, 1),
        Layer(1, 1024, 2048, 2, 1, 2),
    ],
    "vgg19": [
        Layer(1, 3, 64, 32),
        Layer(1, 64, 64, 32),
        Layer(1, 64, 128, 16),
        Layer(1, 128, 128, 16),
        Layer(1, 128, 256, 8),
        Layer(3, 256, 256, 8),
        Layer(1, 256, 512, 4),
        Layer(3, 512, 512, 4),
        Layer(4, 512, 512, 2),
    ],
}

MAPS = {  # channels and size: a large map and a small one
    "resnet20": [(16, 32), (64, 8)],
    "resnet50": [(256, 8), (2048, 1)],
    "vgg19": [(64, 32), (512, 4)],
}
POOLS = {"resnet50": (64, 16, 3, 2, 1), "vgg19": (64, 32, 2, 2, 0)}
"""Channels, size, kernel, stride and padding of the first maximum."""

SMALL, SMALL_BATCH = Layer(1, 16, 16, 16), 8

PASSES = ("output", "dx", "dw")
Calls = dict[str, Callable[[], Any]]


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


def torch_map_calls(torch: Any, c: int, size: int, batch: int, form: Any) -> Calls:
    """Those of them that PyTorch has."""
    aten = torch.ops.aten
    x = torch.randn(batch, c, size, size).to(memory_format=form)
    g, weight, bias = torch.randn_like(x), torch.ones(c), torch.zeros(c)
    none = (None, None)
    y, mean, invstd = aten.native_batch_norm(x, weight, bias, *none, True, 0.1, 1e-5)
    y = y.relu()
    var = torch.ones(c)

    def forward() -> None:
        aten.native_batch_norm(x, weight, bias, *none, True, 0.1, 1e-5)[0].relu_()

    def normalize() -> None:
        found = aten.native_batch_norm(x, weight, bias, mean, var, False, 0.1, 1e-5)
        found[0].relu_()

    def backward() -> None:
        sent = aten.threshold_backward(g, y, 0)
        saved = (weight, *none, mean, invstd, True, 1e-5, [True, True, True])
        aten.native_batch_norm_backward(sent, x, *saved)

    return {
        "normalize+relu": normalize,
        "bn+relu": forward,
        "bn+relu backward": backward,
        "relu grad": lambda: aten.threshold_backward(g, y, 0),
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


def torch_pool_calls(torch: Any, batch: int, pool: tuple[int, ...], form: Any) -> Calls:
    """The same in PyTorch."""
    c, size, kernel, stride, padding = pool
    how = ([kernel] * 2, [stride] * 2, [padding] * 2, [1, 1], False)
    aten = torch.ops.aten
    x = torch.randn(batch, c, size, size).to(memory_format=form)
    y, indices = aten.max_pool2d_with_indices(x, *how)
    back = aten.max_pool2d_with_indices_backward
    return {
        "max pool": lambda: aten.max_pool2d_with_indices(x, *how),
        "max pool dx": lambda: back(y, x, *how, indices),
    }


def sgd_calls(engine: Engine, layers: list[Layer]) -> Calls:
    """A step with momentum and weight decay on the weights of all convolutions."""
    entries = []
    for layer in layers:
        shape = layer.kernel, layer.kernel, layer.k, layer.c
        entries += [tuple(array(*shape) for _ in "pgb") for _ in range(layer.count)]
    how = {"lr": 1e-6, "decay": 1e-4, "momentum": 0.9, "share": 1, "nesterov": False}
    return {"sgd": lambda: engine.sgd(entries, [how] * len(entries))}


def torch_sgd_calls(torch: Any, layers: list[Layer], form: Any) -> Calls:
    """The same in PyTorch, fused."""
    weights = []
    for layer in layers:
        for _ in range(layer.count):
            w = torch.randn(layer.k, layer.c, layer.kernel, layer.kernel)
            w = w.to(memory_format=form).requires_grad_()
            w.grad = torch.randn_like(w)
            weights.append(w)
    step = torch.optim.SGD(
        weights, lr=1e-6, momentum=0.9, weight_decay=1e-4, fused=True
    ).step
    return {"sgd": step}


def torch_conv_calls(torch: Any, layer: Layer, batch: int, form: Any) -> Calls:
    """The same passes in PyTorch."""
    pair, p = [layer.stride] * 2, [layer.kernel // 2] * 2
    x = torch.randn(batch, layer.c, layer.size, layer.size)
    w = torch.randn(layer.k, layer.c, layer.kernel, layer.kernel)
    x, w = x.to(memory_format=form), w.to(memory_format=form)
    g = torch.conv2d(x, w, stride=pair, padding=p)

    def backward(dx: bool, dw: bool) -> Any:
        return torch.ops.aten.convolution_backward(
            g, x, w, None, pair, p, [1, 1], False, [0, 0], 1, [dx, dw, False]
        )

    return {
        "output": lambda: torch.conv2d(x, w, stride=pair, padding=p),
        "dx": lambda: backward(True, False),
        "dw": lambda: backward(False, True),
    }


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


def import_torch() -> Any:
    """PyTorch, or None with a note."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: tinyflow's times only.")
        return None
    return torch


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
