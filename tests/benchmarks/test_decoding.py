"""The benchmark of decoding: its turns, its arithmetic, and one small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import decoding
from tinyflow.data import load_folder


def test_ways_take_turns_in_both_directions() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    names = decoding.WAYS
    ways = {name: lambda name=name: way(name) for name in names}
    found = decoding.rounds_of(ways, 3)
    assert order == [*names, *names[::-1], *names]
    assert found == {"with": [1, 6, 7], "without": [2, 5, 8], "alone": [3, 4, 9]}


def test_medians_and_their_ratios() -> None:
    found = {"with": [90, 10, 80], "without": [100, 400, 99], "alone": [300, 1, 900]}
    row = decoding.row_of(found)
    assert row == {
        "with": 80,
        "without": 100,
        "alone": 300,
        "ratio": pytest.approx(0.8),
        "shared": pytest.approx(0.75),
    }


def test_as_many_images_as_were_asked_for(tmp_path: Path) -> None:
    decoding.write_images(tmp_path, 5)
    data = load_folder(tmp_path, image_size=8, workers=0)
    assert len(data) == 5 and sorted(data.labels) == [0, 0, 0, 1, 1]
    assert len(load_folder(tmp_path, "test", image_size=8, workers=0)) == 2
    content = (tmp_path / "train" / data.files[0]).stat().st_size
    assert 20_000 < content < 200_000  # ImageNet's files have 110 kB


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decoding.main(
        model="resnet20",
        batch=4,
        size=16,
        images=10,
        workers=1,
        device="cpu",
        precision="float32",
        rounds=2,
        output=tmp_path / "row.json",
    )
    row = json.loads((tmp_path / "row.json").read_text())
    assert row["ratio"] == pytest.approx(row["with"] / row["without"])
    assert row["workers"] == 1 and row["device"] == "cpu"
    said = capsys.readouterr().out.splitlines()
    assert said[1].split()[:4] == ["with", "without", "alone", "ratio"]
    assert said[2].split()[3] == f"{row['ratio']:.2f}"
