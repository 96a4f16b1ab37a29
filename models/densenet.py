"""DenseNet and DenseNet-BC (Huang et al. 2017, arXiv:1608.06993).

Table 1 of the paper for ImageNet, all of the BC kind: DenseNet-121 is the fourth
network of Noh 2021, Table A1. Section 4.1 and Table 2 for CIFAR: ``densenet100_12`` has
100 weighted layers and growth rate 12, ``densenet_bc100_12`` has bottlenecks and
compressing transitions besides. Each layer reads the *stack* of earlier maps, so every
(source → consumer) pair is an edge of its own. Parameter names are torchvision's.
Initial weights are He-normal with fan-in, as there.
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
COMPRESSION = 0.5  # θ: what a transition of the BC kind keeps
LAYERS = {  # for ImageNet, of each dense block
    121: (6, 12, 24, 16),
    161: (6, 12, 36, 24),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
}
WIDER = {161: 48}  # k where it is not 32
CIFAR = {  # L, k, whether of the BC kind: (L - 4) / 3 layers in each of three blocks
    "densenet40_12": (40, 12, False),
    "densenet100_12": (100, 12, False),
    "densenet100_24": (100, 24, False),
    "densenet_bc100_12": (100, 12, True),
    "densenet_bc250_24": (250, 24, True),
    "densenet_bc190_40": (190, 40, True),
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


class PlainLayer(nn.Module):
    """H([x₀, …, xₗ₋₁]) = 3x3(relu(bn(concat))): k new channels, then dropout."""

    def __init__(self, cin: int, growth: int, rng: nn.Rng, dropout: float) -> None:
        self.norm1 = nn.BatchNorm2d(cin)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(cin, growth, 3, rng)
        self.drop1 = nn.Dropout(dropout, rng=rng)

    def forward(self, maps: ChannelStack) -> Tensor:
        """Earlier maps, each (N, Cᵢ, H, W) → (N, k, H, W)."""
        x = maps.read()  # [x₀ | x₁ | …]
        y: Tensor = self.drop1(self.conv1(self.relu1(self.norm1(x))))
        return y


class DenseLayer(nn.Module):
    """H([x₀, …, xₗ₋₁]) = 3x3(relu(bn(1x1(relu(bn(concat)))))): k new channels.

    Dropout follows each convolution but the stem (section 4.2 of the paper).
    """

    def __init__(self, cin: int, growth: int, rng: nn.Rng, dropout: float) -> None:
        wide = BOTTLENECK * growth
        self.norm1 = nn.BatchNorm2d(cin)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(cin, wide, 1, rng)
        self.norm2 = nn.BatchNorm2d(wide)
        self.relu2 = nn.ReLU()
        self.conv2 = conv(wide, growth, 3, rng)
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
        self,
        cin: int,
        layers: int,
        rng: nn.Rng,
        dropout: float = 0.0,
        growth: int = GROWTH,
        layer: type[DenseLayer] | type[PlainLayer] = DenseLayer,
    ) -> None:
        for i in range(layers):
            made = layer(cin + i * growth, growth, rng, dropout)
            setattr(self, f"denselayer{i + 1}", made)
        self.channels = cin + layers * growth

    def forward(self, x: Tensor) -> ChannelStack:
        """(N, C, H, W) → the maps; whoever reads them sees the concatenation."""
        maps = ChannelStack(mark(x, "x0"), self.channels)
        for i, (_, layer) in enumerate(self.children()):
            maps.append(mark(layer(maps), f"x{i + 1}"))
        return maps


class Transition(nn.Module):
    """Between dense blocks: 1x1 convolution to θ of the channels, 2x2 average."""

    def __init__(self, cin: int, cout: int, rng: nn.Rng, dropout: float = 0.0) -> None:
        self.norm = nn.BatchNorm2d(cin)
        self.relu = nn.ReLU()
        self.conv = conv(cin, cout, 1, rng)
        self.drop = nn.Dropout(dropout, rng=rng)
        self.pool = nn.AvgPool2d(2)

    def forward(self, maps: ChannelStack) -> Tensor:
        """Maps of a block → (N, cout, H/2, W/2)."""
        x = maps.read()
        y: Tensor = self.pool(self.drop(self.conv(self.relu(self.norm(x)))))
        return y


class Features(nn.Module):
    """Stem, dense blocks and transitions, and the final normalisation."""

    def __init__(
        self,
        layers: tuple[int, ...],
        growth: int,
        stem: str,
        bottleneck: bool,
        compression: float,
        in_channels: int,
        dropout: float,
        rng: nn.Rng,
    ) -> None:
        cin = 2 * growth if bottleneck else 16
        self.large = stem == "imagenet"
        if self.large:
            self.conv0 = conv(in_channels, cin, 7, rng, stride=2)
            self.norm0 = nn.BatchNorm2d(cin)
            self.relu0 = nn.ReLU()
            self.pool0 = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv0 = conv(in_channels, cin, 3, rng)
        self.blocks = len(layers)
        how = rng, dropout, growth, DenseLayer if bottleneck else PlainLayer
        for i, count in enumerate(layers, 1):
            if i > 1:
                kept = int(cin * compression)
                setattr(self, f"transition{i - 1}", Transition(cin, kept, rng, dropout))
                cin = kept
            setattr(self, f"denseblock{i}", DenseBlock(cin, count, *how))
            cin += count * growth
        self.norm5 = nn.BatchNorm2d(cin)
        self.channels = cin

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) → (N, channels, S', S'), S' = S/32, or S/4 with CIFAR's stem."""
        x = self.conv0(x)
        if self.large:
            x = self.pool0(self.relu0(self.norm0(x)))
        for i in range(1, self.blocks):
            maps = getattr(self, f"denseblock{i}")(x)
            x = getattr(self, f"transition{i}")(maps)
        maps = getattr(self, f"denseblock{self.blocks}")(x)
        y: Tensor = self.norm5(maps.read())
        return y


