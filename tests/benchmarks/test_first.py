"""The GPU benchmark's time limits, and its stages for a GPU that is new."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import first, first_stages, gpu
from benchmarks.process import Process
from tests import ROOT

SETTING = gpu.Setting("resnet20", 128, 32, "tf32")


# --- limits --------------------------------------------------------------------------


def test_a_peer_that_hangs_is_killed_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import sys, time\n"
        "for line in sys.stdin:\n"
        "    time.sleep(600 if 'hang' in line else 0)\n"
        "    print('{}', flush=True)\n"
    )
    peer = Process("sleeper", environment={"PYTHONPATH": str(tmp_path)})
    try:
        assert peer.ask("round", 60) == peer.ask("round") == {}
        start = time.monotonic()
        assert peer.ask("hang", 0.5) == {"error": "no answer to 'hang' within 0.5 s"}
        assert "exit code -9" in peer.ask("round", 60)["error"]
    finally:
        peer.close()
    assert time.monotonic() - start < 30


class Slow:
    """A peer whose rounds take a twentieth of a second."""

    def __init__(self, peer: str, setting: gpu.Setting) -> None:
        self.peer, self.given = peer, []
        PEERS.append(self)

    def ask(self, line: str, seconds: float) -> dict[str, Any]:
        self.given.append((line, seconds))
        if line == "warm up":
            return {"versions": {}, "first_s": 1.5}
        time.sleep(0.05)
        return {"mib": 10.0, "ms": 2.0}

    def close(self) -> None:
        self.given.append(("close", 0.0))


PEERS: list[Slow] = []


def test_a_settings_time_is_shared_by_its_peers() -> None:
    PEERS.clear()
    rows = gpu.measure(SETTING, ["a", "b", "c"], 1, Slow, seconds=60.0)
    first_answers = [peer.given[0][1] for peer in PEERS]
    assert first_answers == pytest.approx([45, 50, 55], abs=1)
    assert all(peer.given[1][1] <= 60 for peer in PEERS)
    assert [row.first_step_s for row in rows] == [1.5] * 3
    PEERS.clear()
    gpu.measure(SETTING, ["a", "b", "c"], 1, Slow, seconds=12.0)
    assert PEERS[0].given[0][1] == pytest.approx(6, abs=1)
    PEERS.clear()
    gpu.measure(SETTING, ["a"], 1, Slow)
    assert [s for _, s in PEERS[0].given[:2]] == [gpu.WARM_UP, gpu.ANSWER]


def test_rounds_end_with_the_time_and_are_kept() -> None:
    PEERS.clear()
    rows = gpu.measure(SETTING, ["a", "b"], 1000, Slow, seconds=0.5)
    assert all(2 <= len(row.rounds) < 20 and row.error is None for row in rows)
    assert [peer.given[-1][0] for peer in PEERS] == ["close", "close"]


def test_the_file_is_written_after_every_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    PEERS.clear()
    file, seen = tmp_path / "gpu.json", []

    class Watching(Slow):
        def ask(self, line: str, seconds: float) -> dict[str, Any]:
            if file.exists():
                rows = json.loads(file.read_text())["rows"]
                seen.append(sum(len(row["rounds_ms"]) for row in rows))
            return super().ask(line, seconds)

    monkeypatch.setattr(gpu, "choose_device", lambda name: ("cuda", "pretended"))
    monkeypatch.setattr(gpu.measure, "__defaults__", (Watching,))
    gpu.main(True, ["resnet20", "vgg19"], peer=["torch"], rounds=3, json_file=file)
    # Two settings of a first answer, three rounds and the memory; before the very first
    # answer there is no file.
    assert seen == [0, 1, 2, 3, 3, 3, 4, 5, 6][: len(seen)] and len(seen) == 9
    assert not list(tmp_path.glob("*.new"))
    assert capsys.readouterr().out.count("2.00 (10)") == 2


def test_a_limit_reaches_every_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, float]] = []

    def measure(
        setting: gpu.Setting, peers: Sequence[str], *_: Any, seconds: float, **__: Any
    ) -> list[gpu.Row]:
        given.append((setting.network, seconds))
        return [gpu.Row(setting, peer) for peer in peers]

    monkeypatch.setattr(gpu, "choose_device", lambda name: ("cuda", "pretended"))
    monkeypatch.setattr(gpu, "measure", measure)
    file = tmp_path / "gpu.json"
    gpu.main(True, list(gpu.SMALL), limit=600.0, json_file=file)
    assert [name for name, _ in given] == list(gpu.SMALL)
    # None of them took its time, which the later ones have.
    wanted = [100, 120, 150, 200, 300, 600]
    assert [s for _, s in given] == pytest.approx(wanted, rel=0.02)


# --- stages --------------------------------------------------------------------------

SCRIPTS = {
    "checks": "facts.put('one'); raise SystemExit(3)",
    "tests": "facts.put('two'); subprocess.Popen(['sleep', '300']); time.sleep(300)",
    "parity": "facts.put('three', loss=0.5); facts.put('four', detail=True)",
}


def scripted(stage: str, folder: Path, seconds: float) -> list[str]:
    start = (
        "import pathlib, subprocess, sys, time; from benchmarks.first import Facts; "
        f"facts = Facts(pathlib.Path(sys.argv[1]), {stage!r}); "
    )
    return [sys.executable, "-c", start + SCRIPTS[stage], str(folder)]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(s) for s in (folder / "results.jsonl").read_text().splitlines()]


def test_stages_survive_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shares = {"checks": 1.0, "tests": 1.0, "parity": 3.0}
    monkeypatch.setattr(first, "STAGES", shares)
    folder = tmp_path / "new" / "results"
    start = time.monotonic()
    assert first.run_stages(folder, 12.0, shares, scripted) == 1
    assert time.monotonic() - start < 12
    found = [(row["stage"], row["what"], row.get("ended")) for row in lines(folder)]
    assert found[:3] == [
        ("checks", "one", None),
        ("checks", "the stage", "exit code 3"),
        ("tests", "two", None),
    ]
    assert found[3][2].startswith("stopped after ")
    assert found[4:] == [
        ("parity", "three", None),
        ("parity", "four", None),
        ("parity", "the stage", "exit code 0"),
    ]
    out = capsys.readouterr().out
    assert "parity  three: loss 0.5\n" in out and "four" not in out
    assert "three" in (folder / "log.txt").read_text()
    # What was there stays, and the table is of this run.
    assert first.run_stages(folder, 30.0, ["parity"], scripted) == 0
    assert len(lines(folder)) == 10 and "one" not in capsys.readouterr().out
    assert first.run_stages(folder, 9.0, ["speeed"], scripted) == 2
    assert "no stage speeed; there are checks, tests, parity" in capsys.readouterr().err


def test_what_a_stage_has_started_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = "p = subprocess.Popen(['sleep', '300']); facts.put('child', pid=p.pid); "
    monkeypatch.setitem(SCRIPTS, "tests", child + "time.sleep(300)")
    first.run_stages(tmp_path, 4.0, ["tests"], scripted)
    pid, end = lines(tmp_path)[0]["pid"], time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(pid, 0)
            time.sleep(0.05)


def test_an_error_is_a_fact(tmp_path: Path) -> None:
    facts = first.Facts(tmp_path, "checks")
    facts.of("right", lambda a: {"a": a}, 3)
    facts.of("wrong", lambda: 1 // 0)
    right, wrong = lines(tmp_path)
    assert right["a"] == 3 and right["took_s"] >= 0
    assert wrong["error"].startswith("ZeroDivisionError: integer")


def run_stage(stage: str, folder: Path, seconds: float = 60) -> list[dict[str, Any]]:
    """Its lines, run in an empty folder of tests."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.first_stages", stage, folder, f"{seconds}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return lines(folder)


