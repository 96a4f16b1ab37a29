"""train.py predict: names and probabilities, for people and for programs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models
from tests.train.small import SMALL, run
from tests.train.small import place as place
from tinyflow import Tensor
from tinyflow.data import load_dataset, normalize
from tinyflow.train import load_checkpoint, train

DATA = load_dataset("shapes", None, "test", limit=3)


@pytest.fixture
def answers(place: Path) -> list[list[tuple[str, float]]]:
    """A run, three files, and the probabilities of their classes, highest first."""
    train(replace(SMALL, output=place / "out"))
    for i, image in enumerate(DATA.images):
        Image.fromarray(image.transpose(1, 2, 0)).save(f"{i}.png")
    Path("bad.png").write_text("no image")
    model = load_checkpoint(place / "out", models.find)[0]
    logits = model(Tensor(normalize(DATA.images, DATA.mean, DATA.std))).data
    wide = np.exp(logits.astype(np.float64))
    chances = wide / wide.sum(1, keepdims=True)
    return [
        sorted(zip(DATA.classes, row.tolist(), strict=True), key=lambda pair: -pair[1])
        for row in chances
    ]


def test_what_is_printed(answers: list[list[tuple[str, float]]]) -> None:
    result = run("predict out 0.png bad.png 1.png --top 3")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and "bad.png is no image" in result.stderr
    shown = [
        line
        for i in (0, 1)
        for line in (f"{i}.png", *(f"{100 * p:.2f} %  {n}" for n, p in answers[i][:3]))
    ]
    assert [line.strip() for line in result.stdout.splitlines()] == shown
    good = run("predict out 2.png")
    assert good.exit_code == 0 and good.stderr == ""
    assert len(re.findall(r"^ *[\d.]+ %  \w+$", good.stdout, re.M)) == 5


def test_json(answers: list[list[tuple[str, float]]]) -> None:
    result = run("predict out/last.safetensors 0.png bad.png 1.png --top 2 --json")
    assert result.exit_code == 1
    first, bad, second = json.loads(result.stdout)
    assert "bad.png is no image" in bad["error"] and bad["image"] == "bad.png"
    for found, known, name in ((first, answers[0], "0"), (second, answers[1], "1")):
        assert found["image"] == f"{name}.png"
        assert [c["name"] for c in found["classes"]] == [n for n, _ in known[:2]]
        chances = [c["probability"] for c in found["classes"]]
        assert chances == pytest.approx([p for _, p in known[:2]], rel=1e-5)


@pytest.mark.usefixtures("answers")
def test_mistakes() -> None:
    for arguments, code, words in (
        ("out", 2, "missing argument 'IMAGE"),
        ("nowhere 0.png", 1, "there is no checkpoint nowhere"),
        ("out 0.png --top 0", 2, "--top must be 1 or more"),
        ("out 0.png --which worst", 1, "not 'worst'"),
        ("out/last.safetensors 0.png --which best", 2, "--which is of a run folder"),
        ("out out", 1, "out is a folder, not a file"),
        ("out nothing.png", 1, "nothing.png does not exist"),
    ):
        result = run(f"predict {arguments}")
        assert result.exit_code == code, result.output
        assert words in result.stderr and result.stderr.count("\n") == 1
