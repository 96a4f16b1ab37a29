"""Both commands stopped at any instant, and with nobody to read what they print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import models
from tests.test_atomic import BLOCKS, FAST, ROOT, start
from tinyflow.signals import INTERRUPTS, deferred
from tinyflow.train import load_checkpoint
from tinyflow.train.metrics import read_metrics

LONG = [*FAST, "--epochs", "500"]
COMMANDS = {"train.py": LONG, "analyze.py": BLOCKS}


def stop_after(
    seconds: float,
    script: str,
    number: int,
    place: Path,
    again: float | None = None,
    begun: bool = False,
) -> tuple[int, str]:
    """Exit code and stderr of a command stopped after so many seconds, or twice.

    The seconds are counted from its first line if it is to have `begun`.
    """
    run = start(script, *COMMANDS[script], "--output", "out", cwd=place)
    if begun and run.stdout is not None:
        run.stdout.readline()
    for wait in (seconds, again):
        if wait is not None:
            time.sleep(wait)
            run.send_signal(number)
    said = run.communicate(timeout=120)[1]
    return run.returncode, said


def check(place: Path, code: int, said: str, number: int) -> None:
    """Nothing half made is left, and what is said is true."""
    started = "tinyflow.commands" in said or "/tinyflow/" in said
    if "Python runtime state" in said or ("Traceback" in said and not started):
        return  # Python itself was still starting
    assert code in (128 + number, -number, 0), (code, said)  # -: before it began
    assert "Traceback" not in said and "ignored" not in said, said
    out = place / "out"
    assert sorted(os.listdir(place)) == (["out"] if out.exists() else [])
    if not out.exists():
        assert "nothing" in said or code == -number or said.count("\n") <= 1
        return
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    if (out / "summary.json").exists():
        assert json.loads((out / "summary.json").read_text())["analysis"] == "blocks"
        assert (out / "terms-resnet20.svg").read_text().endswith("</svg>\n")
        return
    rows = read_metrics(out / "metrics.csv")
    assert (out / "state.safetensors").exists() == ("goes on" in said)
    if rows:
        assert load_checkpoint(out, models.find)[1].epoch == len(rows)
    text = (out / "metrics.csv").read_text() + (out / "trace.csv").read_text()
    assert text.endswith("\n") and (out / "config.json").is_file()


@pytest.mark.parametrize("script", COMMANDS)
def test_a_termination_is_answered(tmp_path: Path, script: str) -> None:
    """A single one, at an instant at which each command is at work for certain."""
    run = start(script, *COMMANDS[script], "--output", "out", cwd=tmp_path)
    assert run.stdout is not None and run.stdout.readline()
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 143 and said.startswith(f"{script}: interrupted")
    check(tmp_path, 143, said, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("script", COMMANDS)
@pytest.mark.parametrize("number", INTERRUPTS)
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("turn", range(4))
def test_stopped_at_any_instant(
    tmp_path: Path, script: str, number: int, begun: bool, turn: int
) -> None:
    seconds = 0.05 + turn * 0.9 + 0.3 * INTERRUPTS.index(signal.Signals(number))
    code, said = stop_after(seconds, script, number, tmp_path, begun=begun)
    check(tmp_path, code, said, number)


@pytest.mark.slow
@pytest.mark.parametrize("script", COMMANDS)
@pytest.mark.parametrize("again", [0.0, 0.02, 0.3])
def test_stopped_twice(tmp_path: Path, script: str, again: float) -> None:
    code, said = stop_after(1.0, script, signal.SIGINT, tmp_path, again, begun=True)
    check(tmp_path, code, said, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path, number: int) -> None:
    """As nohup and a shell's background jobs start their programs."""
    run = start(
        "train.py",
        *FAST,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )
    assert run.stdout is not None and run.stdout.readline()
    run.send_signal(number)
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said


def test_deferred_signals_come_when_the_block_has_ended() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        signal.raise_signal(signal.SIGINT)
        done.append("all")
    assert done == ["all"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# --- nobody to read ----------------------------------------------------------------


def close(*numbers: int) -> Callable[[], None]:
    def before() -> None:
        for number in numbers:
            os.close(number)

    return before


SHORT = {"train.py": FAST, "analyze.py": BLOCKS}


@pytest.mark.parametrize("script", SHORT)
@pytest.mark.parametrize(
    "how",
    [
        "head",
        pytest.param("closed", marks=pytest.mark.slow),
        pytest.param("all closed", marks=pytest.mark.slow),
        pytest.param("full", marks=pytest.mark.slow),
    ],
)
def test_standard_output_is_not_the_run(tmp_path: Path, script: str, how: str) -> None:
    command = [sys.executable, str(ROOT / script), *SHORT[script], "--output", "out"]
    options: dict[str, object] = {}
    read, write = os.pipe()
    if how == "head":
        os.close(read)  # a reader that has gone before the first word
        options["stdout"] = write
    elif how == "full":
        options["stdout"] = os.open("/dev/full", os.O_WRONLY)
    else:
        options["preexec_fn"] = close(1) if how == "closed" else close(0, 1, 2)
    run = subprocess.run(
        command,
        cwd=tmp_path,
        stderr=None if how == "all closed" else subprocess.PIPE,
        timeout=120,
        text=True,
        **options,  # type: ignore[call-overload]
    )
    assert run.returncode == (1 if how == "full" else 0), run.stderr
    if how == "full":
        assert run.stderr.count("\n") == 1 and "No space left" in run.stderr
    elif how != "all closed":
        assert run.stderr == ""
    check(tmp_path, 0, "", 0)
    files = os.listdir(tmp_path / "out")
    assert "curves.png" in files or "summary.json" in files


@pytest.mark.parametrize("script", SHORT)
@pytest.mark.parametrize(
    ("option", "how", "code"),
    [("--help", "head", 0), ("--help", "full", 1), ("--nonsense", "head", 2)],
)
def test_short_answers_without_a_reader(
    script: str, option: str, how: str, code: int
) -> None:
    read, write = os.pipe()
    os.close(read)
    if how == "full":
        write = os.open("/dev/full", os.O_WRONLY)
    run = subprocess.run(
        [sys.executable, str(ROOT / script), option],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert run.returncode == code and "Traceback" not in run.stderr
    assert (run.stderr == "") == (code == 0)
