"""The live line: what it says at every width, on terminals and in notebooks."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tinyflow.train import live_report
from tinyflow.train.events import Start, Step
from tinyflow.train.line import Status, duration
from tinyflow.train.notebook import NotebookReport, in_notebook
from tinyflow.train.report import BarReport, PlainReport

START = Start(
    folder=Path("runs/a"),
    model="resnet20",
    parameters=1000,
    dataset="cifar10",
    train_images=50_000,
    test_images=10_000,
    epochs=164,
    steps=391,
    lr=0.1,
    device="cpu",
    reason="because",
    kernels="NumPy",
    total=64_124,
)
STEP = Step(3, 120, 1.2345, 0.4567, 1234.4, 0.05)
SAID = {
    "epoch": "epoch 3/164",
    "step": "step 120/391",
    "loss": "loss 1.234",
    "accuracy": "accuracy 45.7 %",
    "speed": "1234 images/s",
    "rate": "rate 0.05",
}
WANTED = ("left", "epoch", "accuracy", "loss", "speed", "rate", "step")


def test_all_of_it_with_what_is_left() -> None:
    """902 steps are done in 451 s, half a second each; 63,222 are left."""
    status = Status(START, STEP, 451.0)
    assert (status.done, status.total) == (902, 64_124)
    assert (
        status.left == f"about {duration(63_222 / 2)} left" == "about 8 h 46 min left"
    )
    assert status.text() == "  ".join([*SAID.values(), "about 8 h 46 min left"])


def test_what_was_done_before_took_no_time_now() -> None:
    start = START.__class__(**vars(START) | {"done": 802})
    assert Status(start, STEP, 100.0).left == f"about {duration(63_222)} left"


@pytest.mark.parametrize("width", range(20, 201))
def test_the_most_wanted_is_kept_at_every_width(width: int) -> None:
    said = SAID | {"left": "about 8 h 46 min left"}
    line = Status(START, STEP, 451.0).fitted(width)
    assert len(line) <= width and "\n" not in line
    if width == 20:  # 21 letters
        assert line == "8 h 46 min"
        return
    there = [name for name in WANTED if said[name] in line]
    assert there == list(WANTED[: len(there)])
    if len(there) < len(WANTED):  # the next would not have fitted
        more = len(said[WANTED[len(there)]])
        without_bar = re.sub("[━─]+ *", "", line)
        assert len(without_bar) + 2 + more > width
    places = [line.index(said[name]) for name in (*SAID, "left") if name in there]
    assert places == sorted(places)


def test_the_bar_is_as_long_as_what_is_done() -> None:
    for epoch, share in ((1, 0), (83, 0.5), (164, 1)):
        step = Step(epoch, 391 if epoch > 1 else 1, 1.0, 0.5, 10.0, 0.1)
        line = Status(START, step, 100.0).fitted(200, "#", "-")
        bar = line.split()[0]
        assert len(bar) == 40 and bar == bar.rstrip("-").ljust(40, "-")
        assert bar.count("#") == int(40 * ((epoch - 1) * 391 + step.step) / 64_124)
        assert abs(bar.count("#") / 40 - share) < 0.03


@given(st.integers(1, 300), st.floats(0, 1e9), st.integers(1, 391))
def test_no_width_is_too_narrow(width: int, passed: float, done: int) -> None:
    step = Step(164, done, 1e9, 1.0, 1e7, 1e-12)
    assert len(Status(START, step, passed).fitted(width)) <= width


def shown(width: int, encoding: str = "utf-8") -> str:
    """All that a terminal of that width is sent."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(
        file=file, width=width, height=10, force_terminal=True, legacy_windows=False
    )
    with BarReport(console) as report:
        report(START)
        report(STEP)
        report._bar.refresh()
    file.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [20, 21, 40, 60, 80, 100, 137, 200])
def test_a_terminal_never_gets_a_line_that_it_would_break(width: int) -> None:
    text = shown(width)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    live = [line for line in lines if re.search(r"left|\d+ (min|s)$", line)]
    assert live and all(len(line.rstrip()) < width for line in live)
    assert "resnet20, 1,000 parameters" in text  # stays above
    if width >= 137:
        assert all(said in text for said in SAID.values())


def test_a_terminal_without_letters_for_it() -> None:
    text = shown(160, "ascii")
    assert "-" * 20 in text
    assert "━" not in text and "?" not in text.replace("\x1b[?25", "")


# --- notebooks -----------------------------------------------------------------------


class Cell:
    """Stands in for what ``display`` returns, and for ``display`` itself."""

    def __init__(self) -> None:
        self.content: list[Any] = []

    def display(self, content: Any, raw: bool, display_id: bool) -> Cell:
        assert raw and display_id
        self.content.append(content)
        return self

    def update(self, content: Any, raw: bool) -> None:
        assert raw
        self.content.append(content)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    cell = Cell()
    shell = SimpleNamespace(kernel=object())
    ipython, module = ModuleType("IPython"), ModuleType("IPython.display")
    vars(ipython)["get_ipython"] = lambda: shell
    vars(module)["display"] = cell.display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return cell


def test_a_cell_has_one_line_that_is_rewritten(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("tinyflow.train.notebook.time", clock)
    monkeypatch.setattr("tinyflow.train.report.time", clock)
    report = live_report()
    assert isinstance(report, NotebookReport) and in_notebook()
    with report:
        report(START)
        for passed in (450.0, 450.1, 451.0):  # the second comes too soon
            now[0] = 100.0 + passed
            report(STEP)
    first, second, end = (content["text/plain"] for content in cell.content)
    assert "about 8 h 46 min left" in second and "rate 0.05" in second
    assert first != second and max(len(first), len(second)) <= 110
    assert end == ""
    printed = capsys.readouterr().out
    assert "resnet20, 1,000 parameters" in printed and "left" not in printed


def test_a_notebook_that_says_nothing_has_no_line(cell: Cell) -> None:
    with live_report() as report:
        report(STEP)
    assert cell.content == []


def test_what_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = ModuleType("IPython")
    for shell in (None, SimpleNamespace()):  # not running; a terminal's IPython
        vars(terminal)["get_ipython"] = lambda shell=shell: shell
        monkeypatch.setitem(sys.modules, "IPython", terminal)
        assert not in_notebook()
    assert type(live_report()) is PlainReport
    monkeypatch.setattr("tinyflow.train.report.is_live", lambda stream: True)
    assert type(live_report()) is BarReport
