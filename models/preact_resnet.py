"""Pre-activation ResNets for CIFAR (He et al. 2016, arXiv:1603.05027).

y = x + F(x) with normalisation and ReLU in front of each convolution and nothing after
the sum: Figure 1 (b) and section 3. A 3x3 stem of 16 channels, three stages of n units,
normalisation, ReLU, global average, one linear layer. ResNet-110 has units of two 3x3
convolutions and the parameter-free shortcuts of its first version; ResNet-164 and -1001
have bottlenecks and projections without normalisation.

The first unit of a stage is activated *before* it forks, as the appendix has it for the
first of all and the authors' code (KaimingHe/resnet-1k-layers) for each that changes
the shape: both ways then read relu(bn(x)). Deviation from that code: in bottlenecks
the stride sits on the 3x3 convolution, as in ``models/resnet.py``, not the first 1x1.
"""

from __future__ import annotations

import math
from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.ops import relu
from tinyflow.tape import mark
from tinyflow.tensor import Tensor, fork

from .resnet import conv1x1, conv3x3, drop_deeper, option_a


class Unit(nn.Module):
    """y = H = S + F; a unit that `opens` a stage activates what both of them read."""

    layers, expansion, shortcuts = 2, 1, True

    def __init__(self, cin: int, width: int, stride: int, opens: bool, rng: nn.Rng):
        self.opens = opens
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv1 = conv3x3(cin, width, stride, rng)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, 1, rng)
        self.drop: nn.Module = nn.Identity()
        self.downsample = option_a(cin, width, stride, rng)

    def weighted(self, a: Tensor) -> Tensor:
        """F, given the first activation."""
        y: Tensor = self.conv2(relu(self.bn2(self.conv1(a))))
        return y

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, expansion width, H/stride, W/stride)."""
        if self.opens:
            residual, shortcut = fork(relu(self.bn1(x)), "residual", "shortcut")
        else:
            residual, shortcut = fork(x, "residual", "shortcut")
            residual = relu(self.bn1(residual))
        f = self.drop(self.weighted(residual))
        return mark(f + self.downsample(shortcut), "H")


class BottleneckUnit(Unit):
    """The same with F = 1x1, 3x3, 1x1 (four times as wide): ResNet-164 and -1001."""

    layers, expansion = 3, 4

    def __init__(self, cin: int, width: int, stride: int, opens: bool, rng: nn.Rng):
        self.opens = opens
        self.bn1 = nn.BatchNorm2d(cin)
        self.conv1 = conv1x1(cin, width, 1, rng)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride, rng)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, 4 * width, 1, rng)
        self.drop = nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if (cin, stride) != (4 * width, 1):
            self.downsample = conv1x1(cin, 4 * width, stride, rng)

    def weighted(self, a: Tensor) -> Tensor:
        """F, given the first activation."""
        f = self.conv2(relu(self.bn2(self.conv1(a))))
        y: Tensor = self.conv3(relu(self.bn3(f)))
        return y


class PreActResNet(nn.Module):
    """A pre-activation ResNet.

    Args:
        unit: Unit (6n + 2 layers) or BottleneckUnit (9n + 2).
        depth: weighted layers.
        dropout: probability, of the averaged features.
        stochastic_depth: that of the last unit, see `drop_deeper`.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        unit: type[Unit],
        depth: int,
        *,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        n, rest = divmod(depth - 2, 3 * unit.layers)
        if rest or n < 1:
            each = 3 * unit.layers
            raise ValueError(f"this ResNet has {each}n + 2 layers, not {depth}")
        self.conv1 = conv3x3(in_channels, 16, 1, rng)
        cin, stages = 16, []
        for width in (16, 32, 64):
            stride = 1 if width == 16 else 2
            cout = unit.expansion * width
            units = [unit(cin, width, stride, True, rng)]
            units += [unit(cout, width, 1, False, rng) for _ in range(n - 1)]
            stages.append(nn.Sequential(*units))
            cin = cout
        self.layer1, self.layer2, self.layer3 = stages
        if stochastic_depth:
            drop_deeper(stages, stochastic_depth, rng)
        self.bn = nn.BatchNorm2d(cin)
        self.relu = nn.ReLU()
        self.avgpool = nn.GlobalAvgPool2d()
        self.dropout = nn.Dropout(dropout, rng=rng)
        self.fc = nn.Linear(cin, num_classes, std=1 / math.sqrt(3 * cin), rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.relu(self.bn(x))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x)))
        return logits


DEPTHS = {110: Unit, 164: BottleneckUnit, 1001: BottleneckUnit}
_row = partial(Network, native=32, lr=0.1, paper="He et al. 2016 (pre-activation)")
NETWORKS = [
    _row(f"preact_resnet{depth}", partial(PreActResNet, unit, depth))
    for depth, unit in DEPTHS.items()
]
