"""Options of depth sweeps and claims, and the folder and facts of an analysis."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

import models
from tinyflow import flow
from tinyflow.flow import depth, series
from tinyflow.flow.settings import Settings
from tinyflow.flow.show import report


def test_strict_json_of_what_is_not_finite():
    found = report.strict(
        {1: (math.nan, [math.inf, 1.5]), "a": {"b": -math.inf, "c": True}}
    )
    assert found == {"1": [None, [None, 1.5]], "a": {"b": None, "c": True}}


def test_series_refuse_what_cannot_be_counted():
    of, judged = series.check_sweep, series.check_claims
    for word, ask in (
        ("--seeds must", lambda: of(Settings(), "20", 0)),
        ("--seeds must", lambda: judged(Settings(), [], 0, 1, 0)),
        ("--batches must", lambda: judged(Settings(), [], 1, 0, 0)),
        ("--train-steps must", lambda: judged(Settings(), [], 1, 1, -1)),
        ("leave out one of", lambda: judged(Settings(checkpoint="x"), [], 1, 1, 1)),
        ("--depths '21'", lambda: of(Settings(), "21", 1)),
        ("--depths '20,x'", lambda: of(Settings(), "20,x", 1)),
        ("--depths '20,00020'", lambda: of(Settings(), "20,00020", 1)),
        (
            "--model",
            lambda: of(Settings(model=("resnet20",), find=models.find), "20", 1),
        ),
        ("--checkpoint", lambda: of(Settings(checkpoint="x"), "20", 1)),
    ):
        with pytest.raises(flow.FlowError, match=word):
            ask()
    assert of(Settings(), "110, 20,56,20", 1) == [20, 56, 110]
    one = ["noh2-remains"]
    assert judged(Settings(), one, 1, 1, 1) == judged(Settings(), one, 1, 1, 0) == one


def test_folders_are_numbered_from_one_and_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        with report.folder(None, "x") as place:
            place.json("summary.json", {"a": math.inf})
            place.csv("a.csv", [{"a": 1, "b": None}, {"c": 0.1}])
            place.csv("none.csv", [])
        assert place.path.as_posix() == f"runs/analysis-x-{number}"
        assert sorted(p.name for p in place.path.iterdir()) == ["a.csv", "summary.json"]
        assert (place.path / "a.csv").read_text() == "a,b,c\n1,,\n,,0.1\n"
        assert json.loads((place.path / "summary.json").read_text()) == {"a": None}
    with pytest.raises(KeyError), report.folder(None, "x"):
        raise KeyError
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_run_is_described_by_its_options(tmp_path):
    name, said, facts = series.described(tmp_path)
    assert name == tmp_path.name and said.startswith(f"training run {tmp_path} · batch")
    start = {
        "run": str(tmp_path),
        "weights": "along training",
        "normalisation": "batch statistics",
        "dtype": "float32",
    }
    assert facts == start
    given = {"model": "resnet", "dataset": "mnist", "seed": 3, "batch_size": 7}
    for more, classes, of in (
        ({}, None, ""),
        ({"resolved": [], "epochs": 4}, None, ""),
        (
            {"resolved": {"model": "resnet50", "num_classes": 9}, "epochs": 4},
            9,
            ", 9 classes",
        ),
    ):
        (tmp_path / "config.json").write_text(json.dumps(given | more))
        name, said, facts = series.described(tmp_path)
        full = "resnet50" if classes else "resnet"
        assert name == full
        assert said == (
            f"mnist{of} · batch statistics · float32 · seed 3 · batch of 7 · {tmp_path}"
        )
        told = given | {"model": full, "classes": classes}
        assert facts == start | told | {"epochs": more.get("epochs")}


def test_a_network_named_twice_is_looked_at_once():
    def names(default, **how):
        settings = Settings(find=models.find, **how)
        return [network.name for network in settings.networks(default)]

    four = ("resnet", "resnet50", "plain20", "resnet")
    assert names(("vgg",), model=four) == ["resnet50", "plain20"]
    assert names(("vgg", "vgg19")) == ["vgg19"]
    with pytest.raises(flow.FlowError, match="no networks were given, so none"):
        Settings().networks(("vgg",))


def test_a_sweep_goes_by_kind_depth_and_seed(monkeypatch):
    made = []

    def find(name):
        def build(*, seed, **how):
            made.append((how["num_classes"], how["image_size"], how["in_channels"]))
            return SimpleNamespace(to=lambda device, dtype: (name, seed, device, dtype))

        return SimpleNamespace(build=build)

    monkeypatch.setattr(depth, "measure_depth", lambda *args: args)
    images, labels, said = np.zeros((2, 1, 8, 8)), np.array([0, 1]), []
    how = {"seeds": iter([4, 5]), "images": images, "labels": labels}
    how |= {"find": find, "training": False, "num_classes": 7}
    how["progress"] = lambda name, layers: said.append((name, layers))
    found = depth.depth_sweep(iter([20, 56]), ("plain", "resnet"), **how)
    wanted = itertools.product(("plain", "resnet"), (20, 56), (4, 5))
    for (model, *point, x, y, training), (kind, layers, seed) in zip(
        found, wanted, strict=True
    ):
        assert model == (f"{kind}{layers}", seed, "cpu", "float32")
        assert point == [kind, layers, seed] and y is labels and training is False
        assert x.dtype == np.float32 and x.shape == images.shape
        assert said.pop(0) == (f"{kind}{layers}, seed {seed}", layers)
    assert made == [(7, 8, 1)] * 8
