"""Time the convolution kernels, layer by layer, against PyTorch's on the same CPU.

    python benchmarks/kernels.py                  # all nets, batch 64
    python benchmarks/kernels.py --net resnet50 --batch 128

Each row is one layer shape of a network on 32x32 images: milliseconds of tinyflow and
of PyTorch for the output, the input gradient and the weight gradient, and the ratio of
the sums (above 1, tinyflow is faster). PyTorch runs in both of its memory formats and
each pass counts the faster one. The last row weights layers by how often they occur.

Both libraries' thread pools keep spinning for a while after a call and would slow the
other one down, so every measurement starts with a pause and an untimed call. Set
OPENBLAS_NUM_THREADS before starting to change NumPy's threads. Without PyTorch only
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

from tinyflow.kernels import conv
from tinyflow.kernels.layout import swap


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

PASSES = ("output", "dx", "dw")
Calls = dict[str, Callable[[], Any]]


def tinyflow_calls(layer: Layer, batch: int) -> Calls:
    """The three passes on arrays stored as tinyflow stores them."""
    rng = np.random.default_rng(0)
    p = layer.kernel // 2
    how = ((layer.stride,) * 2, (p,) * 4, (1, 1), 1)

    def array(*buffer_shape: int) -> Any:
        return swap(rng.standard_normal(buffer_shape, dtype=np.float32))

    x = array(layer.size, layer.size, batch, layer.c)
    w = array(layer.kernel, layer.kernel, layer.k, layer.c)
    g = conv.conv2d_forward(x, w, *how)
    return {
        "output": lambda: conv.conv2d_forward(x, w, *how),
        "dx": lambda: conv.conv2d_input_grad(g, w, x.shape, *how),
        "dw": lambda: conv.conv2d_weight_grad(g, x, w.shape, *how),
    }


def torch_calls(torch: Any, layer: Layer, batch: int, memory_format: Any) -> Calls:
    """The same passes in PyTorch."""

    def array(*shape: int) -> Any:
        return torch.randn(shape).to(memory_format=memory_format)

    pair, p = [layer.stride] * 2, [layer.kernel // 2] * 2
    x = array(batch, layer.c, layer.size, layer.size)
    w = array(layer.k, layer.c, layer.kernel, layer.kernel)
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


def compare(
    layer: Layer, batch: int, torch: Any, rounds: int, gap: float, repeat: int
) -> dict[str, list[float]]:
    """Medians in PASSES' order for "tinyflow" and, if given, the faster "torch"."""
    contenders = {"tinyflow": tinyflow_calls(layer, batch)}
    if torch is not None:
        for name in ("contiguous_format", "channels_last"):
            contenders[name] = torch_calls(torch, layer, batch, getattr(torch, name))
    if layer.c == 3:  # nobody asks for the gradient of the images
        for calls in contenders.values():
            del calls["dx"]
    seen: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for _ in range(rounds):
        for name, calls in contenders.items():
            for step, times in measure(calls, gap, repeat).items():
                seen[name].setdefault(step, []).extend(times)
    medians = {
        name: [statistics.median(steps.get(step, [0.0])) for step in PASSES]
        for name, steps in seen.items()
    }
    ours = medians.pop("tinyflow")
    if not medians:
        return {"tinyflow": ours}
    best = [min(times) for times in zip(*medians.values(), strict=True)]
    return {"tinyflow": ours, "torch": best}


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
    torch = import_torch()
    if torch is not None and threads:
        torch.set_num_threads(threads)
    if core := os.environ.get("OPENBLAS_CORETYPE"):
        print(f"note: OPENBLAS_CORETYPE={core} overrides NumPy's choice of kernels")
    for name in NETS if net == "all" else [net]:
        print(f"\n{name}, batch {batch}, float32, ms: output dx dw")
        total: dict[str, list[float]] = {}
        for layer in NETS[name]:
            result = compare(layer, batch, torch, rounds, gap, repeat)
            print_row(f"{layer.count} x {layer}", result)
            for library, times in result.items():
                sums = total.setdefault(library, [0.0] * len(PASSES))
                for i, ms in enumerate(times):
                    sums[i] += layer.count * ms
        print_row("all layers", total)


def print_row(label: str, result: dict[str, list[float]]) -> None:
    """The label, three times per library, and the ratio if there are two."""
    cells = [
        f"{library} " + " ".join(f"{ms:7.2f}" for ms in times)
        for library, times in result.items()
    ]
    if "torch" in result:
        ratio = sum(result["torch"]) / sum(result["tinyflow"])
        each = " ".join(
            f"{b / a:.2f}" if a else "   -"
            for a, b in zip(result["tinyflow"], result["torch"], strict=True)
        )
        cells.append(f"ratio {ratio:.2f} ({each})")
    print(f"{label:26} | " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    typer.run(main)
