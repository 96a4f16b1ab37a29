"""A run that was stopped or killed goes on as if it had not been: the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace

import pytest
from safetensors import SafetensorError
from safetensors import numpy as store

import models
from tests import ROOT
from tests.kernels.native.built import native as native
from tests.train.small import place as place
from tests.train.stopping import SPLIT, WHOLE, left_by, stopping, traced
from tinyflow.flow.trace import TraceWriter
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.train import ConfigError, TrainConfig, TrainError, resume, train
from tinyflow.train.checks import interval
from tinyflow.train.events import Start, Step
from tinyflow.train.record import config_of
from tinyflow.train.resume import STATE, Position


@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [
        ("numpy", "sgd"),
        ("C", "adam"),
        ("numpy", "rmsprop"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (("C", "sgd"), ("numpy", "adam"), ("C", "adamw"))
        ),
    ],
)
def test_stopped_at_every_step_and_resumed(place, request, engine, optimizer):
    """Once after each of its 18 steps, one run after the other, in any epoch."""
    found = PLAIN if engine == "numpy" else request.getfixturevalue("native")
    # The rate depends on what has been seen: tested every epoch, it falls in the third.
    rate = {"schedule": "plateau", "patience": 0, "slow_until": 0.01, "gamma": 0.5}
    config = replace(WHOLE, optimizer=optimizer, lr=0.5, **rate)
    with forced(found):
        train(replace(config, output=place / "whole"), tracer=traced)
        result = train(replace(config, output=place / "parts"), stopping(1), traced)
        times = 1
        while result.interrupted:
            assert (place / "parts" / STATE).exists()
            result = resume(place / "parts", models.find, stopping(1), traced)
            times += 1
    assert times == 19 and len(result.rows) == 3
    assert left_by(place / "parts") == left_by(place / "whole")
    assert sorted(os.listdir(place / "parts")) == sorted(os.listdir(place / "whole"))


@pytest.mark.parametrize("engine", ["numpy", "C"])
def test_averages_and_what_was_held_out_go_on(place, request, engine):
    """5 of 6 batches a step short: three epochs of 6, 6 and 2 steps."""
    found = PLAIN if engine == "numpy" else request.getfixturevalue("native")
    config = replace(SPLIT, schedule="plateau", patience=0, lr=0.5)
    with forced(found):
        whole = train(replace(config, output=place / "whole"), tracer=traced)
        result = train(replace(config, output=place / "parts"), stopping(3), traced)
        while result.interrupted:
            result = resume(place / "parts", models.find, stopping(3), traced)
    assert [row.epoch for row in whole.rows] == [1, 2, 3]
    assert whole.rows == result.rows and whole.best is not None
    left = left_by(place / "parts")
    assert left == left_by(place / "whole") and "best.safetensors" in left


def test_a_kill_at_every_instant_at_which_a_file_changes(place, monkeypatch):
    """A copy of the folder before and after each of these goes on to the same end."""
    config = replace(WHOLE, epochs=2, save_every="2 steps")
    train(replace(config, output=place / "whole"), tracer=traced)
    copies, known = [], set()

    def copy():
        files = sorted((place / "parts").iterdir())
        found = tuple((f.name, f.read_bytes()) for f in files if f.is_file())
        found = tuple((n.removesuffix(".part") == n and n, b) for n, b in found)
        if found not in known:
            known.add(found)
            copies.append(place / f"copy-{len(copies)}")
            shutil.copytree(place / "parts", copies[-1])

    def seen(do):
        def done(*args, **options):
            copy()
            result = do(*args, **options)
            copy()
            return result

        return done

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync"):
            patch.setattr(os, name, seen(getattr(os, name)))
        train(replace(config, output=place / "parts"), tracer=traced)
    begun = [c for c in copies if (c / STATE).exists()]
    assert len(begun) > 20
    for copy in begun:
        assert (copy / ".unfinished").is_dir()  # as a kill leaves it
        resume(copy, models.find, tracer=traced)
        assert left_by(copy) == left_by(place / "whole"), copy
        assert not [n for n in os.listdir(copy) if n.startswith(".")]
    for copy in set(copies) - set(begun):
        with pytest.raises(ConfigError, match=r"no run folder|holds no state"):
            resume(copy, models.find, tracer=traced)


KILLED = """
--model tiny_resnet.py:Net --epochs 6 --batch-size 20 --limit-train 200 --limit-test 40
--trace-every 3 --save-every 3 --augment --lr 0.02 --output
""".split()
NET = """
from tinyflow import nn, fork, mark, ops
class Block(nn.Module):
    def __init__(self, rng):
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1, rng=rng), nn.BatchNorm2d(8)
    def forward(self, x):
        residual, shortcut = fork(x, "residual", "shortcut")
        return ops.relu(mark(self.bn(self.conv(residual)) + shortcut, "H"))
