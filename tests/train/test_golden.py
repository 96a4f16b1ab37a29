"""What a training run does and writes, against PyTorch and against the papers."""

import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import models
from tinyflow import nn
from tinyflow.data import Loader, load_dataset
from tinyflow.kernels.native.library import load
from tinyflow.reading import Unreadable
from tinyflow.tensorfile import TensorFile
from tinyflow.train import EpochRow, Result, TrainConfig, load_checkpoint, loop, train
from tinyflow.train.checkpoint import CheckpointError, _Weights
from tinyflow.train.checks import ConfigError
from tinyflow.train.loop import TrainError
from tinyflow.train.schedules import Schedule, cosine, multi_step, warm_up
from tinyflow.train.step import evaluate


def build(*, num_classes, image_size, in_channels, rng):
    side = image_size // 4
    return nn.Sequential(
        conv=nn.Conv2d(in_channels, 6, 4, stride=4, rng=rng),
        bn=nn.BatchNorm2d(6),
        relu=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(6 * side * side, num_classes, rng=rng),
    )


LITTLE = models.Network("little", build, 32, 0.05)
CONFIG = TrainConfig(
    LITTLE,
    epochs=3,
    batch_size=20,
    limit_train=50,
    limit_test=33,
    weight_decay=1e-3,
    label_smoothing=0.1,
    warmup_epochs=1.5,
    clip_grad=0.5,
    device="cpu",
)


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.setitem(models.MODELS, "little", LITTLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYFLOW_DATA", raising=False)
    return tmp_path


# --- against PyTorch ------------------------------------------------------------------


class Peer:
    """The little network and its training in PyTorch."""

    def __init__(self, config):
        self.torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
        model = models.build_model("little", seed=config.seed)
        self.p = {
            n: self.torch.tensor(np.ascontiguousarray(a))
            for n, a in model.state_dict().items()
        }
        self.trained = [self.p[n].requires_grad_() for n, _ in model.named_parameters()]

    def logits(self, images, training):
        F, p = self.torch.nn.functional, self.p
        x = self.torch.tensor(np.ascontiguousarray(images))
        x = F.conv2d(x, p["conv.weight"], p["conv.bias"], stride=4)
        stats = (p["bn.running_mean"], p["bn.running_var"])
        x = F.batch_norm(x, *stats, p["bn.weight"], p["bn.bias"], training=training)
        return F.linear(F.relu(x).flatten(1), p["fc.weight"], p["fc.bias"])

    def loss(self, logits, labels, smoothing=0.0, reduction="mean"):
        return self.torch.nn.functional.cross_entropy(
            logits,
            self.torch.tensor(labels).long(),
            label_smoothing=smoothing,
            reduction=reduction,
        )


def rate(t, steps, warmup):
    """Linear warm-up, then half a cosine down to 0."""
    if t < warmup:
        return (t + 1) / warmup
    return (1 + math.cos(math.pi * (t - warmup) / (steps - warmup))) / 2


def test_every_number_of_a_run(place):
    peer = Peer(CONFIG)
    torch = peer.torch
    result = train(replace(CONFIG, output=place / "out"))
    steps, warmup, t = 3, 4, 0  # batches of 20, 20, 10; 1.5 epochs of 3 steps
    optimizer = torch.optim.SGD(peer.trained, 0.05, momentum=0.9, weight_decay=1e-3)
    data = load_dataset("shapes", split="train", seed=0, limit=50)
    loader = Loader(data, 20, seed=0)
    test = load_dataset("shapes", split="test", seed=0, limit=33)
    for epoch, row in enumerate(result.rows):
        total = right = size = 0.0
        for images, labels in loader.epoch(epoch):
            optimizer.param_groups[0]["lr"] = 0.05 * rate(t, 3 * steps, warmup)
            optimizer.zero_grad()
            logits = peer.logits(images, True)
            loss = peer.loss(logits, labels, 0.1)
            loss.backward()
            size += float(torch.nn.utils.clip_grad_norm_(peer.trained, 0.5))
            optimizer.step()
            total += float(loss.detach()) * len(labels)
            right += int((logits.argmax(1).numpy() == labels).sum())
            t += 1
        (batch,) = Loader(test, 33, shuffle=False).epoch(0)
        logits = peer.logits(batch[0], False)
        expected = {
            "epoch": epoch + 1,
            "train_loss": total / 50,
            "train_accuracy": right / 50,
            "test_loss": float(peer.loss(logits, batch[1]).detach()),
            "test_accuracy": float((logits.argmax(1).numpy() == batch[1]).mean()),
            "lr": 0.05 * rate(t - 1, 3 * steps, warmup),
            "grad_norm": size / 3,
        }
        found = asdict(row)
        for name, value in expected.items():
            assert found.pop(name) == pytest.approx(value, rel=2e-4, abs=1e-9), name
        assert set(found) == {"val_loss", "val_accuracy"}
    weights = load_checkpoint(place / "out", models.find)[0].state_dict()
    for name, p in peer.p.items():
        theirs = p.detach().numpy()
        np.testing.assert_allclose(weights[name], theirs, rtol=1e-3, atol=1e-5)
    with (place / "out" / "metrics.csv").open(newline="") as file:
        for line, row in zip(csv.DictReader(file), result.rows, strict=True):
            assert {k: float(v) for k, v in line.items()} == pytest.approx(
                asdict(row), rel=1e-5, nan_ok=True
            )


def test_evaluation_is_the_mean_over_images_whatever_the_batches(place):
    peer = Peer(CONFIG)
    model = models.build_model("little")
    data = load_dataset("shapes", split="test", seed=0, limit=33)
    (batch,) = Loader(data, 33, shuffle=False).epoch(0)
    logits = peer.logits(batch[0], False)
    loss = float(peer.loss(logits, batch[1]).detach())
    right = float((logits.argmax(1).numpy() == batch[1]).mean())
    for size in (1, 10, 32, 33):
        found = evaluate(model, Loader(data, size, shuffle=False))
        assert found == pytest.approx((loss, right), rel=1e-5)


def test_evaluation_of_known_logits_without_pytorch():
    """Logits that a bias alone decides: cross-entropy and accuracy by hand."""
    model = models.build_model("little", seed=None)
    bias = np.linspace(-1, 1, 10)
    dict(model.named_parameters())["fc.bias"].data[:] = bias
    data = load_dataset("shapes", split="test", seed=0, limit=33)
    loss, accuracy = evaluate(model, Loader(data, 10, shuffle=False))
    logs = bias - np.log(np.exp(bias).sum())
    assert loss == pytest.approx(-logs[data.labels].mean(), rel=1e-5)
    assert accuracy == (data.labels == 9).mean()


# --- schedules ------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 1, 2, 5])
def test_schedules_step_by_step(warmup):
    ramp = [(t + 1) / warmup for t in range(warmup)]
    steady = warm_up(warmup)
    fall = Schedule(steady, cosine(10, warmup))
    drop = Schedule(steady, multi_step([8, 6], 0.1))
    for t in range(12):
        up = ramp[t] if t < warmup else 1.0
        assert steady(t) == up
        factor = 0.01 if t >= 8 else 0.1 if t >= 6 else 1.0
        assert drop(t) == pytest.approx(up * factor)
        half = (1 + math.cos(math.pi * (t - warmup) / (10 - warmup))) / 2
        expected = up if t < warmup else half if t < 10 else 0.0
        assert fall(t) == pytest.approx(expected, abs=1e-15)
    assert cosine(3, 3)(3) == 1.0 and cosine(3, 3)(4) == 0.0


def test_warm_up_begins_at_the_first_step_of_a_run():
    """One step per epoch shows every step's rate."""
    config = replace(CONFIG, limit_train=20, epochs=4, warmup_epochs=2)
    rates = [row.lr for row in train(config).rows]
    assert rates == pytest.approx([0.025, 0.05, 0.05, 0.025])


# --- what is written ------------------------------------------------------------------


def test_config_json_holds_every_option_as_given(place):
    given = {"data_dir": Path("some/data"), "output": place / "a" / "b"}
    for folders in (given, {"data_dir": None, "output": None}):
        config = replace(CONFIG, epochs=2, **folders)
        folder = train(config).folder
        facts = json.loads((folder / "config.json").read_text("utf-8"))
        resolved = facts.pop("resolved")
        text = {k: None if v is None else str(v) for k, v in folders.items()}
        text |= {"milestones": [0.5, 0.75], "betas": [0.9, 0.999]}
        assert facts == asdict(config) | text | {"model": "little"}
        expected = {
            "model": "little",
            "model_sha256": None,
            "parameters": 6 * 48 + 6 + 12 + 6 * 64 * 10 + 10,
            "num_classes": 10,
            "image_size": 32,
            "in_channels": 3,
            "train_images": 50,
            "val_images": 0,
            "test_images": 33,
            "data_seed": 0,
            "optimizer": "sgd",
            "lr": 0.05,
            "weight_decay": 1e-3,
            "steps_per_epoch": 3,
            "steps": 6,
            "device": "cpu",
            "kernels": load()[1],
            "dtype": "float32",
            "precision": "float32",
            "numpy": np.__version__,
            "cupy": None,
        }
        assert resolved | expected == resolved


def test_the_best_epoch_is_the_first_of_the_highest_accuracy():
    row = EpochRow(1, 2.0, 0.2, 2.1, 0.3, 2.2, 0.9, 0.1, 1.0)
    accuracies = (0.3, 0.5, 0.4, 0.5, 0.1)
    rows = [
        replace(row, epoch=i, val_accuracy=a, test_accuracy=1 - a)
        for i, a in enumerate(accuracies, 1)
    ]
    result = Result(None, rows)
    assert result.best.epoch == 2 and result.last.epoch == 5
    unjudged = [replace(row, val_accuracy=math.nan) for row in rows]
    assert Result(None, unjudged).best is None


def test_a_full_disk_while_curves_are_drawn_ends_the_run(place, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", "curves.png")

    monkeypatch.setattr(loop.Loop, "_draw", full)
    with pytest.raises(TrainError, match=r"curves.png cannot be written .*epoch 3 .*"):
        train(replace(CONFIG, output=place / "out"))
    assert load_checkpoint(place / "out", models.find)[1].epoch == 3


# --- borders ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "inside", "outside"),
    [
        ("lr", (1e-9, 1e9), (0.0, -1.0)),
        ("clip_grad", (1e-9, None), (0.0,)),
        ("weight_decay", (0.0, 5.0), (-1e-9,)),
        ("momentum", (0.0, 0.999), (-1e-9, 1.0)),
        ("label_smoothing", (0.0, 0.999), (-1e-9, 1.0)),
        ("warmup_epochs", (0.0, 2.999), (-1e-9, 3.0)),
        ("epochs", (2,), (0, 1)),
        ("batch_size", (1,), (0,)),
        ("trace_every", (1, None), (0,)),
        ("limit_test", (1, None), (0,)),
        ("seed", (0,), (-1,)),
    ],
)
def test_options_on_both_sides_of_their_borders(option, inside, outside):
    for value in inside:
        replace(CONFIG, **{option: value}).validate()
    for value in outside:
        with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')}"):
            replace(CONFIG, **{option: value}).validate()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("momentum", 1.0, "a finite number, 0 or more and below 1, not 1.0"),
        ("lr", 0.0, "a finite number, above 0, not 0.0"),
        ("weight_decay", -1.0, "a finite number, 0 or more, not -1.0"),
    ],
)
def test_a_refusal_says_the_borders(option, value, words):
    with pytest.raises(ConfigError) as found:
        replace(CONFIG, **{option: value}).validate()
    assert str(found.value) == f"--{option.replace('_', '-')} must be {words}"


