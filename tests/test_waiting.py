"""Values that stay open: what joins, what does not, and that nobody can tell."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

import models
from tests.fakes.cuda_host import emulator
from tests.fakes.host_gpu import host_engine, near
from tests.ops.test_table import values_and_gradients
from tinyflow import Tape, Tensor, nn, ops
from tinyflow.heads import loss_of
from tinyflow.kernels.engine import PLAIN, engine, forced
from tinyflow.ops.shuffle import concat_shuffle
from tinyflow.ops.stack import ChannelStack
from tinyflow.tape import mark
from tinyflow.tensor import fork
from tinyflow.testing import spaced


class Net(nn.Module):
    """Any function, run as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def forward(self, *args: object) -> object:
        return self.function(*args)


def norm(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return ops.batch_norm(x, None, None, w, b, training=True)


MAPS = spaced(4, 3, 5, 6)
OTHER = spaced(4, 3, 5, 6, seed=1)
VECTORS = spaced(3, seed=2), spaced(3, seed=3)
GATES = spaced(4, 3, 1, 1, seed=4)
WAYS = {  # function, its inputs, operators on a tape that fuses
    "norm relu": (
        lambda x, w, b: ops.relu(norm(x, w, b)),
        (MAPS, *VECTORS),
        ["batch_norm"],
    ),
    "norm sum": (
        lambda x, w, b, r: norm(x, w, b) + r,
        (MAPS, *VECTORS, OTHER),
        ["batch_norm"],
    ),
    "sum norm relu": (
        lambda x, w, b, r: ops.relu(r + norm(x, w, b)),
        (MAPS, *VECTORS, OTHER),
        ["batch_norm"],
    ),
    "norm norm sum relu": (
        lambda x, w, b, r: ops.relu(norm(x, w, b) + norm(r, w, b)),
        (MAPS, *VECTORS, OTHER),
        ["batch_norm", "batch_norm"],
    ),
    "norm of its own residual": (
        lambda x, w, b: ops.relu(norm(x, w, b) + x),
        (MAPS, *VECTORS),
        ["batch_norm"],
    ),
    "gate": (lambda x, z: x * ops.sigmoid(z), (MAPS, GATES), ["sigmoid", "mul"]),
    "gate relu": (lambda x, s: ops.relu(x * s), (MAPS, GATES), ["mul"]),
    "gate sum relu": (
        lambda x, z, r: ops.relu(x * ops.sigmoid(z) + r),
        (MAPS, GATES, OTHER),
        ["sigmoid", "mul"],
    ),
    "join and shuffle": (
        lambda x, r, t: concat_shuffle([x, r, t], "H"),
        (MAPS, OTHER, MAPS + 1),
        ["channel_shuffle"],
    ),
    # What cannot join
    "join different widths and shuffle": (
        lambda x, r: concat_shuffle([x[:, :1], r], "H"),
        (MAPS, OTHER),
        ["slice", "concat", "channel_shuffle"],
    ),
    "norm twice itself": (
        lambda x, w, b: (lambda h: ops.relu(h + h))(norm(x, w, b)),
        (MAPS, *VECTORS),
        ["batch_norm", "add", "relu"],
    ),
    "norm broadcast": (
        lambda x, w, b, r: ops.relu(norm(x, w, b) + r),
        (MAPS, *VECTORS, GATES),
        ["batch_norm", "add", "relu"],
    ),
    "norm and a number": (
        lambda x, w, b: ops.relu(norm(x, w, b) + 2.0),
        (MAPS, *VECTORS),
        ["batch_norm", "add", "relu"],
    ),
    "a second sum": (
        lambda x, w, b, r: ops.relu(norm(x, w, b) + r + x),
        (MAPS, *VECTORS, OTHER),
        ["batch_norm", "add", "relu"],
    ),
    "pooled first": (
        lambda x, w, b: ops.relu(ops.global_avg_pool2d(norm(x, w, b))),
        (MAPS, *VECTORS),
        ["batch_norm", "mean", "relu"],
    ),
}


@contextmanager
def running(name: str) -> Iterator[None]:
    if name == "numpy":
        with forced(PLAIN):
            yield
        return
    if name == "native":
        if (run := engine(np.zeros(1, "f4"))).name != "native":
            pytest.skip("the C kernels are not built")
        with forced(run):
            yield
        return
    if emulator.COMPILER is None:
        pytest.skip("the host emulation needs g++")
    with host_engine():
        yield


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["numpy", "native", "cuda"])
def test_joined_or_not_nobody_can_tell(name: str, way: str) -> None:
    function, inputs, operators = WAYS[way]
    u = spaced(*Net(function)(*map(Tensor, inputs)).shape, seed=9)
    with forced(PLAIN):
        wanted = values_and_gradients(function, inputs, u)
    single = [x.astype("f4") for x in inputs]
    with running(name):
        apart = values_and_gradients(Net(function), single, u.astype("f4"))
        found = values_and_gradients(Net(function), single, u.astype("f4"), fuse=True)
        loose = Net(function)(*map(Tensor, single)).data
        with Tape(fuse=True) as tape:
            Net(function)(*(Tensor(x, True) for x in single))
    assert [n.op for n in tape.nodes] == operators
    for a, b, c in zip(found, wanted, apart, strict=True):
        near(a, b, 2e-6)
        if name != "cuda":  # one pass there contracts product and sum
            np.testing.assert_array_equal(a, c)
    np.testing.assert_array_equal(loose, found[0])


