"""Folders of images: what is found in them, and what a Loader serves of it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.pictures import load_small as load
from tests.data.pictures import write_folder
from tinyflow.data import DataError, Loader
from tinyflow.data import folder as module


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test changes."""
    return write_folder(tmp_path_factory.mktemp("images"))


def said(folder: Path, split: str = "train", **how: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, split, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is found -------------------------------------------------------------------


def test_a_folder_of_classes(shared: Path) -> None:
    data, test = load(shared), load(shared, "test")
    assert data.classes == test.classes == ("ant", "bee", "cat")
    assert len(data) == 18 and len(test) == 9
    assert data.place == shared / "train" and test.place == shared / "val"
    for part in (data, test):
        for name, size, label in zip(part.files, part.sizes, part.labels, strict=True):
            assert name.split("/")[0] == data.classes[label]
            assert (part.place / name).stat().st_size == size
    assert sorted(data.files) == sorted(
        p.relative_to(shared / "train").as_posix()
        for p in (shared / "train").rglob("*.*")
    )
    assert (data.num_classes, data.image_size, data.in_channels) == (3, 16, 3)
    assert data.mean == (0.485, 0.456, 0.406) and data.std == (0.229, 0.224, 0.225)
    assert repr(data) == "ImageFolder(folder: 18 images of 3x16x16, 3 classes: " + (
        "ant, bee, cat)"
    )


def test_the_first_images_are_of_all_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, train=2)
    for i in range(5):
        shutil.copy(tmp_path / "train/bee/000.png", tmp_path / f"train/bee/x{i}.png")
    data = load(tmp_path)
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2, 1, 1, 1, 1, 1]
    assert data.files[:4] == (
        "ant/000.png",
        "bee/000.png",
        "cat/000.png",
        "ant/001.jpg",
    )
    few = data.limit(4)
    assert few.files == data.files[:4] and few.labels.tolist() == [0, 1, 2, 0]
    assert few.sizes.tolist() == data.sizes[:4].tolist()
    assert load(tmp_path, limit=4).files == few.files
    with pytest.raises(DataError, match="folder has 11 images, so a limit of 12"):
        data.limit(12)
    assert "has 11 images, so a limit of 0" in said(tmp_path, limit=0)


def test_what_is_no_image_by_its_name_is_none(tmp_path: Path) -> None:
    write_folder(tmp_path)
    before = load(tmp_path).files
    for name in ("notes.txt", ".hidden.png", "list", "image.png.part", "png"):
        (tmp_path / "train/ant" / name).write_bytes(b"")
        (tmp_path / "val" / f"{name}.txt").write_bytes(b"")
    (tmp_path / "train/.cache/x").mkdir(parents=True)
    assert load(tmp_path).files == before
    assert load(tmp_path).classes == ("ant", "bee", "cat")


def test_folders_in_folders_and_links(tmp_path: Path) -> None:
    write_folder(tmp_path / "real")
    place = tmp_path / "data/train"
    place.mkdir(parents=True)
    (tmp_path / "data/val").symlink_to(tmp_path / "real/val")
    for name in ("ant", "bee", "cat"):
        (place / name).mkdir()
    (place / "ant/more/deep").mkdir(parents=True)
    shutil.copy(tmp_path / "real/train/ant/000.png", place / "ant/more/deep/A.PNG")
    (place / "bee/one.jpeg").symlink_to(tmp_path / "real/train/bee/001.jpg")
    (place / "cat/all").symlink_to(tmp_path / "real/train/cat")
    data = load(tmp_path / "data")
    assert data.files[:2] == ("ant/more/deep/A.PNG", "bee/one.jpeg")
    assert data.files[2:] == tuple(
        f"cat/all/{p.name}" for p in sorted((tmp_path / "real/train/cat").iterdir())
    )
    assert len(load(tmp_path / "data", "test")) == 9
    next(Loader(data, len(data)).epoch(0))


