"""The networks, one paper a file, and the table that names them.

``build_model("se_resnet50", num_classes=10)``. The short names vgg, resnet, se_resnet
and densenet mean the four networks of Noh 2021, Table A1.
"""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

from tinyflow import nn
from tinyflow.network import Network, Zoo, count_macs, count_parameters

from .cifar_resnet import DEPTHS, CifarResNet
from .densenet import LAYERS, DenseNet
from .efficientnet import SCALES, EfficientNet
from .mobilenet import WIDTHS, MobileNetV1, MobileNetV2
from .plain import PlainBlock
from .resnet import BLOCKS, BasicBlock, Bottleneck, ResNet
from .se_resnet import se_resnet
from .squeezenet import FIRES, SqueezeNet
from .vgg import CONFIGURATIONS, VGG

__all__ = [
    "MODELS",
    "SHORT",
    "ZOO",
    "Network",
    "build_model",
    "count_macs",
    "count_parameters",
    "find",
    "list_models",
]

SIMONYAN = "Simonyan & Zisserman 2015"
HE = "He et al. 2016"
HU = "Hu et al. 2018"
HUANG = "Huang et al. 2017"
HOWARD = "Howard et al. 2017"
SANDLER = "Sandler et al. 2018"
TAN = "Tan & Le 2019"
IANDOLA = "Iandola et al. 2016"


MODELS: dict[str, Network] = {}


def _add(name: str, make: Any, native: int, **more: Any) -> None:
    MODELS[name] = Network(name, make, native, **more)


for _depth in CONFIGURATIONS:
    _add(
        f"vgg{_depth}", partial(VGG, _depth, False), 224,
        lr=0.01, smallest=32, adam_lr=5e-5, paper=SIMONYAN,
    )  # fmt: skip
    _add(
        f"vgg{_depth}_bn", partial(VGG, _depth, True), 224,
        lr=0.02, smallest=32, paper=SIMONYAN,
    )  # fmt: skip
for _depth, _blocks in BLOCKS.items():
    _block = BasicBlock if _depth < 50 else Bottleneck
    _add(f"resnet{_depth}", partial(ResNet, _block, _blocks), 224, paper=HE)
for _depth in (18, 34):
    _add(f"plain{_depth}", partial(ResNet, PlainBlock, BLOCKS[_depth]), 224, paper=HE)
for _depth in (50, 101, 152):
    _add(f"se_resnet{_depth}", partial(se_resnet, _depth), 224, paper=HU)
for _depth in LAYERS:
    _make = partial(DenseNet, _depth)
    _add(f"densenet{_depth}", _make, 224, smallest=29, adam_lr=1e-3, paper=HUANG)
for _depth in DEPTHS:
    _add(f"resnet{_depth}", partial(CifarResNet, _depth), 32, lr=0.1, paper=HE)
    _add(f"plain{_depth}", partial(CifarResNet, _depth, "plain"), 32, paper=HE)
    _add(f"se_resnet{_depth}", partial(CifarResNet, _depth, "se"), 32, lr=0.1, paper=HU)

for _width in WIDTHS:
    _name = f"mobilenet_v1_{_width:g}"
    _add(_name, partial(MobileNetV1, _width), 224, paper=HOWARD)
_add("mobilenet_v2", MobileNetV2, 224, paper=SANDLER)
for _scale, (_, _, _side, _) in SCALES.items():
    _add(f"efficientnet_b{_scale}", partial(EfficientNet, _scale), _side, paper=TAN)
for _version in FIRES:
    _name = f"squeezenet{_version.replace('.', '_')}"
    _add(_name, partial(SqueezeNet, _version), 224, smallest=21, paper=IANDOLA)

SHORT = {  # Noh 2021, Table A1
    "vgg": "vgg19",
    "resnet": "resnet50",
    "se_resnet": "se_resnet50",
    "densenet": "densenet121",
}


def find(name: str) -> Network:
    """The network that `name`, possibly a short one, stands for.

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
    return MODELS[full]


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
    return find(name).build(
        num_classes=num_classes,
        image_size=image_size,
        in_channels=in_channels,
        seed=seed,
    )


def list_models(num_classes: int = 10) -> list[str]:
    """A heading and a line per network: parameters, multiply-adds, paper.

    Where the classifier depends on the image size (VGG), the parameters are those at
    32x32 with, in brackets, those at the native size.
    """
    lines = [
        f"{'model':<14}{'parameters':>28}{'native':>8}{'GMACs':>9}{'at 32':>9}  paper"
    ]
    short = {full: name for name, full in SHORT.items()}
    for name, network in MODELS.items():
        sizes = {}
        for size in (32, side := network.native or 32):
            model = network.build(num_classes=num_classes, image_size=size, seed=None)
            sizes[size] = count_parameters(model), count_macs(model, size)
        (small, at32), (large, native) = sizes[32], sizes[side]
        parameters = f"{small:,}" + (f" ({large:,})" if large != small else "")
        note = f"  = {short[name]}" if name in short else ""
        lines.append(
            f"{name:<14}{parameters:>28}{side:>8}{native / 1e9:>9.3f}"
            f"{at32 / 1e9:>9.4f}  {network.paper}{note}"
        )
    return lines


ZOO = Zoo(find, list_models)
"""What the command lines are given."""
