"""Progress: what remains, without a call from the work, and never between the lines."""

import io
import re
import time

import numpy as np
import pytest

import models
from tinyflow import flow
from tinyflow.data import load_dataset, normalize
from tinyflow.flow import paths
from tinyflow.flow import progress as module
from tinyflow.flow.progress import Progress
from tinyflow.flow.settings import Settings
from tinyflow.flow.source import find_source
from tinyflow.flow.subject import look


def test_plain_lines_come_by_themselves(monkeypatch, capsys):
    monkeypatch.setattr(module, "EVERY", 0.02)
    with Progress() as progress:
        progress.plan(2)
        progress.begin("first")
        time.sleep(0.2)
        progress.begin("second")
        progress.within(0.5)
        time.sleep(0.2)
    lines = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r"first · \d+ s so far", line) for line in lines)
    assert any(re.fullmatch(r"second · 75% · about \d+ s left", x) for x in lines)


def test_a_short_analysis_says_nothing(capsys):
    with Progress() as progress:
        progress.begin("short")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_one_line_that_goes_away(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(module.sys, "stderr", screen)
    monkeypatch.setattr(module, "REDRAW", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as progress:
        progress.begin("work")
        time.sleep(0.2)
    text = screen.getvalue()
    assert "work" in text and "\n" not in text and text.endswith("\r\x1b[K")
    monkeypatch.setenv("TERM", "dumb")
    assert not module.is_live(screen)


def test_what_nobody_reports_is_guessed_and_goes_forward():
    progress = Progress()
    progress.plan(4)
    progress.begin("a")
    progress._start -= 10.0
    progress.begin("b", 2)
    seen = []
    for _ in range(3):
        progress._begun -= 5.0
        progress._start -= 5.0
        seen.append(progress.fraction())
    assert 0.25 < seen[0] < seen[1] < seen[2] < 0.75


def test_a_probe_can_be_watched():
    source = find_source(Settings(batch_size=2, dtype="float32", device="cpu"))
    polls = []
    look(source, models.find("resnet20"), polls.append)
    assert polls[0]() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("most", "samples"), [(512, 1), (0, 1), (512, 0)])
def test_a_spectrum_says_how_far_it_is(most, samples, monkeypatch):
    """All paths looked at, some, or none."""
    monkeypatch.setattr(paths, "ENUMERATED", most)
    data = load_dataset("shapes", limit=2)
    images = normalize(data.images, data.mean, data.std)
    probe = flow.probe(models.build_model("resnet20"), images, data.labels)
    told = []
    flow.spectrum(probe, veit_samples=samples, progress=told.append)
    assert told == sorted(told) and told[-1] == pytest.approx(1)
    assert max(np.diff([0.0, *told])) < 0.2


def test_looking_at_some_paths_says_how_far_it_is(monkeypatch):
    monkeypatch.setattr(paths, "path_gradient", lambda *_: np.ones(1))
    told = []
    paths.single_paths(None, [None] * 10, 2, 0, told.append)
    assert told == pytest.approx([(k + 1) / 11 for k in range(11)])


def test_what_nobody_tells_is_guessed_from_the_pace_before(monkeypatch):
    """Three units took 12 s; of two more, 8 s, half have passed after 8."""
    progress = Progress()
    progress.plan(10)
    progress.begin("a", 3)
    progress.begin("b", 2)
    now = 100.0
    progress._start, progress._begun = now - 20, now - 8
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    assert progress.fraction() == pytest.approx((3 + 2 * 0.5) / 10)
