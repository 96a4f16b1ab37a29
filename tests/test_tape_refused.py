"""What a tape and a tensor refuse, in words, and how a tensor is compared."""

import numpy as np
import pytest

from tests.fakes.strict_array import Machine
from tinyflow import Tape, TapeError, Tensor, ops, sweep
from tinyflow.backend import asarray
from tinyflow.node import l2_norm
from tinyflow.tape import record


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True, name="x")


def test_a_released_tape_records_and_sends_no_more():
    x = leaf(1.0, 2.0)
    with Tape() as tape:
        y = ops.mul(x, 3.0)
        loss = ops.sum(y)
    tape.backward(loss, release=True)
    with pytest.raises(TapeError, match="was released by backward; start a new Tape"):
        with tape:
            ops.mul(x, 2.0)
    with pytest.raises(TapeError, match="'mul' was released by an earlier backward"):
        sweep.messages(y.node, np.ones(2), (True, False), False)


@pytest.mark.parametrize("retain", ["leaves", "statistics", "tensors", "edges"])
def test_a_released_tape_of_leaves_lets_go_of_all_places(retain):
    x = leaf(1.0, 2.0)
    with Tape(retain) as tape:
        ops.mul(ops.sum(ops.mul(x, 3.0)), 2.0)
    tape.backward("sum", release=True)
    held = {"mul", "sum", "mul#2", "x"}, {"mul", "sum", "x"}
    if retain == "leaves":
        held = set(), set()
    assert (set(tape.names), {n.name for n in tape.uses}) == held
    assert tape.nodes == []


@pytest.mark.parametrize("way", ["backward", "pullback"])
def test_a_write_to_what_the_output_itself_has_read_is_noticed(way):
    """And one to what only a later operator has read is not asked about."""
    x, other = leaf(1.0, 2.0), leaf(3.0, 4.0)
    with Tape() as tape:
        y = ops.mul(x, x)
        ops.mul(y, other)
    other.data[0] = 7.0
    ones = np.ones(2)
    if way == "backward":
        tape.backward(y, ones)
    else:
        assert tape.pullback(y, ones, to=x).tolist() == [2.0, 4.0]
    x.data[0] = 5.0
    with pytest.raises(TapeError, match="'x' was written to after this tape"):
        tape.backward(y, ones) if way == "backward" else tape.pullback(y, ones, to=x)


def test_an_operator_that_sends_nothing_is_named_with_its_input():
    x = leaf(1.0, 2.0)
    with Tape() as tape:
        y = record("lazy", x.data, (5.0, x), lambda g, need: (None, None))
        loss = ops.sum(y)
    with pytest.raises(TapeError, match="'lazy' sent nothing to its input 1"):
        tape.backward(loss)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("uses", [0, 2])
def test_a_pullback_that_writes_to_what_it_is_given_is_caught_if_checked(check, uses):
    """Given the first cotangent, or a sum of two messages."""

    def spoil(g, need):
        g *= 2.0
        return (g,)

    x = leaf(1.0, 2.0)
    with Tape(check=check) as tape:
        y = record("spoil", x.data * 3.0, (x,), spoil)
        out = y + y if uses else y
    if not check:
        tape.backward(out, np.ones(2))
        assert x.grad.tolist() == ([4.0, 4.0] if uses else [2.0, 2.0])
        return
    with pytest.raises(ValueError, match="read-only"):
        tape.backward(out, np.ones(2))


@pytest.mark.parametrize("retain", ["leaves", "statistics", "tensors"])
def test_conservation_needs_edges(retain):
    with pytest.raises(TapeError, match=r"checked on a Tape\(retain=\"edges\"\)"):
        Tape(retain).closure()
    assert Tape("edges").closure() == {}


def test_what_is_no_float_cannot_begin_to_learn():
    whole, half = Tensor(np.array([1, 2])), Tensor(np.array([1.0, 2.0]))
    with pytest.raises(TypeError, match="'leaf' is int64; convert it first"):
        whole.requires_grad = True
    assert whole.requires_grad is False
    whole.requires_grad = False
    half.requires_grad = 1
    assert half.requires_grad is True


def test_tensors_are_compared_entry_by_entry():
    x, y = Tensor(np.array([1.0, 2.0, 3.0])), Tensor(np.array([3.0, 2.0, 1.0]))
    for other in (y, y.data, [3.0, 2.0, 1.0]):
        assert (x == other).tolist() == [False, True, False]
        assert (x != other).tolist() == [True, False, True]
        assert (x < other).tolist() == [True, False, False]
        assert (x <= other).tolist() == [True, True, False]
        assert (x > other).tolist() == [False, False, True]
        assert (x >= other).tolist() == [False, True, True]
    assert 2.0 in x and 4.0 not in x
    assert Tensor(np.array(2.0)) in x and len({x, y, x}) == 2


def test_an_array_on_a_gpu_stays_there(machine: Machine):
    x = Tensor(asarray(np.array([3.0, 4.0]), "cuda"))
    before = machine.syncs
    with pytest.raises(TypeError, match=r"'leaf' is on the GPU: take it to the host"):
        np.asarray(x)
    assert machine.syncs == before and type(x.data).__module__ != "numpy"
    assert l2_norm(x.data) == 5.0
