"""RandAugment, cutout and mixup against their definitions, pixel by pixel."""

import numpy as np
import pytest
from PIL import Image

from tinyflow import Tensor
from tinyflow.data import Loader, loader, make_shapes, picture
from tinyflow.data.augment import cut_out
from tinyflow.data.augmentation import Augmentation
from tinyflow.data.mixing import Mixed, mixup
from tinyflow.data.randaugment import CHANGES, GREY, rand_augment
from tinyflow.train.criterion import criterion

RNG = np.random.default_rng


def changed(name, m, pixels):
    return np.asarray(CHANGES[name](Image.fromarray(pixels), m)).astype(int)


def pixels_of(size=33, seed=0):
    return RNG(seed).integers(0, 256, (size, size, 3), np.uint8)


def test_changes_by_their_formulas():
    x = pixels_of()
    old = x.astype(int)
    assert len(CHANGES) == 14
    for m in (-1.0, 1.0):
        assert (changed("posterize", m, x) == old & 0b11110000).all()
        assert (changed("solarize", m, x) == 255 - old).all()
    assert (changed("solarize", 0.25, x) == np.where(old < 192, old, 255 - old)).all()
    assert (changed("posterize", 0.25, x) == old & 0b11111110).all()
    for m in (-1.0, 0.5):
        wanted = np.clip(old * (1 + 0.9 * m), 0, 255)
        assert np.abs(changed("brightness", m, x) - wanted).max() <= 1
    # 150/331 of 33 pixels are 15.
    right = changed("translate_x", -1.0, x)
    assert (right[:, 15:] == old[:, :-15]).all() and (right[:, :15] == GREY).all()
    up = changed("translate_y", 1.0, x)
    assert (up[:-15] == old[15:]).all() and (up[-15:] == GREY).all()
    assert (changed("rotate", 3.0, x) == np.rot90(old)).all()  # 90 degrees
    # Shear keeps row y, shifted by 0.3 y.
    sheared = changed("shear_x", 1.0, x)
    for row in (0, 10, 20):
        shift = int(0.3 * (row + 0.5) + 0.5)
        part = sheared[row, : 33 - shift - 1]
        assert (part == old[row, shift:32]).all(), row
    low = (x // 4 + 60).astype(np.uint8)
    stretched = changed("autocontrast", 0.0, low)
    assert (stretched.min((0, 1)), stretched.max((0, 1))) == (
        pytest.approx(0),
        pytest.approx(255),
    )
    flat = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2)
    even = np.repeat(flat, 4, 1)
    assert np.abs(changed("equalize", 0.0, even) - even).max() <= 1
    grey = old @ [0.299, 0.587, 0.114]
    assert np.abs(changed("color", -1 / 0.9, x) - grey[..., None]).max() <= 1
    assert np.abs(changed("contrast", -1 / 0.9, x) - grey.mean()).max() <= 1


@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"autocontrast", "equalize"}))
def test_nothing_is_changed_at_magnitude_0(name):
    for x in (pixels_of(), pixels_of()[..., 0]):
        assert (changed(name, 0.0, x) == x).all()


def test_each_change_is_as_likely_and_has_either_sign(monkeypatch):
    asked = []
    for name in CHANGES:
        monkeypatch.setitem(
            CHANGES, name, lambda p, m, name=name: asked.append((name, m)) or p
        )
    images = RNG(0).integers(0, 256, (7000, 1, 4, 4), np.uint8)
    out = rand_augment(images, RNG(1), count=2, magnitude=5)
    assert (out == images).all() and out is not images
    assert {m for _, m in asked} == {-0.5, 0.5}
    counts = np.array([sum(n == name for n, _ in asked) for name in CHANGES])
    # Multinomial: chi squared with 13 degrees of freedom is below 40 but for 1 in 7000.
    assert counts.sum() == 14000 and ((counts - 1000) ** 2 / 1000).sum() < 40
    positive = sum(m > 0 for _, m in asked)
    assert abs(positive - 7000) < 5 * np.sqrt(14000) / 2


