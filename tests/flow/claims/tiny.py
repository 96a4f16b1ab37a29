"""The small networks on which the tests judge the claims, measured once."""

import functools

import numpy as np

import models
from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.setup import Setup

TINY = Setup(
    plain=("plain20",),
    vgg=(),
    residual=("resnet20",),
    se=("se_resnet20",),
    dense=("densenet121",),
    paths=("resnet20",),
    deep=("resnet20",),
    four=(),
    shrunk=("plain20",),
    tables=(),
    path_batch=2,
    samples=1,
    exact_batch=4,
    shrink_at=(0.5, 1.0),
)


def batch(size=4, dtype="float32"):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((size, 3, 32, 32)).astype(dtype)
    return images, rng.integers(0, 10, size)


@functools.cache
def tiny_bench():
    """One seed, four images; whoever looks first pays for all."""
    images, labels = batch()
    return Bench(images, labels, (0,), find=models.find, setup=TINY)
