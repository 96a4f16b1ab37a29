"""Modules: parameters with names, and layers that call the operators.

A module's attribute names spell its path, ``layer3.2.conv1``; while a tape is active
everything a module records is named below that path, ``tape["layer3.2.conv1"]`` is its
output and ``tape["layer3.2.in"]`` its (first) input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np

from tinyflow import ops
from tinyflow.backend import Array, asarray, device_of
from tinyflow.kernels.engine import engine
from tinyflow.kernels.hooks import Moments
from tinyflow.kernels.layout import swap, to_hwnc
from tinyflow.ops.conv import Padding, Pair, pair
from tinyflow.ops.elementwise import gated
from tinyflow.ops.stack import ChannelStack
from tinyflow.tape import active_tape, fusing, mark
from tinyflow.tensor import Tensor, fork

Rng: TypeAlias = np.random.Generator | None
"""Where initial weights are drawn; None leaves them zero (to count, or to load)."""


class Module:
    """A part of a network: parameters, buffers and child modules, by attribute name.

    Subclasses define ``forward``; calling the module runs it under its own name.
    """

    training: bool = True
    path: str = ""
    name: str = ""

    def forward(self, *args: Any) -> Any:
        """Compute the module's output; defined by every subclass."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def __call__(self, *args: Any) -> Any:
        """Run ``forward`` under this module's name."""
        tape = active_tape()
        if tape is None:
            return self.forward(*args)
        if tape.at_root():  # whoever is called first is the root of the names
            self._spell_paths()
        path = tape.unique(self.path)
        if args and isinstance(args[0], Tensor):
            tape.names[f"{path}.in" if path else "in"] = args[0].node
        with tape.scope(path):
            out = self.forward(*args)
        if isinstance(out, Tensor):
            tape.names[path or "out"] = out.node
        return out

    def _spell_paths(self) -> None:
        for path, module in self.named_modules():
            module.path = path
        for path, parameter in self.named_parameters():
            parameter.node.name = path

    def children(self) -> Iterator[tuple[str, Module]]:
        """(attribute name, module) of each direct child, in order of definition."""
        for name, attribute in vars(self).items():
            if isinstance(attribute, Module):
                yield name, attribute

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and everything below it."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(path, tensor) of every trainable tensor, e.g. ``layer1.0.conv1.weight``."""
        yield from self._named(lambda a: isinstance(a, Tensor))

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """(path, array) of the running statistics: state that is not trained."""
        yield from self._named(
            lambda a: (
                not isinstance(a, Module)
                and hasattr(a, "dtype")
                and hasattr(a, "shape")
                and not isinstance(a, Tensor)
            )
        )

    def _named(self, wanted: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
        for path, module in self.named_modules():
            for name, attribute in vars(module).items():
                if wanted(attribute):
                    yield (f"{path}.{name}" if path else name), attribute

    def parameters(self) -> list[Tensor]:
        """Every trainable tensor, in order of definition."""
        return [p for _, p in self.named_parameters()]

    def train(self, mode: bool = True) -> Module:
        """Training mode (batch statistics, dropout) for this module and all below."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Evaluation mode: running statistics, no dropout."""
        return self.train(False)

    def to(self, device: str | None = None, dtype: str | None = None) -> Module:
        """Move parameters and buffers to a device ("cpu", "cuda") and/or a dtype."""
        for _, module in self.named_modules():
            for name, attribute in vars(module).items():
                data = attribute.data if isinstance(attribute, Tensor) else attribute
                if isinstance(data, Module) or not hasattr(data, "dtype"):
                    continue
                moved = data if device is None else asarray(data, device)
                moved = moved if dtype is None else moved.astype(dtype)
                moved = engine(moved).store(moved)
                if isinstance(attribute, Tensor):
                    moved = Tensor(moved, attribute.requires_grad, attribute.node.name)
                setattr(module, name, moved)
        return self

    def state_dict(self) -> dict[str, Array]:
        """Parameters and buffers by path: the arrays themselves, not copies."""
        state = {path: p.data for path, p in self.named_parameters()}
        state.update(self.named_buffers())
        return state

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Copy values into the parameters and buffers, which must match exactly.

        Raises:
            ValueError: a name is missing or unknown, or a shape differs; nothing has
                been copied then.
        """
        own = self.state_dict()
        missing, extra = sorted(own.keys() - state), sorted(state.keys() - own)
        if missing or extra:
            raise ValueError(
                "these weights are not this model's: "
                f"missing {missing[:3]}, unknown {extra[:3]}"
            )
        for name, array in own.items():
            if state[name].shape != array.shape:
                raise ValueError(
                    f"{name}: the file has shape {state[name].shape}, the model "
                    f"{array.shape}"
                )
        for name, array in own.items():
            array[...] = asarray(state[name], device_of(array))


class Sequential(Module):
    """Modules run one after the other, named 0, 1, 2 … or by the given names.

    Where nobody looks, a normalisation and the ReLU behind it run as one.
    """

    def __init__(self, *modules: Module, **named: Module) -> None:
        for i, module in enumerate(modules):
            setattr(self, str(i), module)
        for name, module in named.items():
            setattr(self, name, module)

    def __iter__(self) -> Iterator[Module]:
        return (child for _, child in self.children())

    def forward(self, x: Tensor) -> Tensor:
        """Run every child in order."""
        y: Tensor = chain(self, x)
        return y


class Identity(Module):
    """y = x; nothing is recorded."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` itself."""
        return x


class Conv2d(Module):
    """Convolution layer, weights He-normal: N(0, 2/fan) (He et al. 2015, section 2.2).

    Args:
        in_channels, out_channels: C and K.
        kernel_size, stride, padding, dilation, groups: see :func:`tinyflow.ops.conv2d`.
        bias: whether to add one per output channel (initialised to zero).
        fan: "out" (K kh kw) keeps the size of gradients, "in" (C kh kw) that of values.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        fan: Literal["in", "out"] = "out",
        rng: Rng,
    ) -> None:
        kh, kw = pair(kernel_size, "kernel_size", 1)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{in_channels} input and {out_channels} output channels cannot be "
                f"split into {groups} groups"
            )
        shape = (out_channels, in_channels // groups, kh, kw)
        channels = in_channels if fan == "in" else out_channels
        std = math.sqrt(2 / (channels // groups * kh * kw))
        weight = normal(rng, shape, std)
        # Shape (K, C/groups, kh, kw), stored as the kernels read it.
        self.weight = Tensor(swap(to_hwnc(weight.data)), requires_grad=True)
        self.bias = zeros(out_channels) if bias else None
        self.stride, self.padding = stride, padding
        self.dilation, self.groups = dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, K, H', W')."""
        return ops.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class Linear(Module):
    """y = x Wᵀ + b, weights normal with the given standard deviation, zero bias."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        std: float | None = None,
        rng: Rng,
    ) -> None:
        std = 1 / math.sqrt(in_features) if std is None else std
        self.weight = normal(rng, (out_features, in_features), std)
        self.bias = zeros(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) → (..., out_features)."""
        return ops.linear(x, self.weight, self.bias)


class BatchNorm2d(Module):
    """Batch normalisation over (N, H, W), see :func:`tinyflow.ops.batch_norm`."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        self.weight = ones(num_features) if affine else None
        self.bias = zeros(num_features) if affine else None
        self.running_mean = np.zeros(num_features, np.float32)
        self.running_var = np.ones(num_features, np.float32)
        self.eps, self.momentum = eps, momentum

    def forward(
        self,
        x: Tensor,
        relu: bool = False,
        residual: Tensor | None = None,
        moments: Moments | None = None,
    ) -> Tensor:
        """(N, C, H, W) → the same shape; training updates the running statistics."""
        return ops.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            relu=relu,
            residual=residual,
            moments=moments,
        )


class ReLU(Module):
    """y = max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`tinyflow.ops.relu`."""
        return ops.relu(x)


class MaxPool2d(Module):
    """Maximum over windows, see :func:`tinyflow.ops.max_pool2d`."""

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H', W')."""
        return ops.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(Module):
    """Average over windows, see :func:`tinyflow.ops.avg_pool2d`."""

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0
    ) -> None:
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H', W')."""
        return ops.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class GlobalAvgPool2d(Module):
    """Average of each map: (N, C, H, W) → (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`tinyflow.ops.global_avg_pool2d`."""
        return ops.global_avg_pool2d(x)


class Flatten(Module):
    """(N, …) → (N, everything else)."""

    def forward(self, x: Tensor) -> Tensor:
        """See :func:`tinyflow.ops.flatten`."""
        return ops.flatten(x, 1)


class Dropout(Module):
    """Dropout with its own generator, see :func:`tinyflow.ops.dropout`."""

    def __init__(self, p: float = 0.5, *, rng: Rng) -> None:
        self.p = p
        self.generator = None if rng is None else rng.spawn(1)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries in training; the identity in evaluation."""
        return ops.dropout(x, self.p, self.training, self.generator)


class SqueezeExcitation(Module):
    """Channel gates: y = s ⊙ x, s = σ(W₂ relu(W₁ mean(x) + b₁) + b₂) (Hu et al. 2018).

    The input is forked into its two uses, so that ∂L/∂x is the sum of two named edges:
    "scale", s ⊙ g, and "squeeze", what comes back through the gate.

    Args:
        channels: C.
        squeezed: width of the bottleneck, C / r.
        rng: where the initial weights come from.
    """

    def __init__(self, channels: int, squeezed: int, *, rng: Rng) -> None:
        self.fc1 = Conv2d(channels, squeezed, 1, rng=rng)
        self.fc2 = Conv2d(squeezed, channels, 1, rng=rng)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) → the same shape; with a residual r, relu(y + r)."""
        scale, squeeze = fork(x, "scale", "squeeze")
        z = ops.mean(squeeze, dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        z = self.fc2(ops.relu(self.fc1(z)))
        if fusing() and engine(z.data).mixed:  # a GPU does all of it in one pass
            return gated(scale, z, residual)
        y = ops.mul(scale, ops.sigmoid(z))
        return y if residual is None else ops.relu(ops.add(y, residual))


def norm_relu(norm: BatchNorm2d, x: Tensor, name: str = "") -> Tensor:
    """relu(norm(x)), one pass over memory where nobody looks in between.

    `name`, if given, marks norm(x).
    """
    if fusing():
        return norm.forward(x, relu=True)
    h = norm(x)
    return ops.relu(mark(h, name) if name else h)


def stack_norm_relu(norm: BatchNorm2d, maps: ChannelStack, relu: Module) -> Tensor:
    """relu(norm([x₀ | x₁ | …])): each map is read where it lies and measured once."""
    if fusing():
        return norm.forward(maps.read(), True, None, maps.moments)
    y: Tensor = relu(norm(maps.read(), False, None, maps.moments))
    return y


def add_relu(
    norm: BatchNorm2d, x: Tensor, shortcut: Tensor, gate: Module | None = None
) -> Tensor:
    """relu(H) with H = gate(norm(x)) + shortcut, marked "H".

    As few passes over memory as the engine allows where nobody looks in between.
    """
    if (gate is None or isinstance(gate, Identity)) and fusing():
        return norm.forward(x, relu=True, residual=shortcut)
    if isinstance(gate, SqueezeExcitation) and fusing():
        return gate.forward(norm(x), shortcut)
    f = norm(x) if gate is None else gate(norm(x))
    return ops.relu(mark(ops.add(f, shortcut), "H"))


def chain(modules: Iterable[Module], x: Any) -> Any:
    """Run modules in order; where nobody looks, BatchNorm2d and ReLU as one."""
    waiting: BatchNorm2d | None = None
    fused = fusing()
    for module in modules:
        if waiting is not None and isinstance(module, ReLU):
            x, waiting = norm_relu(waiting, x), None
            continue
        if waiting is not None:
            x, waiting = waiting(x), None
        if fused and isinstance(module, BatchNorm2d):
            waiting = module
        else:
            x = module(x)
    return x if waiting is None else waiting(x)


def normal(rng: Rng, shape: Iterable[int], std: float) -> Tensor:
    """A float32 parameter drawn from N(0, std²)."""
    if rng is None:
        return Tensor(np.zeros(tuple(shape), np.float32), requires_grad=True)
    draw = rng.standard_normal(tuple(shape), dtype=np.float32)
    draw *= np.float32(std)
    return Tensor(draw, requires_grad=True)


def zeros(n: int) -> Tensor:
    """A float32 parameter of n zeros."""
    return Tensor(np.zeros(n, np.float32), requires_grad=True)


def ones(n: int) -> Tensor:
    """A float32 parameter of n ones."""
    return Tensor(np.ones(n, np.float32), requires_grad=True)
