"""The engine that rounds as tensor cores do, against float64 and against PyTorch."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from benchmarks.rounded import Rounded, rounded
from tinyflow import Tape, Tensor, ops
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.kernels.geometry import Conv


@given(
    st.floats(width=32, min_value=-(2.0**100), max_value=2.0**100), st.integers(1, 23)
)
def test_rounding_is_to_the_nearest_and_ties_to_even(x: float, bits: int) -> None:
    found = float(rounded(np.array([x], "f4"), bits)[0])
    if abs(x) < 2.0**-100:
        return
    _, exponent = math.frexp(x)
    unit = math.ldexp(1.0, exponent - 1 - bits)
    assert found == round(x / unit) * unit  # Python's round: ties to even


def gradients(run: object) -> dict[str, np.ndarray]:
    model = models.build_model("resnet20", image_size=16)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((8, 3, 16, 16)), rng.integers(0, 10, 8)
    with forced(run), Tape(fuse=True) as tape:
        loss = ops.cross_entropy(model(Tensor(images.astype("f4"))), labels)
    tape.backward(loss)
    return {name: p.grad for name, p in model.named_parameters()}


def coarse(x: np.ndarray, bits: int) -> np.ndarray:
    """The same rounding in float64."""
    _, exponent = np.frexp(x.astype("f8"))
    unit = np.ldexp(1.0, exponent - 1 - bits)
    return (np.round(x / unit) * unit).astype("f4")


ONE = Conv((1, 1), (1, 1, 1, 1), (1, 1), 1)
PRODUCTS = {  # operands, and what follows them
    "conv2d": ((2, 3, 6, 6), (4, 3, 3, 3), (ONE,)),
    "conv2d_input_grad": ((2, 4, 6, 6), (4, 3, 3, 3), ((2, 3, 6, 6), ONE)),
    "conv2d_weight_grad": ((2, 4, 6, 6), (2, 3, 6, 6), ((4, 3, 3, 3), ONE)),
    "linear": ((5, 3), (4, 3), ()),
    "linear_input_grad": ((5, 4), (4, 3), ()),
    "linear_weight_grad": ((5, 4), (5, 3), ()),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_both_operands_of_every_product_are_rounded(name: str) -> None:
    *shapes, rest = PRODUCTS[name]
    a, b = (
        np.random.default_rng(i).standard_normal(s, dtype="f4")
        for i, s in enumerate(shapes)
    )
    wanted = getattr(PLAIN, name)(coarse(a, 10), coarse(b, 10), *rest)
    np.testing.assert_array_equal(getattr(Rounded(), name)(a, b, *rest), wanted)
    assert not np.array_equal(getattr(PLAIN, name)(a, b, *rest), wanted)


def test_all_bits_change_nothing() -> None:
    whole, plain = gradients(Rounded(23)), gradients(PLAIN)
    for name, g in plain.items():
        np.testing.assert_array_equal(whole[name], g, err_msg=name)
