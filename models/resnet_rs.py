"""ResNet-RS (Bello et al. 2021, arXiv:2103.07579, section 6 and Table 7).

ResNets of bottlenecks with a stem of three 3x3 convolutions, a strided 3x3 convolution
in place of the max pool, 2x2 averages before the projections that halve the size (all
three ResNet-D's, He et al. 2018), and gates on F whose squeezed width is a quarter. The
activation is ReLU, as in the code behind the published numbers; the last normalisation
of each block begins with a scale of 0. Parameter names are timm's. `native` is the side
of the images each was trained on.
"""

from __future__ import annotations

import math
from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.tensor import Tensor

from .resnet import Bottleneck, conv1x1, conv3x3, stage

BLOCKS = {  # of the four stages, and the side of the images
    50: ((3, 4, 6, 3), 160),
    101: ((3, 4, 23, 3), 192),
    152: ((3, 8, 36, 3), 256),
    200: ((3, 24, 36, 3), 256),
    270: ((4, 29, 53, 4), 256),
    350: ((4, 36, 72, 4), 320),
    420: ((4, 44, 87, 4), 320),
}
RATIO = 4  # of a gate's channels to its squeezed ones


def average_projection(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Module:
    """Identity where shapes agree, else average, 1x1 convolution, normalisation."""
    if stride == 1 and cin == cout:
        return nn.Identity()
    average: nn.Module = nn.Identity()
    if stride > 1:  # at an odd border, of the pixels that are there
        average = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(average, conv1x1(cin, cout, 1, rng), nn.BatchNorm2d(cout))


def gate(channels: int, rng: nn.Rng) -> nn.Module:
    """Squeeze-and-excitation with a quarter of the channels."""
    return nn.SqueezeExcitation(channels, channels // RATIO, rng=rng)


class ResNetRS(nn.Module):
    """A ResNet-RS.

    Args:
        blocks: of the four stages.
        dropout: probability, of the averaged features.
        stochastic_depth: that of the last stage's blocks, p; of stage i, p (i + 1) / 5.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        *,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        self.conv1 = nn.Sequential(
            *(conv3x3(in_channels, 32, 2, rng), nn.BatchNorm2d(32), nn.ReLU()),
            *(conv3x3(32, 32, 1, rng), nn.BatchNorm2d(32), nn.ReLU()),
            conv3x3(32, 64, 1, rng),
        )
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.Sequential(
            conv3x3(64, 64, 2, rng), nn.BatchNorm2d(64), nn.ReLU()
        )
        n1, n2, n3, n4 = blocks
        parts = average_projection, gate, rng
        self.layer1 = stage(Bottleneck, 64, 64, n1, 1, *parts)
        self.layer2 = stage(Bottleneck, 256, 128, n2, 2, *parts)
        self.layer3 = stage(Bottleneck, 512, 256, n3, 2, *parts)
        self.layer4 = stage(Bottleneck, 1024, 512, n4, 2, *parts)
        stages = self.layer1, self.layer2, self.layer3, self.layer4
        for i, layer in enumerate(stages, 2):
            for block in layer:
                assert isinstance(block, Bottleneck)
                block.bn3.weight = nn.zeros(len(block.conv3.weight))
                if stochastic_depth:
                    block.drop = nn.StochasticDepth(stochastic_depth * i / 5, rng=rng)
        self.avgpool = nn.GlobalAvgPool2d()
        self.dropout = nn.Dropout(dropout, rng=rng)
        self.fc = nn.Linear(2048, num_classes, std=1 / math.sqrt(3 * 2048), rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x)))
        return logits


NETWORKS = [
    Network(
        f"resnet_rs{depth}",
        partial(ResNetRS, blocks),
        native,
        paper="Bello et al. 2021",
    )
    for depth, (blocks, native) in BLOCKS.items()
]
