"""Recipes: the options with which papers say that they trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinyflow.data.dataset import FOLDER
from tinyflow.network import Network
from tinyflow.train.checks import ConfigError, choice

Options = Mapping[str, Any]
"""Fields of `TrainConfig`."""

SMALL, LARGE = "images in memory, as of CIFAR", "folders, as of ImageNet"


@dataclass(frozen=True)
class Recipe:
    """What a paper says of its training.

    Milestones are parts of the run, so that a shorter one is the same in small.

    Attributes:
        source: authors, year, arXiv number and where in it.
        small: options for images in memory; None if none were published.
        large: options for image folders; None if none were published.
        note: what the paper leaves open, or what is not as there.
        own: options of single networks, by name, besides.
        scaled: whether the paper has the learning rate in proportion to the batch.
        plain: options that come with images that are not cropped and mirrored.
    """

    source: str
    small: Options | None = None
    large: Options | None = None
    note: str = ""
    own: Mapping[str, Options] = field(default_factory=dict)
    scaled: bool = False
    plain: Options = field(default_factory=dict)

    def for_images(self, dataset: str) -> tuple[dict[str, Any], str]:
        """A copy of those of the kind of images; if there are none, of the other kind.

        And the name of the other kind, or "".
        """
        kinds = [(self.small, SMALL), (self.large, LARGE)]
        if dataset == FOLDER:
            kinds.reverse()
        (ours, _), (others, of) = kinds
        return (dict(ours), "") if ours else (dict(others or {}), of)


SGD: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": 0.1,
    "weight_decay": 1e-4,
    "schedule": "step",
    "warmup_epochs": 0.0,
    "augment": True,
}
HALVES = {"milestones": (0.5, 0.75)}
HE_2015 = SGD | HALVES | {"batch_size": 128, "iterations": 64_000}
SLOW = {"slow_until": 0.2}
EPOCH = 50_000 / 128
"""Steps of an epoch of CIFAR in batches of 128: papers count steps."""

HE_2016 = HE_2015 | {
    "warmup_epochs": 400 / EPOCH,
    "warmup_start": 0.1,
    "warmup_constant": True,
}
STRONG, DEEP = {"magnitude": 15.0}, {"stochastic_depth": 0.1}
IMAGENET = SGD | {"batch_size": 256, "epochs": 90, "milestones": (1 / 3, 2 / 3)}

RECIPES = {
    "simonyan2014": Recipe(
        "Simonyan & Zisserman 2014, arXiv:1409.1556, section 3.1",
        large=SGD
        | {
            "batch_size": 256,
            "epochs": 74,
            "lr": 0.01,
            "weight_decay": 5e-4,
            "schedule": "plateau",
        },
        note="The patience is not stated. Dropout is VGG's own. Crops are "
        "Inception's, not of a side of 256 to 512 pixels, and colours stay.",
    ),
    "he2015": Recipe(
        "He, Zhang, Ren & Sun 2015, arXiv:1512.03385, sections 3.4 and 4.2",
        HE_2015 | {"normalize": "pixel"},
        SGD | {"batch_size": 256, "iterations": 600_000, "schedule": "plateau"},
        "The patience is not stated. Crops of folders are Inception's, not of a "
        "side of 256 to 480 pixels, and colours stay. Training accuracy is looked at "
        "after each epoch.",
        own=dict.fromkeys(("resnet110", "resnet1202", "plain110"), SLOW),
    ),
    "he2016": Recipe(
        "He, Zhang, Ren & Sun 2016, arXiv:1603.05027, appendix",
        HE_2016 | {"normalize": "pixel"},
        IMAGENET,
        "The end of training on ImageNet is not stated: 90 epochs.",
    ),
    "huang2016": Recipe(
        "Huang, Sun, Liu, Sedra & Weinberger 2016, arXiv:1603.09382, section 4",
        SGD
        | HALVES
        | {
            "batch_size": 128,
            "epochs": 500,
            "nesterov": True,
            "stochastic_depth": 0.5,
            "val_split": 5000,
        },
        note="Branches are dropped image by image and scaled in training, not batch by "
        "batch and scaled in evaluation.",
    ),
    "huang2017": Recipe(
        "Huang, Liu, van der Maaten & Weinberger 2017, arXiv:1608.06993, section 4.2",
        SGD | HALVES | {"batch_size": 64, "epochs": 300, "nesterov": True},
        IMAGENET | {"nesterov": True},
        plain={"dropout": 0.2},
    ),
    "hu2018": Recipe(
        "Hu, Shen, Albanie, Sun & Wu 2018, arXiv:1709.01507, sections 5.1 and 5.2",
        HE_2016,
        SGD
        | {
            "batch_size": 1024,
            "epochs": 100,
            "lr": 0.6,
            "milestones": (0.3, 0.6, 0.9),
        },
        "Weight decay on ImageNet is not stated: that of ResNet. CIFAR's numbers are "
        "those of he2016, as the paper has it, with means of channels.",
    ),
    "quadir2019": Recipe(
        "Quadir 2019, table 1 and figures 4 and 5",
        {
            "optimizer": "adam",
            "lr": 1e-3,
            "betas": (0.9, 0.999),
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup_epochs": 0.0,
            "augment": False,
            "batch_size": 32,
            "epochs": 50,
        },
        note="Batches are not stated: of 32. Epochs are not: where the curves of the "
        "residual network on CIFAR-10 end.",
    ),
    "bello2021": Recipe(
        "Bello et al. 2021, arXiv:2103.07579, sections 4 and 5",
        large=SGD
        | {
            "batch_size": 4096,
            "lr": 1.6,
            "epochs": 350,
            "weight_decay": 4e-5,
            "schedule": "cosine",
            "warmup_epochs": 5.0,
            "warmup_start": 0.0,
            "label_smoothing": 0.1,
            "ema": 0.9999,
            "ema_warm_up": True,
            "rand_augment": 2,
            "magnitude": 10.0,
            "dropout": 0.25,
        },
        note="Magnitude and dropout are those of ResNet-RS-50, where a network has no "
        "numbers of its own. The running statistics of batch normalisation are "
        "averaged here; there they are the last batch's.",
        own={
            "resnet_rs50": {"image_size": 160},
            "resnet_rs101": {"image_size": 192} | STRONG,
            "resnet_rs152": {"image_size": 256} | STRONG,
            "resnet_rs200": {"image_size": 256} | STRONG | DEEP,
            "resnet_rs270": {"image_size": 256} | STRONG | DEEP,
            "resnet_rs350": {"image_size": 320, "dropout": 0.4} | STRONG | DEEP,
            "resnet_rs420": {"image_size": 320, "dropout": 0.4} | STRONG | DEEP,
        },
        scaled=True,
    ),
}


def from_recipe(
    name: str,
    network: Network,
    dataset: str,
    given: Options | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The options of a recipe for a network and its images.

    ``TrainConfig(network, **from_recipe("he2015", network, "shapes")[0])`` is a run.

    Args:
        name: one of `RECIPES`.
        network: the network.
        dataset: one of ``tinyflow.data.DATASETS``.
        given: other options: each stands in place of the recipe's.

    Returns:
        The options, with `recipe` and `dataset`, and a sentence for each of the
        recipe's that is not among them for a reason the user did not give.

    Raises:
        ConfigError: there is no such recipe, or another optimiser is given without a
            learning rate of its own.
    """
    choice("recipe", name, RECIPES)
    recipe, given, said = RECIPES[name], dict(given or {}), []
    ours, of = recipe.for_images(dataset)
    if of:
        said.append(f"its options are those for {of}: it has no others")
    ours |= recipe.own.get(network.name, {})
    if dataset == "mnist" and ours.get("augment"):
        ours["augment"] = False
        said.append("augment is left out, which mirrors images: they are digits")
    if not given.get("augment", ours["augment"]):
        ours |= recipe.plain
    if dataset != FOLDER and ours.pop("image_size", None):
        said.append("image_size is left out, which is of folders")
    for option in ("dropout", "stochastic_depth"):
        if option in ours and not network.takes(option):
            del ours[option]
            said.append(f"{option} is left out, which {network.name} does not have")
    usual = ours["optimizer"]
    if given.get("optimizer", usual) != usual and "lr" not in given:
        raise ConfigError(
            f"--recipe {name} has a learning rate for {usual}: give one with --lr for "
            f"--optimizer {given['optimizer']}"
        )
    if recipe.scaled:
        ours["lr"] *= given.get("batch_size", ours["batch_size"]) / ours["batch_size"]
    if "epochs" in given:
        ours.pop("iterations", None)
    return {"recipe": name, "dataset": dataset, **ours, **given}, said
