"""The mean image: its sums, how it follows its images, and how it is written down."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.files import tiny
from tests.data.pictures import load_small, write_folder
from tinyflow.data import DataError, Dataset, Loader, normalize
from tinyflow.data.augmentation import Augmentation
from tinyflow.data.loader import _CHANGE, _CROP
from tinyflow.data.mean_image import centred, mean_image, read, written
from tinyflow.data.randaugment import rand_augment

SHAPE = (3, 8, 8)


def data() -> Dataset:
    set_of = tiny(10)
    return centred(set_of, mean_image(set_of.images))


def draws(seed: int, k: int, index: int, purpose: int) -> np.random.Generator:
    sequence = np.random.SeedSequence(seed, spawn_key=(k, purpose, index))
    return np.random.Generator(np.random.PCG64(sequence))


def test_it_is_the_mean_of_each_pixel_rounded_once() -> None:
    images = tiny(7).images
    mean = mean_image(images)
    assert mean.shape == SHAPE and mean.dtype == np.float64
    for place in np.ndindex(SHAPE):
        total = sum(int(image[place]) for image in images)
        assert mean[place] == float(Fraction(total, 7 * 255)), place


def test_sums_of_many_images_are_exact() -> None:
    """More than float32 could count, of the largest pixels and one that is not."""
    images = np.full((70_000, 1, 1, 1), 255, np.uint8)
    images[0] = 254
    wanted = float(Fraction(70_000 * 255 - 1, 70_000 * 255))
    assert mean_image(images).item() == wanted < 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("changes", [0, 2])
def test_batches_are_those_of_a_loop(dtype: str, changes: int) -> None:
    """He's order: subtracted, then padded with zeros, cut and mirrored; the same bits.

    With RandAugment, which changes the bytes in between, only what is subtracted can be
    treated so.
    """
    images = data()
    loader = Loader(
        images, 4, shuffle=False, augment=True, more=Augmentation(changes), seed=3,
        dtype=dtype,
    )  # fmt: skip
    batches = list(loader.epoch(2))
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    mean, zeros, mirrored = np.asarray(images.mean), 0, set()
    for index, (found, _) in enumerate(batches):
        assert found.dtype == dtype
        n, rng = len(found), draws(3, 2, index, _CROP)
        top, left = (rng.integers(0, 9, n) for _ in range(2))
        flip = rng.integers(0, 2, n)

        def moved(image: Any, i: int, at: Any = (top, left, flip)) -> Any:
            padded = np.zeros((3, 16, 16), image.dtype)
            padded[:, 4:12, 4:12] = image
            y, x = at[0][i], at[1][i]
            window = padded[:, y : y + 8, x : x + 8]
            return window[:, :, ::-1] if at[2][i] else window

        of = images.images[4 * index : 4 * index + n]
        if changes:
            cut = np.stack([moved(image, i) for i, image in enumerate(of)])
            cut = rand_augment(
                cut, draws(3, 2, index, _CHANGE), count=changes, magnitude=9.0
            )
            wanted = [image / 255 - moved(mean, i) for i, image in enumerate(cut)]
        else:
            wanted = [moved(image / 255 - mean, i) for i, image in enumerate(of)]
        assert found.tobytes() == np.stack(wanted).astype(dtype).tobytes()
        zeros += int((found == 0).sum())
        mirrored |= set(flip.tolist())
    assert mirrored == {0, 1} and (changes or zeros > 300)  # of the border


def test_without_augmentation_it_is_subtracted() -> None:
    images = data()
    ((found, _),) = Loader(images, 10, shuffle=False).epoch(0)
    wanted = (images.images / 255 - np.asarray(images.mean)).astype(np.float32)
    assert found.tobytes() == wanted.tobytes()
    scaled = normalize(images.images, images.mean, (2.0, 4.0, 0.5), np.float64)
    std = np.array([2.0, 4.0, 0.5])[:, None, None]
    np.testing.assert_array_equal(scaled, (images.images / 255 - images.mean) / std)


def test_a_mean_of_another_shape_is_refused() -> None:
    images = data()
    for shape in ((3, 8, 7), (1, 8, 8), (8, 8), (10, 3, 8, 8)):
        with pytest.raises(DataError, match=r"shape \(3, 8, 8\)|of the 3 channels"):
            replace(images, mean=np.zeros(shape))
    for shape in ((3, 7, 8), (3, 8), (9, 3, 8, 8)):
        with pytest.raises(DataError, match="does not fit images of shape"):
            normalize(images.images, np.zeros(shape), images.std)
    with pytest.raises(DataError, match="not 3 and 2"):
        normalize(images.images, images.mean, (1.0, 1.0))


def test_a_set_that_crops_by_itself_cannot_be_augmented(tmp_path: Path) -> None:
    """What only looks at the middle can."""
    folder = load_small(write_folder(tmp_path))
    mean = np.full(folder.shape, 0.25)
    with pytest.raises(DataError, match="folder crops its images by itself"):
        Loader(replace(folder, mean=mean), 2, augment=True)
    one = replace(folder.limit(1), mean=mean, std=(1.0,) * 3)
    ((found, _),) = Loader(one, 1).epoch(0)
    wanted = one.in_memory().images / 255 - 0.25
    assert found.tobytes() == wanted.astype(np.float32).tobytes()


# --- as text -------------------------------------------------------------------------


def strange() -> np.ndarray:
    mean = np.linspace(0, 1, 192).reshape(SHAPE)
    edges = [5e-324, -0.0, -1e6, 1e6, 1 / 3, np.nextafter(1, 0)]
    mean.reshape(-1)[: len(edges)] = edges
    return mean


def test_every_bit_is_read_back() -> None:
    mean = strange()
    found = read(json.loads(json.dumps(written(mean))), SHAPE)
    assert found is not None and found.dtype == np.float64 and found.shape == SHAPE
    assert found.tobytes() == mean.tobytes()
    assert len(written(mean)["float64"]) == 192 * 8 * 4 / 3


def told(content: bytes) -> dict[str, Any]:
    text = base64.b64encode(content).decode()
    return {"float64": text, "crc32": zlib.crc32(content)}


GOOD = written(strange())
TEXT = GOOD["float64"]
DAMAGED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no check": {"float64": TEXT},
    "no text": {"crc32": GOOD["crc32"]},
    "another check": GOOD | {"crc32": GOOD["crc32"] ^ 1},
    "a check in words": GOOD | {"crc32": str(GOOD["crc32"])},
    "cut": GOOD | {"float64": TEXT[:-4]},
    "longer": GOOD | {"float64": TEXT + "AAAA"},
    "one character": GOOD | {"float64": TEXT[:99] + "+" + TEXT[100:]},
    "no base64": GOOD | {"float64": TEXT[:99] + "\n" + TEXT[100:]},
    "no ASCII": GOOD | {"float64": TEXT[:99] + "é" + TEXT[100:]},
    "a filled end": told(strange().tobytes()[:-1]),
    "a list": GOOD | {"float64": [0.5] * 192},
    "no number": told(np.full(SHAPE, np.nan).tobytes()),
    "infinite": told(np.full(SHAPE, np.inf).tobytes()),
    "too large": told(np.full(SHAPE, 1e6 + 1).tobytes()),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_seen(what: str) -> None:
    assert TEXT[99] != "+" and read(GOOD, SHAPE) is not None
    assert read(DAMAGED[what], SHAPE) is None


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 9), (2**62, 2**62, 2**62)])
def test_of_another_shape_it_is_none(shape: tuple[int, int, int]) -> None:
    assert read(GOOD, shape) is None
