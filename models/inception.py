"""Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567).

The blocks are those of its published code, as torchvision has them: the paper's figures
5, 6 and 7 with another number of each.
"""

from __future__ import annotations

from functools import partial

from tinyflow import nn
from tinyflow.heads import Heads, Output
from tinyflow.network import Network
from tinyflow.tensor import Tensor

from .branches import Auxiliary, Mixed, chain, conv_unit, tapped

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


class InceptionV3(nn.Module):
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
        self.tap, self.auxiliary = len(layers) + TAP, None
        for i, text in enumerate(BLOCKS):
            layers.append(block := Mixed(text, cin, unit, border=True))
            cin = block.channels
            if auxiliary and i == TAP:
                self.auxiliary = Auxiliary(cin, num_classes, unit, rng)
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.GlobalAvgPool2d()
        self.dropout = nn.Dropout(dropout, rng=rng)
        self.fc = nn.Linear(cin, num_classes, std=0.1 / cin**0.5, rng=rng)

    def forward(self, x: Tensor) -> Output:
        """Images (N, C, S, S) → logits (N, num_classes); in training those of both."""
        taps = {}
        if self.training and self.auxiliary is not None:
            taps[self.tap] = self.auxiliary
        y, others = tapped(self.features, x, taps)
        logits: Tensor = self.fc(self.dropout(self.avgpool(y)))
        return Heads(logits, others, 0.4) if others else logits


_row = partial(Network, native=299, paper="Szegedy et al. 2015")
NETWORKS = [
    _row("inception_v3", InceptionV3, smallest=75),
    _row("inception_v3_aux", partial(InceptionV3, True), smallest=299),
]
