"""ResNets and plain nets for CIFAR (He et al. 2016, arXiv:1512.03385, section 4.2).

6n + 2 weighted layers: a 3x3 stem of 16 channels, three stages of n basic blocks at
32x32/16, 16x16/32 and 8x8/64, global average, one linear layer. All shortcuts are
parameter-free (option A), so a ResNet and the plain net of its depth have exactly the
same parameters.
"""

from __future__ import annotations

import math

from tinyflow import nn
from tinyflow.tensor import Tensor

from .resnet import BasicBlock, OptionA, PlainBlock, conv3x3, projection, stage
from .se_resnet import squeeze_excitation

WIDTHS = (16, 32, 64)  # stages 2 and 3 begin with stride 2
DEPTHS = (20, 32, 44, 56, 110)


def option_a(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Module:
    """Identity where shapes agree, else subsampling and zero channels."""
    if stride == 1 and cin == cout:
        return nn.Identity()
    return OptionA(cin, cout, stride)


class CifarResNet(nn.Module):
    """A CIFAR residual or plain network.

    Args:
        depth: 6n + 2.
        kind: "residual", "plain" or "se" (squeeze-and-excitation with r = 16).
        shortcut: "A" (parameter-free) or "B" (1x1 projections where shapes change).
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        depth: int,
        kind: str = "residual",
        shortcut: str = "A",
        *,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        n, rest = divmod(depth - 2, 6)
        if rest or n < 1:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers, not {depth}")
        block = PlainBlock if kind == "plain" else BasicBlock
        gate = (lambda c: squeeze_excitation(c, rng)) if kind == "se" else None
        connect = {"A": option_a, "B": projection}[shortcut]
        self.conv1 = conv3x3(in_channels, WIDTHS[0], 1, rng)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        cin = WIDTHS[0]
        for i, width in enumerate(WIDTHS):
            layer = stage(block, cin, width, n, 1 if i == 0 else 2, connect, gate, rng)
            setattr(self, f"layer{i + 1}", layer)
            cin = width
        self.avgpool = nn.GlobalAvgPool2d()
        self.fc = nn.Linear(cin, num_classes, std=1 / math.sqrt(3 * cin), rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        y: Tensor = nn.chain((module for _, module in self.children()), x)
        return y
