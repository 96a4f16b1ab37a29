"""ResNets and plain nets for CIFAR (He et al. 2016, arXiv:1512.03385, section 4.2).

6n + 2 weighted layers: a 3x3 stem of 16 channels, three stages of n basic blocks at
32x32/16, 16x16/32 and 8x8/64, global average, one linear layer. The paper's shortcuts
are all parameter-free (option A), so a ResNet and the plain net of its depth have
exactly the same parameters. ``resnet20_b`` and its like have projections where the
shape changes (option B).
"""

from __future__ import annotations

import math
from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.tensor import Tensor

from .plain import PlainBlock
from .resnet import (
    PAPER,
    BasicBlock,
    conv3x3,
    drop_deeper,
    no_gate,
    option_a,
    projection,
    stage,
)
from .se_resnet import PAPER as HU
from .se_resnet import squeeze_excitation

DEPTHS = (20, 32, 44, 56, 110)
RESIDUAL = (*DEPTHS, 1202)  # of the last there is no plain net


class CifarResNet(nn.Module):
    """A CIFAR residual or plain network.

    Args:
        depth: 6n + 2.
        kind: "residual", "plain" or "se" (squeeze-and-excitation with r = 16).
        shortcut: "A" (parameter-free) or "B" (1x1 projections where shapes change).
        dropout: probability, of the averaged features.
        stochastic_depth: that of the last block, see `drop_deeper`.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        depth: int,
        kind: str = "residual",
        shortcut: str = "A",
        *,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        n, rest = divmod(depth - 2, 6)
        if rest or n < 1:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers, not {depth}")
        block = PlainBlock if kind == "plain" else BasicBlock
        gate = squeeze_excitation if kind == "se" else no_gate
        parts = {"A": option_a, "B": projection}[shortcut], gate, rng
        self.conv1 = conv3x3(in_channels, 16, 1, rng)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = stage(block, 16, 16, n, 1, *parts)
        self.layer2 = stage(block, 16, 32, n, 2, *parts)
        self.layer3 = stage(block, 32, 64, n, 2, *parts)
        if stochastic_depth:
            stages = self.layer1, self.layer2, self.layer3
            drop_deeper(stages, stochastic_depth, rng)
        self.avgpool = nn.GlobalAvgPool2d()
        self.dropout = nn.Dropout(dropout, rng=rng)
        self.fc = nn.Linear(64, num_classes, std=1 / math.sqrt(3 * 64), rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x)))
        return logits


_row = partial(Network, native=32)
_residual = partial(_row, lr=0.1, paper=PAPER)
NETWORKS = [
    *(_residual(f"resnet{d}", partial(CifarResNet, d)) for d in RESIDUAL),
    *(
        _residual(f"resnet{d}_b", partial(CifarResNet, d, shortcut="B"))
        for d in RESIDUAL
    ),
    *(_row(f"plain{d}", partial(CifarResNet, d, "plain"), paper=PAPER) for d in DEPTHS),
    *(
        _row(f"se_resnet{d}", partial(CifarResNet, d, "se"), lr=0.1, paper=HU)
        for d in DEPTHS
    ),
]
