"""The training loop over captured steps: what is launched when, and what is reported.

A step that is launched here is done at once, on the CPU; its answer is given when it is
read. So a run must leave, to the last bit, what one without capture leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from tests.fakes.cuda_host import emulator
from tests.fakes.host_cudnn import HostCudnn
from tests.fakes.host_gpu import HostGpu, HostRecorder, gpu_or_skip, here, host_engine
from tests.train.gpu.test_capture import RULES, Small, batches
from tests.train.small import SMALL
from tests.train.small import place as place
from tinyflow import Tape
from tinyflow.backend import Array
from tinyflow.kernels.cuda.settings import configured
from tinyflow.train import EpochRow, TrainConfig, TrainError, loop, prepare, train
from tinyflow.train.events import Event, Step
from tinyflow.train.gpu.capture import WARM_UP, CapturedStep
from tinyflow.train.step import StepResult, train_step

CONFIG = replace(SMALL, limit_train=330, clip_grad=1.0)
"""Six full batches and one of 30."""


class Late:
    """A captured step whose answers come when they are asked for.

    Args:
        ready: what is trained.
        bad: which launched step is not finite.
    """

    def __init__(self, ready: prepare.Prepared, bad: int | None = None) -> None:
        self.ready, self.bad, self.log = ready, bad, ["start"]
        self.launched, self.inside, self.unread = 0, False, 0

    @contextmanager
    def running(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False

    def eager(self, images: Array, labels: Array, inspect: Any = None) -> StepResult:
        self.log.append("eager")
        assert self.inside and not self.unread  # it could not say which step was bad
        return self._step(images, labels, inspect)

    def launch(self, images: Array, labels: Array, inspected: bool = False) -> Any:
        if inspected or len(labels) < CONFIG.batch_size:
            return None
        self.launched += 1
        self.unread += 1
        number = self.launched
        self.log.append(f"launch {number}")
        result = self._step(images, labels)

        def answer() -> StepResult:
            self.log.append(f"read {number}")
            self.unread -= 1
            if number == self.bad:
                raise FloatingPointError("the loss became nan")
            return result

        return answer

    def _step(self, images: Array, labels: Array, inspect: Any = None) -> StepResult:
        model, optimizer = self.ready.model, self.ready.optimizer
        how: Any = {"clip_grad": CONFIG.clip_grad, "inspect": inspect}
        return train_step(model, images, labels, optimizer, **how)


def captured(monkeypatch: pytest.MonkeyPatch, bad: int | None = None) -> list[Late]:
    """Make runs captured; each appends its step here."""
    made: list[Late] = []
    original = prepare.prepare

    def ready(config: TrainConfig) -> prepare.Prepared:
        found = original(config)
        made.append(Late(found, bad))
        return replace(found, stepper=made[-1])  # type: ignore[arg-type]

    monkeypatch.setattr("tinyflow.train.run.prepare", ready)
    return made


def values(row: EpochRow) -> list[float]:
    """What was measured: without validation images, what could be."""
    return [value for value in astuple(row) if value == value]


def test_an_answer_is_read_after_the_next_launch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain_steps: list[Event] = []
    plain = train(replace(CONFIG, output=tmp_path / "plain"), plain_steps.append)
    late_steps: list[Event] = []
    made = captured(monkeypatch)
    found = train(replace(CONFIG, output=tmp_path / "late"), late_steps.append)
    epoch = ["launch 1"]
    for n in range(2, 7):
        epoch += [f"launch {n}", f"read {n - 1}"]
    epoch += ["read 6", "eager"]
    assert made[0].log[1 : 1 + len(epoch)] == epoch
    assert made[0].log[-1] == "eager" and made[0].log.count("eager") == 2
    assert [values(row) for row in found.rows] == [values(row) for row in plain.rows]
    # Every step is reported once, in its place, with the same means.
    one, two = (
        [astuple(e)[:4] for e in events if isinstance(e, Step)]
        for events in (plain_steps, late_steps)
    )
    assert one == two and len(one) == 14


def test_the_last_step_of_an_epoch_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before its weights are tested, on the same stream."""
    late, evaluate = captured(monkeypatch), loop.evaluate

    def tested(*args: Any) -> tuple[float, float]:
        assert late[0].inside and not late[0].unread
        return evaluate(*args)

    monkeypatch.setattr(loop, "evaluate", tested)
    train(replace(CONFIG, limit_train=300, output=tmp_path / "run"))
    assert late[0].log[-2:] == ["read 11", "read 12"] and late[0].launched == 12


@pytest.mark.parametrize(("bad", "step"), [(9, 3), (12, 6)])
def test_a_bad_step_is_named_although_the_next_was_launched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bad: int, step: int
) -> None:
    """In the middle of an epoch, and before a step that is eager."""
    late = captured(monkeypatch, bad)
    with pytest.raises(TrainError, match=f"nan at step {step} of epoch 2 "):
        train(replace(CONFIG, output=tmp_path / "run"))
    assert late[0].launched == min(bad + 1, 12) and late[0].log.count("eager") == 1
    assert (tmp_path / "run" / "last.safetensors").is_file()


