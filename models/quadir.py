"""Quadir's two networks for MNIST and CIFAR-10 (Quadir 2019, figures 2 and 3).

3x3 convolutions with biases and ReLU, no normalisation, no pooling, one linear layer on
the flattened map. What he leaves open are arguments: whether the convolutions of his
plain network keep the size (``quadir_cnn``) or not (``quadir_cnn_valid``), and how an
image of one or three channels meets the 32 of the first sum of his residual one. By
default a 3x3 convolution with ReLU makes 32 of them, so that all five blocks have the
identity his equations have (``quadir_resnet``); else the first block has a projection
(``quadir_resnet_projection``).
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.ops import relu
from tinyflow.tape import mark
from tinyflow.tensor import Tensor, fork

WIDTHS = (64, 32, 64, 32, 64)  # of the plain network
BLOCKS, INNER, WIDTH = 5, 64, 32  # of the residual one


class Layer(nn.Module):
    """y = relu(conv(x)): a block in the sense of Noh's Eq. 1."""

    def __init__(self, cin: int, cout: int, padding: int, rng: nn.Rng) -> None:
        self.conv = nn.Conv2d(cin, cout, 3, padding=padding, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H, W), or two pixels less without padding."""
        return relu(mark(self.conv(x), "H"))


class Block(nn.Module):
    """y = relu(x + conv32(relu(conv64(x)))): figure 3 and eq. 1."""

    def __init__(self, cin: int, rng: nn.Rng) -> None:
        self.conv1 = nn.Conv2d(cin, INNER, 3, padding=1, rng=rng)
        self.conv2 = nn.Conv2d(INNER, WIDTH, 3, padding=1, rng=rng)
        self.downsample: nn.Module = nn.Identity()
        if cin != WIDTH:
            self.downsample = nn.Conv2d(cin, WIDTH, 1, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, 32, H, W)."""
        residual, shortcut = fork(x, "residual", "shortcut")
        f = self.conv2(relu(self.conv1(residual)))
        return relu(mark(f + self.downsample(shortcut), "H"))


def classifier(channels: int, side: int, classes: int, rng: nn.Rng) -> nn.Sequential:
    """A linear layer on the whole map."""
    flat = channels * side**2
    linear = nn.Linear(flat, classes, std=1 / math.sqrt(3 * flat), rng=rng)
    return nn.Sequential(nn.Flatten(), linear)


class QuadirCNN(nn.Module):
    """Figure 2: five convolutions.

    Args:
        padding: "same" keeps the size, "valid" takes two pixels with each convolution.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        padding: str = "same",
        *,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be 'same' or 'valid', not {padding!r}")
        keep = int(padding == "same")
        side = image_size if keep else image_size - 2 * len(WIDTHS)
        pairs = pairwise((in_channels, *WIDTHS))
        self.layers = nn.Sequential(*(Layer(*pair, keep, rng) for pair in pairs))
        self.classifier = classifier(WIDTHS[-1], side, num_classes, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.layers(x))
        return logits


class QuadirResNet(nn.Module):
    """Figure 3: five residual blocks.

    Args:
        first: "stem": a 3x3 convolution with ReLU makes 32 channels of the image's;
            "projection": the first block reads the image, and projects it (1x1, bias).
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        first: str = "stem",
        *,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        if first not in ("stem", "projection"):
            raise ValueError(f"first must be 'stem' or 'projection', not {first!r}")
        self.stem: nn.Module = nn.Identity()
        if first == "stem":
            stem = nn.Conv2d(in_channels, WIDTH, 3, padding=1, rng=rng)
            self.stem, in_channels = nn.Sequential(stem, nn.ReLU()), WIDTH
        widths = (in_channels, *[WIDTH] * (BLOCKS - 1))
        self.blocks = nn.Sequential(*(Block(cin, rng) for cin in widths))
        self.classifier = classifier(WIDTH, image_size, num_classes, rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.blocks(self.stem(x)))
        return logits


# Without a native size, hence trained with Adam's kind by default: his table 1.
_row = partial(Network, lr=0.01, adam_lr=1e-3, paper="Quadir 2019")
NETWORKS = [
    _row("quadir_cnn", QuadirCNN),
    _row("quadir_cnn_valid", partial(QuadirCNN, "valid"), smallest=11),
    _row("quadir_resnet", QuadirResNet),
    _row("quadir_resnet_projection", partial(QuadirResNet, "projection")),
]
