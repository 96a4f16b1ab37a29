"""Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567).

The blocks are those of its published code, as torchvision has them: the paper's figures
5, 6 and 7 with another number of each.
"""

from __future__ import annotations

from functools import partial

from tinyflow import nn
from tinyflow.network import Network

from .branches import Auxiliary, Mixed, Trunk, chain, conv_unit

STEM = "32@3/2V 32@3V 64@3 max/2V 80 192@3V max/2V"


def block_a(pool: int) -> str:
    """Figure 5."""
    return f"1x1: 64 | 5x5: 48 64@5 | 3x3 3x3: 64 96@3 96@3 | pool: avg {pool}"


def block_b(q: int) -> str:
    """Figure 6, n = 7."""
    return (
        f"1x1: 192 | 7x7: {q} {q}@1x7 192@7x1 | "
        f"7x7 7x7: {q} {q}@7x1 {q}@1x7 {q}@7x1 192@1x7 | pool: avg 192"
    )


BLOCK_C = (  # Figure 7
    "1x1: 320 | 3x3: 384 (1x3: 384@1x3 | 3x1: 384@3x1) | "
    "3x3 3x3: 448 384@3 (1x3: 384@1x3 | 3x1: 384@3x1) | pool: avg 192"
)
REDUCTION_A = "3x3: 384@3/2V | 3x3 3x3: 64 96@3 96@3/2V | pool: max/2V"
REDUCTION_B = "3x3: 192 320@3/2V | 7x7: 192 192@1x7 192@7x1 192@3/2V | pool: max/2V"
BLOCKS = (
    *map(block_a, (32, 64, 64)),
    REDUCTION_A,
    *map(block_b, (128, 160, 160, 192)),
    REDUCTION_B,
    BLOCK_C,
    BLOCK_C,
)


TAP = 7  # the block whose output the auxiliary classifier reads


class InceptionV3(Trunk):
    """Stem, eleven blocks of branches, global average, one linear layer.

    Args:
        auxiliary: a second classifier after the fourth block with 7x7, whose loss
            counts 0.4 in training. It needs maps of 17x17, images of 299x299.
        dropout: probability, of the averaged features; the paper's code has a half.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        auxiliary: bool = False,
        *,
        dropout: float = 0.5,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        unit = conv_unit(rng)
        layers, cin = chain(STEM, in_channels, unit)
        heads = {}
        for i, text in enumerate(BLOCKS):
            layers.append(block := Mixed(text, cin, unit, border=True))
            cin = block.channels
            if auxiliary and i == TAP:
                heads[len(layers) - 1] = Auxiliary(cin, num_classes, unit, rng)
        super().__init__(
            layers,
            cin,
            heads,
            0.4,
            dropout=dropout,
            std=0.1 / cin**0.5,
            num_classes=num_classes,
            rng=rng,
        )


_row = partial(Network, native=299, paper="Szegedy et al. 2015")
NETWORKS = [
    _row("inception_v3", InceptionV3, smallest=75),
    _row("inception_v3_aux", partial(InceptionV3, True), smallest=299),
]
