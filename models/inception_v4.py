"""Inception-v4 and Inception-ResNet-v1 and -v2 (Szegedy et al. 2016, arXiv:1602.07261).

Figures 3 to 15 of the paper. Its figures 17 and 19 print 1154 and 2048 outputs for the
last convolution of the blocks of Inception-ResNet-v2; what is added to x must have as
many as x, which are 1152 and 2144. The code that was released has more blocks, other
widths and the stem of Inception-v3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.ops import relu
from tinyflow.tape import mark
from tinyflow.tensor import Tensor, fork

from .branches import (
    Auxiliary,
    Branches,
    Mixed,
    Trunk,
    Unit,
    chain,
    conv_unit,
)

PAPER = "Szegedy et al. 2016"
V4_STEM = (
    "32@3/2V 32@3V 64@3",
    "pool: max/2V | 3x3: 96@3/2V",
    "3x3: 64 96@3V | 7x7 3x3: 64 64@1x7 64@7x1 96@3V",
    "3x3: 192@3/2V | pool: max/2V",
)
V4_BLOCKS = (
    *["1x1: 96 | 3x3: 64 96@3 | 3x3 3x3: 64 96@3 96@3 | pool: avg 96"] * 4,
    "3x3: 384@3/2V | 3x3 3x3: 192 224@3 256@3/2V | pool: max/2V",
    *[
        "1x1: 384 | 7x7: 192 224@1x7 256@7x1 | "
        "7x7 7x7: 192 192@7x1 224@1x7 224@7x1 256@1x7 | pool: avg 128"
    ]
    * 7,
    "3x3: 192 192@3/2V | 7x7: 256 256@1x7 320@7x1 320@3/2V | pool: max/2V",
    *[
        "1x1: 256 | 3x3: 384 (1x3: 256@1x3 | 3x1: 256@3x1) | "
        "3x3 3x3: 384 448@3x1 512@1x3 (1x3: 256@1x3 | 3x1: 256@3x1) | pool: avg 256"
    ]
    * 3,
)


@dataclass(frozen=True)
class Plan:
    """An Inception-ResNet: stem, stages of blocks with what lies between, head.

    Attributes:
        stem: texts of chains, and of blocks of branches (those with a colon).
        stages: branches of the block, how many, factor of what is added.
        between: reductions after all stages but the last.
        head: outputs of a 1x1 convolution at the end, or 0. The last block has factor 1
            and no ReLU then.
    """

    stem: tuple[str, ...]
    stages: tuple[tuple[str, int, float], ...]
    between: tuple[str, ...]
    head: int = 0


REDUCTION_B = (
    "3x3: 256 384@3/2V | 3x3 small: 256 {0}@3/2V | "
    "3x3 3x3: 256 {0}@3 {1}@3/2V | pool: max/2V"
)
RESIDUAL = {
    "v1": Plan(
        ("32@3/2V 32@3V 64@3 max/2V 80 192@3V 256@3/2V",),
        (
            ("1x1: 32 | 3x3: 32 32@3 | 3x3 3x3: 32 32@3 32@3", 5, 0.17),
            ("1x1: 128 | 7x7: 128 128@1x7 128@7x1", 10, 0.10),
            ("1x1: 192 | 3x3: 192 192@1x3 192@3x1", 5, 0.20),
        ),
        (
            "3x3: 384@3/2V | 3x3 3x3: 192 192@3 256@3/2V | pool: max/2V",
            REDUCTION_B.format(256, 256),
        ),
    ),
    "v2_paper": Plan(
        V4_STEM,
        (
            ("1x1: 32 | 3x3: 32 32@3 | 3x3 3x3: 32 48@3 64@3", 5, 0.17),
            ("1x1: 192 | 7x7: 128 160@1x7 192@7x1", 10, 0.10),
            ("1x1: 192 | 3x3: 192 224@1x3 256@3x1", 5, 0.20),
        ),
        (
            "3x3: 384@3/2V | 3x3 3x3: 256 256@3 384@3/2V | pool: max/2V",
            REDUCTION_B.format(288, 320),
        ),
    ),
    "v2": Plan(
        (
            "32@3/2V 32@3V 64@3 max/2V 80 192@3V max/2V",
            "1x1: 96 | 5x5: 48 64@5 | 3x3 3x3: 64 96@3 96@3 | pool: avg 64",
        ),
        (
            ("1x1: 32 | 3x3: 32 32@3 | 3x3 3x3: 32 48@3 64@3", 10, 0.17),
            ("1x1: 192 | 7x7: 128 160@1x7 192@7x1", 20, 0.10),
            ("1x1: 192 | 3x3: 192 224@1x3 256@3x1", 10, 0.20),
        ),
        (
            "3x3: 384@3/2V | 3x3 3x3: 256 256@3 384@3/2V | pool: max/2V",
            REDUCTION_B.format(288, 320),
        ),
        head=1536,
    ),
}


class Residual(nn.Module):
    """y = relu(H), H = x + s W [branches of x]: Figures 10 to 19 of the paper.

    One edge into x for the shortcut and one for each branch. W is a 1x1 convolution
    with a bias and without normalisation; `last` leaves the ReLU out.
    """

    def __init__(
        self,
        text: str,
        channels: int,
        factor: float,
        unit: Unit,
        rng: nn.Rng,
        last: bool = False,
    ) -> None:
        self.side = Branches(text, channels, unit)
        self.linear = nn.Conv2d(self.side.channels, channels, 1, rng=rng)
        self.factor, self.last = 1.0 if last else factor, last

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        shortcut, *handles = fork(x, "shortcut", *self.side.labels)
        h = mark(self.linear(self.side(*handles)) * self.factor + shortcut, "H")
        return h if self.last else relu(h)


class InceptionResNet(Trunk):
    """Stem, three stages of residual blocks of branches, global average, linear layer.

    Args:
        plan: one of `RESIDUAL`, by name.
        auxiliary: a second classifier after the second stage, whose loss counts 0.4 in
            training. It needs maps of 17x17, images of 299x299.
        dropout: probability, of the averaged features; the paper's is 0.2.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        plan: str,
        auxiliary: bool = False,
        *,
        dropout: float = 0.2,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        built, unit = RESIDUAL[plan], conv_unit(rng)
        heads = {}
        layers, c = mixed(built.stem, in_channels, unit)
        for i, (text, count, factor) in enumerate(built.stages):
            final = bool(built.head) and i == len(built.stages) - 1
            for k in range(count):
                last = final and k == count - 1
                layers.append(Residual(text, c, factor, unit, rng, last))
            if auxiliary and i == 1:
                heads[len(layers) - 1] = Auxiliary(c, num_classes, unit, rng)
            if i < len(built.between):
                layers.append(block := Mixed(built.between[i], c, unit))
                c = block.channels
        if built.head:
            more, c = chain(str(built.head), c, unit)
            layers += more
        super().__init__(
            layers,
            c,
            heads,
            0.4,
            dropout=dropout,
            num_classes=num_classes,
            rng=rng,
        )


class InceptionV4(Trunk):
    """Stem, sixteen blocks of branches, global average, one linear layer.

    Args:
        dropout: probability, of the averaged features; the paper's is 0.2.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        *,
        dropout: float = 0.2,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        layers, c = mixed((*V4_STEM, *V4_BLOCKS), in_channels, conv_unit(rng))
        super().__init__(layers, c, dropout=dropout, num_classes=num_classes, rng=rng)


def mixed(texts: tuple[str, ...], cin: int, unit: Unit) -> tuple[list[nn.Module], int]:
    """Chains, and blocks of branches (with a colon), and their number of outputs."""
    layers: list[nn.Module] = []
    for text in texts:
        if ":" in text:
            layers.append(block := Mixed(text, cin, unit))
            cin = block.channels
        else:
            more, cin = chain(text, cin, unit)
            layers += more
    return layers, cin


_row = partial(Network, native=299, smallest=75, paper=PAPER)
NETWORKS = [
    _row("inception_v4", InceptionV4),
    *(
        _row(f"inception_resnet_{plan}", partial(InceptionResNet, plan))
        for plan in RESIDUAL
    ),
    _row("inception_resnet_v2_aux", partial(InceptionResNet, "v2", True), smallest=299),
]