TESTS = """
import pytest
pytestmark = pytest.mark.gpu
def test_right(): pass
def test_wrong(): assert 1 == 2
def test_not_here(): pytest.skip("not here")
"""


def test_each_failing_test_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: of a GPU\n")
    (tmp_path / "test_some.py").write_text(TESTS + "def test_two(): pass\n")
    (tmp_path / "test_unread.py").write_text("import nothing_of_that_name\n")
    *failed, counts = run_stage("tests", tmp_path)
    found = {row["what"]: row["failed"] for row in failed}
    assert found["test_some.py::test_wrong"] == "assert 1 == 2"
    assert "nothing_of_that_name" in found["test_unread.py"] and len(found) == 2
    assert {k: counts[k] for k in ("passed", "failed", "skipped", "stopped")} == {
        **{"passed": 2, "failed": 2, "skipped": 1, "stopped": False}
    }


def test_a_broken_gpu_costs_only_the_file_it_broke_in(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: of a GPU\n")
    broken = TESTS.replace("1 == 2", "not 'cudaErrorIllegalAddress'")
    for name, text in {"a": TESTS, "b": broken, "c": TESTS}.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    found = run_stage("tests", tmp_path)
    assert [row["what"] for row in found] == [
        "test_a.py::test_wrong",
        "test_b.py::test_wrong",
        "pytest -m gpu",
        "test_c.py::test_wrong",
        "pytest -m gpu, the rest",
    ]
    assert found[2]["stopped"] == "the GPU refuses this process everything"
    assert [found[i]["passed"] for i in (2, 4)] == [2, 1]


def test_tests_end_with_the_time(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: of a GPU\n")
    slow = TESTS.replace("def test_right(): pass", "def test_right(): time.sleep(1.5)")
    (tmp_path / "test_slow.py").write_text("import time" + slow)
    (counts,) = run_stage("tests", tmp_path, 1.0)
    assert (counts["passed"], counts["stopped"]) == (1, "the time is up")


def test_relative_errors() -> None:
    wanted = {"a": np.array([3.0, 4.0]), "b": np.array([[12.0]]), "c": np.zeros(2)}
    found = {"a": np.array([3.0, 4.5]), "b": np.array([[12.0]]), "c": np.zeros(2)}
    assert first_stages.relative(found, wanted) == {
        **{"all": pytest.approx(0.5 / 13, rel=0.05), "median": 0.0},
        **{"worst": 0.1, "of": "a"},
    }
    found["b"] = np.array([[np.nan]])
    facts = first_stages.relative(found, wanted)
    assert facts["of"] == "b" and facts["error"] == "is not finite"


@pytest.mark.gpu
def test_gpu_parity() -> None:
    coarse = first_stages.against_cpu("resnet20", "tf32")
    assert coarse["all"] < 3 * coarse["expected"] < 1, coarse
    eager = first_stages.against_cpu("resnet20", "float32")
    # One pre-activation that rounds to the other side of 0 is 0.003 of the gradient:
    # so much differ two CPU runs with 21 and 23 bits of mantissa.
    assert eager["all"] < 1e-2 and eager["refused"] == 0, eager
    assert eager["loss"] == pytest.approx(eager["cpu"], rel=1e-4)
    replayed = first_stages.captured("resnet20", "float32")
    assert replayed["replayed"] == 2 and replayed["all"] < 1e-3, replayed


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tinyflow", "tinyflow-eager"])
def test_gpu_peers_answer(name: str) -> None:
    peer = gpu.start_peer(name, gpu.Setting("resnet20", 16, 32, "tf32"))
    try:
        warm, turn, memory = (peer.ask(s, 120) for s in ("warm up", "round", "memory"))
    finally:
        peer.close()
    assert warm["first_s"] > 0 and "cupy" in warm["versions"]
    assert turn["ms"] > 0 and memory["mib"] > 0


def test_what_the_race_says() -> None:
    rows = [gpu.Row(SETTING, peer) for peer in ("tinyflow", "torch", "torch-graph")]
    rows[0].rounds, rows[1].rounds = [2.0, 2.5, 2.25], [4.5]
    rows[0].memory_mib, rows[0].first_step_s = 123.456, 7.891
    rows[2].error = "ended with exit code -9"
    assert first_stages.compared(rows) == {
        "ratio": 2.0,
        "ms": {"tinyflow": 2.25, "torch": 4.5, "torch-graph": None},
        "memory_mib": {"tinyflow": 123.46, "torch": None, "torch-graph": None},
        "first_step_s": {"tinyflow": 7.89, "torch": None, "torch-graph": None},
        "error": {"torch-graph": "ended with exit code -9"},
    }


def test_every_stage_there_is_can_be_run() -> None:
    assert list(first_stages.RUN) == list(first.STAGES)
    assert sum(first.STAGES.values()) == pytest.approx(first.FIRST_LIMIT)
    assert first.FIRST_LIMIT < 600


def test_the_command(tmp_path: Path) -> None:
    """Without a GPU its checks say so, each in its line, and nothing else is lost."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.gpu", "--first", "--stage", "checks"),
            *("--output", tmp_path, "--limit", "60"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = {row["what"]: row for row in lines(tmp_path)}
    assert list(found) == [
        *("versions", "cuDNN", "kernels", "a copy of 1 GiB", "the stage")
    ]
    assert found["the stage"]["ended"] == "exit code 0"
    assert done.stdout.count("\nchecks  ") == 5
