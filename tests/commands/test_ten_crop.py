"""train.py evaluate --ten-crop, against a loop over files, crops and pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

import models
from tests.data.pictures import file_bytes, load_small, photo, write_folder
from tests.train.small import SMALL, run, write_mnist
from tests.train.small import place as place
from tinyflow import Tensor, nn
from tinyflow.data import Loader, crops, folder, picture
from tinyflow.train import load_checkpoint, train
from tinyflow.train.evaluation import examine

SIZE, SHORT = 16, 18
CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")
ODD = ((11, 150), (150, 11), (18, 18), (19, 37), (1, 1))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of many sizes; no test changes them."""
    root = write_folder(tmp_path_factory.mktemp("images"), 4, 4, CLASSES)
    for number, size in enumerate(ODD):
        content = file_bytes(Image.fromarray(photo(*size, number)), "PNG")
        (root / "val" / CLASSES[number] / "odd.png").write_bytes(content)
    return root


@pytest.fixture
def trained(images: Path, place: Path) -> Path:
    config = replace(
        SMALL, dataset="folder", data_dir=images, image_size=SIZE, batch_size=7,
        limit_train=None, limit_test=None, workers=0, epochs=3, output=place / "out",
    )  # fmt: skip
    train(config)
    return place / "out"


def cropped(path: Path) -> list[NDArray[np.uint8]]:
    """The ten crops of a file, by Pillow alone."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    scale = SHORT / min(width, height)
    new = [SHORT if s == min(width, height) else int(s * scale + 1e-9) for s in
           (width, height)]  # fmt: skip
    image = image.resize((new[0], new[1]), Image.Resampling.BILINEAR)
    right, down = new[0] - SIZE, new[1] - SIZE
    middle = round(right / 2), round(down / 2)
    found = []
    for x, y in ((0, 0), (right, 0), (0, down), (right, down), middle):
        window = image.crop((x, y, x + SIZE, y + SIZE))
        found += [np.asarray(window), np.asarray(ImageOps.mirror(window))]
    return found


def expected(run_folder: Path, root: Path) -> dict[str, Any]:
    """Every number, image by image and crop by crop, in float64."""
    model, told = load_checkpoint(run_folder, models.find)
    loss, right, in_top, count = 0.0, 0, 0, 0
    confusion = [[0] * len(CLASSES) for _ in CLASSES]
    for label, name in enumerate(CLASSES):
        for path in sorted((root / "val" / name).iterdir()):
            mean = [0.0] * len(CLASSES)
            for pixels in cropped(path):
                x = (pixels / 255 - told.mean) / told.std
                (row,) = model(Tensor(np.float32(x.transpose(2, 0, 1))[None])).data
                raised = [math.exp(float(v)) for v in row]
                for k, value in enumerate(raised):
                    mean[k] += value / sum(raised) / 10
            order = sorted(range(len(mean)), key=lambda k: -mean[k])
            loss, count = loss - math.log(mean[label]), count + 1
            confusion[label][order[0]] += 1
            right, in_top = right + (order[0] == label), in_top + (label in order[:5])
    return {
        "images": count,
        "loss": pytest.approx(loss / count, rel=1e-5),
        "top1": right / count,
        "top5": in_top / count,
        "confusion": confusion,
    }


def told(arguments: str = "") -> dict[str, Any]:
    result = run(f"evaluate out --ten-crop {arguments}")
    assert result.exit_code == 0, result.output
    written = json.loads(Path("out/evaluation.json").read_text())
    lines = result.stdout.splitlines()
    assert any(line.endswith("test images of folder, ten crops each") for line in lines)
    assert f"loss {written['loss']:.4f} nats" in result.stdout
    assert f"that loss is the {written['loss_is']}" in lines
    assert "mean over ten crops" in written["loss_is"] and written["ten_crop"] is True
    return written


@pytest.mark.parametrize("size", [1, 5, 128])
def test_every_number_against_a_loop(trained: Path, images: Path, size: int) -> None:
    found, want = told(f"--batch-size {size}"), expected(trained, images)
    assert {name: found[name] for name in want} == want
    assert found["images"] == 7 * 4 + len(ODD)
    for kind, row in zip(found["classes"], want["confusion"], strict=True):
        label = CLASSES.index(kind["name"])
        assert (kind["images"], kind["accuracy"]) == (sum(row), row[label] / sum(row))
    assert run("evaluate out").exit_code == 0
    single = json.loads(Path("out/evaluation.json").read_text())
    assert single["ten_crop"] is False and "ten" not in single["loss_is"]
    assert abs(single["loss"] - found["loss"]) > 1e-4


def no_mirror(images: NDArray[Any], size: int) -> NDArray[Any]:
    found = crops.ten_crop(images, size)
    return np.concatenate([found[:, :5]] * 2, axis=1)


def a_corner_twice(images: NDArray[Any], size: int) -> NDArray[Any]:
    return crops.ten_crop(images, size)[:, [0, 1, 2, 2, 4, 5, 6, 7, 7, 9]]


def of_the_square(images: NDArray[Any], size: int) -> NDArray[Any]:
    top, left = ((side - SHORT) // 2 for side in images.shape[2:])
    square = images[..., top : top + SHORT, left : left + SHORT]
    return crops.ten_crop(square, size)


@pytest.mark.parametrize("wrong", [no_mirror, a_corner_twice, of_the_square])
def test_what_is_wrong_is_seen(
    trained: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: Callable[..., NDArray[Any]],
) -> None:
    monkeypatch.setattr(folder, "default_workers", lambda: 0)
    want = expected(trained, images)["loss"]
    assert told()["loss"] == want
    monkeypatch.setattr(picture, "ten_crop", wrong)
    assert told()["loss"] != want


class Seen(nn.Module):
    """A network that notes what it is given; its logits are 60 times a pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.last = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(x.shape)
        logits = 60 * np.float64(x.data[:, 0, 0, :3])
        logits[:, 2] += self.last
        return Tensor(logits)


