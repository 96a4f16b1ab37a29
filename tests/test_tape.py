"""The laws of the engine, one test each; law 5 is in ``test_pullback``."""

import gc
import weakref

import numpy as np
import pytest

from tinyflow import Tape, TapeError, Tensor, fork, mark, nn, ops, record


def leaf(*shape, name="x", seed=0, dtype="float64"):
    draw = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return Tensor(draw, requires_grad=True, name=name)


# --- law 1: a list in creation order, strong references, no recursion -----------------


def test_a_chain_of_20000_operators_needs_no_recursion():
    x = leaf(3)
    with Tape("edges") as tape:
        y = x
        for _ in range(20_000):
            y = y + 1.0
        loss = ops.sum(y)
    tape.backward(loss)
    assert np.array_equal(x.grad, np.ones(3))
    assert [n.index for n in tape.nodes] == list(range(20_001))
    del tape, loss, y  # and neither does forgetting it
    gc.collect()


def test_gradients_survive_tensors_nobody_holds():
    x = leaf(3)
    with Tape("tensors") as tape:
        loss = ops.sum(ops.exp(x * 2.0))
    gc.collect()
    tape.backward(loss)
    assert np.allclose(tape["mul"].grad, np.exp(2 * x.data))


def test_dropping_a_tape_frees_its_arrays_without_the_garbage_collector():
    class Held(np.ndarray):
        pass

    x = leaf(3)
    big = np.ones(3).view(Held)
    gone = weakref.ref(big)
    gc.collect()
    gc.disable()
    try:
        with Tape("edges") as tape:
            loss = ops.sum(x * Tensor(big))
        tape.backward(loss)
        del tape, loss, big
        assert gone() is None
    finally:
        gc.enable()


# --- law 2: edges have multiplicity and hold the full, reduced message ----------------


def test_x_plus_x_has_two_edges():
    x = leaf(2)
    with Tape("edges") as tape:
        loss = ops.sum((x + x) * 3.0)
    tape.backward(loss)
    edges = tape.edges(x)
    assert [(e.consumer, e.slot) for e in edges] == [("add", 0), ("add", 1)]
    assert all(np.array_equal(e.grad, [3.0, 3.0]) for e in edges)
    assert np.array_equal(x.grad, [6.0, 6.0])


def test_concat_of_the_same_tensor_has_an_edge_per_slot():
    x = leaf(2)
    weight = np.arange(6.0)
    with Tape("edges") as tape:
        loss = ops.sum(ops.concat([x, x, x]) * weight)
    tape.backward(loss)
    assert [e.grad.tolist() for e in tape.edges(x)] == [[0, 1], [2, 3], [4, 5]]
    assert x.grad.tolist() == [6, 9]


def test_messages_are_reduced_to_the_producers_shape_and_dtype():
    x = leaf(3, 1, dtype="float32")
    with Tape("edges") as tape:
        loss = ops.sum(x * np.ones((2, 3, 4), np.float32))
    tape.backward(loss)
    (edge,) = tape.edges(x)
    assert edge.grad.shape == (3, 1) and edge.grad.dtype == np.float32
    assert np.array_equal(edge.grad, np.full((3, 1), 8))


def test_a_message_of_the_wrong_shape_or_dtype_is_refused():
    x = leaf(3)
    for bad in (np.ones(4), np.ones(3, np.float32)):
        with Tape() as tape:
            y = record("bad", x.data * 1, (x,), lambda g, need, bad=bad: (bad,))
        with pytest.raises(TapeError, match="'bad' sent"):
            tape.backward(y, np.ones(3))
    with Tape() as tape:
        y = record("short", x.data * 1, (x, x), lambda g, need: (g,))
    with pytest.raises(TapeError, match="1 messages for 2 inputs"):
        tape.backward(y, np.ones(3))


# --- law 3: a fixed order of summation; retention never changes a value ---------------


def fan_out(x):
    """Many uses, whose messages differ in size: summation order shows in the bits."""
    return ops.sum(
        ops.concat([ops.tanh(x * (10.0**i)) for i in range(-6, 7)] + [x * x, x])
    )


def test_fan_out_is_summed_in_a_fixed_order_bit_for_bit():
    x = leaf(50, dtype="float32")
    grads = []
    for _ in range(2):
        with Tape("edges") as tape:
            loss = fan_out(x)
        tape.backward(loss)
        grads.append(x.grad)
        total = None
        for edge in reversed(tape.edges(x)):
            total = edge.grad if total is None else total + edge.grad
        assert np.array_equal(total, x.grad)
        assert set(tape.closure().values()) == {0.0}
    assert np.array_equal(*grads)


