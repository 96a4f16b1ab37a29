"""train.py evaluate: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import models
from tests.train.small import SMALL, run, tiny, write_mnist
from tests.train.small import place as place
from tinyflow import Tensor
from tinyflow.commands.evaluate import judged
from tinyflow.commands.own import own_network
from tinyflow.data import load_dataset, normalize
from tinyflow.train import load_checkpoint, train
from tinyflow.train.checkpoint import Metadata, save_checkpoint
from tinyflow.train.evaluation import Evaluation


@pytest.fixture
def folder(place: Path) -> Path:
    train(replace(SMALL, output=place / "out"))
    return place / "out"


def test_what_is_printed_and_written_is_what_the_network_answers(folder: Path) -> None:
    result = run("evaluate out --limit-test 100 --batch-size 32")
    assert result.exit_code == 0, result.output
    model, told = load_checkpoint(folder, models.find)
    data = load_dataset("shapes", None, "test", limit=100)
    logits = model(Tensor(normalize(data.images, data.mean, data.std))).data
    right = logits.argmax(1) == data.labels
    top5 = (np.argsort(-logits, 1)[:, :5] == data.labels[:, None]).any(1)
    wide = logits.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    losses = np.log(np.exp(wide).sum(1)) - wide[np.arange(100), data.labels]
    written = json.loads((folder / "evaluation.json").read_text())
    assert written["top1"] == right.mean() == told.test_accuracy
    assert written["top5"] == top5.mean()
    assert written["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert (
        f"top-1 accuracy {100 * right.mean():.2f} %, top-5 {100 * top5.mean():.2f} %, "
        f"loss {losses.mean():.4f} nats" in result.stdout
    )
    assert (written["dataset"], written["images"], written["epoch"]) == (
        "shapes",
        100,
        2,
    )
    for label, name in enumerate(data.classes):
        of = data.labels == label
        line = re.search(rf"^{name} +(\d+) +([\d.]+)  (.*)$", result.stdout, re.M)
        assert line is not None
        assert line[1] == str(of.sum())
        assert line[2] == f"{100 * right[of].mean():.1f}"
        others = np.bincount(logits[of & ~right].argmax(1), minlength=10)
        most = data.classes[others.argmax()]
        assert line[3] == f"{most} {100 * others.max() / of.sum():.1f}"
    assert (folder / "confusion.png").stat().st_size > 10_000


def test_again_replaces_its_own_and_nothing_else(folder: Path) -> None:
    assert run("evaluate out --limit-test 20").exit_code == 0
    first = (folder / "evaluation.json").read_bytes()
    assert run("evaluate out --limit-test 30").exit_code == 0
    assert (folder / "evaluation.json").read_bytes() != first
    assert run("evaluate out/last.safetensors --output new/er").exit_code == 0
    assert sorted(p.name for p in Path("new/er").iterdir()) == [
        "confusion.png",
        "evaluation.json",
    ]
    for name in ("evaluation.json", "confusion.png"):
        other = Path(f"other-{name}")
        other.mkdir()
        (other / name).write_text("{}")
        result = run(f"evaluate out --output {other}")
        assert result.exit_code == 2 and "no evaluation wrote" in result.stderr
        assert (other / name).read_text() == "{}"


def test_a_run_without_its_data_folder_is_told_where_it_lies(place: Path) -> None:
    data = write_mnist(place / "data")
    config = replace(
        SMALL, dataset="mnist", data_dir=data, batch_size=8, limit_train=None,
        limit_test=None, output=place / "out",
    )  # fmt: skip
    train(config)
    assert run("evaluate out").exit_code == 0
    data.rename(place / "moved")
    result = run("evaluate out")
    assert result.exit_code == 1 and "--data-dir" in result.stderr
    assert run("evaluate out --data-dir moved").exit_code == 0
    config = json.loads((place / "out" / "evaluation.json").read_text())
    assert (config["images"], config["trained_on"]) == (20, "mnist")


def test_images_are_normalised_as_those_of_the_training_were(place: Path) -> None:
    """Other numbers in the weight file give other answers."""
    data = load_dataset("shapes", None, "test", limit=50)
    losses = []
    for mean in (data.mean, (0.0, 0.0, 0.0), None):
        told = Metadata(
            "tiny", 10, 32, 3, "shapes", 0, 1, 0.5, data.classes, mean, data.std
        )
        save_checkpoint(place / "w.safetensors", models.build_model("tiny"), told)
        assert run("evaluate w.safetensors --limit-test 50").exit_code == 0
        losses.append(json.loads((place / "evaluation.json").read_text())["loss"])
    assert losses[0] == losses[2] != losses[1]


def test_other_classes_are_refused(place: Path) -> None:
    write_mnist(place / "mnist")
    (place / "other").mkdir()
    classes = tuple("abcdefghij")
    told = Metadata("tiny", 10, 32, 3, "letters", 0, 1, 0.5, classes)
    save_checkpoint(place / "w.safetensors", models.build_model("tiny"), told)
    result = run("evaluate w.safetensors --dataset shapes")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "tells other classes apart than shapes has, a where that has disc" in (
        result.stderr
    )
    result = run("evaluate w.safetensors --dataset mnist --data-dir mnist")
    assert result.exit_code == 1
    assert "takes 3x32x32 images of 10 classes, but mnist has 1x28x28" in result.stderr
    assert not (place / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("", 2, "missing argument 'run'"),
        ("nowhere", 1, "there is no checkpoint nowhere"),
        ("out --which first", 1, "'last' and 'best'"),
        ("out/last.safetensors --which best", 2, "--which is of a run folder"),
        ("out --batch-size 0", 2, "--batch-size must be 1"),
        ("out --dataset cats", 1, "no data set called 'cats'"),
        ("out --data-dir .", 2, "not for shapes"),
        ("out --limit-test 5000", 1, "choose 1 to 1000"),
        ("out --device tpu", 1, "tpu"),
        ("out --model resnet20", 1, "leave --model out, which names resnet20"),
        ("out --output out/config.json", 2, "is a file, not a folder"),
        ("out --lr 3", 2, "no such option"),
    ],
)
def test_mistakes(folder: Path, arguments: str, code: int, words: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    result = run(f"evaluate {arguments}")
    assert result.exit_code == code, result.output
    assert words in result.stderr.lower() or words in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.output
    assert sorted(folder.parent.rglob("*")) == before


def test_options_before_the_command_are_refused(place: Path) -> None:
    result = run("--seed 3 evaluate out")
    assert result.exit_code == 2 and "put --seed after the command" in result.stderr


def test_a_network_that_answers_with_no_numbers(folder: Path) -> None:
    model, told = load_checkpoint(folder, models.find)
    state = {k: v.copy() for k, v in model.state_dict().items()}
    state["fc.weight"][...] = 3e38
    model.load_state_dict(state)
    save_checkpoint(folder / "last.safetensors", model, told)
    result = run("evaluate out")
    assert result.exit_code == 1 and "output is not finite" in result.stderr
    assert not (folder / "evaluation.json").exists()


def test_many_classes_show_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged.__module__ + ".ROWS", 2)
    found = Evaluation(1.0, np.diag([3, 1, 2, 0]) + np.diag([0, 4, 1], 1), 9)
    text = judged(found, "net", ("good", "bad", "fair", "none"))
    shown = [line.split()[0] for line in text.splitlines() if " " in line]
    assert shown.index("bad") < shown.index("fair")
    assert "good" not in shown and "none" not in shown
    assert "top-5" not in text  # of four classes, all are


def test_a_moved_file_of_ones_own(place: Path) -> None:
    text = Path(__file__).parents[1].joinpath("train", "small.py").read_text()
    (place / "mine.py").write_text(text)
    assert tiny.__name__ in text
    config = replace(
        SMALL, model=own_network(f"{place}/mine.py:tiny"), output=place / "out"
    )
    train(config)
    assert run("evaluate out --limit-test 10").exit_code == 0
    (place / "below").mkdir()
    (place / "mine.py").rename(place / "below" / "mine.py")
    sys.modules.pop(str(place / "mine.py"))
    result = run("evaluate out --limit-test 10")
    assert result.exit_code == 1 and "--model PATH/mine.py:tiny" in result.stderr
    assert run("evaluate out --limit-test 10 --model below/mine.py:tiny").exit_code == 0
