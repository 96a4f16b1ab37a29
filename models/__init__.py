"""The networks, one paper a file, and how they are found by name.

``build_model("se_resnet50", num_classes=10)``. Each paper's file ends with its own
table, ``NETWORKS``; here they come together. The short names vgg, resnet, se_resnet
and densenet mean the four networks of Noh 2021, Table A1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from fnmatch import fnmatchcase

from tinyflow import nn
from tinyflow.network import Network, Zoo, count_macs, count_parameters

from . import (
    alexnet,
    cifar_resnet,
    densenet,
    efficientnet,
    googlenet,
    inception,
    inception_v4,
    mobilenet,
    plain,
    preact_resnet,
    quadir,
    resnet,
    resnet_rs,
    se_resnet,
    shufflenet,
    squeezenet,
    vgg,
)

__all__ = [
    "FAMILIES",
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

FAMILIES = {
    "AlexNet": alexnet.NETWORKS,
    "VGG": vgg.NETWORKS,
    "ResNet": resnet.NETWORKS,
    "Plain nets": plain.NETWORKS,
    "SE-ResNet": se_resnet.NETWORKS,
    "ResNet for CIFAR": cifar_resnet.NETWORKS,
    "Pre-activation ResNet": preact_resnet.NETWORKS,
    "ResNet-RS": resnet_rs.NETWORKS,
    "DenseNet": densenet.NETWORKS,
    "Inception": [
        *googlenet.NETWORKS,
        *inception.NETWORKS,
        *inception_v4.NETWORKS,
    ],
    "MobileNet": mobilenet.NETWORKS,
    "ShuffleNet": shufflenet.NETWORKS,
    "EfficientNet": efficientnet.NETWORKS,
    "SqueezeNet": squeezenet.NETWORKS,
    "Quadir": quadir.NETWORKS,
}
MODELS = {network.name: network for rows in FAMILIES.values() for network in rows}
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


def list_models(num_classes: int = 10, pattern: str = "*") -> Iterator[str]:
    """A heading, and by family a line per network: parameters, multiply-adds, paper.

    Where the classifier depends on the image size (VGG), the parameters are those at
    32x32 with, in brackets, those at the native size.

    Args:
        num_classes: of each network.
        pattern: of the names to list, as of files: ``se_*``.

    Raises:
        ValueError: no name is like that.
    """
    short = {full: name for name, full in SHORT.items()}
    chosen = [
        name
        for name in MODELS
        if any(fnmatchcase(n, pattern) for n in (name, short.get(name, name)))
    ]
    if not chosen:
        raise ValueError(
            f"no network has a name like {pattern!r}; those of a family begin alike, "
            "as in 'densenet*'"
        )
    wide = 2 + max(map(len, chosen))
    columns = f"{'parameters':>28}{'native':>8}{'GMACs':>9}{'at 32':>9}  paper"
    yield f"{'model':<{wide}}{columns}"
    for family, rows in FAMILIES.items():
        members = [network for network in rows if network.name in chosen]
        if members:
            yield family
        for network in members:
            known = f"  = {short[network.name]}" if network.name in short else ""
            yield f"  {network.name:<{wide - 2}}{_counted(network, num_classes)}{known}"


def _counted(network: Network, num_classes: int) -> str:
    """What follows the name of a network in its line."""
    side, found = network.native or 32, {}
    for size in {32, side}:
        if size >= network.smallest:
            how = {"num_classes": num_classes, "image_size": size}
            model = network.build(seed=None, **how)
            found[size] = count_parameters(model), count_macs(model, size)
    large, native = found[side]
    small, few = found.get(32, (large, 0))
    parameters = f"{small:,}" + (f" ({large:,})" if large != small else "")
    at32 = f"{few / 1e9:.4f}" if few else "-"
    return f"{parameters:>28}{side:>8}{native / 1e9:>9.3f}{at32:>9}  {network.paper}"


ZOO = Zoo(find, list_models)
"""What the command lines are given."""
