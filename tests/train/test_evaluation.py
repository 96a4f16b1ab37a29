"""Evaluation: every number against a loop over the images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyflow import Tensor, nn
from tinyflow.data import Dataset, Loader, make_shapes
from tinyflow.train import evaluate
from tinyflow.train.evaluation import Evaluation, examine, ranks


def naive_rank(row: list[float], label: int) -> int:
    """By sorting: the likeliest first, of equal ones the lower number first."""
    order = sorted(range(len(row)), key=lambda j: (-row[j], j))
    return order.index(label)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4))
def test_ranks_with_ties(seed: int, classes: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, levels, (20, classes)).astype(np.float32)
    labels = rng.integers(0, classes, 20)
    found = ranks(logits, labels).tolist()
    pairs = zip(logits.tolist(), labels.tolist(), strict=True)
    assert found == [naive_rank(row, label) for row, label in pairs]
    assert [r == 0 for r in found] == (logits.argmax(1) == labels).tolist()


def test_ranks_are_those_of_topk() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((200, 30)), rng.integers(0, 30, 200)
    for k in (1, 5, 29):
        top = torch.topk(torch.tensor(logits), k).indices.numpy()
        inside = (top == labels[:, None]).any(1)
        assert ((ranks(logits, labels) < k) == inside).all()


class Table(nn.Module):
    """Logits that are written in the pixels of the first row."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.scale = Tensor(np.ones(1, np.float32), requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale)[:, 0, 0, : self.classes]


def written(classes: int, count: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 6, (count, 1, 12, 12), dtype=np.uint8)
    labels = rng.integers(0, classes, count)
    labels[labels == classes - 1] = 0  # the last class has no images
    names = tuple(f"class {i}" for i in range(classes))
    return Dataset("written", images, labels, names, (0.0,), (1 / 255,))


@pytest.mark.parametrize("batch", [1, 7, 50, 64])
def test_every_number_against_a_loop(batch: int) -> None:
    classes, data = 8, written(8, 50)
    model = Table(classes).eval()
    model.train()
    told: list[float] = []
    found = examine(model, Loader(data, batch, shuffle=False), told.append)
    assert model.training
    loss, right, in_top = 0.0, 0, 0
    confusion = [[0] * classes for _ in range(classes)]
    for image, label in zip(data.images, data.labels.tolist(), strict=True):
        row = [float(v) for v in image[0, 0, :classes]]
        loss += math.log(sum(math.exp(v) for v in row)) - row[label]
        confusion[label][row.index(max(row))] += 1
        right += row.index(max(row)) == label
        in_top += naive_rank(row, label) < 5
    assert found.confusion.tolist() == confusion
    assert (found.images, found.top1, found.top5) == (50, right / 50, in_top / 50)
    assert found.loss == pytest.approx(loss / 50, rel=1e-6)
    assert found.per_class == [
        None if not sum(row) else row[i] / sum(row) for i, row in enumerate(confusion)
    ]
    assert found.per_class[-1] is None
    assert told == [pytest.approx(i / len(told)) for i in range(1, len(told) + 1)]
    loader = Loader(data, batch, shuffle=False)
    assert evaluate(model, loader) == (found.loss, found.top1)
    told_all = found.to_json(data.classes)
    assert told_all["confusion"] == confusion
    assert told_all["classes"][1] == {
        "name": "class 1",
        "images": sum(confusion[1]),
        "accuracy": confusion[1][1] / sum(confusion[1]),
    }


def test_what_a_class_is_mistaken_for() -> None:
    confusion = np.array([[5, 1, 4], [0, 3, 0], [2, 2, 0]])
    found = Evaluation(0.0, confusion, 0)
    assert [found.mistaken(i) for i in range(3)] == [(2, 4), None, (0, 2)]


def test_five_classes_or_fewer_are_all_among_the_five() -> None:
    assert examine(Table(4), Loader(written(4, 30), 8, shuffle=False)).top5 == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_that_is_no_number_is_no_answer(value: float) -> None:
    model: Any = Table(10)
    model.scale.data[...] = value
    data = Loader(make_shapes("test", limit=4), 2, shuffle=False)
    with pytest.raises(FloatingPointError, match="not finite in batch 1"):
        examine(model, data)
