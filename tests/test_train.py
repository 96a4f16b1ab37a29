"""Training from end to end: what a run leaves, and what every mistake is answered."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner, Result

import models
from tinyflow import Tape, nn
from tinyflow.commands import train as cli
from tinyflow.data import Loader, load_dataset
from tinyflow.network import Zoo
from tinyflow.optim import SGD
from tinyflow.train import (
    CheckpointError,
    ConfigError,
    EpochRow,
    Metadata,
    TrainConfig,
    TrainError,
    evaluate,
    load_checkpoint,
    train,
    train_step,
)
from tinyflow.train import checkpoint as checkpoint_file
from tinyflow.train import report as report_file
from tinyflow.train.curves import draw_curves
from tinyflow.train.events import Event, Start, Step
from tinyflow.train.metrics import COLUMNS, peak_memory_mb, read_metrics
from tinyflow.train.report import BarReport, PlainReport

ROOT = Path(__file__).parents[1]
TIMING = {"images_per_second", "seconds", "peak_memory_mb"}


def tiny(
    *, num_classes: int, image_size: int, in_channels: int, rng: np.random.Generator
) -> nn.Module:
    side = image_size // 4
    return nn.Sequential(
        conv=nn.Conv2d(in_channels, 8, 4, stride=4, rng=rng),
        bn=nn.BatchNorm2d(8),
        relu=nn.ReLU(),
        flatten=nn.Flatten(),
        drop=nn.Dropout(0.1, rng=rng),
        fc=nn.Linear(8 * side * side, num_classes, rng=rng),
    )


def one_value(
    *, num_classes: int, image_size: int, in_channels: int, rng: np.random.Generator
) -> nn.Module:
    return nn.Sequential(
        conv=nn.Conv2d(in_channels, num_classes, image_size, rng=rng),
        bn=nn.BatchNorm2d(num_classes),
        flatten=nn.Flatten(),
    )


def headless(
    *, num_classes: int, image_size: int, in_channels: int, rng: np.random.Generator
) -> nn.Module:
    return nn.Sequential(
        flatten=nn.Flatten(), fc=nn.Linear(in_channels * image_size**2, 3, rng=rng)
    )


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small networks in the table, and an empty working folder."""
    for build in (tiny, one_value, headless):
        entry = models.Network(build.__name__, build, 32, 0.05)
        monkeypatch.setitem(models.MODELS, build.__name__, entry)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYFLOW_DATA", raising=False)
    return tmp_path


SMALL = TrainConfig(
    models.Network("tiny", tiny, 32, 0.05),
    epochs=2,
    batch_size=50,
    limit_train=300,
    limit_test=100,
)
ARGS = "--model tiny --epochs 2 --batch-size 50 --limit-train 300 --limit-test 100"


def run(arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments.split(), obj=models.ZOO)


def write_mnist(folder: Path, train_images: int = 40, test_images: int = 20) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for prefix, n in (("train", train_images), ("t10k", test_images)):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8).tobytes()
        labels = rng.integers(0, 10, n, dtype=np.uint8).tobytes()
        head = struct.pack(">4I", 0x803, n, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + pixels)
        head = struct.pack(">2I", 0x801, n)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels)
    return folder


# --- a run that goes well ----------------------------------------------------------


def test_command_line_leaves_a_complete_run(place: Path) -> None:
    result = run(ARGS)
    assert result.exit_code == 0, result.output
    folder = place / "runs" / "tiny-shapes-1"
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "metrics.csv",
        "curves.png",
        "last.safetensors",
        "best.safetensors",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == "tiny" and config["batch_size"] == 50
    facts = config["resolved"]
    assert facts["dtype"] == "float32" and facts["numpy"] == np.__version__
    assert facts["parameters"] == 8 * 48 + 8 + 16 + 10 * 513 and facts["lr"] == 0.05
    rows = read_metrics(folder / "metrics.csv")
    assert [row.epoch for row in rows] == [1, 2]
    assert rows[1].train_loss < rows[0].train_loss
    assert all(0 < row.peak_memory_mb < 1e5 and row.grad_norm > 0 for row in rows)
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    final = result.stdout.strip().splitlines()[-1]
    assert final.startswith("runs/tiny-shapes-1: test accuracy")
    assert "last epoch (2)" in final and "chosen on the test set" in final
    assert run(ARGS).exit_code == 0
    assert (place / "runs" / "tiny-shapes-2" / "metrics.csv").is_file()


