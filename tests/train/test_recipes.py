"""Recipes: the papers' numbers, and PyTorch's first 100 steps with them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

import models
from tests.train.peer import EPOCHS, SIZE, compare, network
from tinyflow.commands import train as command
from tinyflow.commands.train_options import OPTIONS
from tinyflow.network import Network
from tinyflow.train import ConfigError, TrainConfig
from tinyflow.train.protocol import schedule_of
from tinyflow.train.recipes import RECIPES, from_recipe

SGD = {"optimizer": "sgd", "momentum": 0.9, "nesterov": False, "dropout": None}
SGD |= {"stochastic_depth": None, "label_smoothing": 0.0, "ema": None}
NESTEROV = SGD | {"nesterov": True}
SMALL, LARGE = "cifar10", "folder"

# of each recipe, data set and network: lr, weight decay, images per step, how long,
# the rate in parts of its highest at some steps of the run, and the rest
PAPERS: dict[tuple[str, str, str], tuple[Any, ...]] = {
    ("he2015", SMALL, "resnet20"): (
        (0.1, 1e-4, 128, "64000 steps"),
        {0: 1, 31_999: 1, 32_000: 0.1, 47_999: 0.1, 48_000: 0.01, 63_999: 0.01},
        SGD,
    ),
    ("he2015", SMALL, "resnet110"): (
        (0.1, 1e-4, 128, "64000 steps"),
        {0: 0.1, 10: 0.1},  # until four fifths are wrong no more
        SGD,
    ),
    ("he2015", SMALL, "resnet1202"): ((0.1, 1e-4, 128, "64000 steps"), {0: 0.1}, SGD),
    ("he2015", LARGE, "resnet"): ((0.1, 1e-4, 256, "600000 steps"), {0: 1}, SGD),
    ("he2016", SMALL, "resnet20"): (
        (0.1, 1e-4, 128, "64000 steps"),
        {0: 0.1, 399: 0.1, 400: 1, 31_999: 1, 32_000: 0.1, 48_000: 0.01},
        SGD,
    ),
    ("he2016", LARGE, "resnet"): (
        (0.1, 1e-4, 256, "90 epochs"),
        {0: 1, "29.9 epochs": 1, "30 epochs": 0.1, "60 epochs": 0.01},
        SGD,
    ),
    ("huang2016", SMALL, "resnet20"): (
        (0.1, 1e-4, 128, "500 epochs"),
        {0: 1, "249.9 epochs": 1, "250 epochs": 0.1, "375 epochs": 0.01},
        NESTEROV | {"stochastic_depth": 0.5, "val_split": 5000},
    ),
    ("huang2017", SMALL, "densenet"): (
        (0.1, 1e-4, 64, "300 epochs"),
        {0: 1, "149.9 epochs": 1, "150 epochs": 0.1, "225 epochs": 0.01},
        NESTEROV,
    ),
    ("huang2017", LARGE, "densenet"): (
        (0.1, 1e-4, 256, "90 epochs"),
        {0: 1, "30 epochs": 0.1, "60 epochs": 0.01},
        NESTEROV,
    ),
    ("hu2018", SMALL, "se_resnet"): (
        (0.1, 1e-4, 128, "64000 steps"),
        {0: 0.1, 399: 0.1, 400: 1, 32_000: 0.1, 48_000: 0.01},
        SGD,
    ),
    ("hu2018", LARGE, "se_resnet"): (
        (0.6, 1e-4, 1024, "100 epochs"),
        {0: 1, "30 epochs": 0.1, "60 epochs": 0.01, "90 epochs": 0.001},
        SGD,
    ),
    ("quadir2019", SMALL, "resnet20"): (
        (0.001, 0.0, 32, "50 epochs"),
        {0: 1, "49.9 epochs": 1},
        SGD | {"optimizer": "adam", "betas": (0.9, 0.999), "augment": False},
    ),
    ("simonyan2014", LARGE, "vgg"): ((0.01, 5e-4, 256, "74 epochs"), {0: 1}, SGD),
    ("bello2021", LARGE, "resnet"): (
        (1.6, 4e-5, 4096, "350 epochs"),
        {0: 0, "2.5 epochs": 0.5, "5 epochs": 1, "177.5 epochs": 0.5},
        SGD
        | {"label_smoothing": 0.1, "ema": 0.9999, "dropout": 0.25}
        | {"rand_augment": 2, "magnitude": 10},
    ),
}


RS = {  # Bello et al. 2021 and its code: pixels, magnitude, dropout, stochastic depth
    "resnet_rs50": (160, 10, 0.25, None),
    "resnet_rs101": (192, 15, 0.25, None),
    "resnet_rs152": (256, 15, 0.25, None),
    "resnet_rs200": (256, 15, 0.25, 0.1),
    "resnet_rs270": (256, 15, 0.25, 0.1),
    "resnet_rs350": (320, 15, 0.4, 0.1),
    "resnet_rs420": (320, 15, 0.4, 0.1),
}


@pytest.mark.parametrize("name", RS)
def test_each_resnet_rs_has_numbers_of_its_own(name: str, tmp_path) -> None:
    network = models.find(name)
    options, said = from_recipe("bello2021", network, LARGE)
    assert said == []
    config = TrainConfig(network, data_dir=tmp_path, **options)
    config.validate()
    told = config.image_size, config.magnitude, config.dropout, config.stochastic_depth
    assert told == RS[name]
    assert (config.rand_augment, config.learning_rate) == (2, 1.6)
    assert network.native == config.image_size
    options, said = from_recipe("bello2021", network, SMALL)
    assert "image_size" not in options and said[1:] == [
        "image_size is left out, which is of folders"
    ]


def test_every_recipe_is_among_the_papers() -> None:
    said = {(name, kind) for name, kind, _ in PAPERS}
    assert said == {
        (name, kind)
        for name, recipe in RECIPES.items()
        for kind, options in ((SMALL, recipe.small), (LARGE, recipe.large))
        if options is not None
    }


@pytest.mark.parametrize("case", PAPERS, ids=" ".join)
def test_the_numbers_are_those_of_the_paper(case: tuple[str, str, str], tmp_path):
    name, dataset, model = case
    (lr, decay, batch, long), rates, rest = PAPERS[case]
    options, said = from_recipe(name, models.find(model), dataset)
    assert said == []
    config = TrainConfig(models.find(model), data_dir=tmp_path, **options)
    config.validate()
    assert (config.recipe, config.dataset) == (name, dataset)
    assert (config.learning_rate, config.decay) == (lr, decay)
    assert config.batch_size == batch
    pixel = dataset == SMALL and name in ("he2015", "he2016")
    assert config.normalize == ("pixel" if pixel else "channel")
    wanted = {"augment": True, "clip_grad": None, "mixup": 0.0, "cutout": 0} | rest
    assert {key: getattr(config, key) for key in wanted} == wanted

    count, unit = long.split()
    steps = 50_000 // 128 + 1 if dataset == SMALL else 1_281_167 // batch
    total = config.iterations or config.epochs * steps
    assert total == int(count) * (steps if unit == "epochs" else 1)
    factors = schedule_of(config, steps, total)
    for at, rate in rates.items():
        step = at if isinstance(at, int) else round(float(at.split()[0]) * steps)
        assert factors(step) == pytest.approx(rate, abs=1e-3 * (rate % 0.1 != 0)), at


def test_a_plateau_is_what_divides_the_rate_where_the_paper_names_no_epochs() -> None:
    for name, model in (("he2015", "resnet"), ("simonyan2014", "vgg")):
        options, _ = from_recipe(name, models.find(model), LARGE)
        assert options["schedule"] == "plateau" and "gamma" not in options
        assert TrainConfig.gamma == 0.1


def small(case: tuple[str, str, str], **given: Any) -> tuple[TrainConfig, TrainConfig]:
    """A recipe for the small network of 100 steps, and the paper's numbers by hand."""
    name, dataset, model = case
    (lr, decay, _, _), _, rest = PAPERS[case]
    net = network(model)
    given = {"epochs": EPOCHS, "batch_size": SIZE, "output": None, **given}
    if name == "bello2021":
        given |= {"warmup_epochs": 1.5}
    ours = TrainConfig(net, **from_recipe(name, net, dataset, given)[0])
    shape = {
        "he2015": {"schedule": "step", "milestones": (0.5, 0.75)},
        "he2016": {
            "schedule": "step",
            "warmup_epochs": 400 / (50_000 / 128),
            "warmup_start": 0.1,
            "warmup_constant": True,
        },
        "huang2016": {"schedule": "step", "milestones": (0.5, 0.75)},
        "huang2017": {"schedule": "step", "milestones": (0.5, 0.75)},
        "hu2018": {"schedule": "step", "milestones": (0.3, 0.6, 0.9)},
        "quadir2019": {"schedule": "constant"},
        "simonyan2014": {"schedule": "plateau"},
        "bello2021": {
            "schedule": "cosine",
            "warmup_epochs": 1.5,
            "warmup_start": 0.0,
            "ema_warm_up": True,
        },
    }[name]
    if name == "he2015" and dataset == LARGE:
        shape = {"schedule": "plateau"}
    if name in ("he2016", "huang2017") and dataset == LARGE:
        shape = {"schedule": "step", "milestones": (0.3, 0.6)}  # as rounded by PyTorch
        ours = replace(ours, milestones=(0.3, 0.6))
    if name == "hu2018" and dataset == SMALL:
        shape = {
            "schedule": "step",
            "warmup_epochs": 1.024,
            "warmup_start": 0.1,
            "warmup_constant": True,
        }
    if name == "bello2021":
        lr = 0.1 / 256 * SIZE
    theirs = {"warmup_epochs": 0.0, "lr": lr, "weight_decay": decay, **shape, **rest}
    if model in ("resnet110", "resnet1202"):
        theirs["slow_until"] = 0.2
    return ours, TrainConfig(net, dataset=dataset, **(theirs | given))


