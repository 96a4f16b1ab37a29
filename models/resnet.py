"""ResNet for ImageNet sizes (He et al. 2016, arXiv:1512.03385).

Table 1 of the paper; ResNet-50 is the second network of Noh 2021, Table A1. Parameter
names are torchvision's. Deviation from the paper: in bottlenecks the stride sits on the
3x3 convolution ("v1.5", as torchvision has it) instead of the first 1x1. Shortcuts that
change the shape are projections (option B); in ``resnet18_a`` and ``resnet34_a`` they
have no parameters (option A), which is what the paper's Table 2 compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tinyflow import nn, ops
from tinyflow.network import Network
from tinyflow.ops import relu
from tinyflow.tape import mark
from tinyflow.tensor import Tensor, fork

BLOCKS = {  # of the stages with 64, 128, 256 and 512 channels; 2 to 4 halve the size
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}

Make = Callable[..., nn.Module]


def conv3x3(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Conv2d:
    """3x3 convolution that keeps the size at stride 1."""
    return nn.Conv2d(cin, cout, 3, stride=stride, padding=1, bias=False, rng=rng)


def conv1x1(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Conv2d:
    """1x1 convolution."""
    return nn.Conv2d(cin, cout, 1, stride=stride, bias=False, rng=rng)


class OptionA(nn.Module):
    """Parameter-free shortcut: every `stride`-th pixel, new channels filled with zeros.

    The zeros go to both sides; any other channel order trains and counts the same.
    """

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        self.stride, self.before = stride, (cout - cin) // 2
        self.after = cout - cin - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H/stride, W/stride)."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.before or self.after:
            x = ops.pad(x, (0, 0, 0, 0, self.before, self.after))
        return x


def option_a(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Module:
    """Identity where shapes agree, else subsampling and zero channels."""
    if stride == 1 and cin == cout:
        return nn.Identity()
    return OptionA(cin, cout, stride)


def projection(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Module:
    """Option B: identity where shapes agree, else 1x1 convolution and normalisation."""
    if stride == 1 and cin == cout:
        return nn.Identity()
    return nn.Sequential(conv1x1(cin, cout, stride, rng), nn.BatchNorm2d(cout))


def no_gate(channels: int, rng: nn.Rng) -> nn.Module:
    """Nothing acts on F; see ``models/se_resnet.py`` for what may."""
    return nn.Identity()


class BasicBlock(nn.Module):
    """y = relu(H), H(x) = F(x) + S(x), with F = 3x3, 3x3: Figure 2 of the paper.

    The fork is Figure 2 of Noh 2021, too: two named edges into x.
    """

    expansion, shortcuts = 1, True

    def __init__(
        self, cin: int, width: int, stride: int, shortcut: Make, gate: Make, rng: nn.Rng
    ) -> None:
        self.conv1 = conv3x3(cin, width, stride, rng)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, 1, rng)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = gate(width, rng)
        self.drop: nn.Module = nn.Identity()
        self.downsample = shortcut(cin, width, stride, rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, width, H/stride, W/stride)."""
        residual, shortcut = fork(x, "residual", "shortcut")
        f = relu(self.bn1(self.conv1(residual)))
        f = self.drop(self.se(self.bn2(self.conv2(f))))
        return relu(mark(f + self.downsample(shortcut), "H"))


class Bottleneck(nn.Module):
    """y = relu(H), H(x) = F(x) + S(x), with F = 1x1, 3x3, 1x1 (four times as wide)."""

    expansion, shortcuts = 4, True

    def __init__(
        self, cin: int, width: int, stride: int, shortcut: Make, gate: Make, rng: nn.Rng
    ) -> None:
        self.conv1 = conv1x1(cin, width, 1, rng)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, rng)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, 4 * width, 1, rng)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.se = gate(4 * width, rng)
        self.drop: nn.Module = nn.Identity()
        self.downsample = shortcut(cin, 4 * width, stride, rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, 4 width, H/stride, W/stride)."""
        residual, shortcut = fork(x, "residual", "shortcut")
        f = relu(self.bn1(self.conv1(residual)))
        f = relu(self.bn2(self.conv2(f)))
        f = self.drop(self.se(self.bn3(self.conv3(f))))
        return relu(mark(f + self.downsample(shortcut), "H"))


Block = type[BasicBlock] | type[Bottleneck]


def stage(
    block: Block, cin: int, width: int, count: int, stride: int, *parts: Any
) -> nn.Sequential:
    """`count` blocks, the first with `stride`; `parts` are shortcut, gate and rng."""
    cout = width * block.expansion
    blocks = [block(cin, width, stride, *parts)]
    blocks += [block(cout, width, 1, *parts) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def drop_deeper(stages: Sequence[nn.Module], p: float, rng: nn.Rng) -> None:
    """Stochastic depth in all blocks, from p / L in the first to p in the last of L.

    The linear rule of Huang et al. 2016, arXiv:1603.09382, section 3.
    """
    blocks: list[Any] = [block for each in stages for _, block in each.children()]
    for i, block in enumerate(blocks, 1):
        if not block.shortcuts:
            raise ValueError("stochastic depth needs shortcuts, and this net has none")
        block.drop = nn.StochasticDepth(p * i / len(blocks), rng=rng)


class ResNet(nn.Module):
    """7x7 stem, max pooling, four stages, global average, one linear layer.

    Args:
        block: BasicBlock (18, 34), Bottleneck (50, 101, 152) or PlainBlock.
        blocks: blocks per stage.
        gate: makes a module that acts on F, given its channels and `rng`.
        shortcut: makes S, given channels in and out, stride and `rng`: `projection` or
            `option_a`.
        dropout: probability, of the averaged features (Bello et al. 2021).
        stochastic_depth: that of the last block, see `drop_deeper`.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        block: Block,
        blocks: tuple[int, int, int, int],
        gate: Make = no_gate,
        shortcut: Make = projection,
        *,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        wide, parts = block.expansion, (shortcut, gate, rng)
        n1, n2, n3, n4 = blocks
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False, rng=rng)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(block, 64, 64, n1, 1, *parts)
        self.layer2 = stage(block, 64 * wide, 128, n2, 2, *parts)
        self.layer3 = stage(block, 128 * wide, 256, n3, 2, *parts)
        self.layer4 = stage(block, 256 * wide, 512, n4, 2, *parts)
        self.avgpool = nn.GlobalAvgPool2d()
        if stochastic_depth:
            stages = self.layer1, self.layer2, self.layer3, self.layer4
            drop_deeper(stages, stochastic_depth, rng)
        self.dropout = nn.Dropout(dropout, rng=rng)
        cin = 512 * wide
        self.fc = nn.Linear(cin, num_classes, std=1 / math.sqrt(3 * cin), rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x)))
        return logits


PAPER = "He et al. 2016"


def unit(depth: int) -> Block:
    """The block of this depth: the deep ones have bottlenecks."""
    return BasicBlock if depth < 50 else Bottleneck


_row = partial(Network, native=224, paper=PAPER)
NETWORKS = [
    *(_row(f"resnet{d}", partial(ResNet, unit(d), BLOCKS[d])) for d in BLOCKS),
    *(
        _row(f"resnet{d}_a", partial(ResNet, BasicBlock, BLOCKS[d], shortcut=option_a))
        for d in (18, 34)
    ),
]
