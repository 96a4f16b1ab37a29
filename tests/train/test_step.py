"""A training step is done whole or not at all, and says where it went wrong."""

import os
import re
import signal

import numpy as np
import pytest

from tinyflow import Tensor, nn, ops
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.optim import SGD, Adam
from tinyflow.signals import deferred
from tinyflow.train.overflow import first_bad_value
from tinyflow.train.step import evaluate, train_step

LABELS = np.array([0, 1, 2, 0])


class Net(nn.Module):
    def __init__(self, dropout=0.3):
        rng = np.random.default_rng(0)
        self.conv = nn.Conv2d(3, 4, 3, rng=rng)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(dropout, rng=rng)
        self.counts = [np.zeros(2), np.zeros(2, np.int64)]
        self.fc = nn.Linear(4, 3, rng=rng)

    def forward(self, x):
        for count in self.counts:
            count += 1
        h = self.drop(ops.relu(self.bn(self.conv(x))))
        return self.fc(ops.global_avg_pool2d(h))


def images(dtype="float32"):
    return np.random.default_rng(1).standard_normal((4, 3, 6, 6)).astype(dtype)


def everything(model, optimizer):
    return {
        **model.state_dict(),
        **{f"optimizer {k}": v for k, v in optimizer.state_dict().items()},
        "random": np.asarray(
            model.drop.generator.bit_generator.state["state"]["state"] % 2**62
        ),
    }


def unchanged(before, model, optimizer):
    after = everything(model, optimizer)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)
    assert all(p.grad is None for p in model.parameters())


def prepared():
    model = Net()
    optimizer = Adam(model.named_parameters(), lr=0.01)
    train_step(model, images(), LABELS, optimizer)
    return model, optimizer, everything(model, optimizer)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_refused_step_changes_nothing(bad):
    model, optimizer, before = prepared()
    wrong = images()
    wrong[0, 0, 0, 0] = bad
    with pytest.raises(FloatingPointError, match=r"loss became .*; the images hold 1"):
        train_step(model, wrong, LABELS, optimizer)
    unchanged(before, model, optimizer)
    train_step(model, images(), LABELS, optimizer)  # and training goes on


class Raised(Exception):
    pass