@pytest.mark.parametrize("retain", ["statistics", "tensors", "edges"])
@pytest.mark.parametrize("release", [False, True])
def test_retention_never_changes_a_value(retain, release):
    x = leaf(50, dtype="float32")
    results = []
    for level in ("leaves", retain):
        with Tape(level) as tape:
            loss = fan_out(x)
        tape.backward(loss, release=release)
        results.append(x.grad)
    assert np.array_equal(*results)


def test_what_each_level_keeps():
    x = leaf(4)
    kept = {}
    for level in ("leaves", "statistics", "tensors", "edges"):
        with Tape(level) as tape:
            loss = ops.sum(ops.exp(x) * 2.0)
        tape.backward(loss)
        node, edge = tape["exp"], tape.edges("exp")[0]
        kept[level] = [a is not None for a in (node.norm, node.grad, edge.grad)]
        assert x.grad is not None
        if level != "leaves":
            assert node.norm == pytest.approx(np.linalg.norm(np.full(4, 2.0)))
            assert edge.norm == node.norm
    assert kept == {
        "leaves": [False, False, False],
        "statistics": [True, False, False],
        "tensors": [True, True, False],
        "edges": [True, True, True],
    }


def test_closure_notices_a_gradient_that_was_touched():
    x = leaf(4)
    with Tape("edges") as tape:
        loss = ops.sum(x * x)
    tape.backward(loss)
    x.node.grad = x.node.grad * 1.001
    assert tape.closure()["x"] == pytest.approx(0.001, rel=0.01)


# --- law 4: nothing mutates what the tape has seen ------------------------------------


def test_check_mode_makes_values_and_messages_read_only():
    x = leaf(3)
    with Tape("edges", check=True) as tape:
        y = ops.exp(x)
        loss = ops.sum(y)
        with pytest.raises(ValueError, match="read-only"):
            y.data[0] = 1

    def spoil(g, need):
        g *= 2
        return (g,)

    tape.backward(loss)
    with pytest.raises(ValueError, match="read-only"):
        tape.edges("exp")[0].grad[0] = 1
    with Tape(check=True) as tape:
        loss = ops.sum(record("spoil", x.data * 1, (x,), spoil))
    with pytest.raises(ValueError, match="read-only"):
        tape.backward(loss)


def test_sums_in_place_never_reach_a_retained_message():
    x = leaf(3)
    with Tape("edges") as tape:
        loss = ops.sum(x + x) + ops.sum(x * 5.0) + ops.sum(x * 7.0)
    tape.backward(loss)
    assert sorted(float(e.grad[0]) for e in tape.edges(x)) == [1, 1, 5, 7]
    assert float(x.grad[0]) == 14


# --- law 6: nobody pays for a gradient nobody asked for -------------------------------


def spy(x, calls, name):
    def pullback(g, need):
        calls.append((name, need))
        return [g if n else None for n in need]

    return record(name, x.data * 1, (x,), pullback)


def test_frozen_leaves_and_images_cost_nothing():
    calls = []
    image, frozen, weight = Tensor(np.ones(3)), leaf(3, name="f"), leaf(3, name="w")
    frozen.requires_grad = False
    with Tape("edges") as tape:
        a = spy(image, calls, "image")
        b = spy(frozen, calls, "frozen")
        loss = ops.sum(a * b * spy(weight, calls, "weight"))
    tape.backward(loss)
    assert [name for name, _ in calls] == ["weight"]
    assert image.grad is None and frozen.grad is None and weight.grad is not None
    assert not tape.edges(image)


def test_needs_are_told_to_the_pullback_slot_by_slot():
    x, w = Tensor(np.ones(3)), leaf(3)
    asked = []

    def pullback(g, need):
        asked.append(need)
        return None, g

    with Tape() as tape:
        y = record("op", x.data * w.data, (x, w), pullback)
        loss = ops.sum(y)
    tape.backward(loss)
    assert asked == [(False, True)]


def test_a_watched_leaf_gets_its_gradient():
    image, w = Tensor(np.arange(3.0), name="image"), leaf(3)
    with Tape() as tape:
        tape.watch(image)
        loss = ops.sum(image * w)
    tape.backward(loss)
    assert np.array_equal(image.grad, w.data)
    with Tape() as tape:
        loss = ops.sum(image * w)
    assert not tape.edges(image)


def test_unused_branches_are_not_walked_and_hold_no_gradient():
    calls = []
    x = leaf(3)
    with Tape("edges") as tape:
        spy(x, calls, "unused")
        loss = ops.sum(x * 2.0)
    tape.backward(loss)
    assert not calls
    assert tape["unused"].grad is None
    assert np.array_equal(x.grad, np.full(3, 2.0))


