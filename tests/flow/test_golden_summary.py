"""Every number that analyze.py writes, against PyTorch."""

import csv
import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="PyTorch is the oracle")

import torch

import models
from models import build_model
from tests.oracles.torch_expected import (
    BATCH,
    against_rest,
    case_of,
    close,
    expected_model,
)
from tests.oracles.torch_nets import STATES, Case, angle, same, size, small_networks
from tinyflow import flow
from tinyflow.commands import analyze
from tinyflow.data import load_dataset
from tinyflow.flow import series
from tinyflow.flow.settings import Settings
from tinyflow.flow.show import figures
from tinyflow.flow.source import find_source

NAMES = ("resnet8", "resnet8b", "se_resnet8", "plain8", "vgg8", "densenet8")


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    """The small ones have names; nothing is drawn."""
    small_networks(monkeypatch)
    monkeypatch.setattr(figures, "save", lambda figure, path: [])


def run(folder, *arguments):
    """Run analyze.py; its summary, read strictly, and its tables."""
    options = ("--batch-size", BATCH, "--output", folder, "--device", "cpu")
    result = CliRunner().invoke(
        analyze.app, [*map(str, (*arguments, *options))], obj=models.ZOO
    )
    assert result.exit_code == 0, result.output
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    files = {}
    for path in folder.glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            files[path.name] = list(csv.DictReader(file))
    return summary, files


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_the_summary_and_its_tables(tmp_path, name, state):
    case, options = case_of(name, state, tmp_path, training=state == "initial")
    summary, files = run(tmp_path / "out", *options)
    expected = expected_model(case, state, options[1])
    found = summary["models"][name]
    closures = [found.pop("closure_max")]
    for block in found["blocks"]:
        closures.append(block.pop("closure"))
        block.pop("made_by", None)
    assert all(0 <= c < 1e-13 for c in closures)
    assert summary["closure_max"] == closures[0] == max(closures)
    assert summary["conserved"] is True and summary["tolerance"] == 1e-12
    assert summary["analysis"] == "compare"
    told = {"model": name, "parameters": expected["parameters"]}
    assert summary["networks"] == [told]
    looked(summary, name, state, options[1], training=state == "initial")
    same(found, expected)
    model = {"model": name}
    close(
        files["depth.csv"],
        [{**model, "position": i, **p} for i, p in enumerate(expected["profile"])],
    )
    if name == "densenet8":
        rows = [
            {**model, "block": b["name"], **t}
            for b in found["blocks"]
            for t in b["terms"]
        ]
        close(files["dense.csv"], rows)
        assert "blocks.csv" not in files
        return
    assert "dense.csv" not in files
    rests = map(against_rest, case.oracle().blocks)
    rows = [
        {
            **model,
            "block": b["name"],
            "kind": b["kind"],
            "term": term,
            "norm": t["norm"],
            "share": t["share"],
            **{key: b[key] for key in ("norm_x", "norm_H", "ratio", "cancellation")},
            "cosine_shortcut_rest": rest,
            "mask": b["mask"],
        }
        for b, rest in zip(expected["blocks"], rests, strict=True)
        for term, t in b["terms"].items()
    ]
    close(files["blocks.csv"], rows)


