"""SE-ResNet: residual blocks with a gate on F (Hu et al. 2018, arXiv:1709.01507).

Squeeze-and-excitation with reduction r = 16 acts on F(x) before the addition; SE-ResNet
-50 is the third network of Noh 2021, Table A1. That table prints 21.4 M parameters for
it, which is impossible: the network is ResNet-50 (23.5 M) plus gates, 26,059,514
parameters for ten classes. Parameter names are timm's (``layer1.0.se.fc1.weight``).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from tinyflow import nn
from tinyflow.network import Network

from .resnet import BLOCKS, ResNet, unit

REDUCTION = 16


def squeeze_excitation(channels: int, rng: nn.Rng) -> nn.Module:
    """The gate of a map with `channels` channels."""
    return nn.SqueezeExcitation(channels, channels // REDUCTION, rng=rng)


def se_resnet(depth: int, **options: Any) -> ResNet:
    """SE-ResNet-34, -50, -101 or -152; the options are those of :class:`ResNet`."""
    return ResNet(unit(depth), BLOCKS[depth], squeeze_excitation, **options)


PAPER = "Hu et al. 2018"
NETWORKS = [
    Network(f"se_resnet{depth}", partial(se_resnet, depth), 224, paper=PAPER)
    for depth in (34, 50, 101, 152)
]