@pytest.mark.parametrize("case", PAPERS, ids=" ".join)
def test_100_steps_are_those_of_pytorch(case: tuple[str, str, str]) -> None:
    patience = {"patience": 0} if PAPERS[case][1] == {0: 1} else {}
    seen = compare(*small(case, **patience))
    unchanged = "quadir2019", "simonyan2014"  # whose loss falls in every epoch here
    assert len(seen) > 1 or case[0] in unchanged


def test_100_steps_without_augmentation_have_dropout() -> None:
    case = "huang2017", SMALL, "densenet"
    ours, theirs = small(case, augment=False)
    assert ours.dropout == 0.2
    compare(ours, replace(theirs, dropout=0.2))
    with pytest.raises(AssertionError):
        compare(ours, replace(theirs, dropout=0.1))


def test_steps_of_another_paper_are_others() -> None:
    ours, _ = small(("he2015", SMALL, "resnet20"))
    _, theirs = small(("huang2017", SMALL, "densenet"))
    with pytest.raises(AssertionError):
        compare(ours, theirs)


def test_what_is_given_stands_in_place_of_the_recipes() -> None:
    net = models.find("resnet20")
    options, _ = from_recipe("he2015", net, SMALL, {"epochs": 7, "lr": 0.2})
    assert options["epochs"] == 7 and options["lr"] == 0.2
    assert "iterations" not in options and options["weight_decay"] == 1e-4
    options, _ = from_recipe("huang2017", net, SMALL, {"iterations": 70})
    assert TrainConfig(net, **options).iterations == 70
    options, _ = from_recipe("bello2021", net, LARGE, {"batch_size": 512})
    assert options["lr"] == 0.2 and options["batch_size"] == 512
    options, _ = from_recipe("bello2021", net, LARGE, {"batch_size": 512, "lr": 1.0})
    assert options["lr"] == 1.0
    before = dict(RECIPES["bello2021"].large or {})
    assert before["lr"] == 1.6  # the recipe itself stays


