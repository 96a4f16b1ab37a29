"""Pictures as a network sees them, and what it takes them for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models
from tests.train.small import place as place
from tinyflow import Tensor
from tinyflow.data import DataError, load_dataset
from tinyflow.data.crops import centre_crop, short_side
from tinyflow.data.sources import CIFAR10, MNIST
from tinyflow.train.checkpoint import CheckpointError, Metadata
from tinyflow.train.prediction import likeliest, pixels, probabilities
from tinyflow.train.trained import Trained

DATA = load_dataset("shapes", None, "test", limit=20)
TOLD = Metadata(
    "tiny", 10, 32, 3, "shapes", 0, 1, 0.5, DATA.classes, DATA.mean, DATA.std
)


def trained(told: Metadata = TOLD) -> Trained:
    model = models.build_model("tiny", in_channels=told.in_channels, seed=1)
    return Trained(Path("run"), model, told, {})


def test_an_image_of_the_networks_size_is_seen_as_it_is(place: Path) -> None:
    array = DATA.images[3]
    Image.fromarray(array.transpose(1, 2, 0)).save("a.png")
    assert (pixels(Path("a.png"), TOLD) == array).all()


def test_the_shorter_side_is_fitted_and_the_middle_kept(place: Path) -> None:
    """Blocks of 2x2 equal pixels, half as large, are the pixels themselves inside."""
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, :64], wide[:, 64:128], wide[:, 128:] = 10, 200, 90
    Image.fromarray(wide).save("wide.png")
    assert (pixels(Path("wide.png"), TOLD)[:, :, 2:-2] == 200).all()
    Image.fromarray(wide.transpose(1, 0, 2)).save("tall.png")
    assert (pixels(Path("tall.png"), TOLD)[:, 2:-2] == 200).all()


def test_what_learned_from_files_sees_what_its_test_images_were(place: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)
    Image.fromarray(noise).save("a.png")
    with Image.open("a.png") as image:
        for dataset, short in (("folder", short_side(32)), ("cifar10", 32)):
            cut = np.asarray(centre_crop(image, 32, short)).transpose(2, 0, 1)
            found = pixels(Path("a.png"), replace(TOLD, dataset=dataset))
            assert (found == cut).all()
    assert short_side(32) > 32


def test_grey_networks_are_given_grey(place: Path) -> None:
    told = replace(TOLD, in_channels=1, mean=(0.5,), std=(0.5,))
    Image.new("RGB", (40, 40), (255, 0, 0)).save("red.png")
    found = pixels(Path("red.png"), told)
    assert found.shape == (1, 32, 32)
    assert (found == round(0.299 * 255)).all()
    assert probabilities(trained(told), told, found[None]).shape == (1, 10)


def test_an_image_that_a_camera_turned(place: Path) -> None:
    array = DATA.images[5].transpose(1, 2, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is on the right: turn it by 90 degrees clockwise
    turned = np.rot90(array, 1)  # counterclockwise
    Image.fromarray(np.ascontiguousarray(turned)).save("a.png", exif=exif)
    assert (pixels(Path("a.png"), TOLD) == DATA.images[5]).all()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(place: Path, content: bytes) -> None:
    Path("bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png"):
        pixels(Path("bad.png"), TOLD)


def test_probabilities_against_a_loop() -> None:
    net = trained()
    net.model.train()
    found = probabilities(net, TOLD, DATA.images)
    assert net.model.training
    net.model.eval()
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (DATA.mean, DATA.std))
    for image, chances in zip(DATA.images, found, strict=True):
        x = ((image / 255 - mean) / std).astype(np.float32)
        row = [float(v) for v in net.model(Tensor(x[None])).data[0]]
        total = sum(math.exp(v) for v in row)
        assert chances == pytest.approx([math.exp(v) / total for v in row], rel=1e-5)
    assert found.sum(1) == pytest.approx(np.ones(20), abs=1e-12)


def test_an_output_that_is_no_number_is_no_answer() -> None:
    net = trained()
    state = {k: v.copy() for k, v in net.model.state_dict().items()}
    state["fc.weight"][...] = 3e38
    net.model.load_state_dict(state)
    with pytest.raises(FloatingPointError, match="not finite"):
        probabilities(net, TOLD, DATA.images[:1])


def test_the_likeliest_come_first_and_of_equal_ones_the_lower_number() -> None:
    told = replace(TOLD, num_classes=4, classes=("a", "b", "c", "d"))
    chances = np.array([0.25, 0.3, 0.3, 0.15])
    assert likeliest(told, chances, 3) == [("b", 0.3), ("c", 0.3), ("a", 0.25)]
    assert len(likeliest(told, chances, 9)) == 4


@pytest.mark.parametrize("source", [CIFAR10, MNIST], ids=lambda s: s.name)
def test_a_file_that_says_no_classes_has_those_of_its_data_set(source) -> None:
    bare = replace(TOLD, dataset=source.name, classes=None, mean=None, std=None)
    known = trained(bare).known()
    assert (known.classes, known.mean) == (source.classes, source.mean)
    assert known.std == source.std
    half = replace(bare, mean=(0.1, 0.2, 0.3))
    assert trained(half).known().mean == (0.1, 0.2, 0.3)
    shapes = replace(bare, dataset="shapes")
    assert trained(shapes).known() == TOLD
    with pytest.raises(CheckpointError, match="does not say its classes, mean, std"):
        trained(replace(bare, dataset="folder")).known()