@pytest.mark.parametrize("to", [".", "..", "../..", "../bee/again"])
def test_links_that_go_in_circles(tmp_path: Path, to: str) -> None:
    write_folder(tmp_path)
    link = tmp_path / "train/bee/again"
    link.symlink_to(to)
    if to == "../bee/again":  # a link to itself is nothing at all
        assert len(load(tmp_path)) == 18
    else:
        assert "leads to a folder that was met before" in said(tmp_path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    write_folder(tmp_path)
    odd = os.path.join(os.fsencode(tmp_path / "train/ant"), b"caf\xe9 \n'\".png")
    shutil.copy(tmp_path / "train/ant/000.png", odd)
    for workers in (0, 2):
        data = load(tmp_path, workers=workers)
        assert len(data) == 19
        images = np.concatenate([x for x, _ in Loader(data, 7).epoch(0)])
        assert len(images) == 19
    assert isinstance(data.checksum(), int)


def test_val_before_test(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", val="test")
    assert load(tmp_path / "a", "test").place.name == "test"
    write_folder(tmp_path / "b")
    (tmp_path / "b/test").mkdir()
    assert load(tmp_path / "b", "test").place.name == "val"


def test_a_class_may_lack_test_images_and_labels_stay(tmp_path: Path) -> None:
    write_folder(tmp_path)
    shutil.rmtree(tmp_path / "val/ant")
    assert Counter(load(tmp_path, "test").labels.tolist()) == {1: 3, 2: 3}


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    root = tmp_path / "data"
    assert "cannot be read (No such file or directory)" in said(root)
    root.mkdir()
    assert f"{root}/train cannot be read" in said(root)
    (root / "train").mkdir()
    assert "holds no folders: put the images of each class into" in said(root)
    (root / "train/ant").mkdir()
    assert "train/ant holds no image (" in said(root)
    shutil.rmtree(root)
    write_folder(root)
    shutil.rmtree(root / "val")
    assert "holds no folder val or test: put" in said(root, "test")
    (root / "val/dog").mkdir(parents=True)
    assert "val/dog is of a class that" in said(root, "test")
    (root / "val/dog").rename(root / "val/ant")
    assert "val holds no image" in said(root, "test")
    (root / "train/loose.png").write_bytes(b"")
    assert "train/loose.png lies in no class" in said(root)
    assert "no split 'val': choose 'train' or 'test'" in said(root, "val")
    (root / "train/loose.png").unlink()
    os.mkfifo(root / "test")
    shutil.rmtree(root / "val")
    assert "holds no folder val or test" in said(root, "test")
    (root / "val").symlink_to("val")
    assert "Too many levels of symbolic links" in said(root, "test")
    assert "\\x00" in said(Path("a\0b"))


def test_a_closed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path)
    real = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert "train/bee cannot be read (Permission denied)" in said(tmp_path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"image_size": 0}, "image size must be 1 to 2048, not 0"),
        ({"image_size": 2049}, "image size must be 1 to 2048, not 2049"),
        ({"short": 15}, "shorter side must be 16 to 4096, not 15"),
        ({"workers": -1}, "number of workers must be 0 to 256, not -1"),
        ({"workers": 257}, "workers must be 0 to 256"),
        ({"channels": 2}, "1 or 3 channels, not 2"),
        ({"bad_images": "ignore"}, "by 'ignore': choose refuse or skip"),
        ({"mean": (0.5,)}, "3 channels need as many means and standard deviations"),
        ({"limit": 19}, "folder train has 18 images, so a limit of 19"),
    ],
)
def test_arguments_out_of_range(shared: Path, how: dict[str, Any], words: str) -> None:
    assert words in said(shared, **how)


def test_as_many_workers_as_cores_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 0), (2, 1), (8, 7), (1000, 256)):
        monkeypatch.setattr(module, "available", lambda n=cores: n)
        assert module.default_workers() == workers
