"""analyze.py from the outside: what it prints, writes and refuses."""

import csv
import json
import math
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import models
from tinyflow import flow
from tinyflow.commands import analyze
from tinyflow.flow import compare
from tinyflow.flow.depth import DepthPoint
from tinyflow.flow.show import figures, report
from tinyflow.train.checkpoint import Metadata, save_checkpoint

SMALL = ("--batch-size", "2", "--device", "cpu")


def run(*arguments, folder=None):
    """Invoke analyze.py in a process of its own, as far as settings go."""
    extra = () if folder is None else ("--output", str(folder))
    return CliRunner().invoke(
        analyze.app, [*map(str, arguments), *extra], obj=models.ZOO
    )


def read(folder):
    """summary.json, read strictly: NaN and Infinity are errors."""

    def refuse(name):
        raise AssertionError(f"{name} in summary.json")

    text = (folder / "summary.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis") / "out"
    names = ("resnet20", "se_resnet20", "densenet")
    options = [part for name in names for part in ("--model", name)]
    return run(*options, *SMALL, folder=folder), folder


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are measured and built elsewhere; here they would only cost time."""
    monkeypatch.setattr(figures, "save", lambda figure, path: [])


def test_bare_prints_one_table_and_where_it_wrote(compared):
    result, folder = compared
    assert result.exit_code == 0, result.output
    for word in ("resnet20", "se_resnet20", "densenet121", "largest closure error"):
        assert word in result.output
    assert f"written to {folder}" in result.output
    assert max(map(len, result.output.splitlines())) <= max(100, len(str(folder)) + 12)
    assert "\x1b" not in result.output  # nothing but text in a pipe


def test_summary_holds_every_block_and_its_terms(compared):
    summary = read(compared[1])
    assert summary["settings"]["dtype"] == "float64"
    assert summary["conserved"] is True
    assert summary["closure_max"] <= summary["tolerance"] == 1e-12
    terms = {
        "resnet20": {"shortcut", "residual"},
        "se_resnet20": {"shortcut", "gain", "gate"},
    }
    for name, expected in terms.items():
        model = summary["models"][name]
        assert 0 <= model["closure_max"] <= 1e-12
        assert len(model["blocks"]) == 9
        assert model["parameters"] == models.count_parameters(models.build_model(name))
        for block in model["blocks"]:
            assert set(block["terms"]) == expected
            shares = [t["share"] for t in block["terms"].values()]
            assert sum(shares) == pytest.approx(1, abs=1e-9)
            assert block["flags"]["triangle"] is True
    dense = summary["models"]["densenet121"]["blocks"]
    assert [len(b["sources"]) for b in dense] == [7, 13, 25, 17]
    for block in dense:
        assert len(block["terms"]) == sum(block["readers"])
        rows = {}
        for term in block["terms"]:
            rows.setdefault(term["source"], []).append(term["share"])
        assert all(sum(r) == pytest.approx(1, abs=1e-9) for r in rows.values())


def test_csv_files_agree_with_the_summary(compared):
    folder = compared[1]
    summary = read(folder)
    with open(folder / "blocks.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * 2 + 9 * 3
    first = summary["models"]["resnet20"]["blocks"][0]
    assert float(rows[0]["norm"]) == first["terms"][rows[0]["term"]]["norm"]
    with open(folder / "depth.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 9 + 9 + 62


def test_figures_are_drawn_twice_and_say_what_they_show(compared):
    folder = compared[1]
    names = {p.stem for p in folder.glob("*.png")}
    assert names == {p.stem for p in folder.glob("*.svg")}
    assert {"depth", "terms-resnet20", "sources-densenet121-denseblock3"} <= names
    for name in names:
        assert (folder / f"{name}.png").stat().st_size > 20_000
        text = (folder / f"{name}.svg").read_text(encoding="utf-8")
        for words in ("batch statistics", "float64", "seed 0", "batch of 2"):
            assert words in text, name
        assert "How to read" in text
    assert "se_resnet20: what" in (folder / "terms-se_resnet20.svg").read_text("utf-8")
    assert not list(folder.parent.glob(".analysis-*"))


def test_violated_conservation_is_reported_and_fails(tmp_path, monkeypatch, undrawn):
    honest = compare.block_terms

    def planted(tape):
        first, *others = honest(tape)
        return [replace(first, closure=1e-3), *others]

    monkeypatch.setattr(compare, "block_terms", planted)
    result = run("blocks", "--model", "resnet20", *SMALL, folder=tmp_path / "out")
    assert result.exit_code == 1
    assert "conservation is violated" in result.stderr
    assert "1.0e-03" in result.stderr
    summary = read(tmp_path / "out")  # the evidence is kept
    assert summary["conserved"] is False and summary["closure_max"] == 1e-3


def test_tolerance_belongs_to_the_precision(tmp_path, monkeypatch, undrawn):
    arguments = ("blocks", "--model", "resnet20", "--dtype", "float32", *SMALL)
    for worst, tolerance, code in (
        (2e-5, 1e-5, 1),
        (2e-5, 1e-4, 0),
        (math.nan, 1e-4, 1),
    ):
        monkeypatch.setattr(compare, "worst", lambda errors, worst=worst: worst)
        monkeypatch.setitem(flow.TOLERANCE, "float32", tolerance)
        folder = tmp_path / f"{worst}-{tolerance}"
        assert run(*arguments, folder=folder).exit_code == code


def test_paths_and_counterfactual(tmp_path):
    result = run("paths", "--model", "resnet20", "--veit", "1", "--dtype", "float32",
                 *SMALL, folder=tmp_path / "paths")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = read(tmp_path / "paths")["models"]["resnet20"]
    assert [row["paths"] for row in found["lengths"]] == [
        math.comb(9, k) for k in range(10)
    ]
    assert sum(row["share"] for row in found["lengths"]) == pytest.approx(1, abs=1e-4)
    assert (tmp_path / "paths" / "paths-resnet20.svg").is_file()

    result = run("counterfactual", "layer2.1", "residual", "--factor", "1", *SMALL,
                 folder=tmp_path / "one")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert read(tmp_path / "one")["models"]["resnet20"]["change"] < 1e-12


def test_a_trained_network_is_analysed_in_either_mode(tmp_path, undrawn):
    model = models.build_model("resnet20", seed=5)
    told = Metadata("resnet20", 10, 32, 3, "shapes", 5, 2, 0.5)
    save_checkpoint(tmp_path / "last.safetensors", model, told)
    result = run("blocks", "--checkpoint", tmp_path, "--mode", "eval", *SMALL,
                 folder=tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "running statistics" in result.output and "epoch 2" in result.output
    result = run("--checkpoint", tmp_path, "--model", "resnet")
    assert result.exit_code == 2 and "--checkpoint" in result.stderr


def test_depth_sweep(tmp_path, undrawn):
    result = run("depth", "--depths", "20", "--dtype", "float32", *SMALL,
                 folder=tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    points = read(tmp_path / "out")["points"]
    assert [(p["kind"], p["depth"]) for p in points] == [("plain", 20), ("resnet", 20)]


def test_claims_are_judged(tmp_path):
    result = run("claims", "--claim", "noh2-remains", "--dtype", "float32",
                 "--model", "resnet20", *SMALL, folder=tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    (claim,) = read(tmp_path / "out")["claims"]
    assert claim["id"] == "noh2-remains"
    said = " ".join(result.output.split())
    for what in ("verdict", "statement", "quantity", "decided_by", "weights"):
        assert " ".join(claim[what].split()) in said
    assert (tmp_path / "out" / "measured.csv").is_file()


def test_claims_are_judged_after_brief_training_too(tmp_path, monkeypatch):
    from tinyflow.flow import series

    monkeypatch.setattr(series, "BRIEF", ("resnet20",))
    result = run("claims", "--claim", "noh2-remains", "--dtype", "float32",
                 "--train-steps", "1", *SMALL, folder=tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    modes = {row["mode"] for row in read(tmp_path / "out")["claims"]}
    assert len(modes) == 2
    result = run("claims", "--train-steps", "-1", folder=tmp_path / "no")
    assert result.exit_code == 2 and "--train-steps must be 0 or more" in result.output


def test_training_draws_a_trace(tmp_path):
    lines = ["step,loss,block,kind,term,norm,share,cosine"]
    for step in (0, 10, 20):
        for block in ("layer1.0", "layer1.1"):
            lines += [f"{step},2.3,{block},identity,x,1,,"]
            lines += [f"{step},2.3,{block},identity,shortcut,0.8,0.75,1"]
            lines += [f"{step},2.3,{block},identity,residual,0.5,0.25,0"]
    (tmp_path / "trace.csv").write_text("\n".join(lines) + "\n")
    result = run("training", tmp_path, folder=tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "layer1.1" in (tmp_path / "out" / "training.svg").read_text("utf-8")
    broken = (tmp_path / "trace.csv").read_text().replace("0.25", "0.2")
    (tmp_path / "trace.csv").write_text(broken)
    assert run("training", tmp_path, folder=tmp_path / "no").exit_code == 1
    result = run("training", tmp_path / "nothing", folder=tmp_path / "none")
    assert result.exit_code == 2 and "trace.csv" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "resnt"), "unknown model"),
        (("--dtype", "float16"), "--dtype 'float16' is unknown; choose"),
        (("--mode", "test"), "--mode 'test' is unknown; choose train, eval"),
        (("--dataset", "imagenet"), "--dataset 'imagenet' is unknown; choose"),
        (("--dataset", "cifar10", "--data-dir", "/nowhere"), "/nowhere"),
        (("--batch-size", "0"), "--batch-size must be 1 or more"),
        (("--batch-size", "9999", "--model", "resnet20"), "5000"),
        (("--seed", "-1"), "--seed must be 0 or more"),
        (("--device", "tpu"), "tpu"),
        (("--checkpoint", "/nowhere"), "/nowhere"),
        (
            ("blocks", "--model", "densenet", "--dtype", "float32", *SMALL),
            "analyze.py dense",
        ),
        (("dense", "--model", "resnet20", *SMALL), "no dense blocks"),
        (("dense", "--model", "shufflenet_v2_cifar", *SMALL), "no dense blocks"),
        (
            ("paths", "--model", "plain20", *SMALL),
            "no paths to count: use analyze.py blocks",
        ),
        (("paths", "--veit", "-1"), "--veit"),
        (("counterfactual", "layer9.0", "residual", *SMALL), "no block 'layer9.0'"),
        (("counterfactual", "layer1.0", "gate", *SMALL), "unknown branch"),
        (("counterfactual", "a", "b", "--factor", "nan"), "--factor"),
        (("depth", "--depths", "21"), "20, 32, 44, 56, 110"),
        (("depth", "--seeds", "0"), "--seeds"),
        (("depth", "--model", "vgg"), "leave --model"),
        (("claims", "--claim", "nonsense"), "unknown claim"),
        (("--seed", "1", "blocks"), "put --seed after the command"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYFLOW_DATA", raising=False)
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.startswith("analyze.py: ")
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_output_is_never_overwritten(tmp_path, monkeypatch):
    (tmp_path / "note").write_text("mine")
    for place in (tmp_path, tmp_path / "note", tmp_path / "note" / "below"):
        result = run("blocks", "--model", "resnet20", folder=place)
        assert result.exit_code == 2, place
        assert str(tmp_path) in result.stderr
    assert os.listdir(tmp_path) == ["note"]
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        with report.folder(None, "x") as folder:
            folder.json("a.json", {"nan": [math.nan, 1.0]})
            folder.csv("a.csv", [{"a": 1}, {"b": 2}])  # rows need not be alike
        assert folder.path.name == f"analysis-x-{number}"
    assert (
        folder.path / "a.json"
    ).read_text() == '{\n "nan": [\n  null,\n  1.0\n ]\n}\n'


def test_figures_survive_zero_and_missing_numbers(tmp_path):
    from tinyflow.flow.show.figures import save
    from tinyflow.flow.show.figures_paths import heat_map
    from tinyflow.flow.show.figures_sweep import depth_sweep

    points = [
        DepthPoint("plain", d, 0, 0.0, 0.0, 0.0, math.inf, 2.3, 0) for d in (20, 32)
    ]
    save(depth_sweep(points, "conditions"), tmp_path / "sweep")
    nothing = np.full((2, 2), np.nan)
    block = SimpleNamespace(name="b.x", norms=nothing, shares=nothing,
                            consumers=["denselayer1", "classifier"])  # fmt: skip
    first, second = (save(heat_map(block, "net", "c"), tmp_path / n) for n in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
