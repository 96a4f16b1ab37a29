"""Data sets, augmentation and batches.

Real images are tested where the environment variable TINYFLOW_DATA names a folder
that holds those of the sets, ``cifar-10-batches-bin/``, ``mnist/`` and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.files import cifar100_rows, cifar_rows, tiny, write_batch, write_mnist
from tinyflow.data import (
    DATASETS,
    DataError,
    Dataset,
    load_dataset,
    make_shapes,
)
from tinyflow.data.dataset import READERS
from tinyflow.data.sources import SOURCES, Cifar, Idx, Source


def test_dataset_describes_itself() -> None:
    data = tiny(7, 1, 6)
    assert len(data) == 7
    assert (data.num_classes, data.image_size, data.in_channels) == (5, 6, 1)


def test_limit_keeps_the_first_images() -> None:
    data = tiny(7)
    first = data.limit(3)
    assert len(first) == 3
    np.testing.assert_array_equal(first.images, data.images[:3])
    np.testing.assert_array_equal(first.labels, data.labels[:3])
    assert len(data.limit(7)) == 7


@pytest.mark.parametrize("n", [-1, 0, 8])
def test_limit_out_of_range(n: int) -> None:
    with pytest.raises(DataError, match=f"tiny has 7 images, so a limit of {n} "):
        tiny(7).limit(n)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 3, 8, 8), np.float32)}, "must be uint8"),
        ({"images": np.zeros((2, 8, 8), np.uint8)}, r"\(N, C, H, W\)"),
        ({"images": np.zeros((2, 3, 8, 6), np.uint8)}, "square, not 8x6"),
        ({"labels": np.zeros(2, np.int32)}, "labels must be int64"),
        ({"labels": np.zeros(3, np.int64)}, r"labels must be int64 of shape \(2,\)"),
        ({"labels": np.array([0, 2])}, "image 1 has label 2, but .* 0 to 1"),
        ({"labels": np.array([-1, 0])}, "image 0 has label -1"),
        ({"mean": (0.5,)}, "each of the 3 channels, not 1 and 3"),
        ({"std": (0.5, 0.5)}, "each of the 3 channels, not 3 and 2"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be positive"),
    ],
)
def test_dataset_checks_its_parts(change: dict[str, Any], message: str) -> None:
    parts: dict[str, Any] = {
        "name": "x",
        "images": np.zeros((2, 3, 8, 8), np.uint8),
        "labels": np.zeros(2, np.int64),
        "classes": ("a", "b"),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    Dataset(**parts)
    with pytest.raises(DataError, match=message):
        Dataset(**(parts | change))


# --- load_dataset --------------------------------------------------------------


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(DataError) as caught:
        load_dataset("imagenet", None)
    assert all(name in str(caught.value) for name in DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_unknown_split(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split called 'valid': choose 'train'"):
        load_dataset(name, tmp_path, "valid")


@pytest.mark.parametrize("load", READERS.values(), ids=READERS)
def test_loaders_check_the_split(load: Callable[..., Dataset], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no split 'valid'"):
        load(tmp_path, "valid")


@pytest.mark.parametrize("name", READERS)
def test_files_need_a_folder(name: str) -> None:
    with pytest.raises(DataError, match="no data folder was given"):
        load_dataset(name)


def test_load_dataset_passes_its_arguments_on(tmp_path: Path) -> None:
    shapes = load_dataset("shapes", None, "test", seed=3, limit=20)
    np.testing.assert_array_equal(
        shapes.images, make_shapes("test", seed=3, limit=20).images
    )
    write_mnist(tmp_path, "t10k", 5)
    assert len(load_dataset("mnist", tmp_path, "test", seed=0, limit=4)) == 4
    assert load_dataset("fashion_mnist", tmp_path, "test").classes[9] == "Ankle boot"
    write_batch(tmp_path / "test_batch.bin.xz", cifar_rows(1))
    assert len(load_dataset("cifar10", tmp_path, "test", limit=4)) == 4
    write_batch(tmp_path / "test.bin.xz", cifar100_rows())
    assert load_dataset("cifar100", tmp_path, "test", limit=99).labels[98] == 98
    assert load_dataset("cifar100_coarse", tmp_path, "test", limit=99).labels[98] == 19


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_row_of_the_table_agrees_with_itself(source: Source) -> None:
    assert len(set(source.classes)) == len(source.classes)
    if isinstance(source, Cifar):
        assert len(source.classes) == source.labels[source.column]
        assert sum(source.rows[s] * len(f) for s, f in source.files.items()) == 60_000
    if isinstance(source, Idx):
        assert dict(source.images) == {"train": 60_000, "test": 10_000}
    assert len(source.mean) == len(source.std) == (3 if source.packed == ".xz" else 1)
    for remote in source.remotes:
        assert len(bytes.fromhex(remote.sha256)) == 32
        assert not remote.members or len(remote.files) == len(remote.members)
    assert list(SOURCES) == list(READERS)


# Of the data sets' pages in the catalogue of TensorFlow Datasets: MiB to download.
MEBIBYTES = {"cifar10": 162.17, "cifar100": 160.71, "cifar100_coarse": 160.71}
MEBIBYTES |= {"mnist": 11.06, "fashion_mnist": 29.45}
# In more digits than here, by others who computed them: mean and deviation.
CIFAR100_DIGITS = (
    (0.50707515923713235, 0.48654887331495098, 0.44091784336703431),
    (0.26733428848992696, 0.25643846542136996, 0.27615047402246590),
)
FASHION_DIGITS = ((0.2860406,), (0.35302424,))


def test_published_numbers() -> None:
    for name, source in SOURCES.items():
        size = sum(remote.size for remote in source.remotes)
        assert round(size / 2**20, 2) == MEBIBYTES[name]
        if isinstance(source, Cifar):  # 60,000 images, and two labels or one
            (remote,) = source.remotes
            labels = 60_000 * len(source.labels)
            assert sum(remote.members.values()) == 60_000 * 3 * 32**2 + labels
    for name, digits in (
        ("cifar100", CIFAR100_DIGITS),
        ("cifar100_coarse", CIFAR100_DIGITS),
        ("fashion_mnist", FASHION_DIGITS),
    ):
        found = (SOURCES[name].mean, SOURCES[name].std)
        np.testing.assert_allclose(found, digits, rtol=0, atol=5.1e-5)


@pytest.mark.parametrize("name", READERS)
def test_unreadable_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path, "t10k")
    (tmp_path / "test_batch.bin").touch()
    (tmp_path / "test.bin").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("refused")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(refused\): check"):
        load_dataset(name, tmp_path, "test")