def test_two_runs_with_one_seed_are_the_same(place: Path) -> None:
    config = replace(SMALL, augment=True, label_smoothing=0.1, clip_grad=1.0)
    for name in ("a", "b", "c"):
        seed = 1 if name == "c" else 0
        train(replace(config, output=place / name, seed=seed))
    a, b, c = (
        [
            {name: getattr(row, name) for name in COLUMNS if name not in TIMING}
            for row in read_metrics(place / name / "metrics.csv")
        ]
        for name in ("a", "b", "c")
    )
    assert a == b != c
    for name in ("last.safetensors", "best.safetensors"):
        assert (place / "a" / name).read_bytes() == (place / "b" / name).read_bytes()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_loss_falls(place: Path, optimizer: str) -> None:
    result = train(replace(SMALL, optimizer=optimizer, epochs=4, momentum=0.5))
    losses = [row.train_loss for row in result.rows]
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.05, 0.05, 0.05, 0.05]),
        ("step", [0.05, 0.05, 0.005, 0.0005]),
        ("cosine", None),
    ],
)
def test_schedules(place: Path, schedule: str, expected: list[float] | None) -> None:
    config = replace(SMALL, schedule=schedule, epochs=4, limit_train=100)
    rates = [row.lr for row in train(config).rows]
    if expected is None:
        assert rates[-1] < rates[-2] < rates[0] <= 0.05
    else:
        assert rates == pytest.approx(expected)


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


def test_mnist_is_one_channel_of_28_pixels(place: Path) -> None:
    data = write_mnist(place / "data")
    arguments = "--model tiny --dataset mnist --epochs 1 --batch-size 8 --output out"
    result = run(f"{arguments} --warmup-epochs 0 --data-dir {data}")
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


