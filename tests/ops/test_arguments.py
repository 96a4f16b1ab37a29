"""What operators and layers take, tried on every argument of every one of them."""

import inspect
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyflow
from tests.ops.arguments import (
    FOREIGN,
    KINDS,
    LIKE,
    MAY_BE_EMPTY,
    OPERATORS,
    OPTIONAL,
    PARTS,
    SIDES,
    call,
    kind_of,
)
from tests.ops.calls import CALLS, LAYERS, images, ones, rng
from tinyflow import Tensor, nn, ops

ROOT = str(Path(tinyflow.__file__).parent)
every_argument = pytest.mark.parametrize(("name", "argument"), [*OPERATORS, *PARTS])


def named(name, argument, error):
    """Whether an error is one sentence of ours about this argument."""
    text = str(error.value)
    if name in LAYERS and not text.startswith(name):  # it was made, and then called
        name, argument = "[a-z_0-9]+", ""
    last = error.traceback[-1].path
    return (
        str(last).startswith(ROOT)
        and len(text) < 300
        and "\n" not in text
        and re.match(rf"{name}( got|:)", text) is not None
        and re.search(rf"\b{argument}\b", text) is not None
    )


def test_every_operator_layer_and_argument_is_tried():
    assert set(CALLS) == set(ops.__all__)
    made = {
        name
        for name, layer in vars(nn).items()
        if inspect.isclass(layer)
        and issubclass(layer, nn.Module)
        and inspect.signature(layer).parameters
        and layer not in (nn.Module, nn.ModuleList, nn.Sequential)
    }
    assert made == set(LAYERS)
    for name in (*CALLS, *LAYERS):
        call(name)
    for name, argument in (*OPERATORS, *PARTS):
        assert kind_of(name, argument) in KINDS


@every_argument
def test_what_it_cannot_use_is_refused_in_one_sentence(name, argument):
    kind = kind_of(name, argument)
    for foreign in KINDS[kind]:
        if foreign is None and (name, argument) in OPTIONAL:
            continue
        if isinstance(foreign, list) and not foreign and name in MAY_BE_EMPTY:
            continue
        with pytest.raises((TypeError, ValueError, IndexError)) as error:
            call(name, **{argument: foreign})
            pytest.fail(f"{name}({argument}={foreign!r}) is accepted")
        assert named(name, argument, error), f"{argument}={foreign!r}: {error.value}"
        if isinstance(error.value, IndexError):
            assert name == "getitem"  # Python's protocol of iteration needs it


@every_argument
def test_any_other_value_works_or_is_refused_in_one_sentence(name, argument):
    dtype = np.dtype("float32")
    for foreign in FOREIGN:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # 0 ** -1 and the like
                y = call(name, **{argument: foreign})
        except (TypeError, ValueError, IndexError):
            error = pytest.ExceptionInfo.from_current()
            assert named(name, argument, error), (
                f"{argument}={foreign!r}: {error.value}"
            )
        else:
            for part in y if isinstance(y, tuple) else (y,):
                assert isinstance(part.data, np.ndarray) and part.dtype == dtype


@every_argument
def test_numpy_spellings_give_the_same_bits(name, argument):
    base = LAYERS[name] if name in LAYERS else CALLS[name]()
    sides = SIDES if argument == "padding" and name.lower() == "conv2d" else []
    for spelling in [*LIKE.get(kind_of(name, argument), ()), *sides]:
        spelled = spelling(base[argument])
        expected = call(name, **({"rng": rng()} if "rng" in base else {}))
        got = call(
            name, **({"rng": rng()} if "rng" in base else {}), **{argument: spelled}
        )
        pairs = zip(
            got if isinstance(got, tuple) else (got,),
            expected if isinstance(expected, tuple) else (expected,),
            strict=True,
        )
        for a, b in pairs:
            assert a.dtype == b.dtype, f"{argument}={spelled!r}"
            if np.dtype("float32") == np.asarray(spelled).dtype:  # it has fewer digits
                np.testing.assert_allclose(a.data, b.data, rtol=1e-6)
            else:
                np.testing.assert_array_equal(a.data, b.data)


# --- the same numbers, spelled otherwise -------------------------------------------


SPELLINGS = [
    int,
    np.int64,
    np.int32,
    np.uint8,
    np.array,
    lambda n: [n, n],
    lambda n: (n, np.int16(n)),
    lambda n: np.array([n, n]),
    lambda n: (n,),
]
spelled = st.sampled_from(SPELLINGS)


@given(
    st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.tuples(*[spelled] * 3)
)
def test_pairs_in_all_spellings(stride, padding, dilation, ways):
    x, w = images(), ones(3, 4, 2, 2)
    given = [w(n) for w, n in zip(ways, (stride, padding, dilation), strict=True)]
    expected = ops.conv2d(x, w, None, stride, padding, dilation)
    np.testing.assert_array_equal(ops.conv2d(x, w, None, *given).data, expected.data)
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        padding = min(padding, 1)
        expected = pool(x, 2, stride, padding)
        got = pool(x, ways[2](2), ways[0](stride), ways[1](padding))
        np.testing.assert_array_equal(got.data, expected.data)


@given(st.permutations(range(4)), st.integers(0, 4), st.data())
def test_axes_in_all_spellings(order, count, data):
    x = images()
    signed = [data.draw(st.sampled_from([d, d - 4])) for d in order]
    spell = data.draw(st.sampled_from([list, tuple, np.array, np.int8]))
    given = np.array(signed, "int8") if spell is np.int8 else spell(signed)
    expected = x.data.transpose(order)
    np.testing.assert_array_equal(ops.permute(x, given).data, expected)
    np.testing.assert_array_equal(ops.permute(x, *given).data, expected)
    sizes = expected.shape
    np.testing.assert_array_equal(
        ops.reshape(x, *map(np.int64, sizes)).data, ops.reshape(x, list(sizes)).data
    )
    axes = tuple(order[:count]) or None  # () means all, as in PyTorch
    for ours, numpys in ((ops.sum, np.sum), (ops.amax, np.max)):
        got = ours(x, dim=given[:count])
        np.testing.assert_allclose(got.data, numpys(x.data, axis=axes), rtol=1e-6)


def test_sizes_may_follow_each_other():
    x = Tensor(np.arange(6.0))
    assert ops.reshape(x, -1).shape == (6,)
    assert ops.reshape(x, 2, 3).shape == ops.reshape(x, (2, -1)).shape == (2, 3)
    assert ops.reshape(Tensor(2.0), ()).shape == ()
    assert ops.flatten(Tensor(2.0)).shape == (1,)
    assert ops.permute(ops.reshape(x, 2, 3), 1, 0).shape == (3, 2)
    assert [p.shape for p in ops.split(Tensor(np.ones((0, 3))), 2)] == [(0, 3)]
