"""The layers of three networks on 32x32 images, by shape and how often they occur."""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """A square convolution and how often the network has it."""

    count: int
    c: int
    k: int
    size: int
    kernel: int = 3
    stride: int = 1

    def __str__(self) -> str:
        """Like ``3x3/2 128>128 @8``."""
        step = f"/{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}{step} {self.c}>{self.k} @{self.size}"


NETS = {
    "resnet20": [
        Layer(1, 3, 16, 32),
        Layer(6, 16, 16, 32),
        Layer(1, 16, 32, 32, stride=2),
        Layer(5, 32, 32, 16),
        Layer(1, 32, 64, 16, stride=2),
        Layer(5, 64, 64, 8),
    ],
    "resnet50": [
        Layer(1, 3, 64, 32, 7, 2),
        Layer(1, 64, 64, 8, 1),
        Layer(2, 256, 64, 8, 1),
        Layer(3, 64, 64, 8),
        Layer(4, 64, 256, 8, 1),
        Layer(1, 256, 128, 8, 1),
        Layer(3, 512, 128, 4, 1),
        Layer(1, 128, 128, 8, stride=2),
        Layer(3, 128, 128, 4),
        Layer(4, 128, 512, 4, 1),
        Layer(1, 256, 512, 8, 1, 2),
        Layer(1, 512, 256, 4, 1),
        Layer(5, 1024, 256, 2, 1),
        Layer(1, 256, 256, 4, stride=2),
        Layer(5, 256, 256, 2),
        Layer(6, 256, 1024, 2, 1),
        Layer(1, 512, 1024, 4, 1, 2),
        Layer(1, 1024, 512, 2, 1),
        Layer(2, 2048, 512, 1, 1),
        Layer(1, 512, 512, 2, stride=2),
        Layer(2, 512, 512, 1),
        Layer(3, 512, 2048, 1, 1),
        Layer(1, 1024, 2048, 2, 1, 2),
    ],
    "vgg19": [
        Layer(1, 3, 64, 32),
        Layer(1, 64, 64, 32),
        Layer(1, 64, 128, 16),
        Layer(1, 128, 128, 16),
        Layer(1, 128, 256, 8),
        Layer(3, 256, 256, 8),
        Layer(1, 256, 512, 4),
        Layer(3, 512, 512, 4),
        Layer(4, 512, 512, 2),
    ],
}

MAPS = {  # channels and size: a large map and a small one
    "resnet20": [(16, 32), (64, 8)],
    "resnet50": [(256, 8), (2048, 1)],
    "vgg19": [(64, 32), (512, 4)],
}
POOLS = {"resnet50": (64, 16, 3, 2, 1), "vgg19": (64, 32, 2, 2, 0)}
"""Channels, size, kernel, stride and padding of the first maximum."""
