"""Networks that only the claims need: Quadir's own (2019), without normalisation.

His residual net has five equal blocks, x → relu(x + conv32(relu(conv64(x)))), all 3x3,
then one linear layer on the flattened map; his plain net five 3x3 convolutions of 64,
32, 64, 32, 64 channels. Three image channels cannot be added to 32, and he does not say
how they meet: here a 3x3 convolution with ReLU makes 32 of them. Padding keeps the
size. Both train with Adam at 1e-3, his table 1.

``quadir_sum`` is the residual net without the ReLU after the addition, which is what
his equation (3) says it is; ``quadir_twin`` the residual net without its shortcuts.
"""

from __future__ import annotations

import math
from functools import partial

from tinyflow import nn, ops
from tinyflow.network import Find, Network
from tinyflow.tape import mark
from tinyflow.tensor import Tensor, fork

WIDTH, INNER, BLOCKS = 32, 64, 5


class Layer(nn.Module):
    """relu(conv(x)), a block in the sense of Noh's (1)."""

    def __init__(self, cin: int, cout: int, rng: nn.Rng) -> None:
        self.conv = nn.Conv2d(cin, cout, 3, padding=1, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H, W)."""
        return ops.relu(mark(self.conv(x), "H"))


class Block(nn.Module):
    """H = conv32(relu(conv64(x))) + x, and relu(H) where `relu`; `plain`: without x."""

    def __init__(self, relu: bool, plain: bool, rng: nn.Rng) -> None:
        self.conv1 = nn.Conv2d(WIDTH, INNER, 3, padding=1, rng=rng)
        self.conv2 = nn.Conv2d(INNER, WIDTH, 3, padding=1, rng=rng)
        self.relu, self.plain = relu, plain

    def forward(self, x: Tensor) -> Tensor:
        """(N, 32, H, W) → (N, 32, H, W)."""
        if self.plain:
            return ops.relu(mark(self.conv2(ops.relu(self.conv1(x))), "H"))
        residual, shortcut = fork(x, "residual", "shortcut")
        f = self.conv2(ops.relu(self.conv1(residual)))
        h = mark(ops.add(f, shortcut), "H")
        return ops.relu(h) if self.relu else h


def quadir(
    name: str, *, num_classes: int, image_size: int, in_channels: int, rng: nn.Rng
) -> nn.Module:
    """One of the networks named in ``OWN``."""
    layers: dict[str, nn.Module] = {}
    width = WIDTH
    if name == "quadir_cnn":
        width = in_channels
        for i in range(BLOCKS):
            cin, width = width, WIDTH if i % 2 else INNER
            layers[f"layer{i}"] = Layer(cin, width, rng)
    else:
        layers["stem"] = nn.Conv2d(in_channels, WIDTH, 3, padding=1, rng=rng)
        layers["relu"] = nn.ReLU()
        for i in range(BLOCKS):
            block = Block(name != "quadir_sum", name == "quadir_twin", rng)
            layers[f"block{i}"] = block
    flat = width * image_size**2
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(flat, num_classes, std=1 / math.sqrt(3 * flat), rng=rng)
    return nn.Sequential(**layers)


OWN = {
    name: Network(name, partial(quadir, name), adam_lr=1e-3)
    for name in ("quadir_cnn", "quadir_resnet", "quadir_sum", "quadir_twin")
}


def network(name: str, find: Find) -> Network:
    """One of these networks, or one that `find` knows."""
    return OWN[name] if name in OWN else find(name)
