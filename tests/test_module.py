"""Modules: what counts as theirs, moving it, and tensors as arrays."""

from collections import OrderedDict, deque, namedtuple

import numpy as np
import pytest
from pytest import approx

from models import count_parameters
from tinyflow import Tape, TapeError, Tensor, fork, mark, nn, ops, record
from tinyflow.backend import DeviceError
from tinyflow.optim import SGD, Adam, clip_grad_norm, grad_norm

Pair = namedtuple("Pair", "a b")


def linear(seed=0, n=2):
    return nn.Linear(n, n, rng=np.random.default_rng(seed))


def held(value):
    module = nn.Module()
    module.held = value
    return module


def names(module):
    return [name for name, _ in module.named_parameters()]


# --- what counts as a module's --------------------------------------------------------


@pytest.mark.parametrize(
    "value, expected",
    [
        ([linear(), linear()], ["0", "1"]),
        ((linear(), None, 3), ["0"]),
        ({"a": linear(), 2: linear()}, ["a", "2"]),
        (OrderedDict(b=linear()), ["b"]),
        (deque([linear()]), ["0"]),
        (Pair(linear(), 1), ["0"]),
        ([[linear()], {"x": (linear(),)}], ["0.0", "1.x.0"]),
        ([nn.Sequential(linear())], ["0.0"]),
    ],
)
def test_layers_in_containers_are_trained_moved_and_saved(value, expected):
    model = held(value)
    layers = [f"held.{name}" for name in expected]
    wanted = [f"{n}.{p}" for n in layers for p in ("weight", "bias")]
    assert names(model) == list(model.state_dict()) == wanted
    assert set(layers) <= {name for name, _ in model.named_modules()}
    assert count_parameters(model) == 6 * len(expected)
    before = model.parameters()
    model.to(dtype="float64").eval()
    assert [p.dtype for p in model.parameters()] == ["float64"] * len(wanted)
    assert all(p is q for p, q in zip(model.parameters(), before, strict=True))
    assert not any(m.training for _, m in model.named_modules())
    for p in before:
        p.grad = np.ones(p.shape)
    old = model.state_dict()
    SGD(model.named_parameters(), lr=1.0).step()
    assert all((model.state_dict()[n] == old[n] - 1).all() for n in wanted)


def test_tensors_and_arrays_in_containers():
    t = Tensor(np.ones(2, np.float32), requires_grad=True)
    a, b, c = (np.ones(2, np.float32) for _ in range(3))
    model = held([t, a, (b, "text"), {"c": c, "n": np.arange(2)}, Pair(a, 1)])
    kept = model.held
    assert names(model) == ["held.0"]
    arrays = ["held.1", "held.2.0", "held.3.c", "held.3.n"]
    assert [n for n, _ in model.named_buffers()] == arrays  # each once
    model.to(dtype="float64")
    assert model.held is kept and kept[0] is t and isinstance(kept[4], Pair)
    assert kept[1] is kept[4].a and kept[3]["n"].dtype == np.int64
    found = {k: v.dtype.name for k, v in model.state_dict().items()}
    assert found.pop("held.3.n") == "int64" and set(found.values()) == {"float64"}
    state = {k: v * 3 for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    assert t.data.tolist() == kept[1].tolist() == kept[2][0].tolist() == [3, 3]


def test_containers_may_change_and_run():
    model = held([linear(0)])
    model.held.append(linear(1))
    assert len(model.parameters()) == 4
    with Tape() as tape:
        x = Tensor(np.ones((1, 2), np.float32))
        for layer in model.held:
            x = layer(x)
        loss = ops.sum(x)
    tape.backward(loss)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("kind", [set, frozenset])
def test_sets_are_refused(kind):
    model = held(kind([linear()]))
    for look in (model.parameters, model.state_dict, model.train, model.to):
        with pytest.raises(TypeError, match=r"Module\.held is a set"):
            look()
    assert held({1, 2}).parameters() == []


def test_layers_of_the_class_are_refused():
    for thing in (linear(), Tensor(np.ones(2), requires_grad=True)):
        with pytest.raises(TypeError, match="belongs to the class"):
            type("Net", (nn.Module,), {"fc": thing})


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(linear(), ops.relu),
        lambda: nn.Sequential([linear()]),
        lambda: nn.Sequential(nn.ReLU),
        lambda: nn.Sequential(forward=linear()),
        lambda: nn.Sequential(training=linear()),
    ],
)
def test_what_a_sequential_would_not_run_is_refused(make):
    with pytest.raises(
        TypeError, match=r"Sequential: modules.* must be a Module|every module has"
    ):
        make()


