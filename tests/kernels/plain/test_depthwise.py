"""Depthwise convolution in array code against naive loops, at many and few channels."""

import numpy as np
import pytest

from benchmarks import conv_reference
from tests.kernels.test_windows import all_three, close, is_hwnc
from tinyflow.kernels.geometry import Conv
from tinyflow.kernels.layout import swap
from tinyflow.kernels.plain import conv

CASES = {  # channels, samples, size, kernel, stride, padding, dilation
    "few": (8, 3, (9, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "many": (64, 2, (9, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "5x5, stride 2": (70, 2, (10, 9), (5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
    "unequal strides and borders": (
        64,
        2,
        (8, 9),
        (3, 2),
        (2, 3),
        (0, 2, 1, 0),
        (1, 1),
    ),
    "dilation": (64, 1, (11, 9), (3, 3), (1, 2), (2, 2, 2, 2), (2, 3)),
    "taps that meet nothing": (64, 2, (2, 1), (5, 7), (1, 1), (2, 2, 3, 3), (1, 1)),
    "last columns never read": (64, 2, (8, 8), (1, 3), (3, 5), (0, 0, 0, 0), (1, 1)),
    "shared among threads": (96, 16, (16, 16), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_depthwise_convolution(case):
    c, n, size, kernel, *moves = CASES[case]
    how = Conv(*moves, groups=c)
    rng = np.random.default_rng(0)

    def image(*shape):
        return swap(rng.standard_normal([shape[i] for i in (2, 3, 0, 1)]))

    x, w = image(n, c, *size), image(c, 1, *kernel)
    g = image(n, c, *how.window(kernel).out(size))
    for ours, theirs in zip(
        all_three(conv, x, w, g, how),
        all_three(conv_reference, x, w, g, how),
        strict=True,
    ):
        close(ours, theirs, 1e-13)
        assert is_hwnc(ours)
