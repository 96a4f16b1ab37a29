"""ResNet and plain nets for ImageNet sizes (He et al. 2016, arXiv:1512.03385).

Table 1 of the paper; ResNet-50 is the second network of Noh 2021, Table A1. Parameter
names are torchvision's. Deviation from the paper: in bottlenecks the stride sits on the
3x3 convolution ("v1.5", as torchvision has it) instead of the first 1x1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tinyflow import nn, ops
from tinyflow.tensor import Tensor, fork

WIDTHS = (64, 128, 256, 512)  # of the four stages; stages 2 to 4 begin with stride 2
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}

Shortcut = Callable[..., nn.Module]


def conv3x3(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Conv2d:
    """3x3 convolution that keeps the size at stride 1."""
    return nn.Conv2d(cin, cout, 3, stride=stride, padding=1, bias=False, rng=rng)


def conv1x1(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Conv2d:
    """1x1 convolution."""
    return nn.Conv2d(cin, cout, 1, stride=stride, bias=False, rng=rng)


def projection(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Module:
    """Option B: identity where shapes agree, else 1x1 convolution and normalisation."""
    if stride == 1 and cin == cout:
        return nn.Identity()
    return nn.Sequential(conv1x1(cin, cout, stride, rng), nn.BatchNorm2d(cout))


class OptionA(nn.Module):
    """Parameter-free shortcut: every `stride`-th pixel, new channels filled with zeros.

    The zeros go to both sides; any other channel order trains and counts the same.
    """

    def __init__(self, cin: int, cout: int, stride: int, rng: nn.Rng = None) -> None:
        self.stride, self.before = stride, (cout - cin) // 2
        self.after = cout - cin - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H/stride, W/stride)."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.before or self.after:
            x = ops.pad(x, (0, 0, 0, 0, self.before, self.after))
        return x


class BasicBlock(nn.Module):
    """y = relu(H), H(x) = F(x) + S(x), with F = 3x3, 3x3.

    The fork is Figure 2 of Noh 2021: two named edges into x. `attention` (the
    squeeze-and-excitation of ``models/se_resnet.py``) acts on F before the addition.
    """

    expansion = 1

    def __init__(
        self,
        cin: int,
        width: int,
        stride: int,
        shortcut: Shortcut,
        attention: Callable[[int], nn.Module] | None,
        rng: nn.Rng,
    ) -> None:
        self.conv1 = conv3x3(cin, width, stride, rng)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, 1, rng)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = attention(width) if attention else nn.Identity()
        self.downsample = shortcut(cin, width, stride, rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, width, H/stride, W/stride)."""
        residual, shortcut = fork(x, "residual", "shortcut")
        f = nn.norm_relu(self.bn1, self.conv1(residual))
        return nn.add_relu(self.bn2, self.conv2(f), self.downsample(shortcut), self.se)


class Bottleneck(nn.Module):
    """y = relu(H), H(x) = F(x) + S(x), with F = 1x1, 3x3, 1x1 (four times as wide)."""

    expansion = 4

    def __init__(
        self,
        cin: int,
        width: int,
        stride: int,
        shortcut: Shortcut,
        attention: Callable[[int], nn.Module] | None,
        rng: nn.Rng,
    ) -> None:
        cout = width * self.expansion
        self.conv1 = conv1x1(cin, width, 1, rng)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, rng)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, cout, 1, rng)
        self.bn3 = nn.BatchNorm2d(cout)
        self.se = attention(cout) if attention else nn.Identity()
        self.downsample = shortcut(cin, cout, stride, rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, 4 width, H/stride, W/stride)."""
        residual, shortcut = fork(x, "residual", "shortcut")
        f = nn.norm_relu(self.bn1, self.conv1(residual))
        f = nn.norm_relu(self.bn2, self.conv2(f))
        return nn.add_relu(self.bn3, self.conv3(f), self.downsample(shortcut), self.se)


class PlainBlock(nn.Module):
    """A basic block without its shortcut: y = relu(F(x)), two layers of a plain net."""

    expansion = 1

    def __init__(
        self,
        cin: int,
        width: int,
        stride: int,
        shortcut: Shortcut,
        attention: Callable[[int], nn.Module] | None,
        rng: nn.Rng,
    ) -> None:
        self.conv1 = conv3x3(cin, width, stride, rng)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, 1, rng)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, width, H/stride, W/stride)."""
        f = nn.norm_relu(self.bn1, self.conv1(x))
        return nn.norm_relu(self.bn2, self.conv2(f), name="H")


Block = type[BasicBlock] | type[Bottleneck] | type[PlainBlock]


def stage(
    block: Block,
    cin: int,
    width: int,
    count: int,
    stride: int,
    shortcut: Shortcut,
    attention: Callable[[int], nn.Module] | None,
    rng: nn.Rng,
) -> nn.Sequential:
    """`count` blocks, the first with `stride`."""
    cout = width * block.expansion
    blocks = [block(cin, width, stride, shortcut, attention, rng)]
    blocks += [
        block(cout, width, 1, shortcut, attention, rng) for _ in range(count - 1)
    ]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """7x7 stem, max pooling, four stages, global average, one linear layer.

    Args:
        block: BasicBlock (18, 34), Bottleneck (50, 101, 152) or PlainBlock.
        blocks: blocks per stage.
        attention: makes a module that acts on F, given its channels; or None.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        block: Block,
        blocks: tuple[int, ...],
        attention: Callable[..., nn.Module] | None = None,
        *,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        gate = (lambda channels: attention(channels, rng)) if attention else None
        self.conv1 = nn.Conv2d(
            in_channels, 64, 7, stride=2, padding=3, bias=False, rng=rng
        )
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        cin = 64
        for i, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            layer = stage(
                block, cin, width, count, 1 if i == 0 else 2, projection, gate, rng
            )
            setattr(self, f"layer{i + 1}", layer)
            cin = width * block.expansion
        self.avgpool = nn.GlobalAvgPool2d()
        self.fc = nn.Linear(cin, num_classes, std=1 / math.sqrt(3 * cin), rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        y: Tensor = nn.chain((module for _, module in self.children()), x)
        return y