@pytest.mark.parametrize("error", [Raised, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("where", ["forward", "inspect", "clip", "state"])
def test_an_exception_anywhere_changes_nothing(error, where, monkeypatch):
    model, optimizer, before = prepared()

    def fail(*args, **how):
        raise error

    if where == "forward":
        monkeypatch.setattr(model.fc, "forward", fail)
    elif where == "clip":
        monkeypatch.setattr("tinyflow.train.step.clip_grad_norm", fail)
    elif where == "state":  # of the last parameter, when others have theirs
        optimizer._kept_for.pop("fc.bias")
        monkeypatch.setattr(optimizer, "_fresh", fail)
    with pytest.raises(error):
        how = {"inspect": fail} if where == "inspect" else {}
        train_step(model, images(), LABELS, optimizer, clip_grad=0.1, **how)
    unchanged(before, model, optimizer)


def test_an_interrupt_during_the_update_waits_for_its_end(monkeypatch):
    model, optimizer, _ = prepared()
    update = optimizer._update

    def interrupted(run, entries, options):
        update(run, entries[:2], options[:2])
        os.kill(os.getpid(), signal.SIGINT)
        update(run, entries[2:], options[2:])

    monkeypatch.setattr(optimizer, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_step(model, images(), LABELS, optimizer)
    again, twin, _ = prepared()
    train_step(again, images(), LABELS, twin)
    after, expected = everything(model, optimizer), everything(again, twin)
    for name in expected:
        np.testing.assert_array_equal(after[name], expected[name], err_msg=name)


def test_deferred_signals_are_answered_by_the_handlers_there_were():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert not heard
        assert heard == [signal.SIGTERM]
        handler = signal.getsignal(signal.SIGTERM)
        with deferred():
            pass
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


# --- what overflowed where ------------------------------------------------------------


def test_an_overflowing_batch_variance_is_named():
    model, optimizer, _ = prepared()
    model.conv.weight.data[1] *= np.float32(1e25)
    before = everything(model, optimizer)
    with pytest.raises(FloatingPointError, match=r"bn\.running_var .* 1 of 4 channels"):
        train_step(model, images(), LABELS, optimizer)
    unchanged(before, model, optimizer)


def test_overflowing_values_are_named():
    model, optimizer, _ = prepared()
    model.fc.weight.data[...] = 3e38
    with pytest.raises(FloatingPointError, match=r"the first such values are .* of fc"):
        train_step(model, images(), LABELS, optimizer)
    # All features are alike, so that what goes in is known: x, and x · 3e38.
    x = np.full((2, 3), 2.5, "float32")
    layer = nn.Linear(3, 2, bias=False, rng=np.random.default_rng(0))
    layer.weight.data[...] = [[3e38] * 3, [-1.5, 0, 1]]
    said = "; the first such values are 2 of 4 of "
    made = r" \(linear of the images from 2\.5 to 2\.5, weight from -1\.5 to 3e\+38\)"
    with np.errstate(over="ignore", invalid="ignore"):
        found = first_bad_value(layer, x, np.array([0, 1]))
    assert re.fullmatch(re.escape(said) + r"\S+" + made, found), found
    model, optimizer, _ = prepared()
    model.fc.bias.data[1] = np.inf
    with pytest.raises(FloatingPointError, match=r"fc\.bias holds 1 such values"):
        train_step(model, images(), LABELS, optimizer)


def test_overflowing_gradients_are_named():
    class Steep(Net):
        def forward(self, x):
            return super().forward(x) + ops.sqrt(self.fc.bias)  # infinite slope at 0

    model = Steep(0.0)
    optimizer = SGD(model.named_parameters(), lr=0.1)
    with pytest.raises(FloatingPointError, match=r"norm became inf; .* in that of fc"):
        train_step(model, images(), LABELS, optimizer)


# --- what the optimiser holds ---------------------------------------------------------


def test_a_layer_replaced_after_the_optimiser_was_made():
    model = Net()
    optimizer = SGD(model.named_parameters(), lr=0.1)
    model.fc = nn.Linear(4, 3, rng=np.random.default_rng(5))
    with pytest.raises(ValueError, match=r"'fc\.weight'.*replaced after"):
        train_step(model, images(), LABELS, optimizer)
    head = SGD(model.fc.named_parameters(), lr=0.1)  # a part alone is no mistake
    train_step(model, images(), LABELS, head)


@pytest.mark.parametrize("first", ["move", "make"])
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_moving_before_or_after_the_optimiser_is_made(first, kind):
    results = []
    for order in (first, "plain"):
        model = Net(0.0)
        make = lambda model=model: kind(model.named_parameters(), lr=0.1)  # noqa: E731
        if order == "plain":
            model.to("cpu", "float64")
            optimizer = make()
        elif first == "make":
            optimizer = make()
            model.to("cpu").to(dtype="float64")
        else:
            model.to("cpu", "float64").to("cpu")
            optimizer = make()
        losses = [
            train_step(model, images("float64"), LABELS, optimizer).loss
            for _ in range(3)
        ]
        results.append((losses, model.state_dict()))
    assert results[0][0] == results[1][0]
    for name, array in results[0][1].items():
        np.testing.assert_array_equal(array, results[1][1][name])


def test_evaluation_puts_every_module_back_into_its_mode():
    model = Net()
    model.bn.eval()

    class Loader:
        dataset = LABELS

        def epoch(self, k):
            yield images(), LABELS

    with forced(PLAIN):
        evaluate(model, Loader())
    assert model.training and not model.bn.training and model.drop.training


def test_a_step_has_the_bits_of_its_parts():
    model, twin = Net(), Net()
    one = SGD(model.named_parameters(), lr=0.1)
    two = SGD(twin.named_parameters(), lr=0.1)
    a = train_step(model, images(), LABELS, one)
    b = train_step(twin, images(), LABELS, two, inspect=lambda loss, tape: None)
    assert a == b
    assert Tensor(np.float32(a.loss)).item() == a.loss
