"""Training from end to end: what a run leaves, and what every mistake is answered."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import models
from tests.train.small import ARGS, SMALL, run, stop_at, write_mnist
from tests.train.small import place as place
from tinyflow import Tape
from tinyflow.data import Loader, load_dataset
from tinyflow.optim import SGD
from tinyflow.train import (
    CheckpointError,
    EpochRow,
    Metadata,
    TrainConfig,
    TrainError,
    evaluate,
    line,
    load_checkpoint,
    train,
    train_step,
)
from tinyflow.train import checkpoint as checkpoint_file
from tinyflow.train.curves import draw_curves
from tinyflow.train.events import Event, Start, Step
from tinyflow.train.metrics import peak_memory_mb, read_metrics
from tinyflow.train.report import BarReport, PlainReport
from tinyflow.train.watching import Plateau

# --- a run that goes well ----------------------------------------------------------


def test_command_line_leaves_a_complete_run(place: Path) -> None:
    result = run(ARGS)
    assert result.exit_code == 0, result.output
    folder = place / "runs" / "tiny-shapes-1"
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "metrics.csv",
        "times.csv",
        "log.txt",
        "curves.png",
        "last.safetensors",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == "tiny" and config["batch_size"] == 50
    facts = config["resolved"]
    assert facts["dtype"] == "float32" and facts["numpy"] == np.__version__
    assert facts["parameters"] == 8 * 48 + 8 + 16 + 10 * 513 and facts["lr"] == 0.05
    rows = read_metrics(folder / "metrics.csv")
    assert [row.epoch for row in rows] == [1, 2]
    assert rows[1].train_loss < rows[0].train_loss
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    final = result.stdout.strip().splitlines()[-1]
    assert final.startswith("runs/tiny-shapes-1: test accuracy")
    said = f"{100 * rows[1].test_accuracy:.1f} % after the last epoch (2)"
    assert final.endswith(said)
    assert run(ARGS).exit_code == 0
    assert (place / "runs" / "tiny-shapes-2" / "metrics.csv").is_file()


def test_two_runs_with_one_seed_are_the_same(place: Path) -> None:
    options = {"augment": True, "label_smoothing": 0.1, "clip_grad": 1.0}
    config = replace(SMALL, val_split=50, ema=0.9, **options)
    for name in ("a", "b", "c"):
        seed = 1 if name == "c" else 0
        train(replace(config, output=place / name, seed=seed))
    for name in ("metrics.csv", "last.safetensors", "best.safetensors"):
        a, b, c = ((place / run / name).read_bytes() for run in ("a", "b", "c"))
        assert a == b != c, name


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_loss_falls(place: Path, optimizer: str) -> None:
    result = train(replace(SMALL, optimizer=optimizer, epochs=4, momentum=0.5))
    losses = [row.train_loss for row in result.rows]
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.05, 0.05, 0.05, 0.05]),
        ("step", [0.05, 0.05, 0.005, 0.0005]),
        ("exponential", [0.05, 0.05, 0.005, 0.005]),
        ("onecycle", None),
        ("cosine", None),
    ],
)
def test_schedules(place: Path, schedule: str, expected: list[float] | None) -> None:
    config = replace(SMALL, schedule=schedule, epochs=4, limit_train=100)
    if schedule == "exponential":
        config = replace(config, decay_epochs=2)
    rates = [row.lr for row in train(config).rows]
    if expected is None:
        assert rates[-1] < rates[-2] < rates[0] <= 0.05
    else:
        assert rates == pytest.approx(expected)


def test_the_rate_follows_the_training_loss(place: Path) -> None:
    """Too low to lower the loss, it falls where that happens not to."""
    config = replace(SMALL, schedule="plateau", epochs=6, limit_train=100, lr=1e-6)
    rows = train(replace(config, gamma=0.5, patience=0, warmup_epochs=0)).rows
    rule, expected = Plateau(gamma=0.5, patience=0), []
    for row in rows:
        expected.append(1e-6 * rule(0))
        rule.observe(row.train_loss)
    assert [row.lr for row in rows] == expected
    assert len(set(expected)) > 1


def test_the_rate_is_low_until_something_is_learned(place: Path) -> None:
    config = replace(SMALL, schedule="constant", epochs=6, slow_until=0.13)
    rows = train(config).rows
    first = next(i for i, row in enumerate(rows) if row.train_accuracy > 0.13)
    assert [row.lr for row in rows] == pytest.approx(
        [0.005] * (first + 1) + [0.05] * (5 - first)
    )
    assert first < 5


def test_defaults_follow_the_network() -> None:
    for model, options, name, lr, decay in (
        ("resnet20", {}, "sgd", models.MODELS["resnet20"].lr, 5e-4),
        ("resnet", {}, "adamw", 5e-4, 0.01),
        ("densenet", {}, "adamw", 1e-3, 0.01),
        ("resnet", {"optimizer": "adam"}, "adam", 5e-4, 0.0),
        ("vgg", {"optimizer": "sgd"}, "sgd", models.MODELS["vgg19"].lr, 5e-4),
        ("vgg", {"lr": 0.5, "weight_decay": 0.0}, "adamw", 0.5, 0.0),
    ):
        config = TrainConfig(models.find(model), **options)
        found = config.optimizer_name, config.learning_rate, config.decay
        assert found == (name, lr, decay)


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist --augment"])
def test_mnist_is_one_channel_of_28_pixels(place: Path, dataset: str) -> None:
    """Clothes may be mirrored, digits not."""
    data = write_mnist(place / "data")
    arguments = "--model tiny --epochs 1 --batch-size 8 --output out --warmup-epochs 0"
    result = run(f"{arguments} --data-dir {data} --dataset {dataset}")
    assert result.exit_code == 0, result.output
    model, metadata = load_checkpoint("out", models.find)
    assert (metadata.in_channels, metadata.image_size) == (1, 28)
    assert dict(model.named_parameters())["conv.weight"].shape == (8, 1, 4, 4)


def test_only_a_single_left_over_image_is_left_out(place: Path) -> None:
    seen: list[Event] = []
    for limit, steps in ((101, 2), (102, 3), (100, 2)):
        seen.clear()
        train(replace(SMALL, limit_train=limit), seen.append)
        assert isinstance(seen[0], Start) and seen[0].steps == steps
        assert sum(isinstance(event, Step) for event in seen) == 2 * steps


# --- parts -------------------------------------------------------------------------


def small_loader(n: int = 60, batch: int = 25) -> Loader:
    return Loader(load_dataset("shapes", split="test", limit=n), batch, shuffle=False)


def test_evaluation_uses_every_image_and_changes_nothing() -> None:
    model = models.build_model("tiny").train()
    before = {k: v.copy() for k, v in model.state_dict().items()}
    whole, parts = (evaluate(model, small_loader(60, b)) for b in (60, 25))
    assert whole == pytest.approx(parts, rel=1e-5)
    assert model.training
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_step_at_a_bad_place_updates_nothing() -> None:
    model = models.build_model("tiny").train()
    optimizer = SGD(model.named_parameters(), 0.1)
    images, labels = next(small_loader().epoch(0))
    bias = dict(model.named_parameters())["fc.bias"].data
    bias[:] = np.inf
    before = {k: p.data.copy() for k, p in model.named_parameters()}
    with pytest.raises(FloatingPointError, match="loss became"):
        train_step(model, images, labels, optimizer)
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.data, before[name])


def test_clipping_reports_the_norm_before() -> None:
    images, labels = next(small_loader().epoch(0))
    results = []
    for clip in (None, 1e-3):
        model = models.build_model("tiny").train()
        optimizer = SGD(model.named_parameters(), 0.1)
        results.append(train_step(model, images, labels, optimizer, clip_grad=clip))
    assert results[0] == results[1]
    assert results[0].grad_norm > 1e-3


def test_checkpoint_round_trip(place: Path) -> None:
    result = train(replace(SMALL, val_split=50))
    assert result.folder is not None and result.best is not None
    model, metadata = load_checkpoint(result.folder, models.find)
    data = load_dataset("shapes", split="test", limit=100)
    seen = data.classes, data.mean, data.std
    assert metadata == Metadata(
        "tiny", 10, 32, 3, "shapes", 0, 2, result.last.test_accuracy, *seen
    )
    assert not model.training
    loader = Loader(data, 50, shuffle=False)
    loss, accuracy = evaluate(model, loader)
    assert loss == pytest.approx(result.last.test_loss, rel=1e-6)
    assert accuracy == result.last.test_accuracy
    best = load_checkpoint(result.folder, models.find, "best")[1]
    assert (best.epoch, best.test_accuracy) == (
        result.best.epoch,
        result.best.test_accuracy,
    )
    again = load_checkpoint(result.folder / "last.safetensors", models.find)[0]
    for name, array in again.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])


def test_checkpoint_of_transposed_weights(place: Path) -> None:
    model = models.build_model("tiny")
    weight = dict(model.named_parameters())["fc.weight"]
    weight.data = np.asfortranarray(weight.data)
    metadata = Metadata("tiny", 10, 32, 3, "shapes", 0, 1, 0.5)
    checkpoint_file.save_checkpoint(place / "x.safetensors", model, metadata)
    loaded = load_checkpoint(place / "x.safetensors", models.find)[0].state_dict()
    np.testing.assert_array_equal(loaded["fc.weight"], weight.data)


def test_a_failed_write_leaves_the_old_checkpoint(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.build_model("tiny")
    metadata = Metadata("tiny", 10, 32, 3, "shapes", 0, 1, 0.5)
    path = place / "last.safetensors"
    checkpoint_file.save_checkpoint(path, model, metadata)
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_file.os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        checkpoint_file.save_checkpoint(path, model, replace(metadata, epoch=2))
    assert path.read_bytes() == before
    assert list(place.iterdir()) == [path]


def test_checkpoints_that_cannot_be_used(place: Path) -> None:
    def refused(path: Path, *words: str, which: str = "last") -> None:
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path, models.find, which)
        for word in words:
            assert word in str(caught.value)

    refused(place / "nowhere", "no checkpoint", "nowhere")
    (place / "empty").mkdir()
    refused(place / "empty", "no last.safetensors")
    refused(place / "empty", "not 'worst'", which="worst")
    path = place / "x.safetensors"
    path.write_bytes(b"not safetensors at all")
    refused(path, "damaged", "x.safetensors")
    model = models.build_model("tiny")
    good = Metadata("tiny", 10, 32, 3, "shapes", 0, 1, 0.5)
    checkpoint_file.save_checkpoint(path, model, good)
    path.write_bytes(path.read_bytes()[:-7])
    refused(path, "damaged")
    checkpoint_file.save_checkpoint(path, model, replace(good, num_classes=7))
    refused(path, "does not fit", "fc.weight")
    checkpoint_file.save_checkpoint(path, model, replace(good, model="nonet"))
    refused(path, "nonet")
    checkpoint_file.save_checkpoint(path, model, replace(good, seed="x"))  # type: ignore[arg-type]
    refused(path, "does not say")
    safetensors.numpy.save_file({"a": np.zeros(1)}, path)
    refused(path, "does not say")


def test_curves_and_memory(place: Path) -> None:
    row = EpochRow(1, 2.0, 0.2, math.nan, math.nan, 2.1, 0.3, 0.1, 1.0)
    for n in (1, 40):
        rows = [replace(row, epoch=k + 1) for k in range(n)]
        draw_curves(place / "c.png", rows, "title", 0.1)
        assert (place / "c.png").stat().st_size > 10_000
    assert 10 < peak_memory_mb() < 1e5


@pytest.mark.parametrize("kind", [PlainReport, BarReport])
def test_reports(
    place: Path, capsys: pytest.CaptureFixture[str], kind: Callable[[], PlainReport]
) -> None:
    with kind() as report:
        train(SMALL, report)
    lines = capsys.readouterr().out
    assert "epoch 1/2" in lines and "epoch 2/2" in lines and "device: cpu" in lines


def test_plain_lines_say_what_remains(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyflow.train.report.EVERY", 0.0)
    with PlainReport() as report:
        train(SMALL, report)
    assert "step 3/6" in (lines := capsys.readouterr().out)
    assert lines.count(" left\n") == 12
    written = [line.duration(s) for s in (0.2, 59.6, 100, 725, 7500)]
    assert written == ["1 s", "1 min 0 s", "1 min 40 s", "12 min", "2 h 5 min"]


def test_interrupted_in_the_first_epoch(place: Path) -> None:
    result = train(SMALL, stop_at(1, KeyboardInterrupt))
    assert result.interrupted and not result.rows and result.folder is not None
    files = {path.name for path in result.folder.iterdir()}
    tables = {"metrics.csv", "times.csv"}
    assert files == {"config.json", "log.txt", "state.safetensors"} | tables


def test_interrupted_in_the_second_epoch(place: Path) -> None:
    result = train(SMALL, stop_at(2, KeyboardInterrupt))
    assert result.interrupted and len(result.rows) == 1
    assert result.folder is not None and (result.folder / "curves.png").is_file()
    assert load_checkpoint(result.folder, models.find)[1].epoch == 1


def test_divergence_keeps_the_epochs_before(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverging(*args: object, **options: object) -> object:
        if (place / "out" / "last.safetensors").exists():
            raise FloatingPointError("the loss became nan")
        return train_step(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("tinyflow.train.step.train_step", diverging)
    sentence = r"became nan at step 1 of epoch 2 .*--lr 0\.005; .*epoch 1 .*kept"
    with pytest.raises(TrainError, match=sentence):
        train(replace(SMALL, output=place / "out"))
    assert load_checkpoint(place / "out", models.find)[1].epoch == 1
    assert (place / "out" / "curves.png").is_file()


def test_a_full_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setattr("tinyflow.train.loop.save_checkpoint", fail)
    with pytest.raises(TrainError, match="No space left"):
        train(SMALL)
    assert list(place.iterdir()) == []


def test_an_existing_empty_folder_is_used_and_never_removed(place: Path) -> None:
    (place / "out").mkdir()
    config = replace(SMALL, output=place / "out")

    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    assert train(config, stop).folder is None
    assert list((place / "out").iterdir()) == []
    train(config)
    assert (place / "out" / "metrics.csv").is_file()


def test_training_records_on_no_outer_tape() -> None:
    images, labels = next(small_loader().epoch(0))
    model = models.build_model("tiny").train()
    with Tape() as outer:
        train_step(model, images, labels, SGD(model.named_parameters(), 0.1))
    assert outer.nodes == []
