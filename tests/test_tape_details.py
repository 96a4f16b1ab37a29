"""What backward leaves alone, and what the tape says of its parts."""

import gc
import weakref

import numpy as np
import pytest

from tinyflow import Tape, TapeError, Tensor, fork, mark, node, ops
from tinyflow.seen import checksum
from tinyflow.sweep import sum_to
from tinyflow.tape import fusing, record


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True, name="x")


def test_parts_say_what_they_are():
    x = leaf(1.0, 2.0)
    (handle,) = fork(x, "left")
    with Tape() as tape:
        ops.sum(ops.mul(handle, 3.0))
    assert repr(x) == (
        "Tensor([1., 2.], shape=(2,), dtype=float64, name='x', requires_grad=True)"
    )
    assert repr(x.node) == "Node(x, shape=(2,), dtype=float64)"
    (edge,) = tape.edges(x)
    assert repr(edge) == "Edge(x -> mul[0] (left))"
    (edge,) = tape.edges("mul")
    assert repr(edge) == "Edge(mul -> sum[0])"


def test_a_dead_end_beside_the_way_is_not_walked():
    """A node computed from the goal, on the way to nothing."""
    x = leaf(1.0, 2.0)
    with Tape("edges") as tape:
        y = ops.mul(x, 3.0)
        ops.mul(y, 100.0)
        loss = ops.sum(y)
        ops.mul(y, 10.0)
    assert tape.pullback(loss, to=x).tolist() == [3.0, 3.0]
    assert tape.pullback(loss, to=y).tolist() == [1.0, 1.0]
    other = leaf(1.0, 1.0)
    with tape:
        ops.mul(other, 2.0)
    assert tape.pullback(loss, to=other).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("retain", ["leaves", "edges"])
def test_norms_nobody_asked_for_are_not_computed(retain, monkeypatch):
    """Only levels "statistics" and "tensors" note them; elsewhere on demand."""

    def refuse(array):
        raise AssertionError("a norm was computed")

    x = leaf(3.0, 4.0)
    with Tape(retain) as tape:
        loss = ops.sum(ops.add(ops.mul(x, 2.0), ops.mul(x, -1.0)))
    monkeypatch.setattr("tinyflow.retain.length", refuse)
    tape.backward(loss)
    assert x.grad.tolist() == [1.0, 1.0]
    assert x.node.norm == pytest.approx(2**0.5)


@pytest.mark.parametrize("retain", ["leaves", "statistics", "tensors", "edges"])
def test_an_unchecked_tape_protects_gradients_and_nothing_else(retain):
    x = leaf(3.0, 4.0)
    with Tape(retain) as tape:
        y = ops.mul(x, 2.0)
        z = ops.add(y, y)
        loss = ops.sum(ops.mul(z, z))
    seed = np.ones(())
    tape.backward(loss, seed)
    assert seed.flags.writeable and not x.grad.flags.writeable
    assert y.data.flags.writeable and loss.data.flags.writeable


@pytest.mark.parametrize("retain", ["statistics", "tensors"])
def test_noted_norms_are_those_of_sums_and_single_messages(retain, monkeypatch):
    x = leaf(3.0, 4.0)
    with Tape(retain) as tape:
        y = ops.mul(x, 2.0)
        z = ops.add(ops.mul(y, 3.0), ops.mul(y, -1.0))
        loss = ops.sum(ops.add(z, x))
    tape.backward(loss)
    monkeypatch.setattr(node, "l2_norm", None)  # none is computed when asked for
    root = 2**0.5
    assert [e.norm for e in tape.edges(y)] == pytest.approx([3 * root, root])
    assert y.node.norm == pytest.approx(2 * root)
    assert x.node.norm == pytest.approx(5 * root)
    assert loss.node.norm == 1.0