class Net(nn.Module):
    def __init__(self, *, num_classes, image_size, in_channels, rng):
        self.conv = nn.Conv2d(in_channels, 8, 3, stride=2, padding=1, rng=rng)
        self.blocks = nn.Sequential(Block(rng), Block(rng))
        self.drop = nn.Dropout(0.2, rng=rng)
        self.fc = nn.Linear(8, num_classes, rng=rng)
    def forward(self, x):
        x = self.blocks(ops.relu(self.conv(x)))
        return self.fc(self.drop(ops.global_avg_pool2d(x)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["numpy", "auto"])
def test_killed_at_ten_random_instants(tmp_path, engine):
    (tmp_path / "tiny_resnet.py").write_text(NET)
    environment = {**os.environ, "TINYFLOW_ENGINE": engine}

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    begun = time.monotonic()
    whole = start(*KILLED, "whole")
    assert whole.communicate(timeout=300) and whole.returncode == 0
    longest = time.monotonic() - begun
    draw = random.Random(engine)
    kills = 0
    while kills < 10:
        there = (tmp_path / "parts" / STATE).exists()
        if not there:
            shutil.rmtree(tmp_path / "parts", ignore_errors=True)
        run = start("--resume", "parts") if there else start(*KILLED, "parts")
        time.sleep(draw.uniform(0.2, longest * 0.7))
        if run.poll() is not None:  # it got to its end: begin again
            said = run.communicate()[1]
            assert run.returncode == 0, said
            shutil.rmtree(tmp_path / "parts")
            continue
        run.send_signal(signal.SIGKILL)
        run.communicate(timeout=60)
        kills += 1
    if not (tmp_path / "parts" / STATE).exists():
        shutil.rmtree(tmp_path / "parts", ignore_errors=True)
        last = start(*KILLED, "parts")
    else:
        last = start("--resume", "parts")
    said = last.communicate(timeout=300)[1]
    assert last.returncode == 0, said
    assert left_by(tmp_path / "parts") == left_by(tmp_path / "whole")


def test_a_run_that_goes_on_says_so_and_counts_from_there(place):
    result = train(replace(WHOLE, output=place / "run"), stopping(8), traced)
    assert len(result.rows) == 1 and result.rows[0].epoch == 1
    events = []
    resume(place / "run", models.find, events.append, traced)
    assert isinstance(events[0], Start) and events[0].done == 8
    steps = [e for e in events if isinstance(e, Step)]
    assert [(e.epoch, e.step) for e in steps[:5]] == [(2, n) for n in range(3, 7)] + [
        (3, 1)
    ]
    assert len(steps) == 10


def test_a_full_disk_leaves_the_state_before(place, monkeypatch):
    """As the system says it, and as safetensors does; then there is room again."""
    train(replace(WHOLE, output=place / "whole"), tracer=traced)
    real, left = store.save_file, iter(range(9))

    def full(arrays, path, metadata):
        real(arrays, path, metadata)
        if "position" in metadata["tinyflow"] and next(left) == 3:
            raise SafetensorError("I/O error: Os { code: 28 } (os error 28)")

    config = replace(WHOLE, save_every="4", output=place / "run")
    with monkeypatch.context() as patch:
        patch.setattr(store, "save_file", full)
        with pytest.raises(TrainError, match=rf"{STATE} cannot be written \(No space"):
            train(config, tracer=traced)
    result = resume(place / "run", models.find, tracer=traced)
    assert len(result.rows) == 3
    assert left_by(place / "run") == left_by(place / "whole")


def test_what_is_kept_is_said_where_no_epoch_was_finished(place):
    """A run that fails in its first epoch: with a state before that, and without."""

    def full(folder, again=False):
        write = traced(folder, again)

        def failing(step, loss, tape):
            if step == 4:
                raise OSError(28, "No space left on device", "trace.csv")
            write(step, loss, tape)

        failing.path = write.path
        return failing

    for often, out, said in (
        (
            "2 steps",
            place / "some",
            f"the state of the run is kept in {place / 'some'}",
        ),
        ("epoch", place / "none", "so nothing was kept"),
    ):
        with pytest.raises(TrainError, match=f"no epoch was finished.*{said}$"):
            train(replace(WHOLE, save_every=often, output=out), tracer=full)
        assert out.exists() == (often == "2 steps")
    with pytest.raises(TrainError, match=f"kept in {place / 'some'}$"):
        resume(place / "some", models.find, tracer=full)
    assert len(resume(place / "some", models.find, tracer=traced).rows) == 3


@pytest.mark.parametrize(
    ("text", "often"),
    [
        ("epoch", (1, "epochs")),
        ("epochs", (1, "epochs")),
        ("5 epochs", (5, "epochs")),
        ("200", (200, "steps")),
        (" 3steps ", (3, "steps")),
        ("step", (1, "steps")),
    ],
)
def test_how_often(text, often):
    assert interval(text) == often


@pytest.mark.parametrize("text", ["", "0", "0 epochs", "-1", "1.5", "often", "2 weeks"])
def test_how_often_is_no_such_thing(text):
    with pytest.raises(ConfigError, match="write epoch"):
        interval(text)


def test_every_option_is_read_back_as_it_was_given(place):
    config = TrainConfig(
        models.find("tiny"),
        epochs=2,
        lr=0.25,
        optimizer="sgd",
        schedule="step",
        weight_decay=0,
        momentum=0.5,
        label_smoothing=0.1,
        warmup_epochs=1,
        clip_grad=3.5,
        augment=True,
        seed=7,
        device="cpu",
        capture=False,
        limit_train=100,
        limit_test=50,
        save_every="3 steps",
        batch_size=50,
        output=place / "run",
    )
    train(config, stopping(2))
    found = config_of(place / "run", models.find)
    assert found == config
    for f in fields(TrainConfig):
        assert type(getattr(found, f.name)) is type(getattr(config, f.name)), f.name


def test_a_position_begins_anew_with_each_epoch():
    now = Position(2, 5, 40, 30, 1.5, 2.5, 3.5)
    row = object()
    now.turn(row)
    assert now == Position(epoch=3, rows=[row])


def test_the_terms_of_blocks_go_on_as_well(place):
    """With the instrument's own trace, of a network that has blocks."""
    small = {"limit_train": 60, "limit_test": 20, "batch_size": 20, "epochs": 2}
    config = TrainConfig(models.find("plain20"), trace_every=1, lr=0.01, **small)
    train(replace(config, output=place / "whole"), tracer=TraceWriter)
    train(replace(config, output=place / "parts"), stopping(4), TraceWriter)
    resume(place / "parts", models.find, tracer=TraceWriter)
    assert left_by(place / "parts") == left_by(place / "whole")
