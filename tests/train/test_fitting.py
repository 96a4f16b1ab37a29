"""A batch that memory does not hold: which one would fit is said, and is true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from tests import ROOT
from tests.kernels.native.built import COMPILER
from tests.train.small import SMALL, run, tiny
from tests.train.small import place as place
from tests.train.stopping import left_by, traced
from tinyflow import Tensor, nn
from tinyflow.tape import active_tape
from tinyflow.train import TrainError, resume, train
from tinyflow.train.events import Start, Step
from tinyflow.train.fitting import largest_fit
from tinyflow.train.prepare import prepare
from tinyflow.train.resume import _generators


class Choosy(nn.Module):
    """`tiny`, for which memory suffices up to `most` images; `Choosy.error` else."""

    most = 10_000
    error: Callable[[], Exception] = MemoryError
    seen: list[tuple[int, bool]]
    """What was given to it while it trained: how many images, and whether traced."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.training and (tape := active_tape()) is not None:
            Choosy.seen.append((len(x.data), not tape.fuse))
            if len(x.data) > Choosy.most:
                raise Choosy.error()
        return y


def choosy(**how: Any) -> nn.Module:
    return Choosy(tiny(**how))


@pytest.fixture(autouse=True)
def network(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    entry = models.Network("choosy", choosy, 32, 0.05)
    monkeypatch.setitem(models.MODELS, "choosy", entry)
    for name, value in (("most", 10_000), ("error", MemoryError), ("seen", [])):
        monkeypatch.setattr(Choosy, name, value, raising=False)


CONFIG = replace(SMALL, model=models.Network("choosy", choosy, 32, 0.05))


def shrinking(epoch: int, step: int, most: int) -> Callable[[object], None]:
    """From a step on there is memory for so many images."""

    def report(event: object) -> None:
        now = (event.epoch, event.step) if isinstance(event, Step) else None
        if now == (epoch, step) or (isinstance(event, Start) and not epoch):
            Choosy.most = most

    return report


def refused(config: Any, report: Any) -> str:
    with pytest.raises(TrainError) as caught:
        train(config, report, traced if config.trace_every else None)
    assert isinstance(caught.value.__cause__, MemoryError)
    return str(caught.value)


# --- what is said ---------------------------------------------------------------------


@pytest.mark.parametrize("trace", [None, 4])
def test_the_first_step_does_not_fit_and_what_is_said_does(
    place: Path, trace: int | None
) -> None:
    config = replace(CONFIG, trace_every=trace, output=place / "out")
    said = refused(config, shrinking(0, 0, 13))
    assert said == (
        "memory is full (no more could be had) in a step with --batch-size 50: a batch "
        "of 12 fits: use --batch-size 12; no epoch was finished, so nothing was kept"
    )
    assert not (place / "out").exists()
    assert Choosy.seen == [(n, trace is not None) for n in (50, 25, 12)]
    result = train(replace(config, batch_size=12), tracer=traced if trace else None)
    assert len(result.rows) == 2
    with pytest.raises(TrainError, match="of 12 fits"):
        train(replace(config, batch_size=25, output=place / "b"), tracer=traced)


@pytest.mark.parametrize(
    "error", [lambda: MemoryError("Unable to allocate 9 GiB"),
              lambda: RuntimeError("cudaErrorMemoryAllocation: out of memory")]
)  # fmt: skip
def test_however_it_is_raised(place: Path, error: Callable[[], Exception]) -> None:
    Choosy.error = error
    said = run(
        "--model choosy --batch-size 50 --limit-train 50 --limit-test 9 --epochs 1"
    )
    assert said.exit_code == 0  # there is memory
    Choosy.most = 2
    result = run(
        "--model choosy --batch-size 50 --limit-train 50 --limit-test 9 --epochs 1"
    )
    assert result.exit_code == 1 and "Traceback" not in result.output
    (line,) = result.stderr.splitlines()
    assert f"({error()})" in line and "a batch of 1 fits: use --batch-size 1;" in line


def test_not_even_one(place: Path) -> None:
    said = refused(replace(CONFIG, output=place / "out"), shrinking(0, 0, 0))
    assert "--batch-size 50: not even a batch of 1 fits: choose a smaller" in said
    assert [n for n, _ in Choosy.seen] == [50, 25, 12, 6, 3, 1]
    assert "not even a batch of 1 fits" in refused(
        replace(CONFIG, batch_size=1, output=place / "b"), shrinking(0, 0, 0)
    )


def test_a_size_that_fails_otherwise_is_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one image does in batch normalisation over maps of one pixel."""
    real = Choosy.forward

    def forward(self: Choosy, x: Tensor) -> Tensor:
        y = real(self, x)
        if self.training and len(x.data) == 1:
            raise ValueError("nothing to normalise over")
        return y

    monkeypatch.setattr(Choosy, "forward", forward)
    said = refused(replace(CONFIG, output=place / "out"), shrinking(0, 0, 2))
    assert "not even a batch of 3 fits" in said


# --- what remains ---------------------------------------------------------------------


def test_a_later_step_changes_nothing_and_the_run_goes_on(place: Path) -> None:
    config = replace(CONFIG, epochs=3, trace_every=4, ema=0.9)
    train(replace(config, output=place / "whole"), tracer=traced)
    said = refused(replace(config, output=place / "parts"), shrinking(2, 3, 20))
    out = place / "parts"
    assert said.endswith(
        f"a batch of 12 fits: use --batch-size 12; the run up to epoch 1 is kept in "
        f"{out}; where there is more memory, --resume {out} goes on"
    )
    log = (out / "log.txt").read_text().splitlines()[-1]
    assert "a batch of 12 fits" in log
    Choosy.most = 10_000
    resume(out, models.find, tracer=traced)
    assert left_by(out) == left_by(place / "whole")


def everything(ready: Any) -> dict[str, Any]:
    """A copy of all that a step may change."""
    found = {f"model/{n}": a.copy() for n, a in ready.model.state_dict().items()}
    found |= {f"state/{n}": a for n, a in ready.optimizer.state_dict().items()}
    found["random"] = [g.bit_generator.state for _, g in _generators(ready.model)]
    assert len(found["random"]) == 1
    found["steps"] = dict(ready.optimizer.steps)
    found["kept"] = sorted(ready.optimizer.state)
    found["modes"] = [m.training for m in (ready.model, ready.model.inner.bn)]
    found["gradients"] = [p.grad for p in ready.model.parameters()]
    return found


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("trace", [False, True])
def test_trying_changes_nothing(steps: int, trace: bool) -> None:
    ready = prepare(replace(CONFIG, optimizer="adam", lr=0.001))
    images = np.random.default_rng(0).random((50, 3, 32, 32), "float32")
    labels = np.arange(50) % 10
    for _ in range(steps):
        ready.stepper.eager(images, labels)
    ready.optimizer.zero_grad()
    before = everything(ready)
    Choosy.most = 7
    assert largest_fit(ready, 50, trace) == (6, 6)
    after = everything(ready)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_equal(after[name], value, err_msg=name)


class Held:
    """Stands for an array."""


def test_what_a_step_held_is_gone_when_smaller_ones_are_tried(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what only a closure of a function on the way holds."""
    alive: list[weakref.ref[Held]] = []
    real, counts = Choosy.forward, []

    def forward(self: Choosy, x: Tensor) -> Tensor:
        counts.append(sum(ref() is not None for ref in alive))
        mine, cycle = Held(), [Held()]
        cycle.append(cycle)  # type: ignore[arg-type]
        if len(x.data) > 2 and active_tape() is not None:
            alive.extend([weakref.ref(mine), weakref.ref(cycle[0])])

        def last() -> Tensor:
            return real(self, x) if mine and cycle else x

        return last()

    monkeypatch.setattr(Choosy, "forward", forward)
    refused(replace(CONFIG, output=place / "out"), shrinking(0, 0, 2))
    assert len(alive) >= 10 and counts[-5:] == [0] * 5


# --- real memory ----------------------------------------------------------------------

WIDE = """
from tinyflow import nn
def wide(*, num_classes, image_size, in_channels, rng):
    c = 32
    return nn.Sequential(
        conv1=nn.Conv2d(in_channels, c, 3, padding=1, rng=rng),
        bn1=nn.BatchNorm2d(c), relu1=nn.ReLU(),
        conv2=nn.Conv2d(c, c, 3, padding=1, rng=rng),
        bn2=nn.BatchNorm2d(c), relu2=nn.ReLU(),
        pool=nn.GlobalAvgPool2d(), fc=nn.Linear(c, num_classes, rng=rng))
"""
LIMITED = """
import resource, sys
from tinyflow.commands import train
from tinyflow.kernels.native.library import load
import models
load()
lines = dict(line.split(":") for line in open("/proc/self/status"))
most = int(lines["VmSize"].split()[0]) * 1024 + 550 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
train.app(sys.argv[1:], obj=models.ZOO)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
@pytest.mark.parametrize("engine", ["numpy", "native"])
def test_the_number_said_trains_under_the_same_limit(
    place: Path, tmp_path_factory: pytest.TempPathFactory, engine: str
) -> None:
    (place / "net.py").write_text(WIDE)
    own = {"TINYFLOW_ENGINE": engine, "TINYFLOW_NUM_THREADS": "1"}
    own |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if engine == "native":
        if not COMPILER:
            pytest.skip("no compiler")
        own["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "kernels")
        build = [sys.executable, "-m", "tinyflow.native"]
        subprocess.run(build, env=os.environ | own, check=True, capture_output=True)

    def limited(size: int, out: str) -> subprocess.CompletedProcess[str]:
        options = f"--model net.py:wide --batch-size {size} --limit-train {size} "
        options += f"--limit-test 20 --optimizer adam --lr 0.001 --output {out}"
        return subprocess.run(
            [sys.executable, "-c", LIMITED, *options.split(), "--epochs", "2"],
            env=os.environ | own,
            capture_output=True,
            text=True,
            timeout=120,
        )

    first = limited(2048, "first")
    assert first.returncode == 1, first.stdout + first.stderr
    assert "Traceback" not in first.stderr and not (place / "first").exists()
    words = (
        r"memory is full \(Unable .*\) in a step with --batch-size 2048: a batch of "
    )
    found = re.search(rf"{words}(\d+) fits: use --batch-size \1;", first.stderr)
    assert found is not None, first.stderr
    size = int(found[1])
    assert 64 <= size <= 1024  # a map of an image is 128 KiB; a dozen live at once
    second = limited(size, "second")
    assert second.returncode == 0, second.stderr
    assert (place / "second" / "curves.png").exists()
