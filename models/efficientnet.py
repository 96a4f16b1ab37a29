"""EfficientNet-B0 to B7 (Tan & Le 2019, arXiv:1905.11946).

Blocks of MobileNet-v2 with squeeze-and-excitation, and one network made wider, deeper
and for larger images together. Parameter names are torchvision's.
"""

from __future__ import annotations

import math
from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.tape import mark
from tinyflow.tensor import Tensor, fork

from .mobilenet import conv_bn

STAGES = (  # expansion, kernel, stride, width, blocks of B0: Table 1 of the paper
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
SCALES = {  # width, depth, pixels, dropout
    0: (1.0, 1.0, 224, 0.2),
    1: (1.0, 1.1, 240, 0.2),
    2: (1.1, 1.2, 260, 0.3),
    3: (1.2, 1.4, 300, 0.3),
    4: (1.4, 1.8, 380, 0.4),
    5: (1.6, 2.2, 456, 0.4),
    6: (1.8, 2.6, 528, 0.5),
    7: (2.0, 3.1, 600, 0.5),
}


def round8(channels: float) -> int:
    """The multiple of 8 next to it that is not less than nine tenths of it."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


class MBConv(nn.Module):
    """y = x + F(x), F = 1x1 to t times as many, k x k of each, gate, 1x1.

    The gate acts inside of F, and its width is a quarter of the block's input. Nothing
    acts on the sum. Where the shape changes y = F(x).
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        stride: int,
        expansion: int,
        kernel: int,
        norm: tuple[float, float],
        rng: nn.Rng,
    ) -> None:
        self.shortcuts = stride == 1 and cin == cout
        wide, silu = expansion * cin, nn.SiLU()
        layers = (
            [conv_bn(cin, wide, 1, 1, rng, silu, norm=norm)] if expansion > 1 else []
        )
        depthwise = conv_bn(wide, wide, kernel, stride, rng, silu, wide, norm)
        gate = nn.SqueezeExcitation(wide, max(1, cin // 4), "silu", rng=rng)
        narrow = conv_bn(wide, cout, 1, 1, rng, norm=norm)
        self.block = nn.Sequential(*layers, depthwise, gate, narrow)
        self.drop: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H/stride, W/stride)."""
        if not self.shortcuts:
            return mark(self.block(x), "H")
        residual, shortcut = fork(x, "residual", "shortcut")
        return mark(self.drop(self.block(residual)) + shortcut, "H")


class EfficientNet(nn.Module):
    """3x3 stem, seven stages of blocks, 1x1 convolution, global average, linear layer.

    Args:
        scale: 0 to 7, of `SCALES`.
        stem: stride of the first convolution; the paper's is 2.
        dropout: probability, of the averaged features; None is the paper's.
        stochastic_depth: p; of the i-th of L blocks, from 0, p i / L. The paper's
            is 0.2 (its survival probability 0.8).
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        scale: int = 0,
        stem: int = 2,
        *,
        dropout: float | None = None,
        stochastic_depth: float = 0.0,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        width, depth, _, drop = SCALES[scale]
        norm = (1e-3, 0.01) if scale > 4 else (1e-5, 0.1)  # torchvision's
        cin = round8(32 * width)
        layers: list[nn.Module] = [
            conv_bn(in_channels, cin, 3, stem, rng, nn.SiLU(), norm=norm)
        ]
        blocks: list[MBConv] = []
        for expansion, kernel, stride, c, count in STAGES:
            cout, n = round8(c * width), math.ceil(count * depth)
            stage = []
            for i in range(n):
                s = stride if i == 0 else 1
                stage.append(MBConv(cin, cout, s, expansion, kernel, norm, rng))
                cin = cout
            layers.append(nn.Sequential(*stage))
            blocks += stage
        for i, block in enumerate(blocks):
            if stochastic_depth and block.shortcuts:
                p = stochastic_depth * i / len(blocks)
                block.drop = nn.StochasticDepth(p, rng=rng)
        layers.append(conv_bn(cin, 4 * cin, 1, 1, rng, nn.SiLU(), norm=norm))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.GlobalAvgPool2d()
        self.classifier = nn.Sequential(
            nn.Dropout(drop if dropout is None else dropout, rng=rng),
            nn.Linear(4 * cin, num_classes, std=0.01, rng=rng),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)))
        return logits


PAPER = "Tan & Le 2019"
NETWORKS = [
    *(
        Network(f"efficientnet_b{k}", partial(EfficientNet, k), side, paper=PAPER)
        for k, (_, _, side, _) in SCALES.items()
    ),
    Network("efficientnet_cifar", partial(EfficientNet, stem=1), 32, paper=PAPER),
]
