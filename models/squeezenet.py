"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016, arXiv:1602.07360).

No normalisation: convolutions with biases, in fire modules that first squeeze the
channels and then expand them by 1x1 and 3x3 side by side. Names are torchvision's. The
logits pass a ReLU, and like VGG without normalisation it is slow to leave its first
plateau: on the built-in shapes it learns nothing in three epochs.
"""

from __future__ import annotations

from functools import partial

from tinyflow import nn, ops
from tinyflow.network import Network
from tinyflow.ops import relu
from tinyflow.tape import mark
from tinyflow.tensor import Tensor, fork

FIRES = {  # squeezed width, and half of the expanded one
    "1.0": "16,64 16,64 32,128 pool 32,128 48,192 48,192 64,256 pool 64,256",
    "1.1": "16,64 16,64 pool 32,128 32,128 pool 48,192 48,192 64,256 64,256",
}
STEM = {"1.0": (96, 7), "1.1": (64, 3)}  # channels and kernel


class Fire(nn.Module):
    """y = relu(H), H = [1x1 s, 3x3 s] along channels, s = relu(1x1 x).

    s is read twice: two named edges into it.
    """

    def __init__(self, cin: int, squeezed: int, half: int, rng: nn.Rng) -> None:
        self.squeeze = nn.Conv2d(cin, squeezed, 1, fan="in", rng=rng)
        self.expand1x1 = nn.Conv2d(squeezed, half, 1, fan="in", rng=rng)
        self.expand3x3 = nn.Conv2d(squeezed, half, 3, padding=1, fan="in", rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, 2 half, H, W)."""
        one, three = fork(relu(self.squeeze(x)), "1x1", "3x3")
        h = ops.concat([self.expand1x1(one), self.expand3x3(three)], 1)
        return relu(mark(h, "H"))


class SqueezeNet(nn.Module):
    """Stem, eight fire modules with three max pools, 1x1 convolution, global average.

    Args:
        version: "1.0", the paper's, or "1.1", with a third of its arithmetic.
        stem: stride of the first convolution; the paper's is 2.
        dropout: probability, before the last convolution; the paper's is a half.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        version: str = "1.0",
        stem: int = 2,
        *,
        dropout: float = 0.5,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        cin, kernel = STEM[version]
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, cin, kernel, stem, fan="in", rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        ]
        for fire in FIRES[version].split():
            if fire == "pool":
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
                continue
            squeezed, half = map(int, fire.split(","))
            layers.append(Fire(cin, squeezed, half, rng))
            cin = 2 * half
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout, rng=rng),
            nn.Conv2d(cin, num_classes, 1, fan="in", rng=rng),
            nn.ReLU(),
            nn.GlobalAvgPool2d(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes), none below 0."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


_row = partial(Network, paper="Iandola et al. 2016")
NETWORKS = [
    _row("squeezenet1_0", partial(SqueezeNet, "1.0"), 224, smallest=21),
    _row("squeezenet1_1", partial(SqueezeNet, "1.1"), 224, smallest=17),
    _row("squeezenet_cifar", partial(SqueezeNet, "1.1", 1), 32, lr=0.01, smallest=17),
]
