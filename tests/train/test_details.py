"""Steps, checkpoints and folders of a run where only the exact border tells."""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import models
from tests.train.small import place as place
from tinyflow import Tensor, nn
from tinyflow.optim import SGD
from tinyflow.tape import fusing
from tinyflow.train import CheckpointError, ConfigError, Metadata, load_checkpoint
from tinyflow.train.checkpoint import _shown, _unlike, save_checkpoint
from tinyflow.train.folder import CLAIM, RunFolder
from tinyflow.train.step import evaluate, train_step

# --- steps ----------------------------------------------------------------------------


class Halves(nn.Module):
    """Two layers that are used and one that is not; notes how its tapes are."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.body, self.head = nn.Linear(6, 4, rng=rng), nn.Linear(4, 3, rng=rng)
        self.spare = nn.Linear(4, 3, rng=rng)
        self.fused: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.fused.append(fusing())
        return self.head(self.body(x))  # type: ignore[no-any-return]


X = np.random.default_rng(1).standard_normal((5, 6), dtype=np.float32)
LABELS = np.array([0, 1, 2, 0, 1])


def test_a_gradient_from_before_moves_nothing() -> None:
    """Nor need the optimiser hold all that learns, or all it holds be used."""
    model = Halves()
    held = [*model.head.named_parameters(), *model.spare.named_parameters()]
    names = [f"{i}.{name}" for i, (name, _) in enumerate(held)]
    optimizer = SGD([(n, p) for n, (_, p) in zip(names, held, strict=True)], lr=0.1)
    before = {n: p.data.copy() for n, p in model.named_parameters()}
    for _, p in held:
        p.grad = np.ones_like(p.data)
    train_step(model, X, LABELS, optimizer)
    moved = {
        name
        for name, p in model.named_parameters()
        if not np.array_equal(p.data, before[name])
    }
    assert moved == {"head.weight", "head.bias"}


def test_a_step_that_nobody_inspects_is_fused() -> None:
    model = Halves()
    optimizer = SGD(model.named_parameters(), lr=0.1)
    train_step(model, X, LABELS, optimizer)
    train_step(model, X, LABELS, optimizer, inspect=lambda loss, tape: None)
    assert model.fused == [True, False]


class Once(Halves):
    """Bad the first time it is run from where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.count = np.zeros(1, np.int64)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        factor = np.float32(np.inf if self.count[0] == 1 else 1.0)
        return super().forward(x) * factor


def test_what_went_wrong_is_looked_for_from_where_the_step_began() -> None:
    model = Once()
    optimizer = SGD(model.named_parameters(), lr=0.1)
    with pytest.raises(FloatingPointError, match=r"first such values are .* of mul"):
        train_step(model, X, LABELS, optimizer)
    assert model.count == 0


def test_an_evaluation_is_of_the_first_epoch() -> None:
    asked: list[int] = []

    def epoch(k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        asked.append(k)
        yield X, LABELS

    data: Any = SimpleNamespace(epoch=epoch, dataset=LABELS)
    evaluate(Halves(), data)
    assert asked == [0]


# --- checkpoints ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good", "bad", "want"),
    [
        ("model", ["a", "a" * 100], ["", "a" * 101, "a\n", 3, None], "a name"),
        ("dataset", ["shapes"], ["", ["shapes"]], "a name"),
        (
            "test_accuracy",
            [0, 1, 0.0, 0.5, 1.0],
            [-1e-9, 1 + 1e-9, True, "1", math.nan, None],
            "a number from 0 to 1",
        ),
        ("seed", [0, 10**30], [-1, True, 0.0, "0"], "a whole number from 0 on"),
        (
            "epoch",
            [1, 2**63 - 1],
            [0, 2**63, 1.0, True, None],
            "a whole number from 1 on",
        ),
    ],
)
def test_metadata_on_both_sides_of_their_borders(
    name: str, good: list[Any], bad: list[Any], want: str
) -> None:
    assert [_unlike(name, value) for value in good] == [None] * len(good)
    assert [_unlike(name, value) for value in bad] == [want] * len(bad)


