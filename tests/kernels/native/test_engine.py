"""The C kernels against float64 array code; skipped where there is no C compiler."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from benchmarks import conv_reference
from tests import ROOT
from tests.kernels.native.built import COMPILER
from tests.kernels.native.built import native as native
from tests.kernels.test_windows import all_three, close, convolutions, is_hwnc, stored
from tests.ops.windows import window
from tinyflow import Tape, Tensor, nn, ops
from tinyflow.kernels import cores
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.kernels.geometry import Conv
from tinyflow.kernels.plain import conv
from tinyflow.optim import SGD, Adam, AdamW

pytestmark = pytest.mark.skipif(not COMPILER, reason="no C compiler")
RNG = np.random.default_rng(0)
ONCE = Conv(padding=(1, 1, 1, 1))  # of 3x3


def image(*shape: int, order: str = "HWNC") -> np.ndarray:
    return stored(RNG.standard_normal(shape).astype(np.float32), order)


def near(ours, theirs, tolerance=1e-4):
    """float32 against float64, as a fraction of the largest entry."""
    assert ours.dtype == np.float32
    close(ours, np.asarray(theirs, np.float64), tolerance)


# -- convolution -----------------------------------------------------------------------


@given(convolutions())
def test_convolution_of_any_shape(native, case):
    """Every stride, padding, dilation, number of groups."""
    x, w, g, how = case
    exact = all_three(conv_reference, x, w, g, how)
    x, w, g = (a.astype(np.float32, order="K") for a in (x, w, g))
    before = [a.copy() for a in (x, w, g)]
    fast = (
        native.conv2d(x, w, how),
        native.conv2d_input_grad(g, w, x.shape, how),
        native.conv2d_weight_grad(g, x, w.shape, how),
    )
    for ours, theirs in zip(fast, exact, strict=True):
        near(ours, theirs, 1e-5)
        assert is_hwnc(ours)
    for array, copy in zip((x, w, g), before, strict=True):
        assert np.array_equal(array, copy)


@pytest.mark.parametrize(
    ("n", "c", "k", "size", "kernel", "stride"),
    [
        (64, 16, 16, 8, 3, 1),
        (3, 64, 64, 8, 3, 1),
        (1, 16, 32, 9, 3, 2),
        (1, 24, 40, 5, 1, 1),
        (5, 3, 64, 32, 7, 2),
        (64, 512, 48, 1, 3, 1),
        (64, 130, 33, 2, 3, 1),
        (300, 8, 10, 4, 3, 1),
        (2, 20, 70, 7, 1, 2),
    ],
)
def test_convolution_at_network_sizes(native, n, c, k, size, kernel, stride):
    how = Conv((stride, stride), (kernel // 2,) * 4, (1, 1), 1)
    x, w = image(n, c, size, size), image(k, c, kernel, kernel)
    g = image(*conv.conv2d_forward(x, w, how).shape)
    bias = RNG.standard_normal(k).astype(np.float32)
    x64, w64, g64 = (a.astype(np.float64) for a in (x, w, g))
    exact = all_three(conv_reference, x64, w64, g64, how)
    near(native.conv2d(x, w, how, bias), exact[0] + bias.reshape(1, -1, 1, 1), 1e-5)
    near(native.conv2d_input_grad(g, w, x.shape, how), exact[1], 1e-5)
    near(native.conv2d_weight_grad(g, x, w.shape, how), exact[2], 1e-5)


@given(convolutions())
def test_single_samples_of_any_shape(native, case):
    """Their padding is written out before they are read."""
    x, w, _, how = case
    x, w = (a.astype(np.float32, order="K") for a in (x[:1], w))
    exact = conv_reference.conv2d_forward(x.astype(np.float64), w, how)
    near(native.conv2d(x, w, how), exact, 1e-5)


@pytest.mark.parametrize(("c", "k", "size"), [(16, 16, 32), (64, 64, 8), (3, 16, 32)])
def test_single_samples_at_network_sizes(native, c, k, size):
    x, w, how = image(1, c, size, size), image(k, c, 3, 3), ONCE
    exact = conv_reference.conv2d_forward(x.astype(np.float64), w, how)
    near(native.conv2d(x, w, how), exact, 1e-5)


def test_double_precision_and_empty_batches_take_the_plain_path(native):
    x, w = image(2, 3, 5, 5).astype(np.float64), image(4, 3, 3, 3).astype(np.float64)
    assert np.array_equal(native.conv2d(x, w, ONCE), PLAIN.conv2d(x, w, ONCE))
    none = np.empty((0, 3, 5, 5), np.float32)
    assert native.conv2d(none, w.astype(np.float32), ONCE).shape == (0, 4, 5, 5)
    assert native.relu(none).shape == native.add(none, none).shape == none.shape


@pytest.mark.parametrize("shape", [(64, 100, 10), (1, 7, 3), (65, 33, 47), (5, 1, 1)])
def test_products_in_every_memory_order(native, shape):
    m, depth, n = shape
    for turn_a in (False, True):
        for turn_b in (False, True):
            a, b = RNG.standard_normal((m, depth)), RNG.standard_normal((depth, n))
            a32 = np.asarray(a, np.float32, order="F" if turn_a else "C")
            b32 = np.asarray(b, np.float32, order="F" if turn_b else "C")
            near(native.product(a32, b32), a @ b, 1e-5)


# -- normalisation ---------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 5, 16, 33, 300])
@pytest.mark.parametrize("wide", [False, True], ids=["own", "slice of a wider map"])
def test_normalisation(native, channels, wide):
    x = image(7, channels + 40, 9, 3)[:, 3 : 3 + channels] if wide else None
    x = image(7, channels, 9, 3) if x is None else x
    g, residual = image(*x.shape), image(*x.shape, order="NCHW")
    mean, var = native.moments(x)
    near(mean, x.mean((0, 2, 3), np.float64))
    near(var, x.astype(np.float64).var((0, 2, 3)))
    a, b, c = (RNG.standard_normal(channels).astype(np.float32) for _ in "abc")
    each = (1, -1, 1, 1)
    affine = x.astype(np.float64) * a.reshape(each) + b.reshape(each)
    near(native.normalize(x, a, b), affine)
    y = native.normalize(x, a, b, residual, relu=True)
    near(y, np.maximum(affine + residual, 0))
    sum_g, sum_gx, masked = native.normalize_sums(g, x, c, y)
    assert np.array_equal(masked, g * (y > 0))
    exact = masked.astype(np.float64)
    near(sum_g, exact.sum((0, 2, 3)))
    near(sum_gx, (exact * (x - c.reshape(each).astype(np.float64))).sum((0, 2, 3)))
    near(
        native.normalize_input_grad(g, x, a, b, c),
        g * a.reshape(each) + x * b.reshape(each) + c.reshape(each),
    )
    near(native.channel_sum(g), g.sum((0, 2, 3), np.float64))


@pytest.mark.parametrize("given_of", ["", "weight", "bias", "weight bias residual"])
def test_normalisation_by_given_statistics(native, given_of):
    x, residual = image(3, 37, 4, 5), image(3, 37, 4, 5)
    mean, weight, bias = RNG.standard_normal((3, 37)).astype(np.float32)
    var = RNG.random(37).astype(np.float32)
    parts = {"weight": weight, "bias": bias, "residual": residual}
    parts = {name: parts[name] for name in given_of.split()}
    how = (x, mean, var, 1e-3)
    wide = [a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in how]
    exact = PLAIN.normalize_by(
        *wide, **{n: a.astype(np.float64) for n, a in parts.items()}, relu=True
    )
    near(native.normalize_by(*how, **parts, relu=True), exact, 1e-6)


def test_moments_far_from_zero_lose_no_digits(native):
    x = (RNG.standard_normal((64, 3, 16, 16)) + 1e4).astype(np.float32)
    mean, var = native.moments(stored(x, "HWNC"))
    exact = x.astype(np.float64)
    assert np.allclose(mean, exact.mean((0, 2, 3)), rtol=1e-7)
    assert np.allclose(var, exact.var((0, 2, 3)), rtol=1e-5)


def test_not_a_number_survives(native):
    x = image(4, 5, 3, 3)
    x[2, 3, 1, 1] = np.nan
    one, zero = np.ones(5, np.float32), np.zeros(5, np.float32)
    pooled = native.max_pool2d(x, window((3, 3), (1, 1), (1, 1)))[0]
    for y in (native.relu(x), native.normalize(x, one, zero, relu=True), pooled):
        assert np.isnan(y[2, 3, 1, 1])
    assert np.isnan(native.moments(x)[0]).tolist() == [False] * 3 + [True, False]


# -- elementwise, pooling, optimisers --------------------------------------------------


def test_elementwise(native):
    a, b = image(6, 7, 5, 4), image(6, 7, 5, 4)
    assert np.array_equal(native.relu(a), np.maximum(a, 0))
    assert np.array_equal(native.relu_grad(a, b), a * (b > 0))
    wide = image(6, 20, 5, 4)
    for left, right in ((a, b), (wide[:, 2:9], b), (a, wide[:, 2:9])):
        assert np.array_equal(native.add(left, right), left + right)
    total = a.copy(order="K")
    assert native.add(total, b, out=total) is total
    assert np.array_equal(total, a + b)
    assert np.array_equal(
        native.add(a, stored(b, "NCHW")), a + b
    )  # different orders: the plain code
    s = RNG.standard_normal((6, 7, 1, 1)).astype(np.float32)
    near(native.gate(a, s), a * s)
    y = native.gate(a, s, b, relu=True)
    near(y, np.maximum(a * s + b, 0))
    for g in (b, np.broadcast_to(s, b.shape)):  # the latter from a global average
        for out, sent in ((None, g), (y, g * (y > 0))):
            dx, ds, passed = native.gate_grad(g, a, s, out, (True, True))
            assert np.array_equal(passed, sent)
            near(dx, sent * s)
            ds = ds.sum((2, 3), keepdims=True)  # perhaps it still has to be
            near(ds, (a.astype(np.float64) * sent).sum((2, 3), keepdims=True))


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 20)),
    st.sampled_from([(2, 2), (3, 3), (1, 3)]),
    st.sampled_from([(1, 1), (2, 2), (3, 1)]),
    st.sampled_from([(0, 0), (1, 1), (0, 1)]),
)
def test_max_pooling_picks_the_same_pixels(native, size, kernel, stride, padding):
    if any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
        return
    x = np.round(image(*size, 7, 6))  # many ties
    how = window(kernel, stride, padding)
    y, taps = native.max_pool2d(x, how)
    expected, where = PLAIN.max_pool2d(x, how)
    assert np.array_equal(y, expected) and np.array_equal(taps, where)
    g = image(*y.shape)
    near(
        native.max_pool2d_input_grad(g, taps, x.shape, how),
        PLAIN.max_pool2d_input_grad(g, taps, x.shape, how),
        1e-6,
    )


OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.1, weight_decay=0.01),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "nesterov": lambda p: SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: Adam(p, lr=0.1, weight_decay=0.01),
    "adamw": lambda p: AdamW(p, lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers(native, name):
    start = [image(40, 50, 3, 3), image(10, 1, 1, 1)]
    gradients = [[image(*p.shape) for p in start] for _ in range(3)]
    found = []
    for run, dtype in ((native, np.float32), (PLAIN, np.float64)):
        tensors = [Tensor(p.astype(dtype, order="K"), True) for p in start]
        optimizer = OPTIMIZERS[name](tensors)
        with forced(run):
            for step in gradients:
                for p, g in zip(tensors, step, strict=True):
                    p.node.grad = g.astype(dtype, order="K")
                optimizer.step()
        found.append([p.data for p in tensors])
    for ours, theirs in zip(*found, strict=True):
        near(ours, theirs, 1e-5)


# -- whole networks --------------------------------------------------------------------


def gradients(model: nn.Module, images: np.ndarray, labels: np.ndarray, **tape):
    with Tape(**tape) as recorded:
        loss = ops.cross_entropy(model(Tensor(images)), labels)
    recorded.backward(loss)
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20", "vgg11_bn", "densenet121"])
def test_networks_agree_with_double_precision(native, name):
    rng = np.random.default_rng(0)
    shape = (2, 3, 64, 64) if name == "densenet121" else (4, 3, 32, 32)
    images, labels = rng.standard_normal(shape), rng.integers(0, 10, shape[0])
    size = images.shape[-1]
    model = models.build_model(name, image_size=size)
    if hasattr(model, "classifier") and isinstance(model.classifier, nn.Sequential):
        model.classifier.eval()  # no dropout
    for _, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data[...] = (
                4  # ReLUs stay clear of 0, where rounding flips them
            )
    single = images.astype(np.float32)
    with forced(native):
        loss, found = gradients(model, single, labels, fuse=True)
        again, composed = gradients(model, single, labels, retain="edges")
    with forced(PLAIN):
        plain = gradients(model, single, labels)[1]
    exact, expected = gradients(model.to(dtype="float64"), images, labels)
    assert loss == again and abs(loss - exact) <= 1e-4 * exact
    for path, g in found.items():  # fusing operators changes no bit
        assert np.array_equal(g, composed[path]), path
    # Deep networks amplify rounding: about as far off as NumPy's own float32.
    assert distance(found, expected) <= 4 * distance(plain, expected) <= 1e-4


def distance(gradients, expected):
    """‖difference‖ / ‖expected‖ over all parameters."""
    wrong = sum(np.sum((g - expected[path]) ** 2) for path, g in gradients.items())
    return np.sqrt(wrong / sum(np.sum(g**2) for g in expected.values()))


def test_a_wrong_kernel_is_caught(native, monkeypatch):
    """The comparison itself can fail."""
    x, w = image(4, 16, 6, 6), image(16, 16, 3, 3)
    exact = conv_reference.conv2d_forward(*(a.astype(np.float64) for a in (x, w)), ONCE)
    near(native.conv2d(x, w, ONCE), exact, 1e-5)
    monkeypatch.setattr("tinyflow.kernels.native.conv.axes", lambda *a: _shifted(*a))
    with pytest.raises(AssertionError):
        near(native.conv2d(x, w, ONCE), exact, 1e-5)


def _shifted(x_shape, w_shape, how):
    from tinyflow.kernels.native.windows import Axis

    axis = Axis(x_shape[2], x_shape[2], w_shape[2], 1, 1, 0, 0)  # padding forgotten
    return axis, axis


# -- the library -----------------------------------------------------------------------

STEP = """
import hashlib, os, sys
import numpy as np
import models
from tinyflow import Tape, Tensor, ops
rng = np.random.default_rng(0)
images = rng.standard_normal((6, 3, 32, 32), dtype=np.float32)
model = models.build_model("resnet20", image_size=32)
def step():
    with Tape(fuse=True) as tape:
        loss = ops.cross_entropy(model(Tensor(images)), np.arange(6))
    tape.backward(loss)
    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(np.ascontiguousarray(p.grad).tobytes())
    return digest.hexdigest()
