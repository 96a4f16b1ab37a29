"""Small networks of each family learn 60 shapes by heart."""

import numpy as np
import pytest

from tests.models.families import FAMILIES
from tinyflow.data.shapes import make_shapes
from tinyflow.network import Network
from tinyflow.optim import SGD
from tinyflow.train.step import train_step


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_of_a_family_falls(name):
    small, shapes = FAMILIES[name], make_shapes(limit=60)
    every = 1 if small.size > 16 else 2
    model = Network(name, small.make).build(image_size=32 // every)
    rule = SGD(model.named_parameters(), lr=small.lr, momentum=0.9)
    images = (shapes.images[:, :, ::every, ::every].astype(np.float32) - 128) / 64
    parts = [slice(i, i + 20) for i in (0, 20, 40)]
    losses = [
        [train_step(model, images[p], shapes.labels[p], rule).loss for p in parts]
        for _ in range(small.epochs)
    ]
    first, last = np.mean(losses[0]), np.mean(losses[-1])
    assert last < 0.8 * first and last < np.log(10), losses
