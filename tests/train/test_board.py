"""What is written for TensorBoard, read back record by record."""

from __future__ import annotations

import struct
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import models
from tests.train.small import SMALL, run
from tests.train.small import place as place
from tinyflow.train import ConfigError, TrainError, board, resume, train
from tinyflow.train.events import Event, Start, Step

WANTED = replace(SMALL, tensorboard=True, val_split=50)


def crc32c(data: bytes) -> int:
    """Bit by bit, of the polynomial that the format names."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> list[Any]:
    """The events of a file in TensorFlow's record format."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    content, found = path.read_bytes(), []
    while content:
        head, (check,) = content[:8], struct.unpack("<I", content[8:12])
        assert check == masked(head)
        (size,) = struct.unpack("<Q", head)
        body, (check,) = (
            content[12 : 12 + size],
            struct.unpack("<I", content[12 + size : 16 + size]),
        )
        assert check == masked(body)
        found.append(event_pb2.Event.FromString(body))
        content = content[16 + size :]
    return found


def points(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a run: each tag's value at each step."""
    shown: dict[str, dict[int, float]] = {}
    files = sorted(folder.glob("events.*"), key=lambda p: int(p.suffix[1:]))
    for path in files:
        for event in records(path):
            if event.HasField("session_log"):
                for tag in shown.values():
                    for step in [s for s in tag if s >= event.step]:
                        del tag[step]
            for value in event.summary.value:
                shown.setdefault(value.tag, {})[event.step] = value.simple_value
    return shown


def test_every_number_at_its_step(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(board, "EVERY", 4)
    steps: list[Step] = []

    def report(event: Event) -> None:
        if isinstance(event, Step):
            steps.append(event)

    result = train(replace(WANTED, output=place / "out"), report)
    shown = points(place / "out")
    assert len(steps) == 10  # five an epoch
    known = {n: steps[n - 1] for n in (4, 8)}
    for name in ("loss", "accuracy", "images_per_second"):
        expected = {n: getattr(step, name) for n, step in known.items()}
        assert shown.pop(f"step/{name}") == pytest.approx(expected, rel=1e-6)
    rates = {n: step.lr for n, step in known.items()}
    assert shown.pop("step/rate") == pytest.approx(rates, rel=1e-6)
    for name in asdict(result.last):
        if name != "epoch":
            expected = {5 * row.epoch: getattr(row, name) for row in result.rows}
            assert shown.pop(f"epoch/{name}") == pytest.approx(expected, rel=1e-6)
    assert shown == {}


def test_what_is_no_number_is_left_out(place: Path) -> None:
    pytest.importorskip("tensorboardX")
    train(replace(WANTED, val_split=None, output=place / "out"))
    shown = points(place / "out")
    assert "epoch/test_loss" in shown and "epoch/val_loss" not in shown


def test_a_run_that_goes_on_shows_what_one_shows_that_did_not_stop(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.setattr(board, "EVERY", 1)
    train(replace(WANTED, output=place / "whole"))
    config = replace(WANTED, save_every="4 steps", output=place / "out")

    def killed(event: Event) -> None:  # like a kill: the state of step 4 is the last
        if isinstance(event, Step) and (event.epoch, event.step) == (2, 2):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(config, killed)
    resume(place / "out", models.find)
    whole, again = points(place / "whole"), points(place / "out")
    for shown in (whole, again):
        assert len(shown.pop("step/images_per_second")) == 10
    assert again == whole
    assert len(list((place / "out").glob("events.*"))) == 2


def test_it_goes_with_a_run_that_leaves_nothing(place: Path) -> None:
    pytest.importorskip("tensorboardX")

    def stop(event: Event) -> None:
        assert isinstance(event, Start) and list((place / "out").glob("events.*"))
        raise KeyboardInterrupt

    assert train(replace(WANTED, output=place / "out"), stop).folder is None
    assert list(place.iterdir()) == []


def test_a_disk_that_is_full_of_it_ends_the_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboardX")

    def full(self: Any, at: int, values: dict[str, float]) -> None:
        raise OSError(28, "No space left on device", "events")

    monkeypatch.setattr(board.BoardReport, "_write", full)
    with pytest.raises(TrainError, match=r"events cannot be written \(No space"):
        train(replace(WANTED, output=place / "out"))


def test_without_the_package_nothing_begins(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match="pip install tensorboardX"):
        train(replace(WANTED, output=place / "out"))
    result = run("--model tiny --tensorboard")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert list(place.iterdir()) == []
    train(replace(SMALL, epochs=1, output=place / "out"))  # it is not needed otherwise