first = step()
if sys.argv[1:] == ["fork"]:
    if os.fork() == 0:
        os._exit(0 if step() == first else 1)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
print(first)
"""


def run(script: str, *arguments: str, **environment: str):
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_threads_and_forks_change_no_bit(tmp_path):
    place = {"XDG_CACHE_HOME": str(tmp_path), "TINYFLOW_ENGINE": "auto"}
    built = subprocess.run(
        [sys.executable, "-m", "tinyflow.native"],
        cwd=ROOT,
        env={**os.environ, **place, "TINYFLOW_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0
    assert f"C kernels, {min(3, cores.available())} thread" in built.stdout
    place["TINYFLOW_ENGINE"] = "native"
    one, three = (run(STEP, **place, TINYFLOW_NUM_THREADS=n) for n in "13")
    assert one.returncode == 0, one.stderr
    assert one.stdout == three.stdout != ""
    forked = run(STEP, "fork", **place, TINYFLOW_NUM_THREADS="2")
    assert forked.stdout == one.stdout, forked.stderr


def test_what_cannot_be_is_said(tmp_path):
    place = {"XDG_CACHE_HOME": str(tmp_path), "TINYFLOW_ENGINE": "auto"}
    script = "from tinyflow.kernels.native.library import load; print(load())"
    assert "python -m tinyflow.native builds them" in run(script, **place).stdout
    demanded = run(script, **{**place, "TINYFLOW_ENGINE": "native"}).stderr
    assert "the C kernels are not built" in demanded.splitlines()[-1]
    wrong = run(script, **{**place, "TINYFLOW_ENGINE": "fast"}).stderr
    assert "use one of auto, numpy, native" in wrong.splitlines()[-1]
    for compiler, reason in (("/bin/false", "failed"), ("none-such", "no C compiler")):
        built = subprocess.run(
            [sys.executable, "-m", "tinyflow.native"],
            cwd=ROOT,
            env={**os.environ, **place, "CC": compiler, "PATH": ""},
            capture_output=True,
            text=True,
        )
        assert built.returncode == 1 and reason in built.stderr
        assert "Traceback" not in built.stderr
