"""VGG: stacks of 3x3 convolutions (Simonyan & Zisserman 2015, arXiv:1409.1556).

Table 1 of the paper, columns A, B, D, E, with or without batch normalisation. VGG-19
is the first network of Noh 2021, Table A1: on 32x32 images the last map is 1x1, the
classifier reads 512 features, and 10 classes give that table's 38.9 M parameters.
Parameter names are torchvision's. Deviation from torchvision: no adaptive pooling, so
the first linear layer follows from the image size; all layers but the last start
He-normal by fan-in, which keeps the size of the values through nineteen layers (by
fan-out the first convolution alone would leave a fifth of it). Even so the deep nets
without batch normalisation are slow to leave their plateau: give them time.
"""

from __future__ import annotations

import math
from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.tape import mark
from tinyflow.tensor import Tensor

CONFIGURATIONS = {  # output channels of the convolutions of each stage, then pool
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}
HIDDEN = 4096
DROPOUT = 0.5


class Features(nn.Sequential):
    """The convolutions. Each one with its ReLU is a block in the sense of Noh's Eq. 1.

    Torchvision counts every layer (``features.0``, ``features.1``, …), and so do we; on
    the tape block i is ``features.block<i>``: its input ``.in`` and output, and ``.H``,
    what enters the ReLU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) → (N, 512, S/32, S/32)."""
        block = 0
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                mark(x, f"block{block}.in")
            elif isinstance(layer, nn.ReLU):
                mark(x, f"block{block}.H")
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                mark(x, f"block{block}")
                block += 1
        return x


class VGG(nn.Module):
    """A VGG network.

    Args:
        depth: 11, 13, 16 or 19 weighted layers.
        batch_norm: normalise after every convolution.
        dropout: probability, of the hidden features; None is the paper's, a half.
        num_classes, image_size, in_channels: of the data; size at least 32.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        depth: int,
        batch_norm: bool,
        *,
        dropout: float | None = None,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in CONFIGURATIONS[depth]:
            for width in stage:
                layers.append(
                    nn.Conv2d(channels, width, 3, padding=1, fan="in", rng=rng)
                )
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU())
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = Features(*layers)
        self.flatten = nn.Flatten()
        drop = DROPOUT if dropout is None else dropout
        flat = channels * (image_size // 32) ** 2
        he = math.sqrt(2)
        self.classifier = nn.Sequential(
            nn.Linear(flat, HIDDEN, std=he / math.sqrt(flat), rng=rng),
            nn.ReLU(),
            nn.Dropout(drop, rng=rng),
            nn.Linear(HIDDEN, HIDDEN, std=he / math.sqrt(HIDDEN), rng=rng),
            nn.ReLU(),
            nn.Dropout(drop, rng=rng),
            nn.Linear(HIDDEN, num_classes, std=0.01, rng=rng),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.flatten(self.features(x)))
        return logits


_row = partial(Network, native=224, smallest=32, paper="Simonyan & Zisserman 2015")
NETWORKS = [
    *(
        _row(f"vgg{depth}", partial(VGG, depth, False), lr=0.01, adam_lr=5e-5)
        for depth in CONFIGURATIONS
    ),
    *(
        _row(f"vgg{depth}_bn", partial(VGG, depth, True), lr=0.02)
        for depth in CONFIGURATIONS
    ),
]
