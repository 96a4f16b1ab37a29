"""train.py --download: what is fetched, what is shown of it, and when nothing is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.server import Host, publish_mnist, serving
from tests.train.small import place as place
from tests.train.small import run
from tinyflow.commands import fetching
from tinyflow.data import Fetching
from tinyflow.data.sources import MNIST

TRAIN = (
    "--model tiny --epochs 1 --batch-size 8 --warmup-epochs 0 --dataset mnist "
    "--data-dir data --output out"
)


@pytest.fixture
def host(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as found:
        publish_mnist(found, monkeypatch, place / "origin")
        yield found


def test_fetched_and_trained(host: Host, place: Path) -> None:
    result = run(f"{TRAIN} --download")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (place / "data" / "mnist").iterdir()) == sorted(
        MNIST.published
    )
    size = f"{len(host.files['train-images-idx3-ubyte.gz']) / 1e3:.1f}"
    line = f"mnist/train-images-idx3-ubyte.gz  {size} of {size} kB\n"
    assert line in result.stdout
    assert (place / "out" / "last.safetensors").exists()
    assert "download" not in (place / "out" / "config.json").read_text()


def test_nothing_is_fetched_without_being_asked(host: Host, place: Path) -> None:
    result = run(TRAIN)
    assert result.exit_code == 1 and "--download" in result.stderr
    assert not host.asked and not (place / "data").exists()


@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_mirror(
    host: Host, place: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = f"{host.url}copy"
    option = f" --mirror {mirror}" if way == "option" else ""
    if way == "environment":
        monkeypatch.setenv("TINYFLOW_MIRROR", mirror)
    result = run(f"{TRAIN} --download{option}")
    assert result.exit_code == 0, result.output
    assert [path for path, _ in host.asked] == [
        f"/copy/mnist/{name}" for name in MNIST.published
    ]


def test_what_cannot_be_fetched(host: Host, place: Path) -> None:
    host.ways = ["gone"] * 2
    result = run(f"{TRAIN} --download")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "404 Not Found" in result.stderr and not (place / "out").exists()


def test_interrupted(host: Host, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(fetching.Line):
        def __call__(self, at: Fetching) -> None:
            if at.done:
                raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "Line", Stopping)
    result = run(f"{TRAIN} --download")
    assert result.exit_code == 130
    assert "interrupted; what has come is kept in data" in result.stderr
    (part,) = (place / "data" / "mnist").iterdir()
    assert part.suffix == ".part"


def test_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each state where it is watched, on one line; every 5 s where it is not."""
    now = 0.0
    monkeypatch.setattr(fetching.time, "monotonic", lambda: now)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    for live in (True, False):
        monkeypatch.setattr("sys.stdout.isatty", lambda live=live: live, raising=False)
        line, now = fetching.Line(), 100.0
        for done in (20, 30, 40, 100):  # of which 20 were there before
            line(Fetching("a.gz", done * 10**6, 100_000_000))
            now += 3.0
        told = capsys.readouterr().out
        if live:
            *parts, last = told.split("\r\x1b[K")[1:]
            assert parts[1:] == [
                "a.gz  30.0 of 100.0 MB  about 21 s left",
                "a.gz  40.0 of 100.0 MB  about 18 s left",
            ]
            assert last == "a.gz  100.0 of 100.0 MB\n" and "\n" not in parts[0]
        else:
            assert re.findall(r"(\d+\.\d) of", told) == ["20.0", "40.0", "100.0"]
            assert "\r" not in told and told.count("\n") == 3
