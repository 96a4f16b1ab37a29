"""Runs on a folder of images: what they say, what they leave, and that they go on."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest

import models
from tests import ROOT
from tests.data.pictures import load_small, write_folder
from tests.train.small import SMALL, run
from tests.train.small import place as place
from tests.train.stopping import left_by, stopping, traced
from tests.train.test_resume import NET
from tinyflow.data import Dataset, ImageFolder
from tinyflow.data.pool import Pool
from tinyflow.train import ConfigError, TrainError, images, resume, train
from tinyflow.train.events import Step
from tinyflow.train.metrics import read_metrics
from tinyflow.train.resume import STATE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test changes."""
    return write_folder(tmp_path_factory.mktemp("images"), train=16, test=6)


def config_for(folder: Path, **how):
    small = replace(SMALL, batch_size=8, limit_train=None, limit_test=None)
    small = replace(small, dataset="folder", data_dir=folder, image_size=16, epochs=3)
    return replace(small, augment=True, workers=2, **how)


ARGS = "--model tiny --batch-size 8 --image-size 16 --epochs 1 --dataset folder"


def said(arguments: str, code: int) -> str:
    result = run(arguments)
    assert result.exit_code == code, result.output
    return result.stderr


# --- the command ---------------------------------------------------------------------

LONG = """
--model tiny_resnet.py:Net --dataset folder --image-size 32 --workers 2 --augment
--epochs 4 --batch-size 20 --lr 0.02 --save-every 3 --trace-every 5 --output
""".split()


def test_two_hundred_files_killed_and_resumed(tmp_path: Path) -> None:
    """Learned, and the same bytes as if it had never been killed."""
    write_folder(tmp_path / "images", train=60, test=15)
    (tmp_path / "tiny_resnet.py").write_text(NET)

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "TINYFLOW_DATA": str(tmp_path / "images")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    whole = start(*LONG, "whole")
    assert whole.communicate(timeout=120)[1] == "" and whole.returncode == 0
    parts, state = start(*LONG, "parts"), tmp_path / "parts" / STATE
    saved: set[int] = set()
    while len(saved) < 3:  # the first is that of a run which has not begun
        assert parts.poll() is None
        if state.exists():
            saved.add(state.stat().st_mtime_ns)
        time.sleep(0.002)
    parts.send_signal(signal.SIGKILL)
    assert parts.communicate()[1] == "" and state.exists()
    rest = start("--resume", "parts")
    assert rest.communicate(timeout=120)[1] == "" and rest.returncode == 0
    assert left_by(tmp_path / "parts") == left_by(tmp_path / "whole")
    rows = list(read_metrics(tmp_path / "whole/metrics.csv"))
    assert len(rows) == 4 and rows[-1].test_accuracy > 0.7  # chance has a third
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("runs")]


def test_broken_images_are_refused_or_skipped(folder: Path, place: Path) -> None:
    shutil.copytree(folder, place / "images")
    for i in (1, 2, 3, 5):
        for path in (place / "images/train/bee").glob(f"{i:03}.*"):
            path.write_bytes(b"no image")
    (place / "images/val/ant/000.png").write_bytes(b"")
    arguments = f"{ARGS} --data-dir images"
    refused = said(arguments, 1)
    assert "/train/bee/" in refused and refused.count("\n") == 1
    assert refused.startswith("train.py: images/train/bee/00")
    assert not (place / "runs").exists() or not os.listdir(place / "runs")
    skipped = said(f"{arguments} --bad-images skip --output skipped", 0)
    first, second = skipped.splitlines()
    assert first.startswith("left out 4 train images: images/train/bee/001.jpg is no")
    assert first.count("replace it.") == 3 and first.endswith("And 1 more.")
    assert second.startswith("left out 1 test images: images/val/ant/000.png")
    (row,) = read_metrics(place / "skipped/metrics.csv")
    assert row.test_accuracy * 17 == pytest.approx(round(row.test_accuracy * 17))


def test_how_far_it_has_looked(
    folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "EVERY", 0.0)
    told = said(f"{ARGS} --data-dir {folder} --bad-images skip --workers 0", 0)
    lines = told.splitlines()
    assert lines[0].startswith("looked at 1 of 48 train images, about ")
    assert lines[-1] == "looked at 18 of 18 test images, about 1 s left"
    assert len(lines) == 48 + 18


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--image-size 0", "--image-size must be 1 to 2048, not 0"),
        ("--image-size 5000", "--image-size must be 1 to 2048, not 5000"),
        ("--workers -1", "--workers must be 0 to 256, not -1"),
        ("--bad-images drop", "--bad-images 'drop' is unknown; choose refuse, skip"),
        ("--download", "--download is not for folder: it is your own"),
    ],
)
def test_options_out_of_range(folder: Path, more: str, words: str) -> None:
    options = ARGS.replace("--image-size 16 ", "")
    told = said(f"{options} --data-dir {folder} {more}", 2)
    assert words in told and told.count("\n") == 1


