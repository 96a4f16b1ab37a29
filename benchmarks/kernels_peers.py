"""The calls that ``benchmarks/kernels.py`` times, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.layers import Layer

Calls = dict[str, Callable[[], Any]]


def torch_map_calls(torch: Any, c: int, size: int, batch: int, form: Any) -> Calls:
    """Those of batch normalisation's parts that PyTorch has."""
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


def torch_pool_calls(torch: Any, batch: int, pool: tuple[int, ...], form: Any) -> Calls:
    """A maximum over windows and its gradient."""
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


def torch_sgd_calls(torch: Any, layers: list[Layer], form: Any) -> Calls:
    """A step with momentum and weight decay, fused."""
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
    """The three passes of a convolution."""
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


def import_torch() -> Any:
    """PyTorch, or None with a note."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: tinyflow's times only.")
        return None
    return torch
