"""DenseNet-BC (Huang et al. 2017, arXiv:1608.06993).

Table 1 of the paper, growth rate k = 32; DenseNet-121 is the fourth network of Noh
2021, Table A1. Each layer reads the *stack* of earlier maps, so every (source →
consumer) pair is an edge of its own. Parameter names are torchvision's. Initial weights
are He-normal with fan-in, as there.
"""

from __future__ import annotations

import math
from functools import partial

from tinyflow import nn, ops
from tinyflow.network import Network
from tinyflow.ops.stack import ChannelStack
from tinyflow.tape import mark
from tinyflow.tensor import Tensor

GROWTH = 32  # k: channels each layer adds
BOTTLENECK = 4  # the 1x1 convolution of a layer is 4k wide
COMPRESSION = 0.5  # θ: what a transition keeps
LAYERS = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}


def conv(cin: int, cout: int, kernel: int, rng: nn.Rng, stride: int = 1) -> nn.Conv2d:
    """A bias-free convolution that keeps the size at stride 1, He-normal by fan-in."""
    return nn.Conv2d(
        cin,
        cout,
        kernel,
        stride=stride,
        padding=kernel // 2,
        bias=False,
        fan="in",
        rng=rng,
    )


class DenseLayer(nn.Module):
    """H([x₀, …, xₗ₋₁]) = 3x3(relu(bn(1x1(relu(bn(concat)))))): k new channels.

    Dropout follows each convolution but the stem (section 4.2 of the paper).
    """

    def __init__(self, cin: int, rng: nn.Rng, dropout: float = 0.0) -> None:
        self.norm1 = nn.BatchNorm2d(cin)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(cin, BOTTLENECK * GROWTH, 1, rng)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * GROWTH)
        self.relu2 = nn.ReLU()
        self.conv2 = conv(BOTTLENECK * GROWTH, GROWTH, 3, rng)
        self.drop1 = nn.Dropout(dropout, rng=rng)
        self.drop2 = nn.Dropout(dropout, rng=rng)

    def forward(self, maps: ChannelStack) -> Tensor:
        """Earlier maps, each (N, Cᵢ, H, W) → (N, k, H, W)."""
        x = maps.read()  # [x₀ | x₁ | …]
        x = self.drop1(self.conv1(self.relu1(self.norm1(x))))
        y: Tensor = self.drop2(self.conv2(self.relu2(self.norm2(x))))
        return y


class DenseBlock(nn.Module):
    """x₀ and the new maps x₁ … xₗ of its layers, each reading all before it."""

    def __init__(
        self, cin: int, layers: int, rng: nn.Rng, dropout: float = 0.0
    ) -> None:
        for i in range(layers):
            layer = DenseLayer(cin + i * GROWTH, rng, dropout)
            setattr(self, f"denselayer{i + 1}", layer)
        self.channels = cin + layers * GROWTH

    def forward(self, x: Tensor) -> ChannelStack:
        """(N, C, H, W) → the maps; whoever reads them sees the concatenation."""
        maps = ChannelStack(mark(x, "x0"), self.channels)
        for i, (_, layer) in enumerate(self.children()):
            maps.append(mark(layer(maps), f"x{i + 1}"))
        return maps


class Transition(nn.Module):
    """Between dense blocks: 1x1 convolution to half the channels, 2x2 average."""

    def __init__(self, cin: int, cout: int, rng: nn.Rng, dropout: float = 0.0) -> None:
        self.norm = nn.BatchNorm2d(cin)
        self.relu = nn.ReLU()
        self.conv = conv(cin, cout, 1, rng)
        self.drop = nn.Dropout(dropout, rng=rng)
        self.pool = nn.AvgPool2d(2)

    def forward(self, maps: ChannelStack) -> Tensor:
        """Maps of a block → (N, C/2, H/2, W/2)."""
        x = maps.read()
        y: Tensor = self.pool(self.drop(self.conv(self.relu(self.norm(x)))))
        return y


class Features(nn.Module):
    """Stem, dense blocks and transitions, and the final normalisation."""

    def __init__(
        self, layers: tuple[int, ...], in_channels: int, dropout: float, rng: nn.Rng
    ) -> None:
        cin = 2 * GROWTH
        self.conv0 = conv(in_channels, cin, 7, rng, stride=2)
        self.norm0 = nn.BatchNorm2d(cin)
        self.relu0 = nn.ReLU()
        self.pool0 = nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = len(layers)
        for i, count in enumerate(layers, 1):
            if i > 1:
                kept = int(cin * COMPRESSION)
                setattr(self, f"transition{i - 1}", Transition(cin, kept, rng, dropout))
                cin = kept
            setattr(self, f"denseblock{i}", DenseBlock(cin, count, rng, dropout))
            cin += count * GROWTH
        self.norm5 = nn.BatchNorm2d(cin)
        self.channels = cin

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) → (N, channels, S/32, S/32)."""
        x = self.pool0(self.relu0(self.norm0(self.conv0(x))))
        for i in range(1, self.blocks):
            maps = getattr(self, f"denseblock{i}")(x)
            x = getattr(self, f"transition{i}")(maps)
        maps = getattr(self, f"denseblock{self.blocks}")(x)
        y: Tensor = self.norm5(maps.read())
        return y


class DenseNet(nn.Module):
    """A DenseNet-BC.

    Args:
        depth: 121, 169, 201 or 264.
        dropout: probability, after each convolution but the stem; the paper's on
            images that are not augmented is 0.2.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        depth: int,
        *,
        dropout: float = 0.0,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        self.features = Features(LAYERS[depth], in_channels, dropout, rng)
        cin = self.features.channels
        self.classifier = nn.Linear(
            cin, num_classes, std=1 / math.sqrt(3 * cin), rng=rng
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        x = ops.relu(self.features(x))
        logits: Tensor = self.classifier(ops.global_avg_pool2d(x))
        return logits


_row = partial(Network, adam_lr=1e-3, paper="Huang et al. 2017")
NETWORKS = [
    _row(f"densenet{depth}", partial(DenseNet, depth), 224, smallest=29)
    for depth in LAYERS
]
