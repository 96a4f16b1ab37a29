"""The GPU benchmark on a CPU: who takes turns, what is measured, what is said."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import typer

from benchmarks import gpu, gpu_peers
from tests import ROOT
from tinyflow.backend import choose_device
from tinyflow.kernels.cuda.settings import PRECISIONS


class Canned:
    """A peer that answers from a table."""

    closed: ClassVar[list[str]] = []
    order: ClassVar[list[str]] = []

    def __init__(self, peer: str, setting: gpu.Setting) -> None:
        self.peer, self.asked = peer, 0

    def ask(self, line: str, seconds: float) -> dict[str, Any]:
        if line == "warm up":
            if self.peer == "torch-compile":
                return {"error": "RuntimeError: cannot be compiled"}
            return {"versions": {self.peer: "1.0"}, "first_s": 4.5}
        if line == "memory":
            return {"mib": 100.0}
        self.asked += 1
        Canned.order.append(self.peer)
        times = {"tinyflow": 2.0, "tinyflow-eager": 5.0, "torch": 6.0}
        if self.peer == "torch-graph" and self.asked == 2:
            return {"error": "ended with exit code -9"}
        return {"ms": times.get(self.peer, 3.0) + 0.1 * (self.asked == 1)}

    def close(self) -> None:
        Canned.closed.append(self.peer)


def test_peers_take_turns_and_one_may_fail(tmp_path: Path) -> None:
    Canned.closed, Canned.order = [], []
    setting = gpu.Setting("resnet20", 128, 32, "tf32")
    rows = gpu.measure(setting, gpu_peers.PEERS, 3, Canned)
    assert Canned.closed == list(gpu_peers.PEERS)
    assert Canned.order[:4] == ["tinyflow", "tinyflow-eager", "torch", "torch-graph"]
    assert Canned.order[4:8] == Canned.order[3::-1]  # turned around each time
    by_peer = {row.peer: row for row in rows}
    assert by_peer["tinyflow"].ms == 2.0
    assert by_peer["torch-graph"].error == "ended with exit code -9"
    assert by_peer["torch-compile"].ms is None
    # A peer that failed later keeps the rounds it finished.
    assert gpu.ratio(rows) == pytest.approx(3.1 / 2.0)
    text = gpu.line(rows)
    assert text.split()[:4] == ["resnet20", "128", "32", "tf32"]
    assert "2.00 (100)" in text and text.endswith("1.55")
    assert len(gpu.heading(gpu_peers.PEERS)) == len(text)
    gpu.write(rows, tmp_path / "new" / "gpu.json")
    facts = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert facts["versions"]["tinyflow"] == "1.0" and len(facts["rows"]) == 5
    first = facts["rows"][0]
    assert first["images_per_second"] == pytest.approx(64000)
    assert first["rounds_ms"] == [2.1, 2.0, 2.0] and first["first_step_s"] == 4.5


def test_without_a_captured_time_there_is_no_ratio() -> None:
    setting = gpu.Setting("resnet20", 128, 32, "tf32")
    rows = gpu.measure(setting, ["torch"], 1, Canned)
    assert gpu.ratio(rows) is None and gpu.line(rows).endswith("-")


def test_the_grid() -> None:
    grid = list(gpu.settings(gpu.SMALL, PRECISIONS, tuple(gpu.SIZES)))
    assert len(grid) == len(set(grid)) == 3 * (6 * 2 + 4)
    assert gpu.Setting("resnet50", 64, 224, "bfloat16") in grid
    assert not [s for s in grid if s.size == 224 and s.network == "resnet20"]
    quick = list(gpu.settings(("resnet20",), ("tf32",), (128,)))
    assert [dataclasses.astuple(s) for s in quick] == [("resnet20", 128, 32, "tf32")]


@pytest.mark.parametrize(
    ("options", "networks", "batches"),
    [
        ({}, set(gpu.SMALL), {128, 512, 64}),
        ({"quick": True}, {"resnet20", "resnet50"}, {128}),
        ({"batch": [64]}, set(gpu.LARGE), {64}),
        ({"quick": True, "batch": [512]}, {"resnet20", "resnet50"}, {512}),
    ],
)
def test_the_options_choose_what_is_measured(
    options: dict[str, Any],
    networks: set[str],
    batches: set[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    asked: list[gpu.Setting] = []

    def measure(setting: gpu.Setting, *_: object, **__: object) -> list[gpu.Row]:
        asked.append(setting)
        return [gpu.Row(setting, "torch")]

    monkeypatch.setattr(gpu, "choose_device", lambda name: ("cuda", "pretended"))
    monkeypatch.setattr(gpu, "measure", measure)
    gpu.main(**options, rounds=1, json_file=tmp_path / "gpu.json")
    assert {s.network for s in asked} == networks
    assert {s.batch for s in asked} == batches


def test_an_unknown_batch_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "choose_device", lambda name: ("cuda", "pretended"))
    with pytest.raises(typer.Exit) as ended:
        gpu.main(batch=[127])
    assert ended.value.exit_code == 2
    said = "benchmarks.gpu: unknown 127; choose from 128, 512, 64\n"
    assert capsys.readouterr().err == said


def run(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **how,
    )


def test_without_a_gpu_it_says_so() -> None:
    if choose_device("auto")[0] == "cuda":
        pytest.skip("there is a GPU")
    done = run("benchmarks.gpu", "--quick")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("benchmarks.gpu: --device cuda cannot be used")
    assert len(done.stderr.splitlines()) == 1


def test_a_peer_that_cannot_start_answers_with_the_reason() -> None:
    if choose_device("auto")[0] == "cuda":
        pytest.skip("there is a GPU")
    done = run(
        "benchmarks.gpu_peers",
        "tinyflow",
        "resnet20",
        "2",
        "32",
        "tf32",
        input="warm up\n",
    )
    assert done.returncode == 0
    assert "error" in json.loads(done.stdout)


def test_a_dead_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    peer = gpu.start_peer("torch", gpu.Setting("resnet20", 2, 32, "tf32"))
    assert "exit code 1" in peer.ask("warm up")["error"]
    peer.close()
