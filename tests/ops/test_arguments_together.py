"""What operators and layers take together: dtypes, shapes, devices, engines."""

import numpy as np
import pytest

from tests.ops.arguments import ARRAY, arguments_of, call
from tests.ops.calls import CALLS, images, ones, rng
from tests.ops.test_arguments import (
    test_numpy_spellings_give_the_same_bits as try_spellings,
)
from tests.ops.test_arguments import (
    test_what_it_cannot_use_is_refused_in_one_sentence as try_foreign,
)
from tinyflow import Tape, Tensor, fork, nn, ops
from tinyflow.backend import asarray
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.ops.arguments import fits_parameters

INTEGERS = {"add", "sub", "mul", "neg", "pow", "relu", "relu6", "sum", "amax"}
INTEGERS |= {"matmul", "reshape", "flatten", "permute", "transpose"}
INTEGERS |= {"abs", "maximum", "minimum", "clamp", "where"}
INTEGERS |= {"channel_shuffle", "squeeze", "stack", "pad", "getitem", "concat", "split"}
# What takes truth values, too
MOVING = {"sum", "amax", "reshape", "flatten", "permute", "transpose", "pad"}
MOVING |= {"channel_shuffle", "squeeze", "stack", "getitem", "concat", "split"}


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
        (lambda: ops.var(ones(2, 0), 1), "var: input .* no entries"),
        (lambda: ops.var(ones(2, 1), 1), "var: correction 1 leaves nothing of the 1"),
        (lambda: ops.group_norm(IMAGE, 3), "group_norm: input .*num_groups=3"),
        (lambda: ops.group_norm(ones(2, 2, 0), 1), "group_norm: input"),
        (lambda: ops.layer_norm(IMAGE, 3), "layer_norm: input .*normalized_shape"),
        (lambda: ops.layer_norm(IMAGE, 4, ones(2)), "layer_norm: weight"),
        (
            lambda: ops.channel_shuffle(IMAGE, 3),
            r"channel_shuffle: groups=3 must divide",
        ),
        (lambda: ops.channel_shuffle(ones(4), 2), "channel_shuffle: input must have c"),
        (lambda: nn.GroupNorm(3, 4), "GroupNorm: num_channels=4"),
        (lambda: ops.stack([IMAGE, ones(1, 2)]), r"stack: tensors\[1\]"),
        (lambda: ops.softmax(ones(2, 0), 1), "softmax: input .* no entries"),
        (lambda: ops.log_softmax(ones(2, 0), 1), "log_softmax: input .* no entries"),
        (lambda: ops.cross_entropy(ones(0, 3), []), "cross_entropy: .* no samples"),
        (lambda: ops.add(1, 2), "add: input or other must be a Tensor"),
        (lambda: Tensor([2]) ** Tensor([2]), "pow: input is a Tensor of int64"),
        (lambda: 2.0 ** Tensor([2]), "pow: input is 2.0, which int64"),
        (lambda: 2 ** Tensor([2]), "pow: exponent is a Tensor of int64"),
        (lambda: IMAGE ** ones(3), r"pow: input .* exponent \(3,\) cannot be broad"),
        (lambda: IMAGE**None, "pow: exponent must be a number"),
        (lambda: IMAGE @ 2, "matmul: other must be a vector"),
        (lambda: 2 @ IMAGE, "matmul: input must be a vector"),
        (lambda: IMAGE @ ones(3, 4), "matmul: input .* other"),
        (lambda: IMAGE @ ones(3), "matmul: input .* other"),
        (lambda: ones(3, 2, 2) @ ones(2, 2, 2), "matmul: input .* broadcast"),
        (lambda: IMAGE + ones(3), r"add: input .* other \(3,\) cannot be broadcast"),
        (lambda: IMAGE - ones(3), "sub: input .* broadcast"),
        (lambda: ones(3) * IMAGE, "mul: input .* broadcast"),
        (lambda: ones(3) / IMAGE, "div: input .* broadcast"),
        (lambda: ops.add(IMAGE, [1.0, 2.0]), "add: other must be"),
        (lambda: "a" + IMAGE, "add: input must be"),
        (lambda: None - IMAGE, "sub: input must be"),
        (lambda: ops.clamp(IMAGE), "clamp: min or max must be given"),
        (lambda: ops.clamp(Tensor([1, 2]), 0.5), "clamp: min is 0.5, which int64"),
        (lambda: ops.clamp(IMAGE, IMAGE), "clamp: min must be .*ops.maximum"),
        (lambda: ops.where([True] * 3, IMAGE, 0.0), r"where: condition \(3,\) and"),
        (lambda: ops.where(True, 1.0, 2.0), "where: input or other must be a Tensor"),
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
            try_foreign(name, argument)
            try_spellings(name, argument)


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