def test_what_cannot_be_had_is_said() -> None:
    vgg = models.find("vgg")
    options, said = from_recipe("huang2016", vgg, SMALL)
    assert "stochastic_depth" not in options
    assert said == ["stochastic_depth is left out, which vgg19 does not have"]
    options, said = from_recipe("bello2021", vgg, SMALL)
    assert said == [
        "its options are those for folders, as of ImageNet: it has no others"
    ]
    options, said = from_recipe("he2015", vgg, "mnist")
    assert options["augment"] is False and "digits" in said[0]
    mine = Network("mine", lambda num_classes, image_size, in_channels, rng: None)
    assert "dropout" not in from_recipe("bello2021", mine, LARGE)[0]


def test_another_optimiser_needs_a_rate() -> None:
    net = models.find("resnet20")
    with pytest.raises(ConfigError, match="give one with --lr for --optimizer adam"):
        from_recipe("he2015", net, SMALL, {"optimizer": "adam"})
    given = {"optimizer": "adam", "lr": 0.01}
    assert from_recipe("he2015", net, SMALL, given)[0]["lr"] == 0.01
    assert from_recipe("he2015", net, SMALL, {"optimizer": "sgd"})[0]["lr"] == 0.1


class Caught(Exception):
    """The configuration that would be trained with."""


