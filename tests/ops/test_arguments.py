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
    ARRAY,
    CALLS,
    FOREIGN,
    KINDS,
    LAYERS,
    LIKE,
    MAY_BE_EMPTY,
    OPERATORS,
    OPTIONAL,
    PARTS,
    SIDES,
    arguments_of,
    call,
    images,
    kind_of,
    ones,
    rng,
)
from tinyflow import Tape, Tensor, fork, nn, ops
from tinyflow.backend import asarray
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.ops.arguments import fits_parameters

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


# --- beyond single arguments ----------------------------------------------------------

INTEGERS = {"add", "sub", "mul", "neg", "pow", "relu", "relu6", "sum", "amax"}
INTEGERS |= {"matmul", "reshape", "flatten", "permute", "transpose"}
INTEGERS |= {"pad", "getitem", "concat", "split"}
MOVING = {"sum", "amax", "reshape", "flatten", "permute", "transpose", "pad"}
MOVING |= {"getitem", "concat", "split"}  # truth values too


@pytest.mark.parametrize("name", ops.__all__)
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_integers_where_real_numbers_are_needed_are_refused(name, dtype):
    def converted(x):
        if isinstance(x, list):
            return [converted(t) for t in x]
        return Tensor(np.ones(x.shape, dtype)) if isinstance(x, Tensor) else x

    arguments = {k: converted(v) for k, v in CALLS[name]().items()}
    if name == "pad":
        arguments["value"] = 0
    if name in (MOVING if dtype == "bool" else INTEGERS):
        y = getattr(ops, name)(**arguments)
        y = y[0] if isinstance(y, tuple) else y
        assert y.dtype == dtype or name == "sum"  # which counts in int64
    else:
        with pytest.raises(TypeError, match=rf"^{name}: input is a Tensor of {dtype};"):
            getattr(ops, name)(**arguments)


def test_integers_meet_no_fractions():
    x = Tensor(np.arange(3, dtype="uint8"))
    for use in (
        lambda: x * 1.5,
        lambda: x + 300,
        lambda: x**0.5,
        lambda: x**-1,
        lambda: x / 2,
        lambda: ops.pad(x, (1, 1), 0.5),
    ):
        with pytest.raises(TypeError, match="convert"):
            use()
    assert (x * 2).dtype == x.dtype


@pytest.mark.parametrize("name", ops.__all__)
def test_dtypes_that_do_not_meet_are_named(name):
    arguments = CALLS[name]()
    tensors = {k for k, v in arguments.items() if isinstance(v, Tensor)}
    for other in tensors - {"input", "tensor"}:
        wide = Tensor(arguments[other].data.astype("float64"))
        with pytest.raises(TypeError, match=rf"^{name} got .*{other}.*never mixed"):
            call(name, **{other: wide})


IMAGE = ones(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: ops.conv2d(IMAGE, ones(2, 2, 0, 0)), "conv2d: .*weight"),
        (lambda: ops.conv2d(IMAGE, ones(2, 2, 0, 3)), "conv2d: .*weight"),
        (lambda: ops.conv2d(IMAGE, ones(0, 2, 3, 3)), "conv2d: .*weight"),
        (lambda: ops.amax(ones(2, 0), 1), "amax: input .* no entries"),
        (lambda: ops.amax(ones(0)), "amax: input .* no entries"),
        (lambda: ops.mean(ones(2, 0), 1), "mean: input .* no entries"),
        (lambda: ops.softmax(ones(2, 0), 1), "softmax: input .* no entries"),
        (lambda: ops.log_softmax(ones(2, 0), 1), "log_softmax: input .* no entries"),
        (lambda: ops.cross_entropy(ones(0, 3), []), "cross_entropy: .* no samples"),
        (lambda: ops.add(1, 2), "add: input or other must be a Tensor"),
        (lambda: IMAGE**IMAGE, "pow: exponent must be a number"),
        (lambda: 2**IMAGE, "pow: exponent must be a number"),
        (lambda: IMAGE**None, "pow: exponent must be a number"),
        (lambda: IMAGE @ 2, "matmul: other must be a matrix"),
        (lambda: 2 @ IMAGE, "matmul: input must be a matrix"),
        (lambda: IMAGE @ ones(3, 4), "matmul: input .* other"),
        (lambda: ones(3, 2, 2) @ ones(2, 2, 2), "matmul: input .* broadcast"),
        (lambda: IMAGE + ones(3), r"add: input .* other \(3,\) cannot be broadcast"),
        (lambda: IMAGE - ones(3), "sub: input .* broadcast"),
        (lambda: ones(3) * IMAGE, "mul: input .* broadcast"),
        (lambda: ones(3) / IMAGE, "div: input .* broadcast"),
        (lambda: ops.add(IMAGE, [1.0, 2.0]), "add: other must be"),
        (lambda: "a" + IMAGE, "add: input must be"),
        (lambda: None - IMAGE, "sub: input must be"),
        (lambda: IMAGE[5], "getitem: index 5: .*axis 0 with size 1"),
        (lambda: IMAGE[..., 0, ...], "getitem: index"),
        (lambda: IMAGE[::0], "getitem: index"),
        (lambda: list(Tensor(1.0)), "'leaf' is a single number"),
        (lambda: Tensor(1.0)[0], "getitem: index names 1 axes, input has 0"),
        (lambda: ops.concat([IMAGE, ones(1, 2, 4)]), r"concat: tensors\[1\]"),
        (lambda: ops.concat([IMAGE, ones(1, 2, 5, 4)], 1), r"concat: tensors\[1\]"),
        (lambda: IMAGE[10**30], "getitem: index"),
        (lambda: ops.pad(IMAGE, (2**30,) * 8), "pad: pad"),
        (lambda: fork(ARRAY, "a"), "fork: x must be a Tensor"),
        (lambda: nn.normal(0, (2,), 1.0), "normal: rng must be"),
        (lambda: nn.Sequential([nn.ReLU()]), r"Sequential: modules\[0\]"),
        (lambda: nn.Sequential(nn.ReLU)(IMAGE), r"Sequential: modules\[0\]"),
        (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2, rng=None), "Conv2d: pad"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2, rng=None), "Conv2d: .*groups=2"),
        (lambda: nn.MaxPool2d(2, padding=2), "MaxPool2d: padding"),
    ],
)
def test_what_fits_by_itself_but_not_together_is_refused(use, message):
    with pytest.raises(
        (TypeError, ValueError, IndexError), match=f"^{message}"
    ) as error:
        use()
    assert len(str(error.value)) < 300 and "\n" not in str(error.value)


