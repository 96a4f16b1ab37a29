"""Checkpoints of runs that subtracted a mean image: they hold it, every bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import models
from tests.train.test_checkpoint import METADATA, claim, parts, refused
from tests.train.test_checkpoint import path as path
from tinyflow.train import load_checkpoint
from tinyflow.train.checkpoint import KEY, save_checkpoint

IMAGE = np.linspace(-1, 1, 3 * 32 * 32).reshape(3, 32, 32)


def with_image(path: Path) -> dict[str, Any]:
    """A checkpoint whose mean is an image, and how it says it."""
    told = replace(METADATA, mean=IMAGE, std=(1.0,) * 3)
    save_checkpoint(path, models.build_model("tiny"), told)
    entry = json.loads(parts(path)[0]["__metadata__"][KEY])
    found: dict[str, Any] = entry["mean"]
    assert entry["format"] == 2  # what reads up to 1 says update
    return found


def test_a_mean_image_is_read_back_to_the_bit(path: Path) -> None:
    with_image(path)
    found = load_checkpoint(path, models.find)[1]
    assert isinstance(found.mean, np.ndarray) and found.mean.shape == (3, 32, 32)
    assert found.mean.tobytes() == IMAGE.tobytes()
    assert replace(found, mean=None) == replace(METADATA, mean=None, std=(1.0,) * 3)


def test_a_damaged_mean_image_is_refused(path: Path) -> None:
    good = with_image(path)
    text = good["float64"]
    for bad in (
        {},
        good | {"crc32": good["crc32"] + 1},
        good | {"float64": text[:-4]},
        good | {"float64": text[:500] + "/" + text[501:]},
        good | {"float64": None},
    ):
        claim(path, mean=bad)
        assert "does not say a usable mean" in (said := refused(path))
        assert "not a whole mean image of shape (3, 32, 32)" in said
    claim(path, mean=good, image_size=31)
    assert "mean image of shape (3, 31, 31)" in refused(path)
    for shape in ({"image_size": 2**62}, {"in_channels": 2**62}):
        claim(path, mean=good, std=None, **({"image_size": 32} | shape))
        assert "does not say a usable mean" in refused(path)
    claim(path, std=good, mean=None, in_channels=3, image_size=32)
    assert "does not say a usable std" in refused(path)
