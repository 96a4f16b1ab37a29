"""The networks, one paper a file, and the table that names them.

``build_model("se_resnet50", num_classes=10)``. The short names vgg, resnet, se_resnet
and densenet mean the four networks of Noh 2021, Table A1.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from models.cifar_resnet import DEPTHS, CifarResNet
from models.densenet import LAYERS, DenseNet
from models.plain import PlainBlock
from models.resnet import BLOCKS, BasicBlock, Bottleneck, ResNet
from models.se_resnet import se_resnet
from models.vgg import CONFIGURATIONS, VGG
from tinyflow import Tape, Tensor, nn

SIMONYAN = "Simonyan & Zisserman 2015"
HE = "He et al. 2016"
HU = "Hu et al. 2018"
HUANG = "Huang et al. 2017"


@dataclass(frozen=True)
class Entry:
    """One network: how to build it, and what belongs to it.

    Attributes:
        build: called with num_classes, image_size, in_channels and rng.
        paper: where it was published.
        native: side of the images it was designed for, in pixels.
        lr: a learning rate at which SGD with momentum 0.9 and batch 64 trains it.
        adam_lr: the same for Adam and AdamW.
        smallest: side of the smallest image it can take, in pixels.
    """

    build: Callable[..., nn.Module]
    paper: str
    native: int
    lr: float
    smallest: int = 1
    adam_lr: float = 5e-4


MODELS: dict[str, Entry] = {}
for _depth in CONFIGURATIONS:
    MODELS[f"vgg{_depth}"] = Entry(
        partial(VGG, _depth, False), SIMONYAN, 224, 0.01, 32, adam_lr=5e-5
    )
    MODELS[f"vgg{_depth}_bn"] = Entry(
        partial(VGG, _depth, True), SIMONYAN, 224, 0.02, 32
    )
for _depth, _blocks in BLOCKS.items():
    _block = BasicBlock if _depth < 50 else Bottleneck
    _build = partial(ResNet, _block, _blocks)
    MODELS[f"resnet{_depth}"] = Entry(_build, HE, 224, 0.05)
for _depth in (18, 34):
    MODELS[f"plain{_depth}"] = Entry(
        partial(ResNet, PlainBlock, BLOCKS[_depth]), HE, 224, 0.05
    )
for _depth in (50, 101, 152):
    MODELS[f"se_resnet{_depth}"] = Entry(partial(se_resnet, _depth), HU, 224, 0.05)
for _depth in LAYERS:
    MODELS[f"densenet{_depth}"] = Entry(
        partial(DenseNet, _depth), HUANG, 224, 0.05, 29, adam_lr=1e-3
    )
for _depth in DEPTHS:
    MODELS[f"resnet{_depth}"] = Entry(partial(CifarResNet, _depth), HE, 32, 0.1)
    MODELS[f"plain{_depth}"] = Entry(
        partial(CifarResNet, _depth, "plain"), HE, 32, 0.05
    )
    MODELS[f"se_resnet{_depth}"] = Entry(
        partial(CifarResNet, _depth, "se"), HU, 32, 0.1
    )

SHORT = {  # Noh 2021, Table A1
    "vgg": "vgg19",
    "resnet": "resnet50",
    "se_resnet": "se_resnet50",
    "densenet": "densenet121",
}


def full_name(name: str) -> str:
    """The name in MODELS that `name`, possibly a short one, stands for.

    Raises:
        ValueError: there is no such network.
    """
    full = SHORT.get(name, name)
    if full not in MODELS:
        known = [*SHORT, *MODELS]
        near = difflib.get_close_matches(name, known, 4, 0.5) or list(SHORT)
        raise ValueError(
            f"unknown model {name!r}; try {', '.join(near)} "
            "(python train.py --list-models prints all)"
        )
    return full


def build_model(
    name: str,
    *,
    num_classes: int = 10,
    image_size: int = 32,
    in_channels: int = 3,
    seed: int | None = 0,
) -> nn.Module:
    """Build a network with initial weights drawn from `seed`, or zero for None.

    Raises:
        ValueError: unknown name, or images too small for the network.
    """
    entry = MODELS[full_name(name)]
    if image_size < entry.smallest:
        raise ValueError(
            f"{name} needs images of at least {entry.smallest}x{entry.smallest} "
            f"pixels, not {image_size}x{image_size}; resnet, se_resnet and the plain "
            "nets take any size"
        )
    rng = None if seed is None else np.random.default_rng(seed)
    model = entry.build(
        num_classes=num_classes, image_size=image_size, in_channels=in_channels, rng=rng
    )
    model.name = full_name(name)
    return model


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(math.prod(p.shape) for p in model.parameters())


def count_macs(model: nn.Module, image_size: int, in_channels: int = 3) -> int:
    """Multiply-adds of its convolutions and linear layers for one image.

    Runs the network on a batch of *no* images: every shape is computed, no arithmetic.
    """
    training = model.training
    model.eval()
    with Tape() as tape:
        model(Tensor(np.zeros((0, in_channels, image_size, image_size), np.float32)))
    model.train(training)
    macs = 0
    for node in tape.nodes:
        if node.op in ("conv2d", "linear"):
            per_output = math.prod(node.edges[1].producer.shape[1:])
            macs += math.prod(node.shape[1:]) * per_output
    return macs


def list_models(num_classes: int = 10) -> list[str]:
    """A heading and a line per network: parameters, multiply-adds, paper.

    Where the classifier depends on the image size (VGG), the parameters are those at
    32x32 with, in brackets, those at the native size.
    """
    lines = [
        f"{'model':<14}{'parameters':>28}{'native':>8}{'GMACs':>9}{'at 32':>9}  paper"
    ]
    short = {full: name for name, full in SHORT.items()}
    for name, entry in MODELS.items():
        sizes = {}
        for size in (32, entry.native):
            model = build_model(
                name, num_classes=num_classes, image_size=size, seed=None
            )
            sizes[size] = count_parameters(model), count_macs(model, size)
        (small, at32), (large, native) = sizes[32], sizes[entry.native]
        parameters = f"{small:,}" + (f" ({large:,})" if large != small else "")
        note = f"  = {short[name]}" if name in short else ""
        lines.append(
            f"{name:<14}{parameters:>28}{entry.native:>8}{native / 1e9:>9.3f}"
            f"{at32 / 1e9:>9.4f}  {entry.paper}{note}"
        )
    return lines