def test_long_values_are_shortened_in_a_sentence() -> None:
    assert _shown("a" * 58) == repr("a" * 58)  # 60 with its quotes
    assert _shown("a" * 59) == "'" + "a" * 59 + " …"
    assert _shown(10**70) == "1" + "0" * 59 + " …"


def saved(path: Path) -> Path:
    told = Metadata("tiny", 10, 32, 3, "shapes", 5, 1, 0.5)
    save_checkpoint(path, models.build_model("tiny", seed=5), told)
    return path


@pytest.mark.parametrize("written", [0, -1, 1.0, "1", None, True])
def test_a_format_that_is_none_is_said(place: Path, written: Any) -> None:
    path = saved(place / "a.safetensors")
    old, new = b'\\"format\\": 1', f'\\"format\\": {written!r}'.encode()
    content = path.read_bytes()
    assert old in content
    text = {None: b"null", True: b"true", "1": b'\\"1\\"'}.get(written)
    new = old[:-1] + text if text else new
    size = int.from_bytes(content[:8], "little") + len(new) - len(old)
    path.write_bytes(size.to_bytes(8, "little") + content[8:].replace(old, new))
    with pytest.raises(CheckpointError, match="does not say its format"):
        load_checkpoint(path, models.find)


def test_a_network_may_have_a_million_numbers_more_than_its_file(
    place: Path,
) -> None:
    """Of them zeros are made; one more is refused."""
    path, left = saved(place / "a.safetensors"), []
    count = sum(a.size for a in models.build_model("tiny").state_dict().values())

    def make(*, rng: Any, **data: int) -> nn.Module:
        left.append(rng.left)
        found = rng.standard_normal((int(rng.left),))
        assert found.dtype == np.float32 and not found.any()
        rng.standard_normal((1,))
        raise AssertionError

    with pytest.raises(CheckpointError, match="more weights than the file holds"):
        load_checkpoint(path, lambda name: models.Network(name, make))
    assert left == [1_000_000 + count]


# --- folders --------------------------------------------------------------------------


def test_who_has_ended_ends_nobody_else(place: Path) -> None:
    first = RunFolder(place / "out", "x")
    first.end()
    second = RunFolder(place / "out", "x")
    second.file("a").write_text("")
    with pytest.raises(FileNotFoundError, match="it was removed") as caught:
        first.check()
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(place / "out")
    first.end()
    second.check()
    second.end()
    assert list(place.iterdir()) == []


def test_a_folder_whose_claim_cannot_be_held_open_works_as_well(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        folder = RunFolder(place / "out", "x")
    folder.check()
    folder.end()
    assert list(place.iterdir()) == []


def test_an_ended_run_holds_nothing_open(place: Path) -> None:
    def held() -> set[str]:
        return {os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                if os.path.lexists(f"/proc/self/fd/{n}")}  # fmt: skip

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    folder = RunFolder(place / "out", "x")
    assert str(place / "out" / CLAIM) in held()
    folder.end()
    assert not any(CLAIM in name for name in held())


def test_parents_go_with_a_folder_that_somebody_removed(place: Path) -> None:
    folder = RunFolder(place / "a" / "b" / "out", "x")
    shutil.rmtree(place / "a" / "b" / "out")
    folder.end()
    assert list(place.iterdir()) == []


def test_a_claim_that_cannot_be_removed_is_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(place / "out", "x")
    (place / "out" / CLAIM / "a").write_text("")

    def refuse(*args: object, **how: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        folder.end()
    assert [p.name for p in (place / "out").iterdir()] == [CLAIM]


def test_a_refused_run_leaves_nothing_for_the_end_of_the_program(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Callable[[], None]] = []
    at = SimpleNamespace(register=asked.append, unregister=asked.remove)
    monkeypatch.setattr("tinyflow.train.folder.atexit", at)
    monkeypatch.setattr("tinyflow.train.folder.check_output", lambda output: None)
    (place / "out" / CLAIM).mkdir(parents=True)
    with pytest.raises(ConfigError, match="in use by another run"):
        RunFolder(place / "out", "x")
    assert asked == []
