"""Habits of other libraries' users: each works, or one line says what to write."""

import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest

from tinyflow import Tape, Tensor, nn, ops
from tinyflow.data import Loader, load_dataset
from tinyflow.optim import SGD


def test_importing_imports_no_more_than_is_asked_for():
    code = (
        "import sys, tinyflow\n"
        "late = ['matplotlib', 'PIL', 'safetensors', 'tinyflow.flow', "
        "'tinyflow.train']\n"
        "print([name for name in late if name in sys.modules])\n"
        "tinyflow.flow.spectrum, tinyflow.train.train_step, tinyflow.data.Loader\n"
        "tinyflow.testing.check_vjp, tinyflow.optim.SGD, tinyflow.backend.asnumpy\n"
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n") == ["[]", "False", ""], done.stderr


@pytest.mark.parametrize(
    "layer",
    [
        lambda **k: nn.Conv2d(3, 8, 3, **k),
        lambda **k: nn.Linear(3, 4, **k),
        lambda **k: nn.SqueezeExcitation(8, 2, **k),
        lambda **k: nn.Dropout(0.5, **k),
        lambda **k: nn.StochasticDepth(0.5, **k),
    ],
)
def test_a_layer_without_a_generator_says_what_is_missing(layer):
    with pytest.raises(TypeError, match=r"rng is missing: .*default_rng\(0\)") as error:
        layer()
    assert "\n" not in str(error.value)
    assert not any(p.data.any() for p in layer(rng=None).parameters())
    weights = [
        p for p in layer(rng=np.random.default_rng(0)).parameters() if p.ndim > 1
    ]
    assert all(p.data.all() for p in weights)


def test_a_model_forgets_its_gradients():
    model = nn.Sequential(nn.Linear(2, 2, rng=None), nn.Linear(2, 2, rng=None))
    for p in model.parameters():
        p.grad = np.ones(p.shape, np.float32)
    model.zero_grad()
    assert [p.grad for p in model.parameters()] == [None] * 4


def test_models_and_tensors_are_copied_and_pickled():
    model = nn.Sequential(nn.Linear(2, 3, rng=np.random.default_rng(0)))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert repr(other) == repr(model)
        assert (other[0].weight == model[0].weight).all()
        assert other[0].weight.data is not model[0].weight.data


def test_a_data_set_is_indexed():
    data = load_dataset("shapes", limit=20)
    image, label = data[3]
    assert image.shape == (3, 32, 32) and image.dtype == np.uint8
    assert type(label) is int and label == data.labels[3]
    np.testing.assert_array_equal(image, data.images[3])
    last, _ = data[-1]
    np.testing.assert_array_equal(last, data.images[19])
    assert [label for _, label in data] == data.labels.tolist()
    part = data[5:9]
    assert len(part) == 4 and part.labels.tolist() == data.labels[5:9].tolist()
    assert part.classes == data.classes and part.mean == data.mean
    np.testing.assert_array_equal(data[[7, 2]].images, data.images[[7, 2]])
    rings = data[data.labels == 1]
    assert set(rings.labels) == {1} and len(rings) == (data.labels == 1).sum()
    with pytest.raises(IndexError):
        data[20]


def test_each_pass_over_a_loader_is_the_next_epoch():
    loader = Loader(load_dataset("shapes", limit=20), 8, augment=True)
    for k in range(3):
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        for (images, labels), (same, these) in zip(
            batches, loader.epoch(k), strict=True
        ):
            np.testing.assert_array_equal(images, same)
            np.testing.assert_array_equal(labels, these)
    first, later = (next(iter(loader))[1].tolist() for _ in range(2))
    assert first != later and loader.next_epoch == 5


def test_a_loop_as_in_pytorch():
    """Written by habit: its loss falls below half of what chance has."""
    rng = np.random.default_rng(0)
    data = load_dataset("shapes", limit=64)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, rng=rng), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 15 * 15, 10, rng=rng),
    )  # fmt: skip
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = Loader(data, 32)
    model.train()
    for _ in range(8):
        for images, labels in loader:
            optimizer.zero_grad()
            with Tape():
                loss = ops.cross_entropy(model(Tensor(images)), labels)
                loss.backward()
            optimizer.step()
    model.eval()
    ((images, labels),) = Loader(data, 64, shuffle=False).epoch(0)
    logits = model(Tensor(images))
    assert ops.cross_entropy(logits, labels).item() < np.log(10) / 2
    assert (logits.argmax(1) == labels).mean() > 0.9


def test_a_number_is_formatted_as_one():
    loss = Tensor(np.float32(0.125))
    assert f"{loss:.2f} {loss:8.3e}" == "0.12 1.250e-01" and f"{loss}" == repr(loss)
    assert f"{round(float(loss), 1)}" == "0.1"
    with pytest.raises(ValueError, match="only a tensor of one element is a number"):
        f"{Tensor([1.0, 2.0]):.2f}"


def test_what_a_signature_and_an_error_show_fits_on_a_line():
    assert "rng: 'Rng' = <to be given>" in str(inspect.signature(nn.Linear))
    with pytest.raises(
        TypeError, match=r"must be a Module, not a list of ReLU, Linear:"
    ):
        nn.Sequential([nn.ReLU(), nn.Linear(2, 2, rng=None)])
