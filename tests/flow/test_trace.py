"""Block terms streamed along a run: the same training, a small file, exact terms."""

import csv

import numpy as np
import pytest

import models
from tinyflow import flow
from tinyflow.flow.trace import COLUMNS, TraceWriter, read_trace
from tinyflow.reading import Unreadable
from tinyflow.train import ConfigError, TrainConfig, train
from tinyflow.train.metrics import read_metrics


def run(folder, trace_every=None, model="resnet20"):
    config = TrainConfig(
        models.find(model),
        epochs=1,
        warmup_epochs=0.5,
        batch_size=8,
        limit_train=32,
        limit_test=8,
        trace_every=trace_every,
        output=folder,
        device="cpu",
    )
    return train(config, tracer=TraceWriter)


def test_tracing_changes_no_weight_and_writes_exact_terms(tmp_path):
    run(tmp_path / "plain")
    run(tmp_path / "traced", trace_every=2)
    weights = [
        (tmp_path / n / "last.safetensors").read_bytes() for n in ("plain", "traced")
    ]
    assert weights[0] == weights[1]
    rows = read_trace(tmp_path / "traced")
    assert sorted({r.step for r in rows}) == [0, 2]
    assert len({r.block for r in rows}) == 9
    for step in (0, 2):
        for block in ("layer1.1", "layer3.0"):
            terms = {r.term: r for r in rows if (r.step, r.block) == (step, block)}
            assert set(terms) == {"x", "H", "y", "shortcut", "residual"}
            shares = terms["shortcut"].share + terms["residual"].share
            assert shares == pytest.approx(1, abs=1e-4)
            a, b, x = (terms[t].norm for t in ("shortcut", "residual", "x"))
            cosine = terms["residual"].cosine
            assert x**2 == pytest.approx(a**2 + b**2 + 2 * a * b * cosine, rel=1e-3)
    assert (tmp_path / "traced" / "trace.csv").stat().st_size < 20_000


def test_a_dense_network_streams_its_contributions(tmp_path):
    from models import build_model
    from tinyflow.flow import dense_terms, probe

    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 3, 32, 32), dtype=np.float32)
    p = probe(build_model("densenet121"), images, np.arange(4))
    writer = TraceWriter(tmp_path)
    writer(7, 2.5, p.tape)
    rows = read_trace(tmp_path)
    block = dense_terms(p.tape)[0]
    found = [r for r in rows if r.block == block.sources[2]]
    assert [r.term for r in found] == ["x", *block.consumers[2:]]
    assert found[1].norm == pytest.approx(block.norms[2, 2], rel=1e-5)
    assert writer.closure_max == 0


def test_damaged_or_missing_traces_are_one_sentence(tmp_path):
    with pytest.raises(flow.FlowError, match="--trace-every"):
        read_trace(tmp_path)
    path = tmp_path / "trace.csv"
    path.write_text("a,b\n")
    with pytest.raises(flow.FlowError, match="does not begin with step,loss"):
        read_trace(tmp_path)
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(COLUMNS)
    with pytest.raises(flow.FlowError, match="no traced step"):
        read_trace(tmp_path)
    with path.open("a") as file:
        file.write("1,2.0,layer1\n")
    with pytest.raises(flow.FlowError, match="damaged near line 2"):
        read_trace(tmp_path)
    with pytest.raises(ConfigError, match="trace-every must be 1 or more"):
        run(tmp_path / "run", trace_every=0)


@pytest.mark.parametrize(
    ("name", "read", "most"),
    [("trace.csv", read_trace, 200_000_000), ("metrics.csv", read_metrics, 10**8)],
)
def test_tables_that_are_too_long_are_not_begun(tmp_path, name, read, most):
    """Holes that take no room on the disk; what fits is looked into."""
    path = tmp_path / name
    for size, word in (
        (most + 1, f"bytes, more than {most:,}"),
        (most, "longer than 10,000"),
    ):
        with path.open("wb") as file:
            file.truncate(size)
        with pytest.raises((flow.FlowError, Unreadable), match=word):
            read(tmp_path if name == "trace.csv" else path)
