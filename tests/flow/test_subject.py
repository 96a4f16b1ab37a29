"""What an analysis looks at: options at their borders, and the words for them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import models
from tinyflow import flow
from tinyflow.flow.settings import Settings
from tinyflow.flow.source import Source, find_source
from tinyflow.flow.subject import look
from tinyflow.train.checkpoint import Metadata, save_checkpoint


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"dtype": "float16"}, "--dtype 'float16'"),
        ({"mode": "test"}, "--mode 'test'"),
        ({"dataset": "cats"}, "--dataset 'cats'"),
        ({"batch_size": 0}, "--batch-size must be 1 or more"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"checkpoint": Path("x"), "model": ("vgg",)}, "--checkpoint names its own"),
        ({"model": ("resnet20", "nonet")}, "unknown model 'nonet'"),
    ],
)
def test_options_that_cannot_be_used(changed, word):
    with pytest.raises(flow.FlowError, match=word):
        Settings(find=models.find, **changed).validate()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"batch_size": 1, "seed": 0, "dataset": "shapes"},
        {"checkpoint": Path("x")},
        {"model": ("vgg", "resnet20"), "mode": "eval", "dtype": "float32"},
    ],
)
def test_options_just_inside_their_borders(changed):
    Settings(find=models.find, **changed).validate()


def of_mnist(**changed):
    """Of ten classes of mnist, without images."""
    data = SimpleNamespace(name="mnist", num_classes=10)
    return Source(Settings(**changed), data, "cpu")


def test_conditions_in_words():
    at = {"seed": 3, "batch_size": 7, "mode": "eval", "dtype": "float32"}
    start = "mnist, 10 classes · running statistics · float32"
    assert of_mnist(**at).conditions() == f"{start} · seed 3 · batch of 7"
    assert of_mnist(**at).conditions(2) == f"{start} · seeds 3 to 4 · batch of 7"
    assert of_mnist().weights == "initial weights"
    told = Metadata("resnet20", 10, 28, 1, "mnist", 5, 4, 0.5)
    trained = replace(of_mnist(**at, checkpoint=Path("x")), told=told)
    assert trained.conditions() == f"{start} · batch of 7, seed 3"
    assert trained.weights == "epoch 4 of x, seed 5"
    other = replace(trained, told=replace(told, dataset="cifar10"))
    assert other.weights == "epoch 4 of x, seed 5, trained on cifar10"


def test_the_batch_is_as_large_as_asked_and_drawn_by_the_seed():
    at = Settings(batch_size=5)
    found = find_source(at)
    assert len(found.data) == 1000
    images, labels = found.batch()
    assert images.shape == (5, 3, 32, 32) and labels.shape == (5,)
    assert images.dtype == np.float64
    again = find_source(replace(at, dtype="float32")).batch()[0]
    assert again.dtype == np.float32 and np.allclose(again, images, atol=1e-6)
    other = find_source(replace(at, seed=1)).batch()[0]
    assert not np.array_equal(other, images)
    assert len(find_source(replace(at, batch_size=1001)).data) == 1001


def test_facts_say_where_images_and_weights_come_from():
    found = find_source(Settings(batch_size=5, seed=2))
    facts = found.facts()
    assert facts["class_names"] == list(found.data.classes)
    for name, values in (
        ("pixel_mean", found.data.mean),
        ("pixel_std", found.data.std),
    ):
        assert facts.pop(name) == list(values) and len(values) == 3
    assert facts | {"class_names": None} == {
        "dataset": "shapes",
        "classes": 10,
        "class_names": None,
        "channels": 3,
        "image_size": 32,
        "normalisation": "batch statistics",
        "batch_size": 5,
        "batch_seed": 2,
        "weights": "initial weights",
        "epoch": 0,
        "seed": 2,
    }
    told = Metadata("resnet20", 10, 32, 3, "mnist", 7, 4, 0.5)
    trained = replace(found, told=told, settings=Settings(checkpoint=Path("x"), seed=2))
    more = {
        "weights": "epoch 4 of x, seed 7, trained on mnist",
        "checkpoint": "x",
        "epoch": 4,
        "seed": 7,
        "trained_on": "mnist",
        "test_accuracy": 0.5,
        "batch_seed": 2,
    }
    assert trained.facts().items() >= more.items()


def test_a_checkpoint_is_looked_at_as_it_was_trained(tmp_path):
    told = Metadata("resnet20", 10, 32, 3, "shapes", 5, 4, 0.5)
    model = models.build_model("resnet20", seed=5)
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, model, told)
    source = find_source(Settings(checkpoint=path, find=models.find, batch_size=2))
    assert source.fitting(("vgg", "resnet")) == ((models.find("resnet20"),), "")
    seen = look(source, models.find("resnet20"))
    assert (seen.name, seen.source.data.name) == ("resnet20", "shapes")
    assert seen.said.startswith(f"epoch 4 of {path}, seed 5 · shapes")
    same = look(find_source(Settings(seed=5, batch_size=2)), models.find("resnet20"))
    assert same.said.startswith("initial weights · shapes, 10 classes")
    assert seen.parameters == same.parameters == 269_722
    assert seen.probe.training is True and seen.probe.images.dtype == np.float64
    at = find_source(Settings(batch_size=2, mode="eval"))
    assert look(at, models.find("resnet20")).probe.training is False
    save_checkpoint(
        path,
        models.build_model("resnet20", image_size=28),
        replace(told, image_size=28),
    )
    drawn = find_source(Settings(checkpoint=path, find=models.find, batch_size=2))
    assert drawn.data.image_size == 28  # shapes are drawn at the size of the network
    for changed in ({"in_channels": 1}, {"num_classes": 7}):
        other = {"num_classes": 10, "image_size": 32, "in_channels": 3} | changed
        save_checkpoint(
            path, models.build_model("resnet20", **other), replace(told, **changed)
        )
        with pytest.raises(flow.FlowError, match="use --dataset shapes"):
            find_source(Settings(checkpoint=path, find=models.find, batch_size=2))