def test_a_traced_step_comes_when_the_one_before_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    late = captured(monkeypatch)
    traced: list[int] = []

    def tracer(place: Path) -> Callable[[int, float, Tape], None]:
        return lambda step, loss, tape: traced.append(step)

    config = replace(CONFIG, epochs=1, trace_every=3, output=tmp_path / "run")
    train(config, tracer=tracer)
    assert traced == [0, 3, 6]
    assert late[0].log[1:] == [
        *("eager", "launch 1", "launch 2", "read 1", "read 2"),
        *("eager", "launch 3", "launch 4", "read 3", "read 4", "eager"),
    ]


def test_an_interrupt_keeps_what_was_finished(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    captured(monkeypatch)

    def report(event: Event) -> None:
        if isinstance(event, Step) and (event.epoch, event.step) == (2, 3):
            raise KeyboardInterrupt

    result = train(replace(CONFIG, output=tmp_path / "run"), report)
    assert result.interrupted and len(result.rows) == 1
    assert (tmp_path / "run" / "metrics.csv").read_text().count("\n") == 2


@pytest.mark.slow
@pytest.mark.skipif(emulator.COMPILER is None, reason="the host emulation needs g++")
def test_the_loop_replays_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two epochs of five full batches and a short one, as without capture."""
    config = TrainConfig(
        models.find("plain20"),
        epochs=2,
        batch_size=4,
        limit_train=22,
        limit_test=4,
        lr=0.01,
    )
    gpu, steps = HostGpu(), []
    said: list[str] = []
    places: list[int] = []

    def on_stream(work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: object) -> Any:
            places.append(steps[-1].recorder.inside if len(steps) == 1 else 1)
            return work(*args)

        return call

    for name in ("evaluate", "save_checkpoint"):
        work = getattr(loop, name)
        monkeypatch.setattr(f"tinyflow.train.loop.{name}", on_stream(work))

    def on_gpu(config, model, optimizer, loaders, dtype):
        step = CapturedStep(model, optimizer, HostRecorder(gpu), say=said.append)
        steps.append(step)
        return loaders, step if config.capture else None

    monkeypatch.setattr(prepare, "choose_device", lambda name: ("cuda", "pretended"))
    monkeypatch.setattr(prepare, "_on_gpu", on_gpu)
    monkeypatch.setattr("tinyflow.module.asarray", lambda array, device: array)
    monkeypatch.setattr("tinyflow.train.step.asarray", lambda array, device: array)
    with configured(), host_engine(gpu, HostCudnn(gpu)):
        rows, wanted = (
            train(replace(config, capture=c, output=tmp_path / str(c))).rows
            for c in (True, False)
        )
    assert steps[0].replayed == 12 - WARM_UP - 2 and len(said) == 1
    assert steps[1].replayed == 0
    assert len(places) >= 8 and all(places)
    for row, other in zip(rows, wanted, strict=True):
        for name in ("train_loss", "train_accuracy", "test_loss", "grad_norm"):
            found, expected = getattr(row, name), getattr(other, name)
            assert found == pytest.approx(expected, rel=1e-3), name


@pytest.mark.gpu
@pytest.mark.parametrize("clip", [None, 0.5])
def test_gpu_runs_are_the_same_captured_or_not(
    tmp_path: Path, clip: float | None
) -> None:
    """What is read too early, or from memory in use, would differ from run to run."""
    gpu_or_skip()
    config = replace(
        TrainConfig(
            models.find("resnet20"), epochs=2, batch_size=32, lr=0.01, augment=True
        ),
        limit_train=344,
        limit_test=150,
        clip_grad=clip,
        device="cuda",
        deterministic=True,
    )
    with configured():
        rows = [
            train(replace(config, capture=capture, output=tmp_path / str(i))).rows
            for i, capture in enumerate((True, True, False))
        ]
    for one, again, eager in zip(*rows, strict=True):
        assert values(one) == pytest.approx(values(again), rel=1e-6)
        for name in ("train_loss", "test_loss", "grad_norm"):
            assert getattr(one, name) == pytest.approx(getattr(eager, name), rel=2e-2)


@pytest.mark.gpu
def test_gpu_a_step_that_is_not_finite_updates_nothing() -> None:
    gpu_or_skip()
    import cupy

    from tinyflow.kernels.cuda.graph import Recorder

    model = Small().to("cuda")
    optimizer = RULES["adam"](list(model.named_parameters()))
    step = CapturedStep(model, optimizer, Recorder())
    for images, labels in batches(WARM_UP + 2):
        step(cupy.asarray(images), cupy.asarray(labels))
    before = [p.data.get() for p in model.parameters()]
    state = {key: here(a) for key, a in optimizer.state_dict().items()}
    with pytest.raises(FloatingPointError, match="loss became nan"):
        step(cupy.asarray(images * np.float32("nan")), cupy.asarray(labels))
    for p, old in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data.get(), old)
    for key, array in optimizer.state_dict().items():
        np.testing.assert_array_equal(here(array), state[key], err_msg=key)
    assert step.replayed == 3
