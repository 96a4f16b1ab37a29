"""Files are written whole or not at all, whatever fails and wherever."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import models
from tests import ROOT
from tests.train.small import tiny
from tinyflow.atomic import appending, replacing
from tinyflow.tensorfile import open_tensors, write_tensors
from tinyflow.train import TrainConfig, TrainError, load_checkpoint, train
from tinyflow.train.metrics import read_metrics

FAST = (
    "--model resnet20 --epochs 2 --limit-train 8 --limit-test 4 --batch-size 4 "
    "--warmup-epochs 0 --trace-every 1"
).split()
BLOCKS = "blocks --model resnet20 --batch-size 2 --dtype float32".split()


def start(
    script: str, *arguments: str, cwd: Path, **how: object
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TINYFLOW_NUM_THREADS": "1", "TINYFLOW_ENGINE": "numpy"},
        **how,  # type: ignore[call-overload]
    )


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 512 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command).returncode:
        pytest.skip("this user may not mount a small disk to fill")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


# --- one file ----------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_has_the_permissions_of_one_that_is_plainly_written(
    place: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        write_tensors(place / "a", {"x": np.ones(2, np.float32)}, {})
        (place / "b").write_bytes(b"")
    finally:
        os.umask(before)
    assert (place / "a").stat().st_mode == (place / "b").stat().st_mode
    (place / "b").chmod(0o640)
    with replacing(place / "b") as partial:
        partial.write_text("new")
    assert (place / "b").stat().st_mode & 0o777 == 0o640
    with replacing(place / "a") as partial:  # as safetensors does, closed to others
        safetensors.numpy.save_file({"x": np.ones(2)}, partial)
    assert (place / "a").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    "error", [OSError(28, "full"), KeyboardInterrupt(), MemoryError()]
)
def test_a_failure_leaves_the_old_file(place: Path, error: BaseException) -> None:
    (place / "a").write_text("old")
    with pytest.raises(type(error)), replacing(place / "a") as partial:
        partial.write_text("half")
        raise error
    with pytest.raises(type(error)), appending(place / "a", "more"):
        assert (place / "a").read_text() == "oldmore"
        raise error
    assert [p.name for p in place.iterdir()] == ["a"]
    assert (place / "a").read_text() == "old"


def test_the_file_is_on_the_disk_before_it_has_its_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    for name in real:

        def note(*args: object, name: str = name) -> None:
            did.append(name)
            real[name](*args)

        monkeypatch.setattr(os, name, note)
    with replacing(place / "a") as partial:
        partial.write_text("x")
    assert did == ["fsync", "replace", "fsync"]  # the file, its name, the folder


@pytest.mark.parametrize("name", ["device", "pipe", "folder"])
def test_only_a_regular_file_is_replaced(place: Path, name: str) -> None:
    target = Path("/dev/full") if name == "device" else place / name
    if name == "pipe":
        os.mkfifo(target)
    elif name == "folder":
        target.mkdir()
    link = place / "link"
    link.symlink_to(target)
    before = os.lstat(target)
    for path in (target, link):
        with pytest.raises(OSError, match="not a regular file"), replacing(path):
            pass
    assert os.path.samestat(os.lstat(target), before) and link.is_symlink()


def test_a_link_is_followed(place: Path) -> None:
    (place / "elsewhere").mkdir()
    (place / "a").symlink_to(place / "elsewhere" / "b")
    with replacing(place / "a") as partial:
        partial.write_text("x")
    assert (place / "a").is_symlink() and (place / "elsewhere" / "b").is_file()


def test_tensors_are_read_as_others_read_them(place: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    kinds = "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 c8 ?".split()
    tensors = {
        k: (9 * rng.random((3, 0, 2) if k == "i1" else (3, 4))).astype(k) for k in kinds
    }
    tensors["turned"] = rng.random((2, 3, 4)).transpose(2, 0, 1)
    tensors["big"] = np.arange(5, dtype=">f4")
    tensors["scalar"] = np.array(2.5)
    write_tensors(place / "ours", tensors, {"key": "text"})
    theirs = safetensors.numpy.load_file(place / "ours")
    with open_tensors(place / "ours") as file:
        assert (
            file.metadata == {"key": "text"} and file.entries.keys() == tensors.keys()
        )
        for name, array in tensors.items():
            for found in (theirs[name], file.read(name)):
                assert found.dtype == array.dtype.newbyteorder("=")
                np.testing.assert_array_equal(found, array)
    half = rng.random(7).astype(ml_dtypes.bfloat16)
    safetensors.numpy.save_file({"x": half}, place / "half")
    with open_tensors(place / "half") as file:
        np.testing.assert_array_equal(file.read("x"), half.astype(np.float32))


# --- a failure at every instant -----------------------------------------------------

ERRORS = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "broken": OSError(errno.EIO, "Input/output error"),
    "interrupt": None,
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_run_is_whole_wherever_it_fails(
    place: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: str
) -> None:
    """Every write of a run fails in turn; weights and table always tell the same."""
    entry = models.Network("tiny", tiny, 32, 0.05)
    monkeypatch.setitem(models.MODELS, "tiny", entry)
    monkeypatch.setattr("tinyflow.train.curves.draw_curves", draw_nothing)
    owner, name = (Path, "open") if call == "open" else (os, call)
    real = getattr(owner, name)
    config = TrainConfig(
        models.find("tiny"), epochs=2, batch_size=4, limit_train=12, limit_test=4
    )
    config = replace(config, val_split=4)
    kept = set()
    for turn in range(60):
        left, output = [turn], place / f"{turn}"

        def fail(*args: object, left: list[int] = left, **how: object) -> object:
            left[0] -= 1
            if left[0] == -1:
                if (wrong := ERRORS[error]) is not None:
                    raise wrong
                signal.raise_signal(signal.SIGINT)
            return real(*args, **how)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with suppress(TrainError):
                train(replace(config, output=output))
        epochs = 0
        if output.exists():
            assert not [p for p in output.iterdir() if p.name.startswith(".")]
            rows = read_metrics(output / "metrics.csv")
            took = (output / "times.csv").read_text().splitlines()
            assert len(took) == len(rows) + 1
            epochs, best = (
                load_checkpoint(output, models.find, w)[1].epoch
                for w in ("last", "best")
            )
            if call != "replace":  # of the two weight files one comes first
                first = max(rows, key=lambda row: row.val_accuracy)
                assert (len(rows), first.epoch) == (epochs, best)
        kept.add(epochs)
        if left[0] >= 0:
            break
    assert kept == {0, 1, 2}


@pytest.mark.parametrize("name", ["ü ∂", os.fsdecode(b"out\xff"), "$x^2$ {y}", "a\nb"])
def test_folders_of_any_name(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(models.MODELS, "tiny", models.Network("tiny", tiny, 32, 0.05))
    config = TrainConfig(
        models.find("tiny"), epochs=1, warmup_epochs=0, batch_size=4, limit_train=8
    )
    result = train(replace(config, limit_test=4, output=Path(name)))
    assert (
        result.folder == Path(name) and load_checkpoint(name, models.find)[1].epoch == 1
    )
    assert len(os.listdir(name)) == 6


def draw_nothing(path: Path, *rest: object) -> None:
    with replacing(path) as partial:
        partial.write_text("")


# --- a full disk -------------------------------------------------------------------


def limit(size: int) -> Callable[[], None]:
    """No file of this process may be larger: what a quota does."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(
    "size", [*(pytest.param(n, marks=pytest.mark.slow) for n in (100, 2_000)), 500_000]
)
def test_files_that_may_not_grow(place: Path, size: int) -> None:
    run = start("train.py", *FAST, "--output", "out", cwd=place, preexec_fn=limit(size))
    _, said = run.communicate(timeout=300)
    assert run.returncode == 1, said
    assert (
        said.count("\n") == 1
        and "File too large" in said
        and "nothing was kept" in said
    )
    assert os.listdir(place) == []


