"""CIFAR-10 and -100 from their binary files: order, limits, damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.files import cifar100_rows, cifar_rows, write_batch
from tinyflow.data import (
    DataError,
    load_cifar10,
    load_cifar100,
)


@pytest.mark.parametrize("suffix", ["", ".xz"])
@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin"])
def test_cifar_test_split(tmp_path: Path, suffix: str, folder: str) -> None:
    rows = cifar_rows(6)
    write_batch(tmp_path / folder / f"test_batch.bin{suffix}", rows)
    data = load_cifar10(tmp_path, "test")
    assert data.images.shape == (10_000, 3, 32, 32)
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 3, 32)
    np.testing.assert_array_equal(data.labels, rows[:, 0])
    np.testing.assert_array_equal(data.images.reshape(10_000, -1), rows[:, 1:])
    assert data.images[5, 1, 1, 0] == 77


def test_cifar_train_joins_five_batches_in_order(tmp_path: Path) -> None:
    for batch in range(1, 6):
        suffix = ".xz" if batch % 2 else ""
        write_batch(tmp_path / f"data_batch_{batch}.bin{suffix}", cifar_rows(batch))
    data = load_cifar10(tmp_path)
    assert len(data) == 50_000
    np.testing.assert_array_equal(
        data.images[::10_000, 0, 0, 0], np.arange(1, 6, dtype=np.uint8)
    )
    first = load_cifar10(tmp_path, limit=10_001)
    np.testing.assert_array_equal(first.images, data.images[:10_001])
    np.testing.assert_array_equal(first.labels, data.labels[:10_001])


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_cifar_limit_needs_only_the_first_file(tmp_path: Path, suffix: str) -> None:
    write_batch(tmp_path / f"data_batch_1.bin{suffix}", cifar_rows(1))
    assert len(load_cifar10(tmp_path, limit=2_000)) == 2_000
    assert len(load_cifar10(tmp_path, limit=10_000)) == 10_000
    with pytest.raises(DataError, match=r"data_batch_2\.bin \(or .*unpack it"):
        load_cifar10(tmp_path, limit=10_001)


@pytest.mark.parametrize("limit", [0, 10_001])
def test_cifar_limit_out_of_range(tmp_path: Path, limit: int) -> None:
    with pytest.raises(DataError, match="cifar10 test has 10000 images"):
        load_cifar10(tmp_path, "test", limit=limit)


def test_cifar_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test_batch\.bin .*is neither in .*/nowhere"):
        load_cifar10(tmp_path / "nowhere", "test")


@pytest.mark.parametrize("suffix", ["", ".xz"])
@pytest.mark.parametrize("size", [0, 3073 * 9, 3073 * 9 + 1, 3073 * 10_000 + 1])
@pytest.mark.parametrize("limit", [None, 10])
def test_cifar_wrong_size(
    tmp_path: Path, suffix: str, size: int, limit: int | None
) -> None:
    path = tmp_path / f"test_batch.bin{suffix}"
    write_batch(path, np.zeros(size, np.uint8))
    if limit and suffix and size > 3073 * limit:
        assert len(load_cifar10(tmp_path, "test", limit=limit)) == limit
        return
    with pytest.raises(DataError, match=r"test_batch.* not 10,000 rows of 3073 .*get"):
        load_cifar10(tmp_path, "test", limit=limit)


def test_cifar_label_above_nine(tmp_path: Path) -> None:
    rows = cifar_rows(1)
    rows[123, 0] = 10
    write_batch(tmp_path / "test_batch.bin", rows)
    with pytest.raises(DataError, match=r"test_batch\.bin: image 123 has label 10"):
        load_cifar10(tmp_path, "test")


@pytest.mark.parametrize("damage", ["cut", "flip", "not xz"])
def test_cifar_damaged_xz(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "test_batch.bin.xz"
    rng = np.random.default_rng(0)
    rows = cifar_rows(1)
    rows[:300, 5:] = rng.integers(0, 256, (300, 3068), dtype=np.uint8)
    write_batch(path, rows)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[len(content) // 2] ^= 0xFF
    else:
        content[:6] = b"no xz!"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"test_batch\.bin\.xz is damaged .*unpack it"):
        load_cifar10(tmp_path, "test")


# --- CIFAR-100 -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".xz"])
@pytest.mark.parametrize("folder", ["", "cifar-100-binary"])
def test_cifar100_has_two_labels(tmp_path: Path, suffix: str, folder: str) -> None:
    rows = cifar100_rows()
    write_batch(tmp_path / folder / f"test.bin{suffix}", rows)
    fine = load_cifar100(tmp_path, "test")
    coarse = load_cifar100(tmp_path, "test", coarse=True)
    assert (fine.name, coarse.name) == ("cifar100", "cifar100_coarse")
    assert (fine.num_classes, coarse.num_classes) == (100, 20)
    np.testing.assert_array_equal(fine.labels, rows[:, 1])
    np.testing.assert_array_equal(coarse.labels, rows[:, 0])
    for data in (fine, coarse):
        np.testing.assert_array_equal(data.images.reshape(10_000, -1), rows[:, 2:])
        assert data.images[5, 1, 1, 0] == 77
    few = load_cifar100(tmp_path, "test", limit=7)
    np.testing.assert_array_equal(few.images, fine.images[:7])


def test_cifar100_training_images_are_one_file(tmp_path: Path) -> None:
    write_batch(tmp_path / "train.bin", cifar100_rows(50_000))
    data = load_cifar100(tmp_path)
    assert len(data) == 50_000 and data.labels[-1] == 99
    with pytest.raises(DataError, match="cifar100 train has 50000 images"):
        load_cifar100(tmp_path, limit=50_001)


@pytest.mark.parametrize(
    ("column", "label", "most"), [(0, 20, 19), (0, 255, 19), (1, 100, 99)]
)
@pytest.mark.parametrize("coarse", [False, True])
def test_cifar100_labels_out_of_range(
    tmp_path: Path, column: int, label: int, most: int, coarse: bool
) -> None:
    rows = cifar100_rows()
    rows[12, column] = label
    write_batch(tmp_path / "test.bin", rows)
    with pytest.raises(DataError, match=rf"12 has label {label}, but .* 0 to {most};"):
        load_cifar100(tmp_path, "test", coarse=coarse)


@pytest.mark.parametrize("suffix", ["", ".xz"])
def test_each_refuses_the_file_of_the_other(tmp_path: Path, suffix: str) -> None:
    write_batch(tmp_path / f"test.bin{suffix}", cifar_rows(1))
    with pytest.raises(DataError, match=r"not 10,000 rows of 3074 .*no CIFAR-100 file"):
        load_cifar100(tmp_path, "test")
    write_batch(tmp_path / f"test_batch.bin{suffix}", cifar100_rows())
    with pytest.raises(DataError, match=r"not 10,000 rows of 3073 .*no CIFAR-10 file"):
        load_cifar10(tmp_path, "test")


def test_its_own_folder_comes_first(tmp_path: Path) -> None:
    """Names like train.bin are not CIFAR-100's alone."""
    write_batch(tmp_path / "test.bin", cifar_rows(1, 3))
    write_batch(tmp_path / "cifar-100-binary" / "test.bin", cifar100_rows())
    assert len(load_cifar100(tmp_path, "test")) == 10_000
