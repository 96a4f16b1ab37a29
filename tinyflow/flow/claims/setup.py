"""Which networks the claims are tried on, and a way to train some briefly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinyflow import nn
from tinyflow.backend import Array
from tinyflow.data import Dataset, normalize
from tinyflow.flow.claims.nets import OWN
from tinyflow.network import Network
from tinyflow.optim import SGD, Adam, Optimizer
from tinyflow.train.step import train_step


@dataclass(frozen=True)
class Setup:
    """Which networks play which part, and how much is spent on the dear measurements.

    Attributes:
        plain, vgg, residual, se, dense: networks by name.
        paths: those whose whole path spectrum is taken, each costing ≈ L²/2 branch
            pullbacks on `path_batch` images, and `samples` single paths per length
            where not all can be looked at; `path_seed` shifts their choice.
        deep: those with enough blocks in a stage to fit a law over them.
        four: a VGG, a ResNet, an SE-ResNet and a DenseNet to put in order.
        shrunk: plain nets for the shrink test, with batch normalisation and without.
        quadir: Quadir's networks, see :mod:`tinyflow.flow.claims.nets`: the residual
            one, and the same without ReLU after the addition.
        tables: published error rates to hold the flow against, see
            :mod:`tinyflow.flow.claims.training`.
        exact_batch: images for the shrink test and finite differences, in float64.
        shrink_at: its blocks, as positions from 0 (first) to 1 (last).
    """

    plain: tuple[str, ...] = ("plain20", "plain56")
    vgg: tuple[str, ...] = ("vgg19", "vgg19_bn")
    residual: tuple[str, ...] = ("resnet20", "resnet56", "resnet18")
    se: tuple[str, ...] = ("se_resnet20",)
    dense: tuple[str, ...] = ("densenet121",)
    paths: tuple[str, ...] = ("resnet20", "resnet110")
    deep: tuple[str, ...] = ("resnet56",)
    four: tuple[str, ...] = ("vgg19", "resnet20", "se_resnet20", "densenet121")
    shrunk: tuple[str, ...] = ("plain20", "vgg11", "vgg11_bn")
    quadir: tuple[str, ...] = ("quadir_resnet", "quadir_sum")
    tables: tuple[str, ...] = ("CIFAR ResNets", "Table 1", "Table 2")
    path_batch: int = 8
    samples: int = 4
    path_seed: int = 0
    exact_batch: int = 8
    shrink_at: tuple[float, ...] = (0.5, 1.0)

    def only(self, names: Sequence[str]) -> Setup:
        """This setup with each part played by those of `names` that can play it."""
        family = [(name, name.rstrip("0123456789")) for name in names]

        def of(*kinds: str) -> tuple[str, ...]:
            return tuple(name for name, kind in family if kind in kinds)

        plain, residual = of("plain"), of("resnet")
        se, dense = of("se_resnet"), of("densenet")
        vgg = tuple(name for name in names if name.startswith("vgg"))
        pairs = [(r, s) for r in residual for s in se if s == f"se_{r}"]
        four = [[*vgg[:1], *pair, *dense[:1]] for pair in pairs]
        return replace(
            self,
            plain=plain,
            shrunk=(*plain[:1], *vgg[:1]),
            quadir=tuple(
                name for name in OWN if name in names and name != "quadir_cnn"
            ),
            vgg=vgg,
            residual=residual,
            se=se,
            dense=dense,
            paths=residual,
            deep=tuple(n for n in residual if n in ("resnet56", "resnet110")),
            four=tuple(four[0]) if four and len(four[0]) == 4 else (),
        )

    def networks(self) -> tuple[str, ...]:
        """Every network that plays a part."""
        parts = (getattr(self, name) for name in PARTS)
        return tuple(dict.fromkeys(name for part in parts for name in part))

    def without(self, names: Sequence[str]) -> Setup:
        """This setup with the parts of `names` left out."""
        parts: dict[str, Any] = {
            part: tuple(name for name in getattr(self, part) if name not in names)
            for part in PARTS
        }
        whole = len(parts["four"]) == len(self.four)
        parts["four"] = self.four if whole else ()
        return replace(self, **parts)


PARTS = ("plain", "vgg", "residual", "se", "dense", "paths", "deep", "four", "shrunk")
QUICK = Setup()
FULL = Setup(
    plain=("plain20", "plain56", "plain110"),
    residual=("resnet20", "resnet56", "resnet110", "resnet50"),
    se=("se_resnet20", "se_resnet56", "se_resnet50"),
    paths=("resnet20", "resnet56", "resnet110"),
    deep=("resnet56", "resnet110"),
    four=("vgg19", "resnet50", "se_resnet50", "densenet121"),
    shrunk=("plain20", "vgg19", "vgg19_bn"),
    path_batch=32,
    samples=8,
    exact_batch=32,
    shrink_at=(0.0, 0.5, 1.0),
)


def train_briefly(
    network: Network,
    images: Array | Dataset,
    labels: Array | None = None,
    *,
    steps: int = 200,
    seed: int = 0,
    batch: int = 32,
    lr: float | None = None,
    num_classes: int = 10,
    curve: list[float] | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> nn.Module:
    """A network after a few hundred steps of SGD (momentum 0.9, decay 1e-4), float32.

    Quadir's networks train as his do, with Adam at 1e-3.

    Long enough to leave initialisation, far too short to be a trained network: say so
    where its numbers are shown.

    Args:
        network: e.g. ``models.find("resnet20")``.
        images, labels: normalised images (N, C, S, S) to draw batches from, and class
            indices; or a data set. There is no augmentation.
        steps: how many; the learning rate falls along a cosine
            (Quadir's stays).
        seed: of the initial weights and of the order of the images.
        batch: images per step.
        lr: largest learning rate; the network's own if None.
        num_classes: outputs of the classifier.
        curve: filled with the loss of each step.
        progress: called with the part of the steps that is done.

    Raises:
        FloatingPointError: the loss is no longer finite.
        ValueError: images without labels.
    """
    if isinstance(images, Dataset):
        labels, num_classes = images.labels, images.num_classes
        images = normalize(images.images, images.mean, images.std)
    if labels is None:
        raise ValueError("train_briefly needs the labels of its images")
    _, channels, size, _ = images.shape
    model = network.build(
        num_classes=num_classes, image_size=size, in_channels=channels, seed=seed
    )
    his = network.name in OWN
    if his:
        rate = network.adam_lr if lr is None else lr
        optimizer: Optimizer = Adam(model.named_parameters(), rate)
    else:
        rate = network.lr if lr is None else lr
        optimizer = SGD(model.named_parameters(), rate, momentum=0.9, weight_decay=1e-4)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        if not his:
            optimizer.lr = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = rng.choice(len(images), min(batch, len(images)), replace=False)
        try:
            x = images[chosen].astype("float32")
            done = train_step(model, x, labels[chosen], optimizer)
        except FloatingPointError as error:
            raise FloatingPointError(f"{network.name}: {error}") from None
        if curve is not None:
            curve.append(done.loss)
        progress((step + 1) / steps)
    return model