def test_a_pullback_asks_only_for_what_leads_to_its_goal():
    """Neither a constant, nor another branch, nor an edge that is cut is computed."""
    asked = []

    def three(*inputs):
        def pullback(g, need):
            asked.append(need)
            return [g if wanted else None for wanted in need]

        return record("three", np.ones(2), inputs, pullback)

    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    with Tape("edges") as tape:
        left, right = ops.mul(x, 2.0), ops.mul(y, 2.0)
        z = three(left, right, 5.0)
    ones = np.ones(2)
    assert tape.pullback(z, ones, to=x).tolist() == [2.0, 2.0]
    edge = tape.edges(left)[0]
    assert tape.pullback(z, ones, to=x, scale={edge: 0.0}).tolist() == [0.0, 0.0]
    assert tape.pullback(z, ones, to=x, scale={edge: 0.5}).tolist() == [1.0, 1.0]
    assert asked == [(True, False, False), (False,) * 3, (True, False, False)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pullback_adds_in_the_order_of_backward(dtype):
    """Bit for bit the gradient, whichever of the two computes it."""
    rng = np.random.default_rng(0)
    x = Tensor(rng.standard_normal((50, 1)).astype(dtype), requires_grad=True)
    w = rng.standard_normal((50, 7)).astype(dtype)
    with Tape("edges") as tape:
        y = ops.mul(x, x)
        loss = ops.sum(ops.mul(ops.concat([y] * 7, 1), Tensor(w)))
    tape.backward(loss)
    assert np.array_equal(tape.pullback(loss, to=y), y.grad)
    assert np.array_equal(tape.pullback(loss, to=x), x.grad)
    backwards = sum(w[:, i] for i in range(7))
    assert not np.array_equal(backwards, y.grad[:, 0])  # the order can be seen


def test_through_and_around_are_one_or_the_other():
    x = leaf(1.0, 2.0)
    with Tape("edges") as tape:
        a, b = fork(x, "a", "b")
        loss = ops.sum(ops.add(ops.mul(a, 2.0), ops.mul(b, 3.0)))
    edges = tape.edges(x, "a")
    with pytest.raises(ValueError, match="not both"):
        tape.pullback(loss, to=x, through=edges, around=edges)
    assert tape.pullback(loss, to=x, through=edges).tolist() == [2.0, 2.0]
    assert tape.pullback(loss, to=x, around=edges).tolist() == [3.0, 3.0]
    assert tape.pullback(loss, to=x, through=[]).tolist() == [0.0, 0.0]
    assert tape.pullback(loss, to=x, around=[]).tolist() == [5.0, 5.0]


@pytest.mark.parametrize("retain", ["leaves", "edges"])
def test_released_from_the_middle(retain):
    """What was recorded after the output is dropped and changes nothing."""
    x = leaf(1.0, 2.0)
    with Tape(retain) as tape:
        loss = ops.sum(ops.mul(x, 3.0))
        later = ops.mul(loss, 100.0)
        ops.mul(later, 7.0)
    tape.backward(loss, release=True)
    assert x.grad.tolist() == [3.0, 3.0]
    assert tape.nodes == [] and later.grad is None


def test_only_a_tape_that_keeps_leaves_alone_fuses():
    assert Tape(fuse=True).fuse and not Tape().fuse
    for retain in ("statistics", "tensors", "edges"):
        assert Tape(retain).retain == retain
        with pytest.raises(ValueError, match="fuse=True hides"):
            Tape(retain, fuse=True)


def test_layers_fuse_where_nobody_looks_between_them():
    assert fusing()
    with Tape(fuse=True):
        assert fusing()
        with Tape():
            assert not fusing()


def test_the_adjoint_of_broadcasting():
    ones = np.ones((2, 3, 4))
    several = ((2, 3, 4), 1), ((3, 4), 2), ((1, 4), 6), ((2, 1, 1), 12), ((3, 1), 8)
    for shape, value in (*several, ((2, 1, 4), 3), ((1, 3, 4), 2), ((1, 3, 1), 8)):
        found = sum_to(ones, shape)
        assert found.shape == shape and (found == value).all()
    assert sum_to(ones, ()).item() == 24
    short = np.ones(4)
    assert sum_to(short, (1, 4)) is short  # too few axes: for the tape to refuse


def test_the_value_of_one_entry_is_a_number():
    value = Tensor(np.array([[2.5]], np.float32)).item()
    assert value == 2.5 and type(value) is float


@pytest.mark.parametrize("value", [[1.0], 1.0, None, Tensor(np.ones(1))])
def test_a_value_that_is_no_array_is_refused_in_words(value):
    kind = type(value).__name__
    with pytest.raises(TypeError, match=f"value of 'f' must be an array, not {kind}"):
        record("f", value, (), lambda g, need: ())


def test_what_nobody_can_learn_from_requires_no_gradient():
    with Tape("edges") as tape:
        y = ops.mul(Tensor(np.ones(2)), 3.0)
    assert not y.requires_grad and tape.nodes == [] and tape.uses == {}
    assert tape["mul"] is y.node and y.node.index == -1


def test_one_entry_is_asked_for_in_words():
    two = Tensor(np.ones(2), name="two")
    for ask, what in ((float, "a number"), (int, "a number"), (bool, "true or false")):
        words = f"only a tensor of one element is {what}; 'two' has shape"
        with pytest.raises(ValueError, match=words):
            ask(two)
    with pytest.raises(ValueError, match="only a tensor of one element is a number"):
        two.item()


@pytest.mark.parametrize(
    "turn",
    [np.transpose, lambda a: a[::-1, :2], lambda a: np.broadcast_to(a, (2, 3, 4))],
)
def test_every_entry_counts_in_a_checksum(turn):
    a = np.random.default_rng(0).standard_normal((3, 4))
    before = checksum(turn(a))
    for at in np.ndindex(3, 2):
        kept = a[at]
        a[at] = np.nextafter(kept, 9)
        assert checksum(turn(a)) != before, at
        a[at] = kept
    assert checksum(turn(a)) == before


def test_closure_of_what_was_used_after_the_output():
    """It has a gradient and a use, but none that came through this use."""
    x = leaf(1.0, 2.0)
    with Tape("edges") as tape:
        loss = ops.sum(ops.mul(x, 3.0))
        ops.mul(loss, 2.0)
    tape.backward(loss)
    assert tape.closure() == {"x": 0.0, "mul": 0.0}
    x.node.grad = None
    assert tape.closure() == {"mul": 0.0}


@pytest.mark.parametrize(
    ("who", "ask"),
    [
        ("Tape.watch", Tape().watch),
        ("mark", lambda x: mark(x, "H")),
        ("fork", lambda x: fork(x, "a")),
    ],
)
def test_arrays_are_no_tensors(who, ask):
    with pytest.raises(TypeError, match=f"{who}: x must be a Tensor, not ndarray"):
        ask(np.ones(2))


def test_a_tensor_is_gone_through_row_by_row():
    assert [float(row[1]) for row in Tensor(np.array([[1.0, 2], [3, 4]]))] == [2, 4]


def test_up_to_six_names_are_proposed():
    tape = Tape()
    with tape:
        for name in "abcdefgh":
            mark(leaf(1.0), f"net.{name}")
    with pytest.raises(TapeError) as found:
        tape["net"]
    names = ", ".join(f"net.{name}" for name in "abcdef")
    said = f"nothing on the tape is called 'net'; did you mean {names}?"
    assert str(found.value) == said
    with pytest.raises(TapeError, match=r"called .nothing.$"):
        tape["nothing"]


def test_a_tensor_converts_like_its_array():
    a = np.arange(3.0)
    x = Tensor(a)
    assert np.array_equal(np.asarray(x), a)
    assert np.asarray(x, np.float32).dtype == np.float32
    kept = np.array(x, copy=True)
    kept[0] = 7
    assert a[0] == 0
    assert len(x) == 3
    with pytest.raises(TypeError, match="'x' is a single number and has no length"):
        len(Tensor(1.0, name="x"))
    for number in (0.0, 2.5):
        one = Tensor(np.full((1, 1), number))
        assert (bool(one), float(one), int(one)) == (number > 0, number, int(number))


def test_repeated_entries_take_no_memory_to_check():
    many = np.broadcast_to(np.float64(3.0), (2**45,))
    assert checksum(many) == checksum(np.full(1, 3.0))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_pullback_checks_what_lies_on_its_way_and_nothing_later(at):
    """From the last but one operator to the input of the second: 1 and 2, not 3."""
    read = [np.full(2, 2.0) for _ in range(4)]
    values = [leaf(1.0, 2.0)]
    with Tape("edges") as tape:
        for constant in read:
            values.append(ops.mul(values[-1], constant))
    read[at][1] = 5.0
    if at < 3:
        with pytest.raises(TapeError, match="was written to"):
            tape.pullback(values[3], np.ones(2), to=values[1])
    else:
        tape.pullback(values[3], np.ones(2), to=values[1])


def test_a_number_on_the_tape_is_a_constant():
    with Tape() as tape:
        ops.mul(leaf(1.0), 3.0)
    one, other = tape.nodes[0].edges
    assert one.producer.requires_grad and not other.producer.requires_grad
    assert (other.producer.op, other.producer.shape) == ("constant", ())


def test_a_released_tape_lets_go_of_what_it_has_read():
    class Held(np.ndarray):
        pass

    x, big = leaf(1.0, 2.0), Held(2)
    big[:] = 1
    gone = weakref.ref(big)
    with Tape() as tape:
        loss = ops.sum(ops.mul(x, Tensor(big)))
    tape.backward(loss, release=True)
    del loss, big
    gc.collect()
    assert gone() is None and tape.nodes == []


@pytest.mark.parametrize("new", [np.ones(3), np.ones(2, np.float32)])
def test_new_data_of_another_shape_or_dtype(new):
    x = leaf(1.0, 2.0)
    x.data = new
    with Tape() as tape:
        loss = ops.sum(ops.mul(x, x))
    tape.backward(loss)
    assert (x.node.shape, x.node.dtype) == (new.shape, new.dtype)
    assert x.grad.dtype == new.dtype and x.grad.tolist() == [2] * len(new)


def test_ops_outside_a_tape_compute_and_record_nothing():
    x = leaf(1.0, 2.0, 3.0)
    y = ops.exp(x) + np.ones(3)
    assert np.allclose(y.data, np.exp(x.data) + 1) and not y.requires_grad
    assert np.allclose((np.ones(3) + x).data, 1 + x.data)