def test_they_stay_open_in_modules_where_nobody_looks_and_leave_none() -> None:
    seen = []

    def function(x: Tensor) -> object:
        h = ops.batch_norm(x, training=True)
        seen.append(h.waiting is not None)
        return h, [h], ops.relu(h)

    x = Tensor(MAPS, True)
    function(x)
    for tape in (Tape(), Tape("statistics"), Tape(fuse=True)):
        with tape:
            Net(function)(x)
    h, _, y = Net(lambda x: Net(function)(x))(x)
    assert seen == [False, False, False, True, True]
    assert h.waiting is None and y.waiting is None
    assert Net(lambda x: ops.batch_norm(x, training=True))(x).waiting is None
    with pytest.raises(ZeroDivisionError):
        Net(lambda x: 1 // 0)(x)
    function(x)
    assert seen[-1] is False  # the failed module runs no more


def test_a_shape_is_known_before_the_value() -> None:
    def function(x: Tensor) -> Tensor:
        h = ops.batch_norm(x, training=True)
        s = h + Tensor(OTHER)
        for t in (h, s):
            assert (t.shape, t.dtype, t.ndim) == (MAPS.shape, MAPS.dtype, 4)
            assert len(t) == len(MAPS) and t.waiting is not None
        assert s.requires_grad and s.waiting is None  # its place was asked for
        return ops.relu(h)

    with Tape(fuse=True) as tape:
        Net(function)(Tensor(MAPS, True))
    assert [n.op for n in tape.nodes] == ["batch_norm", "batch_norm"]


def test_what_is_read_and_joined_is_computed_twice_and_right() -> None:
    """relu(h) + h, where relu(h) had joined: two nodes, the same sums."""
    w, b = VECTORS

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        h = norm(x, w, b)
        y = ops.relu(h)
        return y * (h + 1.0)

    wanted = values_and_gradients(function, (MAPS, w, b))
    found = values_and_gradients(Net(function), (MAPS, w, b), fuse=True)
    for a, e in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, e, 1e-12, 1e-12)
    with Tape(fuse=True) as tape:
        Net(function)(*(Tensor(x, True) for x in (MAPS, w, b)))
    ops_found = [n.op for n in tape.nodes]
    assert ops_found == ["batch_norm", "batch_norm", "add", "mul"]


def test_statistics_are_taken_at_once_and_once() -> None:
    mean, var = np.zeros(3), np.ones(3)

    def function(x: Tensor) -> Tensor:
        h = ops.batch_norm(x, mean, var, training=True, momentum=1.0)
        np.testing.assert_allclose(mean, MAPS.mean(axis=(0, 2, 3)), 1e-12)
        first = h.data
        y = ops.relu(ops.batch_norm(x, mean, var))
        mean[:] = var[:] = 9.0  # whatever becomes of the running ones
        np.testing.assert_array_equal(h.data, first)
        return y

    z = ops.relu(ops.batch_norm(Tensor(MAPS), MAPS.mean(axis=(0, 2, 3)), _variance()))
    np.testing.assert_allclose(Net(function)(Tensor(MAPS)).data, z.data, 1e-12)


def _variance() -> np.ndarray:
    return MAPS.var(axis=(0, 2, 3), ddof=1)