def test_running_statistics_that_training_could_not_update_are_refused():
    mean, var = np.zeros(2, "float32"), np.ones(2, "float32")
    frozen = mean.copy()
    frozen.flags.writeable = False
    ops.batch_norm(IMAGE, frozen, var)  # read only, which is allowed
    for pair, word in (
        ((Tensor(mean), Tensor(var)), "running_mean"),
        ((mean, Tensor(var)), "running_var"),
        ((frozen, var), "read-only"),
        ((mean, mean), "the same array"),
        (([0.0, 0.0], var), "running_mean"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^batch_norm: .*{word}"):
            ops.batch_norm(IMAGE, *pair, training=True)
    np.testing.assert_array_equal((mean, var), ([0, 0], [1, 1]))


def test_arrays_where_a_tensor_belongs_are_told_how_to_become_one():
    model = nn.Sequential(nn.Conv2d(4, 2, 3, rng=None), nn.ReLU(), nn.Flatten())
    message = (
        r"^Sequential: input must be a Tensor, not an array: wrap it, model\(Tensor\("
    )
    for tape in (False, True):
        with pytest.raises(TypeError, match=message):
            if tape:
                with Tape():
                    model(ARRAY)
            else:
                model(ARRAY)


def test_an_empty_batch_passes_through_a_network():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, rng=rng()),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.SqueezeExcitation(4, 2, rng=rng()),
        nn.GlobalAvgPool2d(),
        nn.Linear(4, 2, rng=rng()),
    ).eval()
    with Tape() as tape:
        y = model(ones(0, 3, 8, 8))
    tape.backward(y, np.ones((0, 2), "float32"))
    assert y.shape == (0, 2)
    assert all(not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["conv2d", "batch_norm", "max_pool2d", "linear"])
def test_the_plain_engine_refuses_the_same(name):
    with forced(PLAIN):
        for argument in arguments_of(getattr(ops, name)):
            test_what_it_cannot_use_is_refused_in_one_sentence(name, argument)
            test_numpy_spellings_give_the_same_bits(name, argument)


def test_arrays_on_different_devices_are_refused(machine):
    far = Tensor(asarray(np.ones((4, 4, 3, 3), "float32"), "cuda"))
    with pytest.raises(TypeError, match=r"^conv2d got arrays on cpu and cuda"):
        ops.conv2d(images(), far)
    with pytest.raises(TypeError, match=r"^add got arrays on cuda and cpu"):
        far + ones(4, 4, 3, 3)
    with pytest.raises(
        TypeError, match=r"^batch_norm: running_mean must be an array on"
    ):
        ops.batch_norm(far, np.zeros(4, "float32"), np.ones(4, "float32"))


def test_mixed_precision_meets_float32_of_the_same_device_alone(machine, monkeypatch):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    import cupy

    monkeypatch.setattr(type(PLAIN), "mixed", True)
    x = cupy.asarray(np.ones((2, 3)), bfloat16)
    w = cupy.asarray(np.ones((4, 3), "f4"))
    names = ("input", "weight", "bias")
    fits_parameters("linear", names, x, w, None)
    fits_parameters("linear", names, x, w, w)
    with pytest.raises(TypeError, match=r"float32 and float64 \(weight, bias\)"):
        fits_parameters("linear", names, x, w.astype("f8"), None)
    with pytest.raises(TypeError, match=r"float32 and float64 \(weight, bias\)"):
        fits_parameters("linear", names, x, w, w.astype("f8"))
    with pytest.raises(TypeError, match=r"on cuda and cpu \(input, weight, bias\)"):
        fits_parameters("linear", names, x, np.ones((4, 3), "f4"), None)
    assert machine.syncs == 0