# --- backward twice, release ----------------------------------------------------------


def test_backward_twice_sets_the_same_gradient_and_does_not_accumulate():
    x = leaf(3)
    with Tape("edges") as tape:
        y = ops.exp(x)
        loss, other = ops.sum(y * y), ops.sum(y)
    tape.backward(loss)
    first = x.grad.copy()
    tape.backward(loss)
    assert np.array_equal(first, x.grad)
    tape.backward(other)
    assert np.allclose(x.grad, np.exp(x.data))
    assert tape["mul"].grad is None
    assert loss.grad is None and loss.node.norm is None  # where the first one started


@pytest.mark.parametrize("retain", ["statistics", "tensors", "edges"])
def test_a_norm_is_that_of_the_gradient_it_stands_beside(retain):
    x = leaf(3)
    with Tape(retain) as tape:
        y = ops.exp(x)
        once, thrice = ops.sum(y), ops.sum(y * 2.0) + ops.sum(y)
    for loss, factor in ((once, 1), (thrice, 3), (once, 1)):
        tape.backward(loss)
        assert tape["exp"].norm == pytest.approx(factor * np.sqrt(3))
        assert x.node.norm == pytest.approx(np.linalg.norm(x.grad))
    assert x.node.norm != 0
    x.node.grad = x.grad * 2  # as clipping does
    assert x.node.norm == pytest.approx(np.linalg.norm(x.grad))


def test_release_frees_as_it_goes_and_forbids_a_second_backward():
    x = leaf(3)
    alive = []

    class Held(np.ndarray):
        pass

    def stage(x):
        saved = np.ones(3).view(Held)
        ref = weakref.ref(saved)

        def pullback(g, need):
            alive.append(sum(r() is not None for r in refs))
            return (g * np.asarray(saved),)

        refs.append(ref)
        return record("stage", x.data * 1, (x,), pullback)

    refs = []
    with Tape() as tape:
        y = x
        for _ in range(4):
            y = stage(y)
        loss = ops.sum(y)
    tape.backward(loss, release=True)
    assert alive == [4, 3, 2, 1]
    for call in (lambda: tape.backward(loss), lambda: tape.pullback(loss, to=x)):
        with pytest.raises(TapeError, match="released"):
            call()


def test_errors_say_what_to_do():
    x = leaf(3)
    with Tape() as tape:
        y = x * 2.0
    with pytest.raises(TapeError, match="give a cotangent"):
        tape.backward(y)
    with pytest.raises(TapeError, match=r"must be float64\(3,\)"):
        tape.backward(y, np.ones(4))
    with pytest.raises(TapeError, match="not on this tape"):
        tape.backward(x)
    with pytest.raises(TapeError, match="not on this tape"):
        Tape().backward(y, np.ones(3))
    with pytest.raises(TapeError, match="did you mean mul"):
        tape["mu"]
    with pytest.raises(TapeError, match="0 edges labelled 'shortcut'"):
        tape.edge(x, "shortcut")
    with pytest.raises(ValueError, match="retain must be one of"):
        Tape("everything")
    with pytest.raises(TypeError, match="floating-point"):
        Tensor([1, 2], requires_grad=True)


# --- names ----------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, rng):
        self.fc1 = nn.Linear(3, 3, rng=rng)
        self.fc2 = nn.Linear(3, 3, rng=rng)

    def forward(self, x):
        residual, shortcut = fork(x, "residual", "shortcut")
        return mark(self.fc2(ops.relu(self.fc1(residual))) + shortcut, "H")


class Net(nn.Module):
    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.stage = nn.Sequential(Block(rng), Block(rng))

    def forward(self, x):
        return ops.sum(self.stage(self.stage(x)))


def test_every_tensor_is_found_by_its_module_path():
    net = Net()
    with Tape("edges") as tape:
        loss = net(Tensor(np.ones((2, 3), np.float32)))
    tape.backward(loss)
    assert tape["stage.1.fc1"] is tape["stage.1.fc1.linear"]
    assert tape["stage.1.in"] is tape["stage.0"] is tape["stage.0.H"]
    assert tape["stage.0#2"] is not tape["stage.0"]  # the second run
    assert tape["stage.0.fc1.weight"] is net.stage.__dict__["0"].fc1.weight.node
    labels = sorted(e.label for e in tape.edges("stage.1.in"))
    assert labels == ["residual", "shortcut"]
    named = set(tape.names.values())
    assert all(n in named for n in tape.nodes)
    assert all(p.node in named for p in net.parameters())
    assert len({n.name for n in tape.nodes}) == len(tape.nodes)
