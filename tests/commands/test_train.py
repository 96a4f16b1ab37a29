"""train.py: what it prints, and one sentence for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import models
from tests import ROOT
from tests.train.small import ARGS, SMALL, run, stop_at, write_mnist
from tests.train.small import place as place
from tinyflow.commands import train as cli
from tinyflow.network import Zoo
from tinyflow.train import (
    ConfigError,
    train,
)
from tinyflow.train.events import Event
from tinyflow.train.report import PlainReport


def test_environment_variable_names_the_data(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYFLOW_DATA", str(write_mnist(place / "data")))
    options = "--epochs 1 --batch-size 8 --warmup-epochs 0 --limit-train 16"
    result = run(f"--model tiny --dataset mnist {options}")
    assert result.exit_code == 0, result.output


def test_list_models(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = Zoo(models.find, lambda k, names: ["heading", f"{k} classes, {names}"])
    monkeypatch.setattr(models, "ZOO", zoo)
    assert run("--list-models").stdout == "heading\n10 classes, *\n"
    assert run("--list-models --num-classes 7").stdout == "heading\n7 classes, *\n"
    assert run("--list-models --filter x*").stdout == "heading\n10 classes, x*\n"
    assert run("--list-models --num-classes 0").exit_code == 2


def test_list_models_like_nothing() -> None:
    result = run("--list-models --filter x*")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "train.py: --filter: no network has a name like 'x*'; those of a family begin "
        "alike, as in 'densenet*'\n"
    )


# --- mistakes ----------------------------------------------------------------------

MISTAKES = [
    ("", 2, "--model"),
    ("--model restnet", 2, "resnet"),
    (f"{ARGS} --dataset cats", 2, "shapes"),
    (f"{ARGS} --dataset mnist", 2, "--data-dir"),
    (f"{ARGS} --dataset mnist --data-dir nowhere", 1, "nowhere"),
    (f"{ARGS} --dataset cifar10 --data-dir .", 1, "data_batch_1.bin"),
    (f"{ARGS} --dataset cifar100 --data-dir .", 1, "CIFAR-100 file train.bin"),
    (f"{ARGS} --dataset cifar100_coarse --data-dir .", 1, "cifar-100-binary.tar.gz"),
    (f"{ARGS} --dataset fashion_mnist --augment --data-dir .", 1, "Fashion-MNIST"),
    (f"{ARGS} --dataset mnist --augment --data-dir .", 2, "--augment"),
    (f"{ARGS} --dataset cifar100 --data-dir .", 1, "fetch it with --download"),
    (f"{ARGS} --dataset mnist --download", 2, "--data-dir"),
    (f"{ARGS} --download", 2, "--download is not for shapes"),
    (f"{ARGS} --dataset mnist --data-dir . --mirror http://a", 2, "is of --download"),
    (f"{ARGS} --dataset mnist --data-dir . --download --mirror a", 1, "web address"),
    (f"{ARGS} --dataset mnist --data-dir . --download --output taken", 2, "taken"),
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


@pytest.mark.parametrize("epoch", [1, 2])
def test_interrupted_on_the_command_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    class Stopping(PlainReport):
        def __call__(self, event: Event) -> None:
            stop_at(epoch, KeyboardInterrupt)(event)

    monkeypatch.setattr(cli, "terminal_report", Stopping)
    result = run(ARGS)
    assert result.exit_code == 130
    assert result.stderr.endswith(
        "--resume runs/tiny-shapes-1 goes on where it stopped\n"
    )


def test_interrupted_before_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, code in ((KeyboardInterrupt, 130), (MemoryError, 1)):

        def fail(*args: object, error: type[BaseException] = error) -> None:
            raise error

        monkeypatch.setattr(cli, "train", fail)
        result = run(ARGS)
        assert result.exit_code == code and result.stderr.count("\n") == 1


def test_a_place_that_is_not_writable(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinyflow.train.folder.os.access", lambda *args: False)
    with pytest.raises(ConfigError, match="not writable"):
        train(SMALL)


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