def test_environment_variable_names_the_data(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYFLOW_DATA", str(write_mnist(place / "data")))
    options = "--epochs 1 --batch-size 8 --warmup-epochs 0 --limit-train 16"
    result = run(f"--model tiny --dataset mnist {options}")
    assert result.exit_code == 0, result.output


def test_list_models(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = Zoo(models.find, lambda k: ["heading", f"{k} classes"])
    monkeypatch.setattr(models, "ZOO", zoo)
    assert run("--list-models").stdout == "heading\n10 classes\n"
    assert run("--list-models --num-classes 7").stdout == "heading\n7 classes\n"
    assert run("--list-models --num-classes 0").exit_code == 2


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
    result = train(SMALL)
    assert result.folder is not None
    model, metadata = load_checkpoint(result.folder, models.find)
    assert metadata == Metadata(
        "tiny", 10, 32, 3, "shapes", 0, 2, result.last.test_accuracy
    )
    assert not model.training
    loader = Loader(load_dataset("shapes", split="test", limit=100), 50, shuffle=False)
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
    row = EpochRow(1, 2.0, 0.2, 2.1, 0.3, 0.1, 10.0, 1.0, 1.0, 1.0)
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
    monkeypatch.setattr(report_file, "EVERY", 0.0)
    with PlainReport() as report:
        train(SMALL, report)
    assert "step 3/6" in (lines := capsys.readouterr().out)
    assert lines.count(" left\n") == 12
    written = [report_file.duration(s) for s in (0.2, 59.6, 100, 725, 7500)]
    assert written == ["1 s", "1 min 0 s", "1 min 40 s", "12 min", "2 h 5 min"]


# --- mistakes ----------------------------------------------------------------------

MISTAKES = [
    ("", 2, "--model"),
    ("--model restnet", 2, "resnet"),
    (f"{ARGS} --dataset cats", 2, "shapes"),
    (f"{ARGS} --dataset mnist", 2, "--data-dir"),
    (f"{ARGS} --dataset mnist --data-dir nowhere", 1, "nowhere"),
    (f"{ARGS} --dataset cifar10 --data-dir .", 1, "data_batch_1.bin"),
    (f"{ARGS} --dataset mnist --augment --data-dir .", 2, "--augment"),
    (f"{ARGS} --epochs 0", 2, "--epochs"),
    (f"{ARGS} --epochs many", 2, "--epochs"),
    (f"{ARGS} --batch-size 0", 2, "--batch-size"),
    (f"{ARGS} --batch-size 301", 2, "300"),
    (f"{ARGS} --lr 0", 2, "--lr"),
    (f"{ARGS} --lr -0.1", 2, "--lr"),
    (f"{ARGS} --lr nan", 2, "--lr"),
    (f"{ARGS} --optimizer lion", 2, "adamw"),
    (f"{ARGS} --schedule linear", 2, "cosine"),
    (f"{ARGS} --weight-decay -1", 2, "--weight-decay"),
    (f"{ARGS} --momentum 1", 2, "--momentum"),
    (f"{ARGS} --label-smoothing 1.5", 2, "--label-smoothing"),
    (f"{ARGS} --warmup-epochs 2", 2, "--warmup-epochs"),
    (f"{ARGS} --clip-grad 0", 2, "--clip-grad"),
    (f"{ARGS} --seed -1", 2, "--seed"),
    (f"{ARGS} --device tpu", 2, "tpu"),
    (f"{ARGS} --limit-train 0", 2, "--limit-train"),
    (f"{ARGS} --limit-test 99999", 1, "1000"),
    (f"{ARGS} --num-classes 7", 2, "--list-models"),
    (f"{ARGS} --output taken", 2, "taken"),
    (f"{ARGS} --output afile", 2, "afile"),
    (f"{ARGS} --output afile/below", 2, "afile"),
    (f"{ARGS} --lr 1e30", 1, "e.g. --lr 0.05;"),
    ("--model one_value --batch-size 1 --limit-train 3", 2, "one value per channel"),
    ("--model headless", 2, "(2, 3)"),
    ("--model vgg --dataset mnist --batch-size 8 --data-dir data", 2, "32x32"),
]


@pytest.mark.parametrize(("arguments", "code", "word"), MISTAKES)
def test_every_mistake_is_one_sentence(
    place: Path, arguments: str, code: int, word: str
) -> None:
    if "data-dir data" in arguments:
        write_mnist(place / "data")
    (place / "taken").mkdir()
    (place / "taken" / "metrics.csv").write_text("epoch\n")
    (place / "afile").write_text("")
    before = sorted(place.rglob("*"))
    result = run(arguments)
    assert result.exit_code == code, result.output
    assert word in result.stderr
    assert "Traceback" not in result.output
    assert result.stderr.count("\n") == 1
    assert sorted(place.rglob("*")) == before


def stop_at(epoch: int, kind: type[BaseException]) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        if isinstance(event, Step) and event.epoch == epoch:
            raise kind

    return report


def test_interrupted_in_the_first_epoch(place: Path) -> None:
    result = train(SMALL, stop_at(1, KeyboardInterrupt))
    assert result.folder is None and result.interrupted
    assert list(place.iterdir()) == []


def test_interrupted_in_the_second_epoch(place: Path) -> None:
    result = train(SMALL, stop_at(2, KeyboardInterrupt))
    assert result.interrupted and len(result.rows) == 1
    assert result.folder is not None and (result.folder / "curves.png").is_file()
    assert load_checkpoint(result.folder, models.find)[1].epoch == 1


@pytest.mark.parametrize(("epoch", "word"), [(1, "nothing was kept"), (2, "are kept")])
def test_interrupted_on_the_command_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, word: str
) -> None:
    class Stopping(PlainReport):
        def __call__(self, event: Event) -> None:
            stop_at(epoch, KeyboardInterrupt)(event)

    monkeypatch.setattr(cli, "terminal_report", Stopping)
    result = run(ARGS)
    assert result.exit_code == 130 and word in result.stderr


def test_interrupted_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, code in ((KeyboardInterrupt, 130), (MemoryError, 1)):

        def fail(*args: object, error: type[BaseException] = error) -> None:
            raise error

        monkeypatch.setattr(cli, "train", fail)
        result = run(ARGS)
        assert result.exit_code == code and result.stderr.count("\n") == 1


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
    train(config, stop_at(1, KeyboardInterrupt))
    assert list((place / "out").iterdir()) == []
    train(config)
    assert (place / "out" / "metrics.csv").is_file()


def test_a_place_that_is_not_writable(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyflow.train.folder.os.access", lambda *args: False)
    with pytest.raises(ConfigError, match="not writable"):
        train(SMALL)


def test_training_records_on_no_outer_tape() -> None:
    images, labels = next(small_loader().epoch(0))
    model = models.build_model("tiny").train()
    with Tape() as outer:
        train_step(model, images, labels, SGD(model.named_parameters(), 0.1))
    assert outer.nodes == []


# --- as a user runs it -------------------------------------------------------------


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_exit_codes_of_the_program(place: Path) -> None:
    script = str(ROOT / "train.py")
    wrong = python(script, "--model", "vgg91")
    assert wrong.returncode == 2 and wrong.stdout == ""
    assert wrong.stderr.startswith("train.py: unknown model 'vgg91'")
    assert "Traceback" not in wrong.stderr
    options = "--epochs 1 --warmup-epochs 0 --batch-size 4 --limit-train 8"
    right = python(script, "--model", "resnet20", *options.split(), "--limit-test", "4")
    assert right.returncode == 0, right.stderr
    assert right.stderr == ""
    assert "epoch 1/1" in right.stdout and "runs/resnet20-shapes-1" in right.stdout


def test_importing_costs_neither_matplotlib_nor_cupy() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import train; "
        "print([m for m in ('matplotlib', 'cupy', 'torch') if m in sys.modules])"
    )
    assert python("-c", code).stdout == "[]\n"