def test_the_network_sees_one_crop_of_each_at_a_time(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images")
    for workers in (0, 2):
        data = replace(load_small(root, "test", workers=workers), ten=True)
        model = Seen()
        examine(model, Loader(data, 4, shuffle=False))
        sizes = [4] * 20 + [1] * 10
        assert model.shapes == [(n, 3, SIZE, SIZE) for n in sizes]
    assert data[0][0].shape == (10, 3, SIZE, SIZE)


def test_a_class_without_probability_has_a_finite_loss(tmp_path: Path) -> None:
    """-log of e^-5000, which is 0 in any number, is 5000."""
    data = load_small(write_folder(tmp_path / "images"), "test")
    data = replace(data[data.labels == 0], ten=True)
    model = Seen()
    model.last = 5000.0
    found = examine(model, Loader(data, 4, shuffle=False))
    assert 4000 < found.loss < 6000 and found.top1 == 0
    model.last = -np.inf
    with pytest.raises(FloatingPointError, match="not finite in batch 1"):
        examine(model, Loader(data, 4, shuffle=False))


def test_images_of_the_networks_size_have_nothing_to_crop(place: Path) -> None:
    write_mnist(place / "mnist")
    few = {"limit_train": None, "limit_test": None, "batch_size": 8}
    of_mnist = {"dataset": "mnist", "data_dir": place / "mnist", **few}
    for side, how in ((32, {}), (28, of_mnist)):
        train(replace(SMALL, **how, output=place / f"of{side}"))
        result = run(f"evaluate of{side} --ten-crop")
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        assert (
            f"have the network's {side}x{side} pixels already, so that there is nothing"
        ) in result.stderr
        assert not (place / f"of{side}" / "evaluation.json").exists()


def test_a_broken_file_is_named(trained: Path, images: Path, place: Path) -> None:
    for path in (images / "val").rglob("*.*"):
        copy = place / "bad" / path.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for name in CLASSES:
        (place / "bad" / "train" / name).mkdir(parents=True)
    (place / "bad" / "val" / "fox" / "001.jpg").write_bytes(b"no image")
    result = run("evaluate out --ten-crop --data-dir bad")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "fox/001.jpg is no image" in result.stderr
