"""What a Loader serves of a folder of images: the same bytes, whoever decodes them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.pictures import load_small as load
from tests.data.pictures import write_folder
from tinyflow.data import DataError, ImageFolder, Loader, normalize
from tinyflow.data.crops import centre_crop, random_box
from tinyflow.data.decode import decode


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that no test changes."""
    return write_folder(tmp_path_factory.mktemp("images"))


def collect(data: ImageFolder, k: int, start: int = 0, **how: Any) -> list[Any]:
    loader = Loader(data, 4, **{"augment": True, "seed": 5} | how)
    return [(x.tobytes(), y.tobytes()) for x, y in loader.epoch(k, start=start)]


def test_the_middles_in_order(shared: Path) -> None:
    data = load(shared, image_size=20, short=30)
    loader = Loader(data, 5, shuffle=False)
    images = np.concatenate([x for x, _ in loader.epoch(0)])
    labels = np.concatenate([y for _, y in loader.epoch(0)])
    np.testing.assert_array_equal(labels, data.labels)
    want = np.stack(
        [
            np.asarray(centre_crop(decode(shared / "train" / name), 20, 30))
            for name in data.files
        ]
    ).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images, normalize(want, data.mean, data.std))
    whole = data.in_memory()
    np.testing.assert_array_equal(whole.images, want)
    image, label = data[4]
    np.testing.assert_array_equal(image, want[4])
    assert label == data.labels[4] and data[-1][1] == data.labels[-1]
    part = data[np.array([3, 1])]
    np.testing.assert_array_equal(part.in_memory().images, want[[3, 1]])
    assert part.labels.tolist() == data.labels[[3, 1]].tolist()
    np.testing.assert_array_equal(
        data[data.labels == 2].in_memory().images, want[data.labels == 2]
    )


def test_crops_are_those_of_the_rule(shared: Path) -> None:
    """Each is a function of seed, epoch, place in the set, and file."""
    data = load(shared)
    loader = Loader(data, 18, shuffle=False, augment=True, seed=9)
    ((_, images, _),) = loader.raw(3)
    for i, name in enumerate(data.files):
        sequence = np.random.SeedSequence(9, spawn_key=(3, 2, i))
        rng = np.random.Generator(np.random.PCG64(sequence))
        image = decode(shared / "train" / name)
        window = image.crop(random_box(*image.size, rng))
        window = window.resize((16, 16), Image.Resampling.BILINEAR)
        want = np.asarray(window)
        if rng.random() < 0.5:
            want = want[:, ::-1]
        np.testing.assert_array_equal(images[i], want.transpose(2, 0, 1))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_change_no_byte(shared: Path, workers: int) -> None:
    alone, data = load(shared), load(shared, workers=workers)
    for k in (0, 1, 0):
        assert collect(data, k) == collect(alone, k)
    assert collect(data, 4, augment=False) == collect(alone, 4, augment=False)
    assert len(data._idle) == 1  # the same ones all the time


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_served_depends_on_seed_and_epoch_alone(
    shared: Path, workers: int
) -> None:
    data = load(shared, workers=workers)
    history = [collect(data, k) for k in range(3)]
    assert collect(load(shared), 2, start=3) == history[2][3:]
    assert collect(data, 1) == history[1]
    assert len({batch for epoch in history for batch in epoch}) == 15
    assert collect(data, 0, seed=6) != history[0]
    assert collect(data, 0, start=5) == []


def test_two_epochs_side_by_side_and_one_that_is_left(shared: Path) -> None:
    data = load(shared, workers=2)
    want = [collect(load(shared), k) for k in (0, 1)]
    loader = Loader(data, 4, augment=True, seed=5)
    pairs = zip(loader.epoch(0), loader.epoch(1), strict=True)
    found = [[(x.tobytes(), y.tobytes()) for x, y in pair] for pair in pairs]
    assert [list(part) for part in zip(*found, strict=True)] == want
    assert len(data._idle) == 2
    left = loader.epoch(0)
    next(left)
    del left
    assert len(data._idle) == 1  # whoever has work to do still is of no more use
    assert collect(data, 1) == want[1]


