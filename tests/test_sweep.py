"""What backward notices, what it leaves alone, and what it adds up."""

import numpy as np
import pytest

from tests.test_tape import leaf
from tinyflow import Tape, TapeError, Tensor, nn, ops, record
from tinyflow.optim import SGD
from tinyflow.seen import checksum

# --- what the tape has read is not written to -----------------------------------------


def optimizer_step(w, **names):
    w.grad = np.ones(w.shape, w.dtype)
    SGD([w], lr=0.1).step()


def loaded(w, **names):
    module = nn.Module()
    module.w = w
    module.load_state_dict({"w": w.data + 1})


def moved(w, **names):
    module = nn.Module()
    module.w = w
    module.to(dtype="float32")


def entry(w, **names):
    w.data[0] += 1e-12


def written(name):
    def write(**names):
        names[name][...] *= 1.5

    return write


BY_THE_LIBRARY = [optimizer_step, loaded, moved]
BY_ANYONE = [entry, *map(written, ("images", "constant"))]


@pytest.mark.parametrize("how", [*BY_THE_LIBRARY, *BY_ANYONE])
@pytest.mark.parametrize("options", [{}, {"check": True}, {"fuse": True}, "edges"])
@pytest.mark.parametrize("when", ["first", "release", "second", "pullback", "graded"])
def test_a_write_to_what_the_tape_has_read_is_noticed(how, options, when):
    if isinstance(options, str):
        options = {"retain": options}
    if "fuse" in options and when in ("first", "release") and how in BY_ANYONE:
        pytest.skip("training looks at versions alone")
    w, images, constant = leaf(4, name="w"), np.arange(4.0), np.arange(4.0) + 2
    x = Tensor(images, name="images")
    with Tape(**options) as tape:
        loss = ops.sum(ops.tanh(w * x) * constant * w)
    if when not in ("first", "release"):
        tape.backward(loss)
    how(w=w, images=images, constant=constant)
    calls = {
        "pullback": lambda: tape.pullback(loss, to=w),
        "graded": lambda: tape.graded_pullback(loss, to=w, grade=lambda e: None),
    }
    back = lambda: tape.backward(loss, release=when == "release")  # noqa: E731
    with pytest.raises(
        TapeError, match=r"'(w|images|input 1 of mul.*)' was written to"
    ):
        calls.get(when, back)()


def test_new_data_for_a_leaf_is_no_write_and_used_from_then_on():
    w = leaf(4, name="w")
    with Tape() as tape:
        loss = ops.sum(w * w)
    old = w.data
    w.data = np.float32([1, 2])
    tape.backward(loss)
    assert np.array_equal(w.grad, 2 * old)
    with Tape() as tape:
        loss = ops.sum(w * w)
    tape.backward(loss)
    assert w.shape == (2,) and w.grad.dtype == np.float32 and w.grad.tolist() == [2, 4]


def test_training_takes_no_checksums(monkeypatch):
    def never(array):
        raise AssertionError

    monkeypatch.setattr("tinyflow.seen.checksum", never)
    w = leaf(3)
    with Tape(fuse=True) as tape:
        loss = ops.sum(w * w)
    tape.backward(loss, release=True)
    assert w.grad is not None


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_checksums_of_any_array(shape):
    a = np.random.default_rng(0).standard_normal(shape)
    for b in (
        a,
        a.T,
        np.broadcast_to(a, (5, *shape)),
        a.astype(">f4"),
        a[..., ::-1] if a.ndim else a,
    ):
        before = checksum(b)
        assert before == checksum(b)
        if a.size:
            a[...] += 1
            changed = b if np.shares_memory(a, b) else b + 1
            assert checksum(changed) != before


# --- the caller's arrays stay the caller's --------------------------------------------


@pytest.mark.parametrize("retain", ["leaves", "statistics", "tensors", "edges"])
@pytest.mark.parametrize("check", [False, True])
def test_arrays_of_the_caller_stay_as_they_are(retain, check):
    data, cotangent = np.ones(3), np.full(3, 2.0)
    x, y = Tensor(data, requires_grad=True), leaf(3, name="y")
    with Tape(retain, check=check) as tape:
        same = record("same", x.data, (x,), lambda g, need: (g,))
        out = same + y
    tape.backward(out, cotangent)
    assert data.flags.writeable and cotangent.flags.writeable
    cotangent[...] = 7
    assert x.grad.tolist() == y.grad.tolist() == [2, 2, 2]
    back = tape.pullback(out, cotangent, to=out)
    cotangent[...] = 8
    assert back.tolist() == [7, 7, 7]


def test_a_gradient_is_changed_by_assignment_alone():
    x, y = leaf(3), leaf(3, name="y")
    with Tape() as tape:
        out = ops.sum(x + y)
    tape.backward(out)  # one array for both
    with pytest.raises(ValueError, match="read-only"):
        x.grad *= 0.5
    assert x.grad.tolist() == y.grad.tolist() == [1, 1, 1]
    x.grad = x.grad * 0.5
    assert x.grad.tolist() == [0.5] * 3 and y.grad.tolist() == [1, 1, 1]
    for wrong in (np.ones(4), np.ones(3, np.float32)):
        with pytest.raises(ValueError, match="gradient of 'x'"):
            x.grad = wrong
    x.grad = None
    assert x.grad is None


@pytest.mark.parametrize(
    "wrong", [[1.0, 1, 1], 2.0, "ones", np.ones(3, int), np.ones(2), np.ones((3, 1))]
)
def test_a_cotangent_that_does_not_fit_is_one_sentence(wrong):
    x = leaf(3)
    with Tape() as tape:
        y = x * 2.0
    for call in (tape.backward, lambda *a: tape.pullback(*a, to=x)):
        with pytest.raises(
            TapeError, match=r"cotangent of 'mul' must be .*float64\(3,"
        ):
            call(y, wrong)
    tape.backward(y, Tensor(np.ones(3)))
    assert x.grad.tolist() == [2, 2, 2]


# --- accumulation ---------------------------------------------------------------------


@pytest.mark.parametrize("retain", ["leaves", "statistics", "tensors"])
@pytest.mark.parametrize("release", [False, True])
def test_accumulated_parts_are_the_whole(retain, release):
    layer = nn.Linear(3, 2, rng=np.random.default_rng(0)).to(dtype="float64")
    images, labels = leaf(6, 3).data, np.arange(6) % 2
    with Tape() as tape:
        loss = ops.cross_entropy(layer(Tensor(images)), labels)
    tape.backward(loss)
    whole = [p.grad for p in layer.parameters()]
    for p in layer.parameters():
        p.grad = None
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        with Tape(retain) as tape:
            loss = ops.cross_entropy(layer(Tensor(images[part])), labels[part]) * (
                1 / 3
            )
        tape.backward(loss, release=release, accumulate=True)
    for p, g in zip(layer.parameters(), whole, strict=True):
        assert np.allclose(p.grad, g, rtol=1e-12)
        assert p.node.norm == pytest.approx(np.linalg.norm(g))
    tape = Tape("edges")
    with tape:
        loss = ops.sum(layer(Tensor(images)))
    with pytest.raises(TapeError, match="accumulate"):
        tape.backward(loss, accumulate=True)
