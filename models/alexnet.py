"""AlexNet: of 2012 (Krizhevsky, Sutskever & Hinton), and its single tower of 2014.

The first has convolutions in two groups, one per graphics card of the time, and divides
by its neighbours (local response normalisation, section 3.3). The second
(arXiv:1404.5997) has neither; its parameter names are torchvision's. All layers but the
last start He-normal by fan-in, not with the paper's deviation of 0.01.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.tensor import Tensor

from .vgg import Features

HIDDEN, SIDE = 4096, 6


@dataclass(frozen=True)
class Layer:
    """A convolution, and what follows its ReLU."""

    width: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    norm: bool = False
    pool: bool = False


TOWERS = {
    "2012": (  # Figure 2 of the paper, both halves together
        Layer(96, 11, 4, norm=True, pool=True),
        Layer(256, 5, padding=2, groups=2, norm=True, pool=True),
        Layer(384, 3, padding=1),
        Layer(384, 3, padding=1, groups=2),
        Layer(256, 3, padding=1, groups=2, pool=True),
    ),
    "one": (
        Layer(64, 11, 4, padding=2, pool=True),
        Layer(192, 5, padding=2, pool=True),
        Layer(384, 3, padding=1),
        Layer(256, 3, padding=1),
        Layer(256, 3, padding=1, pool=True),
    ),
}


class AlexNet(nn.Module):
    """Five convolutions, three of them pooled, and three linear layers.

    Args:
        tower: "2012" or "one".
        dropout: probability, before the first two linear layers.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        tower: str,
        *,
        dropout: float = 0.5,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        layers: list[nn.Module] = []
        cin = in_channels
        for c in TOWERS[tower]:
            conv = nn.Conv2d(
                cin,
                c.width,
                c.kernel,
                c.stride,
                c.padding,
                groups=c.groups,
                fan="in",
                rng=rng,
            )
            layers.append(conv)
            layers.append(nn.ReLU())
            if c.norm:  # n, α, β, k of the paper; here α is divided by n
                layers.append(nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0))
            if c.pool:
                layers.append(nn.MaxPool2d(3, 2))
            cin = c.width
        self.features = Features(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(SIDE)  # nothing at the native size
        self.flatten = nn.Flatten()
        flat, he = cin * SIDE**2, math.sqrt(2)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout, rng=rng),
            nn.Linear(flat, HIDDEN, std=he / math.sqrt(flat), rng=rng),
            nn.ReLU(),
            nn.Dropout(dropout, rng=rng),
            nn.Linear(HIDDEN, HIDDEN, std=he / math.sqrt(HIDDEN), rng=rng),
            nn.ReLU(),
            nn.Linear(HIDDEN, num_classes, std=0.01, rng=rng),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        y = self.flatten(self.avgpool(self.features(x)))
        logits: Tensor = self.classifier(y)
        return logits


NETWORKS = [
    Network(
        "alexnet",
        partial(AlexNet, "one"),
        224,
        lr=0.01,
        smallest=63,
        paper="Krizhevsky 2014",
    ),
    Network(
        "alexnet_2012",
        partial(AlexNet, "2012"),
        227,
        lr=0.01,
        smallest=67,
        paper="Krizhevsky et al. 2012",
    ),
]
