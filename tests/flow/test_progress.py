"""How far an analysis is: numbers, lines and screen, by a clock that is held still."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from tinyflow import Tape, Tensor, flow, nn, ops
from tinyflow.flow import progress as module
from tinyflow.flow import series
from tinyflow.flow.progress import Progress, is_live
from tinyflow.flow.settings import Settings
from tinyflow.flow.subject import count_nodes, part_done


@pytest.fixture
def clock(monkeypatch):
    """Says what time it is, from 100 s on."""
    now = SimpleNamespace(at=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.at))
    return now


class Screen(io.StringIO):
    """Notes when what was written could be seen."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal, self.seen = terminal, []

    def isatty(self):
        return self.terminal

    def flush(self):
        self.seen.append(self.getvalue())
        self.truncate(self.seek(0))


def test_a_part_is_counted_in_the_whole(clock):
    progress = Progress()
    assert progress.fraction() == 0
    progress.begin("a")
    assert progress.fraction() == 0
    progress.within(0.25)
    assert progress.fraction() == 0.25
    progress = Progress()
    progress.plan(8)
    progress.begin("a", 4)
    for within, part in ((-0.5, 0.0), (0.0, 0.0), (0.5, 0.25), (1.5, 0.5)):
        progress.within(within)
        assert progress.fraction() == part
    progress.begin("b", 2)
    assert progress.fraction() == 0.5
    progress.watch(lambda: 0.5)
    assert progress.fraction() == 0.625
    progress.within(0.25)  # whoever says it himself is asked no more
    assert progress.fraction() == 0.5625
    progress.begin("c", 9)
    progress.within(1.0)
    assert progress.fraction() == 1.0
    progress = Progress()
    progress.plan(0.5)
    progress.begin("a", 0.5)
    progress.within(0.5)
    assert progress.fraction() == 0.5
    progress = Progress()
    progress.plan(0)
    assert progress.fraction() == 0


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (0.029, "a · 1 min 0 s so far"),
        (0.03, "a · 3% · about 32 min left"),
        (0.25, "a · 25% · about 3 min 0 s left"),
        (0.98, "a · 98% · about 1 s left"),
        (0.988, "a · 99% · about 1 s left"),
        (0.992, "a · nearly done"),
    ],
)
def test_what_is_left_is_told_between_the_ends(clock, part, said):
    progress = Progress()
    progress.begin("a")
    progress.within(part)
    clock.at = 160.0
    assert progress.line() == said


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_are_written_at_once_and_taken_away(terminal, monkeypatch, capsys):
    screen = Screen(terminal)
    monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=screen, stdout=screen))
    monkeypatch.setenv("TERM", "xterm")
    progress, waits = Progress(), []
    assert progress._thread.daemon

    def wait(seconds):
        waits.append(seconds)
        return len(waits) == 4

    progress._end.wait = wait
    with progress.hidden():  # nothing is there to be hidden
        assert screen.seen == []
    progress.begin("work")
    progress.within(0.5)
    monkeypatch.setattr(progress, "line", lambda: "half")
    progress._run()
    assert waits == [0.5 if terminal else 5.0] * 4
    assert screen.seen == ["\r\x1b[Khalf" if terminal else "half\n"] * 3
    for _ in range(2):  # once is enough
        with progress.hidden():
            pass
    assert screen.seen[3:] == (["\r\x1b[K"] if terminal else [])


def test_who_cannot_be_told_is_left_alone(monkeypatch):
    progress, looks = Progress(), []

    def line():
        looks.append(1)
        raise BrokenPipeError

    monkeypatch.setattr(progress, "line", line)
    progress._end.wait = lambda seconds: len(looks) > 5
    progress.begin("work")
    progress._run()
    assert looks == [1]


def test_a_thread_looks_until_the_work_is_over():
    with Progress() as progress:
        assert progress._thread.is_alive()
    assert not progress._thread.is_alive()


@pytest.mark.parametrize(
    ("stream", "term", "live"),
    [
        (Screen(True), "xterm", True),
        (Screen(True), "dumb", False),
        (Screen(False), "xterm", False),
        (object(), "xterm", False),
    ],
)
def test_only_a_terminal_can_be_rewritten(stream, term, live, monkeypatch):
    monkeypatch.setenv("TERM", term)
    assert is_live(stream) is live


# --- what a probe tells ---------------------------------------------------------------


def test_operators_are_counted_on_no_images():
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            self.fc = nn.Linear(12, 3, rng=np.random.default_rng(0))
            self.drop = nn.Dropout(0.5, rng=np.random.default_rng(0))
            self.drop.training = False

        def forward(self, x):
            seen.append((x.shape, x.dtype, self.training))
            return self.drop(ops.relu(self.fc(ops.flatten(x, 1))))

    model = Spy()
    assert count_nodes(model, (3, 2, 2)) == 2  # what reads the images alone is constant
    assert seen == [((0, 3, 2, 2), np.float32, False)]
    assert [m.training for _, m in model.named_modules()] == [True, True, False]


def test_a_network_that_takes_no_empty_batch_has_0_operators_to_count():
    class Picky(nn.Module):
        def __init__(self):
            self.fc = nn.Linear(3, 3, rng=np.random.default_rng(0))

        def forward(self, x):
            raise ValueError("an empty batch")

    assert count_nodes(Picky(), (3,)) == 0


def test_backward_is_two_thirds_of_a_probe():
    x = Tensor(np.ones(3), requires_grad=True)
    with Tape("tensors") as tape:
        loss = ops.sum(ops.mul(ops.mul(x, 2.0), 3.0))
    for total, part in ((4, 3 / 12), (3, 1 / 3), (0, 1 / 3)):
        assert part_done(tape, total) == pytest.approx(part)
    tape.nodes[2].grad = np.ones(())
    assert part_done(tape, 4) == pytest.approx(5 / 12)
    tape.backward(loss)
    assert part_done(tape, 4) == pytest.approx(9 / 12) and part_done(tape, 3) == 1
    assert part_done(Tape(), 0) == 0


def test_all_depths_at_once_and_no_others():
    every = series.check_sweep(Settings(), "110,56,44,32,20", 1)
    assert every == [20, 32, 44, 56, 110]
    for words in ("", "20,", "20,20.0", "-20", "20,02000"):
        with pytest.raises(flow.FlowError, match="give some of 20, 32, 44, 56, 110"):
            series.check_sweep(Settings(), words, 1)
