"""``--image-size``: pictures drawn larger or smaller, in both command lines."""

import json

import pytest
from typer.testing import CliRunner

import models
from tinyflow.commands import analyze, train

RUN = "--model resnet20 --image-size 16 --epochs 1 --batch-size 20 --limit-train 40"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYFLOW_DATA", raising=False)
    return tmp_path


def run(app, arguments):
    return CliRunner().invoke(app, arguments.split(), obj=models.ZOO)


def test_a_run_at_another_size_is_evaluated_and_analysed_at_that_size(place):
    result = run(train.app, f"{RUN} --limit-test 20 --device cpu --output run")
    assert result.exit_code == 0, result.output
    assert json.loads((place / "run/config.json").read_text())["image_size"] == 16
    result = run(train.app, "evaluate run --limit-test 20 --device cpu")
    assert result.exit_code == 0, result.output
    options = "--batch-size 4 --dtype float32 --device cpu --output out"
    result = run(analyze.app, f"blocks --checkpoint run {options}")
    assert result.exit_code == 0, result.output
    found = json.loads((place / "out/summary.json").read_text("utf-8"))
    assert found["data"]["image_size"] == 16
    result = run(analyze.app, "blocks --checkpoint run --image-size 16")
    assert result.exit_code == 2
    assert "--checkpoint names the size of its images" in result.stderr


def test_a_network_that_needs_larger_images_gets_them(place):
    options = "--model alexnet --batch-size 2 --dtype float32 --device cpu"
    small = run(analyze.app, f"blocks {options}")
    assert small.exit_code == 2 and "--image-size enlarges shapes" in small.stderr
    result = run(analyze.app, f"compare {options} --image-size 64 --output out")
    assert result.exit_code == 0, result.output
    found = json.loads((place / "out/summary.json").read_text("utf-8"))
    assert found["data"]["image_size"] == found["settings"]["image_size"] == 64


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (train.app, "--image-size is of --dataset folder and shapes: leave it out"),
        (analyze.app, "the images of cifar10 have one size: leave --image-size out"),
    ],
)
def test_images_that_have_one_size_keep_it(app, words):
    command = "blocks " if app is analyze.app else ""
    result = run(
        app, f"{command}--model resnet20 --dataset cifar10 --data-dir . --image-size 64"
    )
    assert result.exit_code == 2 and words in result.stderr


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (train.app, "--image-size must be 8 to 512, not 600"),
        (analyze.app, "drawn at 8 to 512 pixels, not 600"),
    ],
)
def test_pictures_have_a_largest_size(app, words):
    command = "blocks " if app is analyze.app else ""
    result = run(app, f"{command}--model resnet20 --image-size 600 --device cpu")
    assert result.exit_code == 2 and words in result.stderr
    assert result.stderr.count("\n") <= 2
