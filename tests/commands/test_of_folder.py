"""A network that learned from image files: evaluated, and asked about its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.pictures import write_folder
from tests.train.small import SMALL, run
from tests.train.small import place as place
from tinyflow.train import Result, train

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def trained(place: Path) -> Result:
    write_folder(place / "images", train=8, test=4)
    config = replace(SMALL, batch_size=8, limit_train=None, limit_test=None, epochs=1)
    of_folder = {"data_dir": place / "images", "image_size": 16, "workers": 0}
    return train(replace(config, dataset="folder", output=place / "out", **of_folder))


def test_each_file_is_taken_for_what_the_evaluation_says(
    trained: Result, place: Path
) -> None:
    assert run("evaluate out").exit_code == 0
    told = json.loads((place / "out" / "evaluation.json").read_text())
    assert told["top1"] == trained.last.test_accuracy
    assert [c["name"] for c in told["classes"]] == list(CLASSES)
    confusion = np.zeros((3, 3), int)
    for label, name in enumerate(CLASSES):
        files = sorted((place / "images" / "val" / name).iterdir())
        paths = " ".join(str(file) for file in files)
        for answer in json.loads(run(f"predict out {paths} --json").stdout):
            confusion[label, CLASSES.index(answer["classes"][0]["name"])] += 1
    assert confusion.tolist() == told["confusion"]


def test_a_broken_file_is_refused_or_skipped_as_in_the_run(
    trained: Result, place: Path
) -> None:
    next((place / "images" / "val" / "bee").iterdir()).write_bytes(b"broken")
    result = run("evaluate out")
    assert result.exit_code == 1 and "val/bee" in result.stderr
    assert result.stderr.count("\n") == 1
    path = place / "out" / "config.json"
    config = json.loads(path.read_text()) | {"bad_images": "skip"}
    path.write_text(json.dumps(config))
    result = run("evaluate out")
    assert result.exit_code == 0 and result.stderr.count("\n") == 1
    assert "left out 1 test image, e.g. " in result.stderr
    assert "val/bee" in result.stderr
    told = json.loads((place / "out" / "evaluation.json").read_text())
    assert [c["images"] for c in told["classes"]] == [4, 3, 4]


def test_other_classes_are_refused(trained: Result, place: Path) -> None:
    (place / "images" / "train" / "bee").rename(place / "images" / "train" / "bat")
    (place / "images" / "val" / "bee").rename(place / "images" / "val" / "bat")
    result = run("evaluate out")
    assert result.exit_code == 1
    assert "bee where that has bat" in result.stderr
