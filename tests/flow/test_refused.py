"""Where the instrument has nothing to measure: a sentence that says why, or nothing."""

import json
import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import models
from models import build_model
from tests.flow.test_flow import Small
from tinyflow import Tape, Tensor, flow, fork, mark, nn, ops
from tinyflow.flow import progress as waiting
from tinyflow.flow import series, subject, trace
from tinyflow.flow.compare import summarise
from tinyflow.flow.depth import ends
from tinyflow.flow.settings import Settings
from tinyflow.flow.show import report
from tinyflow.flow.source import find_source
from tinyflow.flow.stats import interval, rank_correlation
from tinyflow.flow.subject import Subject

IMAGES = np.linspace(-1, 1, 4 * 12).reshape(4, 3, 2, 2)


def small(retain, backward=True):
    """Two residual blocks on vectors."""
    model = Small(2).to(dtype="float64")
    with Tape(retain) as tape:
        loss = ops.cross_entropy(model(Tensor(IMAGES)), np.array([0, 1, 2, 0]))
    if backward:
        tape.backward(loss)
    return tape


def dense(retain, backward=True):
    """A dense block of one layer, on vectors."""
    with Tape(retain) as tape:
        x = mark(Tensor(np.ones((2, 3)), requires_grad=True) * 2.0, "d.x0")
        new = mark(ops.relu(x), "d.x1")
        loss = ops.sum(ops.concat([x, new]) * 3.0)
    if backward:
        tape.backward(loss)
    return tape


def test_a_place_that_cannot_be_is_refused_before_anything_is_computed(tmp_path):
    report.check_output(None)
    report.check_output(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(flow.FlowError, match="choose a new folder"):
        report.check_output(tmp_path)
    with pytest.raises(flow.FlowError, match="file, not a folder"):
        report.check_output(tmp_path / "file" / "new")


def test_looking_draws_nothing_from_any_generator_of_the_network():
    """Of dropout, and of a module that draws by itself."""

    class Noisy(nn.Module):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.fc, self.noise = nn.Linear(12, 3, rng=rng), np.random.default_rng(1)
            self.drop = nn.Dropout(0.5, rng=rng)

        def forward(self, x):
            x = self.drop(self.fc(ops.flatten(x, 1)))
            return x + self.noise.normal(size=x.shape)

    model = Noisy().to(dtype="float64")
    first, again = (
        flow.probe(model, IMAGES, np.array([0, 1, 2, 0])).loss.item() for _ in range(2)
    )
    assert first == again
    model.noise.normal()
    assert flow.probe(model, IMAGES, np.array([0, 1, 2, 0])).loss.item() != first


def test_what_a_tape_does_not_hold_is_named():
    for tape, word in (
        (small("edges", backward=False), "blocks.0: no gradient reached its input"),
        (small("tensors"), r"holds no gradient: analyse a Tape\(retain='edges'\)"),
    ):
        with pytest.raises(flow.FlowError, match=word):
            flow.block_terms(tape)
    for tape, word in (
        (Tape(), r"has no dense blocks \(maps marked x0, x1"),
        (dense("edges", backward=False), "no gradient; analyse a Tape"),
        (dense("tensors"), r"concat.* holds no gradient; analyse a Tape\('edges'\)"),
    ):
        with pytest.raises(flow.FlowError, match=word):
            flow.dense_terms(tape)
    (found,) = flow.dense_terms(dense("edges"))
    assert found.totals == pytest.approx([6 * math.sqrt(6), 3 * math.sqrt(6)])


def test_the_channels_of_a_state_that_grows_are_not_said():
    """Its other axes are: where they change, a figure draws a line."""
    with Tape("edges") as tape:
        x = mark(Tensor(np.ones((2, 3, 4, 5)), requires_grad=True) * 2.0, "d.x0")
        new = mark(ops.relu(x), "d.x1")
        loss = ops.sum(ops.concat([x, new]) * 3.0)
    tape.backward(loss)
    source = SimpleNamespace(weights="w", data=SimpleNamespace(name="d"))
    seen = SimpleNamespace(tape=tape, loss=loss)
    found = summarise(Subject(SimpleNamespace(name="net"), source, 7, seen, None))
    assert [p.name for p in found.profile] == ["d.x0", "d.x1"]
    assert [p.shape for p in found.profile] == [(2, 0, 4, 5)] * 2
    assert found.profile[0].norm == pytest.approx(6 * math.sqrt(120))


def images_alone():
    """A block that reads the images themselves, and a layer after it."""
    with Tape("edges") as tape:
        x = tape.watch(mark(Tensor(IMAGES), "b.in"))
        residual, shortcut = fork(x, "residual", "shortcut")
        ops.relu(mark(ops.tanh(residual) + shortcut, "b.H"))
    return tape


def test_without_maps_or_without_a_first_layer_a_network_has_no_depth():
    for tape in (small("edges"), images_alone()):
        with pytest.raises(flow.FlowError, match="reads a value that a layer made"):
            ends(tape)


def test_a_gate_whose_values_are_gone_has_no_numbers():
    model = build_model("se_resnet20", seed=1).to(dtype="float64")
    rng = np.random.default_rng(0)
    tape = flow.probe(model, rng.standard_normal((2, 3, 32, 32)), np.arange(2)).tape
    before = flow.block_terms(tape)
    for node in tape.nodes:
        node.value = None if node.op == "sigmoid" else node.value
    after = flow.block_terms(tape)
    assert all(set(t.gate) == {"mean", "min", "max", "slope", "dead"} for t in before)
    assert [t.gate for t in after] == [{}] * 9
    assert [t.norms for t in after] == [t.norms for t in before]


def test_before_there_is_work_nothing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "EVERY", 0.01)
    with waiting.Progress() as progress:
        time.sleep(0.1)
        assert capsys.readouterr() == ("", "")
        progress.begin("work")
        time.sleep(0.1)
    assert capsys.readouterr().out.startswith("work")