def looked(summary, name, state, path, training):
    """What was looked at, as summary.json has it."""
    data = load_dataset("shapes", limit=1000)
    expected = {
        "dataset": "shapes",
        "classes": 10,
        "class_names": list(data.classes),
        "channels": 3,
        "image_size": 32,
        "pixel_mean": list(data.mean),
        "pixel_std": list(data.std),
        "normalisation": f"{'batch' if training else 'running'} statistics",
        "batch_size": BATCH,
        "batch_seed": 0,
        "weights": "initial weights",
        "epoch": 0,
        "seed": 0,
    }
    options = {
        "model": [name],
        "checkpoint": None,
        "dataset": "shapes",
        "batch_size": BATCH,
        "seed": 0,
        "dtype": "float64",
        "mode": "train" if training else "eval",
        "device": "cpu",
    }
    if state == "trained":
        options["checkpoint"] = str(path)
        expected |= {"weights": f"epoch 3 of {path}, seed 0", "epoch": 3, "seed": 0}
        expected |= {"checkpoint": str(path), "trained_on": "shapes"}
        expected["test_accuracy"] = 0.5
    assert summary["data"] == expected
    assert summary["settings"] == summary["settings"] | options
    assert summary["interrupted"] is False


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("resnet8", "initial"),
        pytest.param("se_resnet8", "trained", marks=pytest.mark.slow),
    ],
)
def test_every_number_of_paths(tmp_path, name, state):
    case, options = case_of(name, state, tmp_path)
    summary, files = run(tmp_path / "out", "paths", *options, "--veit", 0)
    found = summary["models"][name]
    gated = name.startswith("se")
    ways = ("shortcut", "gain", "gate") if gated else ("shortcut", "residual")
    by_kind = {}
    for number in range(len(ways) ** 3):
        route = [ways[number // len(ways) ** i % len(ways)] for i in range(3)]
        o = case.oracle(routes=dict(enumerate(route)))
        (g,) = torch.autograd.grad(o.loss, o.blocks[0]["x"])
        at = sum(way != "shortcut" for way in route), route.count("gate")
        by_kind[at] = by_kind.get(at, 0) + g
    total = sum(by_kind.values())
    share = {
        at: float((c * total).sum() / (total**2).sum()) for at, c in by_kind.items()
    }
    lengths = []
    for k, ways in enumerate((1, 3, 3, 1)):
        c = sum(c for at, c in by_kind.items() if at[0] == k)
        shares = sum(s for at, s in share.items() if at[0] == k)
        row = {"model": name, "length": k, "paths": ways, "norm": size(c)}
        row |= {"share": shares, "veit": None, "looked_at": 0}
        ends = ("coherence", "coherence_low", "coherence_high")
        lengths.append(row | dict.fromkeys(ends))
    closure = found.pop("closure_max")
    assert 0 <= closure == summary["closure_max"] < 1e-13
    expected = {
        "blocks": 3,
        "mean_length": sum(row["length"] * row["share"] for row in lengths),
        "total": size(total),
        "lengths": lengths,
        "gates": [[*at, s] for at, s in sorted(share.items())] if gated else [],
    }
    same(found, expected)
    close(files["paths.csv"], lengths)
    veit, tables = run(tmp_path / "veit", "paths", *options, "--veit", 2, "--seed", 0)
    looked = flow.spectrum(case.probe(), veit_samples=2, seed=0)
    columns = {
        "veit": looked.veit,
        "looked_at": [1, 3, 3, 1],
        "coherence": looked.coherence,
        "coherence_low": [low for low, _ in looked.coherence_range],
        "coherence_high": [high for _, high in looked.coherence_range],
    }
    for column, expected in columns.items():
        same([row[column] for row in veit["models"][name]["lengths"]], expected)
        written = [float(row[column]) for row in tables["paths.csv"]]
        same(written, [float(value) for value in expected])


@pytest.mark.parametrize("state", STATES)
def test_every_number_of_a_counterfactual(tmp_path, state):
    case, options = case_of("se_resnet8", state, tmp_path)
    where = ("counterfactual", "layer2.0", "squeeze", "--factor", 0.25)
    summary, files = run(tmp_path / "out", *where, *options)
    g = case.oracle().p["conv1.weight"].grad
    cut = case.oracle(factors={(1, "squeeze"): 0.25}).p["conv1.weight"].grad
    expected = {
        "model": "se_resnet8",
        "block": "layer2.0",
        "branch": "squeeze",
        "factor": 0.25,
        "norm_ratio": size(cut) / size(g),
        "change": size(cut - g) / size(g),
        "cosine": angle(cut, g),
    }
    same(summary["models"], {"se_resnet8": expected})
    close(files["counterfactual.csv"], [expected])


def test_every_number_of_a_depth_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(series, "DEPTHS", (8,))
    options = ("depth", "--depths", "8", "--seeds", 2, "--seed", 1)
    summary, files = run(tmp_path / "out", *options)
    images, labels = find_source(Settings(batch_size=BATCH, seed=1)).batch()
    expected = []
    for kind in ("plain", "resnet"):
        for seed in (1, 2):
            name = f"{kind}8"
            model = build_model(name, seed=seed).to(dtype="float64")
            o = Case.of(name, model, images, labels).oracle()
            row = {"kind": kind, "depth": 8, "seed": seed}
            row["weight"] = size(o.p["conv1.weight"].grad)
            row["first"], row["last"] = size(o.blocks[0]["x"].g), size(o.last.g)
            row |= {
                "growth": row["first"] / row["last"],
                "loss": float(o.loss.detach()),
            }
            expected.append(row)
    closures = [point.pop("closure") for point in summary["points"]]
    assert all(0 <= c < 1e-13 for c in closures)
    assert summary["closure_max"] == max(closures)
    same(summary["points"], expected)
    close(files["depth-sweep.csv"], expected)