def test_equal_paths_of_different_things_are_refused():
    model = held([linear()])
    setattr(model, "held.0", linear(1))
    with pytest.raises(ValueError, match=r"called 'held\.0\.weight'"):
        model.state_dict()


# --- identity -------------------------------------------------------------------------


def test_what_is_used_twice_counts_once():
    shared = linear()
    model = nn.Sequential(shared, nn.ReLU(), shared)
    model.tied = shared.weight
    model.again, model.buffer = [shared], np.ones(2)
    model.same = model.buffer
    assert names(model) == ["tied", "0.bias"]  # a module's own come first
    assert count_parameters(model) == 6
    assert [n for n, _ in model.named_buffers()] == ["buffer"]
    assert list(model.state_dict()) == ["tied", "0.bias", "buffer"]
    for p in model.parameters():
        p.grad = np.ones(p.shape, np.float32)
    norm = np.sqrt(6)
    assert grad_norm(model.parameters()) == pytest.approx(norm)
    assert grad_norm([shared.weight, *model.parameters()]) == pytest.approx(norm)
    assert clip_grad_norm(model.named_parameters(), 1.0) == pytest.approx(norm)
    model.to(dtype="float64")
    assert model.tied is shared.weight and model.same is model.buffer
    x = Tensor(np.ones((1, 2)))
    assert model(x).shape == (1, 2)  # and runs as often as it stands there
    assert np.array_equal(nn.Sequential(shared, shared)(x).data, shared(shared(x)).data)


def test_a_module_that_holds_itself_or_its_parent():
    model = nn.Sequential(linear())
    model.me, model.list = model, [model]
    next(model.children())[1].parent = model
    assert names(model) == ["0.weight", "0.bias"]
    assert len(list(model.named_modules())) == 2
    model.to(dtype="float64").train()
    assert model.state_dict()["0.bias"].dtype == np.float64


# --- moving ---------------------------------------------------------------------------


def test_parameters_keep_their_identity_through_moves():
    model = nn.Sequential(linear(), nn.BatchNorm2d(2), linear(1))
    frozen = next(model.children())[1].bias
    frozen.requires_grad = False
    before = model.parameters()
    arrays, nodes = [p.data for p in before], [p.node for p in before]
    model.to("cpu").to("cpu", "float32")
    assert all(p.data is a for p, a in zip(before, arrays, strict=True))
    before[0].grad = np.full((2, 2), 2, np.float32)
    optimizer = Adam(model.named_parameters())
    for dtype in ("float64", np.float32, np.dtype("float64")):
        model.to(dtype=dtype)
        after = model.parameters()
        assert all(p is q for p, q in zip(before, after, strict=True))
        assert all(p.node is n for p, n in zip(after, nodes, strict=True))
        assert (
            {p.dtype for p in after}
            == {p.node.dtype for p in after}
            == {np.dtype(dtype)}
        )
        assert {b.dtype for _, b in model.named_buffers()} == {np.dtype(dtype)}
        assert before[0].grad.dtype == dtype and before[0].grad[0, 0] == 2
        assert not frozen.requires_grad
        old = before[0].data.copy()
        optimizer.step()
        assert (model.state_dict()["0.weight"] != old).all()
    model.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    "how, error, words",
    [
        ({"device": "gpu"}, ValueError, "'cpu' or 'cuda'"),
        ({"device": "float64"}, ValueError, r"to\(dtype='float64'\)"),
        ({"device": 0}, ValueError, "'cpu' or 'cuda'"),
        ({"dtype": "int32"}, ValueError, "'float32' or 'float64'"),
        ({"dtype": "float16"}, ValueError, "'float32' or 'float64'"),
        ({"dtype": complex}, ValueError, "'float32' or 'float64'"),
        ({"dtype": "nonsense"}, ValueError, "'float32' or 'float64'"),
        ({"device": "cuda"}, DeviceError, "cannot move to 'cuda': "),
    ],
)
def test_moves_that_are_not_possible_move_nothing(how, error, words, monkeypatch):
    model = nn.Sequential(linear(), nn.BatchNorm2d(2))
    before = [a for a in model._state().values()]
    if error is DeviceError:
        monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(error, match=words):
        model.to(**how)
    assert all(a is b for a, b in zip(model._state().values(), before, strict=True))