def configured(monkeypatch: pytest.MonkeyPatch, *words: str) -> TrainConfig:
    def caught(config: TrainConfig, *_: Any) -> None:
        raise Caught(config)

    monkeypatch.setattr(command, "train", caught)
    result = CliRunner().invoke(command.app, list(words), obj=models.ZOO)
    assert isinstance(result.exception, Caught), result.output
    config: TrainConfig = result.exception.args[0]
    return config


def test_the_printed_flags_are_the_recipe(monkeypatch, tmp_path) -> None:
    """Each line of ``train.py recipes``, pasted, is the run that --recipe gives."""
    shown = CliRunner(env={"COLUMNS": "1000"}).invoke(command.app, ["recipes"])
    assert shown.exit_code == 0
    name, compared = "", 0
    for line in shown.stdout.splitlines():
        if found := re.match(r"(\w+): ", line):
            name = found[1]
            assert RECIPES[name].source in line
        if not (found := re.match(r"  (images in memory|folders)[^:]*: (--.*)", line)):
            continue
        dataset = SMALL if found[1] == "images in memory" else LARGE
        on = ("--model", "resnet", "--dataset", dataset, "--data-dir", str(tmp_path))
        pasted = configured(monkeypatch, *on, *found[2].split())
        recipe = configured(monkeypatch, *on, "--recipe", name)
        told = {f.name: getattr(recipe, f.name) for f in OPTIONS}
        assert told.pop("recipe") == name
        for option, value in told.items():
            said = getattr(pasted, option)
            if option == "milestones":
                value, said = pytest.approx(value, abs=1e-6), said
            assert said == value, (name, option)
        compared += 1
    assert compared == len({case[:2] for case in PAPERS})


def test_a_run_remembers_its_recipe(tmp_path) -> None:
    place = tmp_path / "run"
    words = "--model resnet20 --recipe he2015 --limit-train 8 --limit-test 4"
    small = ["--batch-size", "4", "--iterations", "2", "--output", str(place)]
    result = CliRunner().invoke(
        command.app, [*words.split(), *small], obj=models.ZOO, catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    told = json.loads((place / "config.json").read_text())
    assert told["recipe"] == "he2015" and told["weight_decay"] == 1e-4
    assert told["iterations"] == 2 and told["resolved"]["lr"] == 0.1
    assert told["normalize"] == "pixel"
