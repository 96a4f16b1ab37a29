"""Depthwise and grouped convolution in C against naive loops in float64."""

import numpy as np
import pytest

from benchmarks import conv_reference
from tests.kernels.native.built import COMPILER
from tests.kernels.native.built import native as native
from tests.kernels.native.test_engine import near
from tests.kernels.test_windows import all_three, is_hwnc
from tinyflow.kernels.geometry import Conv
from tinyflow.kernels.layout import swap
from tinyflow.kernels.table import Engine

pytestmark = pytest.mark.skipif(not COMPILER, reason="no C compiler")
RNG = np.random.default_rng(0)


def image(*shape):
    return swap(RNG.standard_normal([shape[i] for i in (2, 3, 0, 1)], "f4"))


def slice_of(a):
    """The same values as channels 3 … of a wider map."""
    n, c, h, w = a.shape
    wide = image(n, c + 8, h, w)
    wide[:, 3 : 3 + c] = a
    return wide[:, 3 : 3 + c]


CASES = {  # samples, channels in and out, groups, size, kernel, stride, dilation
    "MobileNet, 3x3": (16, 96, 96, 96, 8, 3, 1, 1),
    "MobileNet, stride 2": (5, 24, 24, 24, 9, 3, 2, 1),
    "EfficientNet, 5x5": (4, 40, 40, 40, 7, 5, 1, 1),
    "EfficientNet, 5x5, stride 2": (3, 48, 48, 48, 8, 5, 2, 1),
    "ShuffleNet, channels left over": (8, 58, 58, 58, 7, 3, 1, 1),
    "one sample": (1, 116, 116, 116, 14, 3, 2, 1),
    "few channels, samples joined": (6, 8, 8, 8, 10, 3, 1, 1),
    "an odd number of them": (7, 3, 3, 3, 10, 3, 1, 1),
    "too few": (1, 3, 3, 3, 10, 3, 1, 1),
    "map of one pixel": (64, 32, 32, 32, 1, 3, 1, 1),
    "dilation": (2, 20, 20, 20, 9, 3, 1, 2),
    "more rows than a block of sums": (64, 16, 16, 16, 12, 3, 1, 1),
    "two outputs a channel": (3, 16, 32, 16, 6, 3, 1, 1),
    "AlexNet's two groups": (4, 96, 256, 2, 6, 5, 1, 1),
    "groups of unequal width": (2, 12, 30, 3, 7, 3, 2, 1),
    "groups, 1x1": (4, 24, 24, 3, 5, 1, 1, 1),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "slices"])
def test_groups_of_channels(native, monkeypatch, case, sliced):
    n, c, k, groups, size, kernel, stride, dilation = CASES[case]
    pad = dilation * (kernel // 2)
    how = Conv((stride,) * 2, (pad,) * 4, (dilation,) * 2, groups)
    x, w = image(n, c, size, size), image(k, c // groups, kernel, kernel)
    g = image(n, k, *how.window((kernel, kernel)).out((size, size)))
    bias = RNG.standard_normal(k).astype(np.float32)
    exact = all_three(conv_reference, *(a.astype(np.float64) for a in (x, w, g)), how)
    if sliced:
        x, g = slice_of(x), slice_of(g)
    if case != "too few":  # nothing else is left to the plain code
        for name in ("conv2d", "conv2d_input_grad", "conv2d_weight_grad"):
            monkeypatch.setattr(Engine, name, None)
    found = (
        native.conv2d(x, w, how, bias),
        native.conv2d_input_grad(g, w, x.shape, how),
        native.conv2d_weight_grad(g, x, w.shape, how),
    )
    exact = (exact[0] + bias.reshape(-1, 1, 1), *exact[1:])
    for ours, theirs in zip(found, exact, strict=True):
        near(ours, theirs, 1e-5)
        assert is_hwnc(ours)


def test_the_number_of_threads_changes_no_bit(native):
    how = Conv((1, 1), (1, 1, 1, 1), (1, 1), 48)
    x, w, g = image(16, 48, 13, 13), image(48, 1, 3, 3), image(16, 48, 13, 13)

    def all_of_them():
        return (
            native.conv2d(x, w, how),
            native.conv2d_input_grad(g, w, x.shape, how),
            native.conv2d_weight_grad(g, x, w.shape, how),
        )

    several = all_of_them()
    threads = native.library.tinyflow_threads()
    native.library.tinyflow_set_threads(1)
    try:
        alone = all_of_them()
    finally:
        native.library.tinyflow_set_threads(threads)
    for a, b in zip(several, alone, strict=True):
        np.testing.assert_array_equal(a, b)