def test_a_figure_that_fails_is_named_unless_the_disk_did(tmp_path):
    folder = report.Folder(SimpleNamespace(claim=tmp_path, path=tmp_path))
    word = r"figure a\.png cannot be drawn \(KeyError: 'x'\)"
    with pytest.raises(report.WriteError, match=word), folder.drawing("a.png"):
        raise KeyError("x")
    for error in (OSError(28, "No space left"), MemoryError("full")):
        with pytest.raises(type(error)) as caught, folder.drawing("a.png"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"model": 7}, "names no model"),
        ({"seed": "3"}, "names no seed"),
        ({"batch_size": True}, "names no batch_size"),
    ],
)
def test_a_run_that_does_not_say_what_it_trained_is_a_run(
    tmp_path, capsys, changed, word
):
    given = {"model": "resnet", "dataset": "mnist", "seed": 3, "batch_size": 7}
    (tmp_path / "config.json").write_text(json.dumps(given | changed))
    name, said, facts = series.described(tmp_path)
    conditions = "batch statistics · float32"
    assert (name, said) == (tmp_path.name, f"training run {tmp_path} · {conditions}")
    assert facts.keys() == {"run", "weights", "normalisation", "dtype"}
    told = capsys.readouterr().err
    assert word in told and told.endswith("does not say what was trained\n")


def test_a_loss_that_is_no_number_is_not_taken_apart():
    source = find_source(Settings(batch_size=2))
    source = replace(source, data=replace(source.data, mean=(math.nan,) * 3))
    word = r"loss of resnet20 is nan \(initial weights\)"
    with pytest.raises(flow.FlowError, match=word):
        subject.look(source, models.find("resnet20"))


def test_an_interval_says_as_much_as_it_has():
    said = [str(interval(v, "x", group)) for v, group in (([], ""), ([2], "a"))]
    assert said == ["x not finite", "x of a 2"]
    # Student's t of one degree of freedom: 12.706 · √½ / √2.
    assert str(interval([1.0, 2.0], "x", "a")) == "x of a 1.5 (-4.85 to 7.85)"


def test_equal_values_have_no_order():
    for a, b in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [5, 5, 5])):
        rho, likely = rank_correlation(a, b)
        assert math.isnan(rho) and likely == 1


def test_a_last_step_that_lacks_rows_is_left_out(tmp_path):
    def write(*rows):
        lines = [",".join(trace.COLUMNS), *rows]
        (tmp_path / trace.FILE).write_text("\n".join(lines) + "\n")
        return [(r.step, r.term) for r in trace.read_trace(tmp_path)]

    def row(step, term):
        return f"{step},2.5,b,plain,{term},1.5,,"

    whole = [(step, term) for step in (0, 2) for term in ("x", "H")]
    rows = [row(*at) for at in whole]
    assert write(*rows) == whole
    assert write(*rows, row(4, "x")) == whole
    assert write(rows[0]) == whole[:1]  # the only step: what a whole one is, who knows
    with pytest.raises(flow.FlowError, match=r"damaged in row 2: .*; trace a run"):
        write(rows[0], row("two", "H"))
