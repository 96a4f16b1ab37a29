"""Networks that are trained in a moment, and where and how."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import models
from tinyflow import nn
from tinyflow.commands import train as cli
from tinyflow.train import (
    TrainConfig,
)
from tinyflow.train.events import Event, Step


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


def stop_at(epoch: int, kind: type[BaseException]) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        if isinstance(event, Step) and event.epoch == epoch:
            raise kind

    return report