def test_grey(shared: Path) -> None:
    data = load(shared, channels=1, workers=1)
    assert data.in_channels == 1 and data.shape == (1, 16, 16)
    assert data.mean == pytest.approx((0.458971,)) and len(data.std) == 1
    ((images, _),) = Loader(data, 18, shuffle=False).epoch(0)
    assert images.shape == (18, 1, 16, 16)
    rgb = load(shared).in_memory().images
    want = np.tensordot((0.299, 0.587, 0.114), rgb, (0, 1))
    back = images[:, 0] * data.std[0] + data.mean[0]
    assert np.abs(back * 255 - want).max() < 2.5  # rounded before it was resized


def test_a_set_is_told_by_its_files_and_how_they_are_served(tmp_path: Path) -> None:
    write_folder(tmp_path / "a")
    data = load(tmp_path / "a")
    sums = {data.checksum()}
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert load(tmp_path / "b", workers=3).checksum() in sums
    assert load(tmp_path / "b", mean=(0, 0, 0)).checksum() in sums  # config has these
    for how in ({"image_size": 17}, {"short": 19}, {"channels": 1}, {"limit": 17}):
        sums.add(load(tmp_path / "a", **how).checksum())
    sums.add(load(tmp_path / "a", "test").checksum())
    first = tmp_path / "b/train/ant/000.png"
    first.rename(first.with_name("0.png"))
    sums.add(load(tmp_path / "b").checksum())
    with (tmp_path / "b/train/ant/0.png").open("ab") as file:
        file.write(b"\0")
    sums.add(load(tmp_path / "b").checksum())
    (tmp_path / "b/train/cat").rename(tmp_path / "b/train/dog")
    sums.add(load(tmp_path / "b").checksum())
    assert len(sums) == 9


# --- broken files --------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Two broken training images, one broken test image."""
    write_folder(tmp_path)
    (tmp_path / "train/ant/001.jpg").write_bytes(b"no image")
    content = (tmp_path / "train/cat/004.png").read_bytes()
    (tmp_path / "train/cat/004.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "train/bee/folder.png").mkdir()
    (tmp_path / "val/bee/000.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_ends_the_epoch_where_it_is_met(
    broken: Path, workers: int
) -> None:
    data = load(broken, workers=workers)
    loader = Loader(data, 2, shuffle=False)
    served = loader.epoch(0)
    next(served)
    with pytest.raises(DataError) as caught:
        next(served)
    assert str(caught.value).startswith(f"{broken}/train/ant/001.jpg is no image")
    assert str(caught.value).endswith(
        "replace it, or leave such files out with --bad-images skip."
    )
    with pytest.raises(DataError, match=r"001\.jpg"):  # and again
        for _ in loader.epoch(0):
            pass


@pytest.mark.parametrize("workers", [0, 3])
def test_broken_images_are_skipped_from_the_beginning(
    broken: Path, workers: int
) -> None:
    seen: list[tuple[int, int]] = []
    data = load(
        broken,
        workers=workers,
        bad_images="skip",
        checked=lambda done, of: seen.append((done, of)),
    )
    assert seen == [(i, 19) for i in range(1, 20)]
    assert len(data) == 16 and len(data.skipped) == 3
    for name, said in zip(
        ("ant/001.jpg", "cat/004.png", "bee/folder.png"), data.skipped, strict=True
    ):
        assert name in said and name not in data.files
    again = load(broken, bad_images="skip")
    assert again.files == data.files and again.checksum() == data.checksum()
    assert collect(again, 2) == collect(data, 2)
    for part in ("ant/001.jpg", "cat/004.png"):
        (broken / "train" / part).unlink()
    (broken / "train/bee/folder.png").rmdir()
    assert sorted(data.files) == sorted(load(broken).files)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_is_tried_than_is_wanted(broken: Path, workers: int) -> None:
    seen = []
    data = load(
        broken,
        workers=workers,
        bad_images="skip",
        limit=4,
        checked=lambda done, of: seen.append(done),
    )
    assert data.files == ("ant/000.png", "bee/000.png", "cat/000.png", "bee/001.jpg")
    assert len(data.skipped) == 1 and seen[-1] == 5
    with pytest.raises(DataError, match="has 16 images, so a limit of 17"):
        load(broken, bad_images="skip", limit=17, workers=workers)


def test_nothing_but_broken_images(broken: Path) -> None:
    for path in (broken / "val").rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"No image in .*val can be read: "):
        load(broken, "test", bad_images="skip")
