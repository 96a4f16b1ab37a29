"""Runs with --normalize pixel: which mean, and who is given it afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models
from tests.train.small import ARGS, SMALL, run
from tests.train.small import place as place
from tests.train.stopping import left_by, stopping, traced
from tinyflow import Tensor
from tinyflow.data import Loader, load_dataset
from tinyflow.flow.settings import Settings
from tinyflow.flow.source import find_source
from tinyflow.train import ConfigError, load_checkpoint, resume, train
from tinyflow.train.prepare import prepare
from tinyflow.train.step import evaluate
from tinyflow.train.trained import find_trained

PIXEL = replace(SMALL, normalize="pixel", val_split=40, augment=True)


def test_it_is_the_mean_of_what_is_trained_on() -> None:
    ready = prepare(PIXEL)
    assert ready.val is not None
    learned = ready.train.dataset.in_memory().images
    assert len(learned) == 260
    mean = np.array([image / 1.0 for image in learned]).sum(0) / (260 * 255.0)
    for batches in (ready.train, ready.val, ready.test):
        assert np.asarray(batches.dataset.mean).tobytes() == mean.tobytes()
        assert batches.dataset.std == (1.0, 1.0, 1.0)
    seen = np.concatenate([x for x, _ in ready.test.epoch(0)])
    images = load_dataset("shapes", None, "test", limit=100).in_memory().images
    assert seen.tobytes() == (images / 255 - mean).astype(np.float32).tobytes()
    plain = prepare(replace(PIXEL, normalize="channel")).train.dataset
    assert plain.mean == load_dataset("shapes", None, limit=1).mean


def test_a_run_goes_on_with_the_same_bytes(place: Path) -> None:
    train(replace(PIXEL, output=place / "whole"), tracer=traced)
    result = train(replace(PIXEL, output=place / "parts"), stopping(3), traced)
    assert result.interrupted
    while result.interrupted:
        result = resume(place / "parts", models.find, stopping(3), traced)
    assert left_by(place / "parts") == left_by(place / "whole")


def test_evaluate_sees_what_the_run_saw(place: Path) -> None:
    done = run(f"{ARGS} --normalize pixel --val-split 40 --output out")
    assert done.exit_code == 0, done.output
    assert json.loads(Path("out/config.json").read_text())["normalize"] == "pixel"
    ready = prepare(replace(PIXEL, augment=False))
    trained = find_trained(Path("out"), models.find)
    ours = Loader(trained.images(limit=100), SMALL.batch_size, shuffle=False)
    for (x, _), (same, _) in zip(ours.epoch(0), ready.test.epoch(0), strict=True):
        assert x.tobytes() == same.tobytes()
        logits = [trained.model(Tensor(images)).data.tobytes() for images in (x, same)]
        assert logits[0] == logits[1]
    loss, accuracy = evaluate(trained.model, ready.test)
    assert run("evaluate out --batch-size 50 --limit-test 100").exit_code == 0
    written = json.loads(Path("out/evaluation.json").read_text())
    assert written["loss"] == pytest.approx(loss, rel=1e-6)
    assert written["top1"] == accuracy == trained.told.test_accuracy


def test_predict_sees_what_the_run_saw(place: Path) -> None:
    train(replace(PIXEL, output=place / "out"))
    test = prepare(PIXEL).test.dataset.in_memory()
    Image.fromarray(test.images[7].transpose(1, 2, 0)).save("a.png")
    result = run("predict out a.png --json --top 10")
    assert result.exit_code == 0, result.output
    chances = {
        each["name"]: each["probability"]
        for each in json.loads(result.stdout)[0]["classes"]
    }
    x = (test.images[7:8] / 255 - test.mean).astype(np.float32)
    model = load_checkpoint(place / "out", models.find)[0]
    raised = np.exp(model(Tensor(x)).data[0].astype(np.float64))
    wanted = dict(zip(test.classes, raised / raised.sum(), strict=True))
    assert chances == pytest.approx(wanted, rel=1e-12)


def test_an_analysis_sees_what_the_run_saw(place: Path) -> None:
    train(replace(PIXEL, output=place / "out"))
    how = Settings(checkpoint=place / "out", find=models.find, batch_size=8, seed=2)
    source = find_source(how)
    mean = np.asarray(prepare(PIXEL).train.dataset.mean)
    images, _ = source.batch()
    assert images.dtype == np.float64
    pixels = np.rint((images + mean) * 255)
    assert (images == pixels / 255 - mean).all()
    known = {image.tobytes() for image in source.data.images}
    assert all(image.astype(np.uint8).tobytes() in known for image in pixels)
    facts = source.facts()
    assert facts["pixel_mean"] == pytest.approx(list(mean.mean((1, 2))))
    assert facts["mean_image"] is True and facts["pixel_std"] == [1.0] * 3
    json.dumps(facts)


def test_other_images_are_seen_in_the_same_way(place: Path) -> None:
    """Those of image files, too, which could not have been trained on so."""
    train(replace(PIXEL, output=place / "out"))
    trained = find_trained(Path("out"), models.find)
    classes = tuple("abcdefghij")
    trained = replace(trained, told=replace(trained.told, classes=classes))
    for i, name in enumerate(classes):
        for split in ("train", "val"):
            folder = place / "images" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (40, 40), (20 * i, 90, 200)).save(folder / "a.png")
    ((found, _),) = Loader(
        trained.images("folder", place / "images"), 10, shuffle=False
    ).epoch(0)
    colours = {tuple(image[:, 0, 0]) for image in found}
    corner = np.asarray(trained.told.mean)[:, 0, 0]
    assert colours == {
        tuple((np.array([20 * i, 90, 200]) / 255 - corner).astype(np.float32))
        for i in range(10)
    }


def test_what_it_does_not_suit_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"--normalize 'image' .*channel.*pixel"):
        replace(SMALL, normalize="image").validate()
    folder = replace(PIXEL, dataset="folder", data_dir=place)
    with pytest.raises(ConfigError, match="--normalize pixel needs images that lie"):
        folder.validate()
    replace(folder, normalize="channel").validate()
