"""GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842), the paper's and torchvision's.

The paper has biases and no normalisation. torchvision's has batch normalisation, a last
max pool of 2x2, and 3x3 where the paper has 5x5 convolutions (its issue 906).
"""

from __future__ import annotations

import math
from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.tensor import Tensor

from .branches import Mixed, Trunk, Unit, chain, conv_unit

STEM = "64@7/2 max/2C 64 192@3 max/2C"
POOL, TAPS = "max", (3, 6)
BLOCKS = (  # 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; behind the pool: Table 1
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    POOL,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    POOL,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


def plain_unit(rng: nn.Rng) -> Unit:
    """Convolution with bias, ReLU."""

    def unit(
        cin: int, cout: int, kernel: tuple[int, int], stride: int, pad: tuple[int, int]
    ) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(cin, cout, kernel, stride, pad, fan="in", rng=rng), nn.ReLU()
        )

    return unit


class Head(nn.Module):
    """A classifier on a map in the middle: average to 4x4, 1x1 to 128, 1024, classes.

    The paper's average is over 5x5 with stride 3, which gives 4x4 of 14x14, the map of
    images of 224 pixels; torchvision's, and here that of all others, is adaptive.
    """

    def __init__(
        self, cin: int, num_classes: int, pool: nn.Module, unit: Unit, rng: nn.Rng
    ) -> None:
        self.pool, self.flatten = pool, nn.Flatten()
        self.conv = unit(cin, 128, (1, 1), 1, (0, 0))
        he = math.sqrt(2 / 2048)
        self.classifier = nn.Sequential(
            nn.Linear(2048, 1024, std=he, rng=rng),
            nn.ReLU(),
            nn.Dropout(0.7, rng=rng),
            nn.Linear(1024, num_classes, rng=rng),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.flatten(self.conv(self.pool(x))))
        return logits


class GoogLeNet(Trunk):
    """Stem, nine blocks of branches, global average, one linear layer.

    Args:
        norm: torchvision's, with batch normalisation; else the paper's.
        auxiliary: two more classifiers, after blocks 4a and 4d, whose losses count 0.3
            each in training.
        dropout: probability, of the averaged features; None: the paper's 0.4 or
            torchvision's 0.2.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        norm: bool = False,
        auxiliary: bool = False,
        *,
        dropout: float | None = None,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        unit = conv_unit(rng) if norm else plain_unit(rng)
        large = 3 if norm else 5
        layers, cin = chain(STEM, in_channels, unit)
        pools = [nn.MaxPool2d(3, 2, ceil_mode=True)]
        pools += [nn.MaxPool2d(2 if norm else 3, 2, ceil_mode=True)]
        heads = {}
        for i, row in enumerate(BLOCKS):
            if isinstance(row, str):
                layers.append(pools.pop(0))
                continue
            a, r3, b, r5, c, p = row
            text = f"1x1: {a} | 3x3: {r3} {b}@3 | 5x5: {r5} {c}@{large} | pool: max {p}"
            layers.append(block := Mixed(text, cin, unit))
            cin = block.channels
            if auxiliary and i in TAPS:
                exact = image_size == 224 and not norm
                pool = nn.AvgPool2d(5, 3) if exact else nn.AdaptiveAvgPool2d(4)
                heads[len(layers) - 1] = Head(cin, num_classes, pool, unit, rng)
        usual = 0.2 if norm else 0.4
        super().__init__(
            layers,
            cin,
            heads,
            0.3,
            dropout=usual if dropout is None else dropout,
            num_classes=num_classes,
            rng=rng,
        )


_row = partial(Network, native=224, smallest=15, paper="Szegedy et al. 2014")
NETWORKS = [
    _row("googlenet", GoogLeNet),
    _row("googlenet_aux", partial(GoogLeNet, auxiliary=True)),
    _row("googlenet_bn", partial(GoogLeNet, True)),
    _row("googlenet_bn_aux", partial(GoogLeNet, True, True)),
]