# --- arrays and tensors ---------------------------------------------------------------


def test_an_array_where_a_tensor_belongs():
    images = np.ones((1, 3, 4, 4), np.float32)
    conv = nn.Conv2d(3, 2, 3, rng=None)
    for call in (
        lambda: conv(images),
        lambda: nn.Sequential(conv)(images),
        lambda: fork(images, "a"),
        lambda: mark(images, "a"),
        lambda: Tape().watch(images),
    ):
        with pytest.raises(TypeError, match="must be a Tensor, not"):
            call()
    for wrong in (Tensor(images), [1.0], 2.0, None):
        with pytest.raises(TypeError, match="must be an array"):
            record("op", wrong, (), lambda g, need: ())


@pytest.mark.parametrize(
    "wrong", [None, "text", ["a"], object(), [[1], [1, 2]], {}, np.array("2020", "M8")]
)
def test_what_is_no_array_of_numbers_makes_no_tensor(wrong):
    with pytest.raises(TypeError, match="numbers"):
        Tensor(wrong)


def test_numbers_and_arrays_make_tensors():
    for given, dtype in ((np.float32(3), "float32"), (3, "int64"), (True, "bool")):
        assert Tensor(given).shape == () and Tensor(given).dtype == dtype
    x = Tensor(np.ones(2))
    assert Tensor(x.data).data is x.data and Tensor(x.data).node is not x.node
    with pytest.raises(TypeError, match=r"Tensor already.*give x\.data"):
        Tensor(x)
    with pytest.raises(TypeError, match="floating-point"):
        Tensor(np.arange(3)).requires_grad = True


@pytest.mark.parametrize("number", [0.0, 1.5, -2.0, float("nan")])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_number_converts_as_its_array_does(number, shape):
    t = Tensor(np.full(shape, number))
    assert bool(t) is bool(number)
    assert float(t) == number or np.isnan(number)
    if not np.isnan(number):
        assert int(t) == int(number)


@pytest.mark.parametrize("shape", [(0,), (2,), (2, 3)])
def test_several_numbers_are_no_single_one(shape):
    t = Tensor(np.zeros(shape))
    for convert in (bool, float, int, Tensor.item):
        with pytest.raises(ValueError, match="only a tensor of one element"):
            convert(t)


def test_tensors_are_read_as_their_arrays():
    a = np.arange(6.0).reshape(2, 3)
    t, u = Tensor(a), Tensor(a + 1)
    assert np.asarray(t) is a and np.asarray(t, np.float32).dtype == np.float32
    assert np.array(t) is not a and np.array([t, u]).shape == (2, 2, 3)
    assert np.mean(t) == 2.5 and np.stack([t, u]).dtype == np.float64
    assert np.sum(t, axis=0).tolist() == [3, 5, 7] and type(np.argmax(t)) is np.int64
    assert np.where(t > 2, t, 0.0).tolist() == [[0, 0, 0], [3, 4, 5]]
    assert np.einsum("ij,ij", t, u) == 70 and np.linalg.norm(x=t) ** 2 == approx(55)
    assert len(t) == 2 and [row.shape for row in t] == [(3,), (3,)]
    assert (t == u).tolist() == (a == a + 1).tolist()
    assert (t != 3).sum() == 5 and (t < u).all() and (a + 1 >= t).all()
    assert 4 in t and 7 not in t and {t: 1}[t] == 1
    for single in (len, iter):
        with pytest.raises(TypeError, match="single number"):
            single(Tensor(1.0))
    with Tape() as tape:
        x = Tensor(a, requires_grad=True)
        loss = ops.sum(sum(row * float(i) for i, row in enumerate(x)))
    tape.backward(loss)
    assert x.grad.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_a_released_tape_says_so():
    x = Tensor(np.ones(2), requires_grad=True)
    with Tape() as tape:
        loss = ops.sum(x)
    tape.backward(loss, release=True)
    with pytest.raises(TapeError, match="released"):
        tape.backward(loss)
