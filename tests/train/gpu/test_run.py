"""What a run on a GPU is given, read off without one: its batches and its step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.train.small import SMALL
from tests.train.small import place as place
from tinyflow import nn
from tinyflow.data import Loader
from tinyflow.train import prepare
from tinyflow.train.gpu.capture import CapturedStep


@dataclass(eq=False)
class Batches:
    """In place of a DeviceLoader."""

    loader: Loader
    dtype: Any


class Nothing:
    """In place of a Recorder."""


@pytest.fixture(autouse=True)
def moved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that is only named; where the network was moved."""
    places: list[str] = []

    def to(self: nn.Module, device: str) -> nn.Module:
        places.append(device)
        return self

    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr(prepare, "choose_device", lambda name: ("cuda", "pretended"))
    monkeypatch.setattr("tinyflow.train.gpu.prefetch.DeviceLoader", Batches)
    monkeypatch.setattr("tinyflow.kernels.cuda.graph.Recorder", Nothing)
    return places


def test_a_captured_step_gets_the_network_the_optimiser_and_the_options(
    moved: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr(prepare.precision, "choose", lambda *how: chosen.append(how))
    config = replace(SMALL, label_smoothing=0.1, clip_grad=2.5, deterministic=True)
    ready = prepare.prepare(replace(config, precision="tf32"))
    step = ready.stepper
    assert type(step) is CapturedStep and type(step.recorder) is Nothing
    assert step.model is ready.model and step.optimizer is ready.optimizer
    assert (step.label_smoothing, step.clip_grad) == (0.1, 2.5)
    step.say("why")
    assert capsys.readouterr() == ("", "why\n")
    assert moved == ["cuda"] and chosen == [("tf32", True)]
    assert (ready.device, ready.reason) == ("cuda", "pretended")
    assert ready.kernels == "CUDA kernels"


@pytest.mark.parametrize("capture", [True, False])
def test_batches_are_made_there(monkeypatch: pytest.MonkeyPatch, capture: bool) -> None:
    """Training as large as asked for, testing even and up to four times that."""
    monkeypatch.setattr(prepare.precision, "activations", lambda *how: how)
    monkeypatch.setattr(prepare.precision, "choose", lambda *how: None)
    config = replace(SMALL, batch_size=20, precision="bfloat16", capture=capture)
    ready = prepare.prepare(config)
    assert (isinstance(ready.stepper, CapturedStep)) == capture
    train, test = ready.train, ready.test
    assert isinstance(train, Batches) and isinstance(test, Batches)
    assert train.dtype == test.dtype == ("bfloat16", "cuda")
    assert (len(train.loader.dataset), train.loader.batch_size) == (300, 20)
    assert (len(test.loader.dataset), test.loader.batch_size) == (100, 50)
    assert train.loader.dtype == test.loader.dtype == np.float32
