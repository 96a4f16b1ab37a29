"""A small network of each family, with images that suit it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from models.cifar_resnet import CifarResNet
from models.densenet import DenseNet
from models.preact_resnet import BottleneckUnit, PreActResNet, Unit
from models.quadir import QuadirCNN, QuadirResNet
from models.resnet import BasicBlock, ResNet
from models.resnet_rs import ResNetRS
from models.se_resnet import squeeze_excitation
from models.shufflenet import ShuffleNetV2
from tinyflow import nn
from tinyflow.network import Network


@dataclass(frozen=True)
class Small:
    """What makes it, side and channels of its images, how fast and long it learns.

    `peer` is name and arguments of the same in ``tests.oracles.torch_families``; for
    `floor` see ``tests.models.compare``: where a normalisation follows another, through
    a 1x1 convolution, the shift of the first has no effect.
    """

    make: Any
    peer: tuple[Any, ...]
    size: int
    channels: int = 3
    lr: float = 0.05
    epochs: int = 8
    floor: float = 1e-6

    def build(self, seed: int = 0) -> nn.Module:
        """The network."""
        given = {"image_size": self.size, "in_channels": self.channels}
        return Network("small", self.make).build(seed=seed, **given)

    def moved(self, seed: int = 0) -> nn.Module:
        """The network in float64, every parameter moved at random.

        At their first values some branches would pass nothing on.
        """
        model, rng = self.build(seed).to(dtype="float64"), np.random.default_rng(seed)
        for p in model.parameters():
            p.data += 0.1 * rng.standard_normal(p.shape)
        return model

    def batch(self, n: int = 4, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels in float64."""
        rng = np.random.default_rng(seed)
        images = rng.standard_normal((n, self.channels, self.size, self.size))
        return images, rng.integers(0, 10, n)


def cifar_b(**to: Any) -> nn.Module:
    return CifarResNet(8, "residual", "B", **to)


def se_resnet12(**to: Any) -> nn.Module:
    return ResNet(BasicBlock, (1, 2, 1, 1), squeeze_excitation, **to)


def preact14(**to: Any) -> nn.Module:
    return PreActResNet(Unit, 14, **to)


def preact20(**to: Any) -> nn.Module:
    return PreActResNet(BottleneckUnit, 20, **to)


def densenet_bc(**to: Any) -> nn.Module:
    return DenseNet((2, 3), 6, **to)


def densenet_cifar(**to: Any) -> nn.Module:
    return DenseNet((2, 3, 2), 6, "cifar", False, 1.0, **to)


def densenet_cifar_bc(**to: Any) -> nn.Module:
    return DenseNet((2, 3, 2), 6, "cifar", **to)


FAMILIES = {
    "resnet8_b": Small(cifar_b, ("CifarB", 1), 12),
    "se_resnet12": Small(se_resnet12, ("SEResNet", (1, 2, 1, 1)), 40),
    "preact_resnet14": Small(preact14, ("PreAct", 2, 2), 12),
    "preact_resnet20": Small(preact20, ("PreAct", 3, 2), 12),
    "resnet_rs": Small(
        partial(ResNetRS, (1, 2, 1, 1)), ("ResNetRS", (1, 2, 1, 1)), 20, lr=0.01
    ),
    "densenet_bc": Small(densenet_bc, ("Dense", (2, 3), 6, True, True), 40),
    "densenet_cifar": Small(densenet_cifar, ("Dense", (2, 3, 2), 6, False, False), 12),
    "quadir_cnn": Small(QuadirCNN, ("QuadirCNN", 1, 8, "same"), 8, 1, 0.01),
    "quadir_cnn_valid": Small(
        partial(QuadirCNN, "valid"), ("QuadirCNN", 3, 12, "valid"), 12, lr=0.01
    ),
    "quadir_resnet": Small(QuadirResNet, ("QuadirResNet", 3, 8, True), 8, lr=0.002),
    "quadir_resnet_projection": Small(
        partial(QuadirResNet, "projection"), ("QuadirResNet", 1, 8, False), 8, 1, 0.002
    ),
    "densenet_cifar_bc": Small(
        densenet_cifar_bc, ("Dense", (2, 3, 2), 6, False, True), 12
    ),
    "shufflenet": Small(
        partial(ShuffleNetV2, 0.5),
        ("Shuffle", (48, 96, 192), 1024, True),
        40,
        lr=0.01,
        epochs=24,
        floor=1e-3,
    ),
    "shufflenet_cifar": Small(
        partial(ShuffleNetV2, 1.0, 1),
        ("Shuffle", (116, 232, 464), 1024, False),
        12,
        floor=1e-3,
    ),
}