def test_a_value_stands_on_the_tape_of_its_birth() -> None:
    kept = []

    def function(x: Tensor) -> Tensor:
        h = ops.batch_norm(x, training=True)
        kept.append(ops.batch_norm(x, training=True))
        with Tape() as inner:
            y = ops.relu(h)
        assert not inner.nodes and y.requires_grad
        return y

    x = Tensor(MAPS, True)
    with Tape(fuse=True) as tape:
        y = Net(function)(x)
    assert [n.op for n in tape.nodes] == ["batch_norm"]
    tape.backward(y, OTHER, release=True)
    expected = ops.batch_norm(x, training=True).data
    np.testing.assert_array_equal(kept[0].data, expected)  # late, and on no tape
    assert not kept[0].requires_grad


def test_new_data_for_an_open_value_finishes_it_first() -> None:
    def function(x: Tensor) -> Tensor:
        h = ops.batch_norm(x, training=True)
        h.data = 2 * h.data
        return ops.relu(h)

    y = Net(function)(Tensor(MAPS))
    expected = 2 * ops.batch_norm(Tensor(MAPS), training=True).data
    np.testing.assert_array_equal(y.data, np.maximum(expected, 0))


def test_forks_finish_and_marks_wait() -> None:
    def function(x: Tensor) -> Tensor:
        h = mark(ops.batch_norm(x, training=True), "H")
        assert h.waiting is not None
        a, b = fork(h, "a", "b")
        assert h.waiting is None
        return a * b

    with Tape(fuse=True) as tape:
        Net(function)(Tensor(MAPS, True))
    assert [e.label for e in tape.nodes[-1].edges] == ["a", "b"]
    assert [n.op for n in tape.nodes] == ["batch_norm", "mul"]


def test_a_stack_knows_the_moments_of_what_was_read() -> None:
    """Also if it has grown since."""
    stack = ChannelStack(Tensor(MAPS), 6)
    early = stack.read()
    stack.append(Tensor(OTHER + 5.0))
    both = np.concatenate([MAPS, OTHER + 5.0], axis=1)
    for x, a in ((early, MAPS), (stack.read(), both), (early, MAPS)):
        y = ops.batch_norm(x, training=True, eps=0.0).data
        mean, std = (f(a, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
        np.testing.assert_allclose(y, (a - mean) / std, 1e-12, 1e-12)


@pytest.mark.parametrize("name", ["numpy", "native"])
def test_joined_or_not_a_slice_of_the_gradient_is_summed_in_the_same_order(
    name: str,
) -> None:
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((16, 16, 2, c), "f4") for c in (24, 48)]
    x, u = (m.transpose(2, 3, 0, 1) for m in maps)  # in the engine's order
    w, b = rng.standard_normal((2, 24), "f4")

    def branches(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ops.concat([ops.relu(norm(x, w, b)), ops.relu(norm(x, b, w))], 1)

    with running(name):
        apart = values_and_gradients(Net(branches), [x, w, b], u)
        joined = values_and_gradients(Net(branches), [x, w, b], u, fuse=True)
    for a, c in zip(joined, apart, strict=True):
        np.testing.assert_array_equal(a, c)


QUICK = ("vgg11_bn", "resnet18", "plain20", "resnet20", "se_resnet20")
NETWORKS = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
    for name in models.MODELS
]


@pytest.mark.parametrize("run", ["numpy", "native"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_the_same_bits_fused_and_traced(name: str, run: str) -> None:
    rng = np.random.default_rng(3)
    size = max(32, models.find(name).smallest)
    images = rng.standard_normal((2, 3, size, size), dtype="f4")
    labels = np.array([1, 7])

    def step(**options: object) -> dict[str, np.ndarray]:
        model = models.build_model(name, image_size=size, seed=1)
        with running(run), Tape(**options) as tape:
            loss = loss_of(
                model(Tensor(images)), partial(ops.cross_entropy, target=labels)
            )
            tape.backward(loss)
        found = {f"gradient of {n}": p.grad for n, p in model.named_parameters()}
        return {"loss": loss.data, **found, **dict(model.named_buffers())}

    fused, traced = step(fuse=True), step(retain="edges")
    assert fused.keys() == traced.keys()
    for key, value in traced.items():
        np.testing.assert_array_equal(fused[key], value, err_msg=key)