def test_a_square_is_cut_out_around_a_random_pixel():
    images = np.ones((3000, 2, 9, 9), np.float32)
    cut_out(images, RNG(0), 4)
    gone = images[:, 0] == 0
    assert (gone == (images[:, 1] == 0)).all()
    centres = set()
    for each in gone:
        rows, columns = np.flatnonzero(each.any(1)), np.flatnonzero(each.any(0))
        assert each.sum() == len(rows) * len(columns) and len(rows) <= 4
        assert (np.diff(rows) == 1).all() and (np.diff(columns) == 1).all()
        centres.add((rows[0], rows[-1], columns[0], columns[-1]))
    assert len(centres) == 81  # one for each pixel
    naive = np.zeros((9, 9))
    for y in range(9):
        for x in range(9):
            naive[max(y - 2, 0) : y + 2, max(x - 2, 0) : x + 2] += 1 / 81
    assert np.abs(gone.mean(0) - naive).max() < 5 * 0.5 / np.sqrt(3000)


def test_images_and_labels_are_blended_alike():
    images = np.zeros((6, 1, 1, 6), np.float32)
    images[np.arange(6), 0, 0, np.arange(6)] = 1
    weights = []
    for seed in range(2000):
        mixed, labels = mixup(images, np.arange(6), RNG(seed), 0.4)
        wanted = np.zeros((6, 6))
        for i in range(6):
            wanted[i, labels.first[i]] += labels.weight
            wanted[i, labels.second[i]] += 1 - labels.weight
        np.testing.assert_allclose(mixed[:, 0, 0], wanted, atol=1e-6)
        weights.append(labels.weight)
        part = labels.first if labels.weight >= 0.5 else labels.second
        assert (labels.greater == part).all() and len(labels) == 6
    # Beta(α, α): mean ½ and variance 1 / (4 (2α + 1)), here 0.139.
    assert abs(np.mean(weights) - 0.5) < 5 * np.sqrt(0.139 / 2000)
    assert np.var(weights) == pytest.approx(1 / 4 / 1.8, rel=0.1)
    assert mixed.dtype == np.float32


def test_the_loss_of_blended_images_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    logits = RNG(0).normal(size=(5, 4))
    first, second = RNG(1).integers(0, 4, (2, 5))
    for smoothing in (0.0, 0.1):
        loss = criterion(
            Tensor(logits), Mixed(first, second, 0.3), label_smoothing=smoothing
        )
        soft = 0.3 * np.eye(4)[first] + 0.7 * np.eye(4)[second]
        theirs = torch.nn.functional.cross_entropy(
            torch.tensor(logits), torch.tensor(soft), label_smoothing=smoothing
        )
        assert float(loss.data) == pytest.approx(theirs.item(), rel=1e-13)


def test_each_purpose_has_random_numbers_of_its_own():
    """Those of a batch and of an image in a folder are counted alike."""
    purposes = [picture.AUGMENT, loader._ORDER, loader._CROP, loader._CHANGE]
    purposes += [loader._CUT, loader._MIX]
    assert len(set(purposes)) == len(purposes) == 6


def test_what_one_draws_does_not_shift_the_others():
    data = make_shapes("train", limit=40)

    def batch(k=1, start=1, **options):
        served = Loader(data, 10, augment=True, more=Augmentation(**options))
        return next(iter(served.epoch(k, start=start)))

    plain, _ = batch()
    cut, _ = batch(cutout=8)
    hole = cut == 0
    assert (cut[~hole] == plain[~hole]).all() and hole.any()
    both, labels = batch(cutout=8, mixup=1.0)
    _, same = batch(mixup=1.0)
    assert labels.weight == same.weight and (labels.second == same.second).all()
    order = [int(np.flatnonzero((cut == x).all((1, 2, 3)))[0]) for x in cut]
    assert order == list(range(10))
    again, _ = batch(cutout=8, mixup=1.0)
    assert (again == both).all() and (batch(k=2, cutout=8)[0] != cut).any()
    random, _ = batch(changes=2)
    assert (random != plain).any() and random.shape == plain.shape
