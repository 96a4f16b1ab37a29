"""Branches side by side: how the blocks of the Inception papers are written down here.

A block is a string, ``name: what follows what | …``, as the papers' figures have it
from left to right::

    "1x1: 64 | 5x5: 48 64@5 | pool: avg 32"

``64`` is a 1x1 convolution with 64 outputs, ``64@5`` a 5x5, ``192@1x7`` one that is
seven wide; ``/2`` sets the stride, ``V`` leaves the border out (the papers' "V").
``avg`` and ``max`` are 3x3 pools of stride 1; ``max/2V`` halves the size, ``max/2C``
does and rounds up. In brackets stand branches of a branch:
``384 (1x3: 256@1x3 | 3x1: 256@3x1)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from tinyflow import nn, ops
from tinyflow.heads import Heads, Output
from tinyflow.tape import mark
from tinyflow.tensor import Tensor, fork

Unit = Callable[..., nn.Module]
"""Makes a convolution with what follows it: (cin, cout, kernel, stride, padding)."""

WORD = re.compile(r"(avg|max|\d+)(?:@(\d+)(?:x(\d+))?)?(?:/(\d))?([VC]?)$")


class Branches(nn.Module):
    """Several sequences of layers, whose outputs are concatenated along the channels.

    Args:
        text: the branches.
        cin: channels of their input.
        unit: makes their convolutions.
        border: whether an average over a border counts its zeros.

    Attributes:
        labels: their names.
        channels: of all their outputs together.
    """

    def __init__(self, text: str, cin: int, unit: Unit, border: bool = False) -> None:
        self.labels, self.channels = [], 0
        branches = []
        for part in _split(text):
            label, layers = part.split(":", 1)
            branch, cout = _sequence(layers, cin, unit, border)
            branches.append(branch)
            self.labels.append(label.strip())
            self.channels += cout
        self.branches = nn.ModuleList(branches)

    def forward(self, *handles: Tensor) -> Tensor:
        """A handle of one input (N, cin, H, W) per branch → (N, channels, H', W')."""
        found = [b(x) for b, x in zip(self.branches, handles, strict=True)]
        return ops.concat(found, 1)


class Mixed(nn.Module):
    """y = H = the branches of x side by side, each with an edge of its name into x."""

    def __init__(self, text: str, cin: int, unit: Unit, border: bool = False) -> None:
        self.side = Branches(text, cin, unit, border)

    @property
    def channels(self) -> int:
        """Of the output."""
        return self.side.channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, channels, H', W')."""
        return mark(self.side(*fork(x, *self.side.labels)), "H")


class Inner(nn.Module):
    """Branches at the end of a branch."""

    def __init__(self, side: Branches) -> None:
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, channels, H, W)."""
        y: Tensor = self.side(*fork(x, *self.side.labels))
        return y


def _split(text: str) -> list[str]:
    """The branches of a text; those in brackets stay together."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _sequence(
    text: str, cin: int, unit: Unit, border: bool
) -> tuple[nn.Sequential, int]:
    """The layers of one branch, and their number of outputs."""
    before, bracket, inside = text.strip().partition("(")
    layers: list[nn.Module] = []
    for word in before.split():
        found = WORD.match(word)
        if found is None:
            raise ValueError(f"{word!r} is no layer, in {text!r}")
        what, kh, kw, stride, rest = found.groups()
        kernel = int(kh or (1 if what.isdigit() else 3))
        size = kernel, int(kw or kernel)
        pad = (0, 0) if rest == "V" else (size[0] // 2, size[1] // 2)
        step = int(stride or 1)
        if what == "max":
            pad = (0, 0) if rest == "C" else pad
            layers.append(nn.MaxPool2d(size, step, pad, ceil_mode=rest == "C"))
        elif what == "avg":
            layers.append(nn.AvgPool2d(size, step, pad, count_include_pad=border))
        else:
            layers.append(unit(cin, int(what), size, step, pad))
            cin = int(what)
    if bracket:
        side = Branches(inside.rstrip(") "), cin, unit, border)
        layers.append(Inner(side))
        cin = side.channels
    return nn.Sequential(*layers), cin


def conv_unit(rng: nn.Rng, eps: float = 1e-3) -> Unit:
    """Convolution without bias, batch normalisation, ReLU."""

    def unit(
        cin: int, cout: int, kernel: tuple[int, int], stride: int, pad: tuple[int, int]
    ) -> nn.Module:
        conv = nn.Conv2d(cin, cout, kernel, stride, pad, bias=False, rng=rng)
        return nn.Sequential(conv, nn.BatchNorm2d(cout, eps), nn.ReLU())

    return unit


def chain(text: str, cin: int, unit: Unit) -> tuple[list[nn.Module], int]:
    """Layers one after the other, as of a stem, and their number of outputs."""
    layers, cout = _sequence(text, cin, unit, False)
    return list(layers), cout


class Auxiliary(nn.Module):
    """A classifier on a map in the middle of Inception-v3 and Inception-ResNet-v2.

    Average over 5x5 with stride 3, 1x1 to 128, 5x5 to 768, average, linear layer.
    """

    def __init__(self, cin: int, num_classes: int, unit: Unit, rng: nn.Rng) -> None:
        self.pool = nn.AvgPool2d(5, 3)
        self.conv = nn.Sequential(*chain("128 768@5V", cin, unit)[0])
        self.avgpool = nn.GlobalAvgPool2d()
        self.fc = nn.Linear(768, num_classes, std=0.001, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W), at least 17x17 → logits (N, num_classes)."""
        logits: Tensor = self.fc(self.avgpool(self.conv(self.pool(x))))
        return logits


class Trunk(nn.Module):
    """Layers one after the other, global average, one linear layer.

    Args:
        layers: of the maps.
        channels: of their last output.
        heads: auxiliary classifiers by the number of the layer whose output they read.
        weight: of their losses in training.
        dropout: probability, of the averaged features.
        std: of the last layer's initial weights; None is `nn.Linear`'s own.
        num_classes: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        channels: int,
        heads: Mapping[int, nn.Module] = MappingProxyType({}),
        weight: float = 0.0,
        *,
        dropout: float,
        std: float | None = None,
        num_classes: int,
        rng: nn.Rng,
    ) -> None:
        self.taps, self.weight = tuple(heads), weight
        self.heads = nn.ModuleList(heads.values())
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.GlobalAvgPool2d()
        self.dropout = nn.Dropout(dropout, rng=rng)
        self.fc = nn.Linear(channels, num_classes, std=std, rng=rng)

    def forward(self, x: Tensor) -> Output:
        """Images (N, C, S, S) → logits (N, num_classes); with heads, in training, all.

        See :class:`tinyflow.heads.Heads`.
        """
        reading = dict(zip(self.taps, self.heads, strict=True) if self.training else ())
        found = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in reading:
                found.append(reading[i](x))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x)))
        return Heads(logits, tuple(found), self.weight) if found else logits
