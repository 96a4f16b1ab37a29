"""What can be the data of a Tensor, and what is refused."""

import numpy as np
import pytest

from tinyflow import Tensor


@pytest.mark.parametrize(
    "data",
    [
        None,
        "a",
        b"ab",
        1j,
        [1j],
        object(),
        {},
        {"a": 1},
        {1, 2},
        [[1], [1, 2]],
        [None, 1.0],
        10**30,
        Tensor(1.0),
        np.array([None]),
        np.array(["a"]),
        np.zeros(2, [("a", "f4")]),
        np.zeros(2, "datetime64[s]"),
        np.ma.array([1.0, 2.0], mask=[0, 1]),
        (n for n in range(3)),
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_is_no_data_is_refused_in_one_sentence(data):
    with pytest.raises(TypeError, match=r"^Tensor: data [^\n]*$"):
        Tensor(data)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (np.float32(3), "float32"),
        (np.float64(3), "float64"),
        (np.int8(3), "int8"),
        (np.True_, "bool"),
        (True, "bool"),
        (3, "int64"),
        (3.0, "float64"),
        ([[1, 2], [3, 4]], "int64"),
        ((1.0, 2.0), "float64"),
        (range(3), "int64"),
        (memoryview(b"abc"), "uint8"),
        ([np.float32(1), np.float32(2)], "float32"),
        (np.array(1, "float16"), "float16"),
        (np.array([1, 2], ">f4"), "float32"),
        (np.array([1, 2], ">i4"), "int32"),
        (np.ones((1, 2)).view(np.matrix), "float64"),
        (np.ma.array([1.0, 2.0]), "float64"),
        (np.ones((2, 0), "float32"), "float32"),
    ],
    ids=repr,
)
def test_whatever_numpy_reads_as_numbers_is_data(data, dtype):
    x = Tensor(data)
    assert type(x.data) is np.ndarray and x.dtype == np.dtype(dtype)
    assert x.shape == np.shape(data) and x.data.dtype.isnative
    np.testing.assert_array_equal(x.data, np.asarray(data))


def test_an_array_is_taken_as_it_is():
    a = np.ones(3, "float32")
    assert Tensor(a).data is a
    torch = pytest.importorskip("torch")
    assert Tensor(torch.ones(2)).dtype == np.float32
    with pytest.raises(TypeError, match=r"^Tensor: data cannot become an array"):
        Tensor(torch.ones(2, requires_grad=True))