@pytest.mark.parametrize("more", ["workers 2", "bad-images skip"])
def test_options_of_a_folder_alone(more: str) -> None:
    told = said(f"--model tiny --{more}", 2)
    assert f"--{more.split()[0]} is of --dataset folder: leave it out" in told


def test_a_folder_must_be_named(place: Path) -> None:
    assert "folder is read from files" in said(ARGS, 2)
    told = said(f"{ARGS} --data-dir nowhere", 1)
    assert "nowhere/train cannot be read (No such file or directory)" in told


# --- the loop ------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_workers_changes_no_bit(
    folder: Path, place: Path, workers: int
) -> None:
    config = config_for(folder, save_every="2 steps", val_split=9)
    train(replace(config, output=place / "one", workers=0), tracer=traced)
    again = replace(config, output=place / "other", workers=workers)
    result = train(again, stopping(4), traced)
    while result.interrupted:
        result = resume(place / "other", models.find, stopping(4), traced)
    assert left_by(place / "one") == left_by(place / "other")


def test_a_worker_that_is_killed_ends_the_run_and_it_goes_on(
    folder: Path, place: Path
) -> None:
    config = config_for(folder)
    train(replace(config, output=place / "whole"))

    def kill(event: object) -> None:
        if isinstance(event, Step) and (event.epoch, event.step) == (2, 1):
            pools = [o for o in gc.get_objects() if type(o) is Pool]
            for process in (p for pool in pools for p in pool.processes):
                process.kill()

    with pytest.raises(TrainError) as caught:
        train(replace(config, output=place / "parts", batch_size=8), kill)
    assert "was ended by signal 9" in str(caught.value)
    assert f"the run up to epoch 1 is kept in {place / 'parts'}" in str(caught.value)
    resume(place / "parts", models.find)
    assert left_by(place / "parts") == left_by(place / "whole")


def test_an_image_that_breaks_later_keeps_what_was_learned(
    folder: Path, place: Path
) -> None:
    shutil.copytree(folder, place / "images")

    def damage(event: object) -> None:
        if isinstance(event, Step) and event.epoch == 2:
            for path in (place / "images/train").rglob("*.*"):
                path.write_bytes(b"")

    config = config_for(place / "images", output=place / "run")
    with pytest.raises(TrainError, match=r"skip; the run up to epoch 1 is kept in"):
        train(config, damage)


def test_a_run_goes_on_only_with_its_own_images(folder: Path, place: Path) -> None:
    shutil.copytree(folder, place / "images")
    config = config_for(place / "images", output=place / "run")
    assert train(config, stopping(8)).interrupted
    shutil.copytree(place / "run", place / "copy")
    (place / "images").rename(place / "moved")
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PIL, "__version__", "1.1.7")
        resume(place / "run", models.find, data_dir=place / "moved", said=told.append)
    assert told == [
        f"pillow: 1.1.7, where the run had {PIL.__version__}: it goes on, but not bit "
        "for bit as it would have"
    ]
    next((place / "moved/val/ant").iterdir()).unlink()
    with pytest.raises(ConfigError, match="images are not those that the run of"):
        resume(place / "copy", models.find, data_dir=place / "moved")


def test_a_folder_and_the_same_images_in_memory_are_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    config = replace(config_for(folder, output=place / "files"), augment=False)
    train(config)
    real = images.load_dataset

    def held(*args, **how) -> Dataset:
        found = real(*args, **how)
        assert isinstance(found, ImageFolder)
        return found.in_memory()

    monkeypatch.setattr(images, "load_dataset", held)
    train(replace(config, output=place / "memory"))
    assert left_by(place / "files") == left_by(place / "memory")


def test_images_are_224_pixels_wide_unless_told(folder: Path) -> None:
    config = replace(config_for(folder), image_size=None, workers=0)
    found = images.images_of(config, "train", 0)
    assert found.shape == (3, 224, 224) and len(found) == 48
    few = images.images_of(replace(config, limit_train=3, limit_test=2), "test", 0)
    assert len(few) == 2
    np.testing.assert_array_equal(few.labels, load_small(folder, "test").labels[:2])