@pytest.mark.slow
def test_a_disk_that_is_full(small_disk: Path) -> None:
    run = start("train.py", *FAST, "--output", str(small_disk / "out"), cwd=small_disk)
    _, said = run.communicate(timeout=300)
    assert run.returncode == 1, said
    assert said.count("\n") == 1 and "No space left" in said
    assert os.listdir(small_disk) == []


@pytest.mark.slow
def test_an_analysis_on_a_disk_that_is_full(small_disk: Path) -> None:
    full = small_disk / "full"
    full.write_bytes(b"x" * 400_000)
    run = start(
        "analyze.py", *BLOCKS, "--output", str(small_disk / "o"), cwd=small_disk
    )
    _, said = run.communicate(timeout=300)
    assert run.returncode == 1, said
    assert said.count("\n") == 1 and "No space left" in said
    assert os.listdir(small_disk) == ["full"]


def test_a_disk_that_fills_up_keeps_the_old_file(small_disk: Path) -> None:
    path = small_disk / "weights"
    write_tensors(path, {"x": np.ones(50_000, np.float32)}, {})
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left") as caught:
        write_tensors(path, {"x": np.zeros(100_000, np.float32)}, {})
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before and os.listdir(small_disk) == ["weights"]
    rest = small_disk / "rest"
    rest.write_bytes(b"")
    with pytest.raises(OSError, match="No space left"), appending(rest, "x" * 600_000):
        pass
    assert rest.read_bytes() == b""