def test_weights_to_be_read_may_be_as_many_as_stand_in_the_file():
    zeros = _Weights(np.random.PCG64(0))
    zeros.left = 6
    assert not zeros.standard_normal((2, 3)).any()
    with pytest.raises(ValueError, match="more weights than the file holds"):
        zeros.standard_normal((1,))


# --- initial weights ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg11_bn"])
def test_vggs_weights_are_he_normal_by_fan_in(name):
    """N(0, 2 / fan-in) (He et al. 2015, Eq. 10); the last N(0, 0.01²); no bias."""
    model = models.build_model(name, seed=1)
    layers = {
        path: m
        for path, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    }
    assert len(layers) == int(name[3:5])
    for path, layer in layers.items():
        w = layer.weight.data[:512].astype(float)
        std = math.sqrt(2 / math.prod(w.shape[1:])) if path != "classifier.6" else 0.01
        z, n = w.ravel() / std, w.size
        assert abs(z.mean()) < 5 / math.sqrt(n), path
        assert z.std() == pytest.approx(1, abs=5 / math.sqrt(2 * n)), path
        assert (z**4).mean() == pytest.approx(3, abs=5 * math.sqrt(96 / n)), path
        assert not layer.bias.data.any()


def test_weights_that_cannot_be_read_are_no_network(place, monkeypatch):
    def unreadable(file, name):
        raise Unreadable(f"{name} cannot be read")

    folder = train(replace(CONFIG, epochs=2)).folder
    monkeypatch.setattr(TensorFile, "read", unreadable)
    with pytest.raises(CheckpointError, match="bias cannot be read"):
        load_checkpoint(folder, models.find)