class DenseNet(nn.Module):
    """A DenseNet.

    Args:
        layers: of each dense block.
        growth: k, channels each layer adds.
        stem: "imagenet" (7x7, normalisation, pooling) or "cifar" (3x3).
        bottleneck: whether a layer has a 1x1 convolution first; the stem then makes 2k
            channels, else 16.
        compression: θ, what a transition keeps of its channels.
        dropout: probability, after each convolution but the stem; the paper's on
            images that are not augmented is 0.2.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        growth: int = GROWTH,
        stem: str = "imagenet",
        bottleneck: bool = True,
        compression: float = COMPRESSION,
        *,
        dropout: float = 0.0,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        if stem not in ("imagenet", "cifar"):
            raise ValueError(f"stem must be 'imagenet' or 'cifar', not {stem!r}")
        kind = growth, stem, bottleneck, compression
        self.features = Features(layers, *kind, in_channels, dropout, rng)
        cin = self.features.channels
        self.classifier = nn.Linear(
            cin, num_classes, std=1 / math.sqrt(3 * cin), rng=rng
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        x = ops.relu(self.features(x))
        logits: Tensor = self.classifier(ops.global_avg_pool2d(x))
        return logits


def of_cifar(depth: int, growth: int, bc: bool) -> partial[DenseNet]:
    """One of Table 2, L = `depth`; layers of the BC kind have two convolutions each."""
    each = (depth - 4) // (6 if bc else 3)
    how = (growth, "cifar", True, COMPRESSION) if bc else (growth, "cifar", False, 1.0)
    return partial(DenseNet, (each,) * 3, *how)


def of_imagenet(depth: int) -> partial[DenseNet]:
    """One of Table 1."""
    return partial(DenseNet, LAYERS[depth], WIDER.get(depth, GROWTH))


_row = partial(Network, adam_lr=1e-3, paper="Huang et al. 2017")
NETWORKS = [
    *(_row(f"densenet{d}", of_imagenet(d), 224, smallest=29) for d in LAYERS),
    *(_row(name, of_cifar(*how), 32, smallest=4) for name, how in CIFAR.items()),
]
