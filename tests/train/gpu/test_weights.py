"""The bfloat16 weights of a captured step: on the host (``host_gpu``), never stale."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.fakes.cuda_host import emulator
from tests.fakes.host_gpu import HostGpu, host_engine
from tests.train.gpu.test_capture import RULES, batches, captured
from tinyflow import nn, ops
from tinyflow.optim import SGD
from tinyflow.train.gpu.capture import WARM_UP
from tinyflow.train.step import train_step

pytestmark = pytest.mark.skipif(
    emulator.COMPILER is None, reason="the host emulation needs g++"
)


class Mixed(nn.Module):
    """A layer used twice, and a frozen one."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False, rng=rng)
        self.bn = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 1, bias=False, rng=rng)
        self.fc = nn.Linear(8, 10, rng=rng)
        self.fc.weight.requires_grad = False

    def forward(self, x: object) -> object:
        x = ops.relu(self.bn(self.conv(x)))
        x = ops.relu(self.twice(self.twice(x)))
        return self.fc(ops.global_avg_pool2d(x))


def load(model: Mixed) -> None:
    model.load_state_dict({k: 0.5 * v for k, v in model.state_dict().items()})


def write(model: Mixed) -> None:
    model.fc.weight.data[...] *= -1
    model.fc.weight.node.version += 1


def update(model: Mixed) -> None:
    """By another optimiser."""
    model.twice.weight.grad = np.ones_like(model.twice.weight.data)
    SGD([model.twice.weight], lr=0.1).step()


def move(model: Mixed) -> None:
    """Every parameter is another array: all steps that follow are eager."""
    model.to("cpu")


@contextmanager
def casts_deferred(gpu: HostGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The one cast that is array code is recorded, too."""

    def master(w: np.ndarray) -> np.ndarray:
        full = np.empty_like(w, dtype="f4")
        gpu.do(lambda: np.copyto(full, w, casting="unsafe"))
        return full

    monkeypatch.setattr("tinyflow.kernels.cuda.engine._master", master)
    with host_engine(gpu):
        yield


def bfloat16_batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    return [(images.astype(dtype), labels) for images, labels in batches(count)]


@pytest.mark.parametrize("between", [load, write, update, move])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_no_copy_of_a_weight_is_ever_stale(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    between: Callable[[Mixed], None],
) -> None:
    """Replayed is eager, whoever writes parameters, and no weight is cast in it."""
    gpu = HostGpu()
    with casts_deferred(gpu, monkeypatch):
        eager, replayed = Mixed().to("cpu"), Mixed().to("cpu")
        rates = RULES[name](list(eager.named_parameters()))
        step, said = captured(gpu, replayed, RULES[name])
        step.optimizer.lr = rates.lr = 1e-3
        for i, (images, labels) in enumerate(bfloat16_batches(WARM_UP + 6)):
            if i == WARM_UP + 4:  # an eager step between
                images, labels = images[:2], labels[:2]
            one, two = train_step(eager, images, labels, rates), step(images, labels)
            assert two.loss == pytest.approx(one.loss, rel=1e-6)
            for p, q in zip(eager.parameters(), replayed.parameters(), strict=True):
                np.testing.assert_allclose(p.data, q.data, 1e-5, 1e-7)
            if i == WARM_UP + 1:
                between(eager)
                between(replayed)
        if between is move:
            assert step.replayed == 2 and "parameters moved" in said[0]
            return
        assert step.replayed == 5 and len(said) == 1 and "a batch of 2" in said[0]
        assert step._graph is not None
        copies = step._graph.updates.copies
        for layer in (replayed.conv, replayed.twice, replayed.fc):
            copy = copies.of(layer.weight.data)
            np.testing.assert_array_equal(copy, layer.weight.data.astype(copy.dtype))
        assert len(copies._copies) == 3


def test_two_recorded_steps_of_one_network(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = HostGpu()
    with casts_deferred(gpu, monkeypatch):
        eager, replayed = Mixed().to("cpu"), Mixed().to("cpu")
        rates = [RULES["sgd"](list(eager.named_parameters())) for _ in range(2)]
        steps = [captured(gpu, replayed, RULES["sgd"])[0] for _ in range(2)]
        for optimizer in (*rates, *(step.optimizer for step in steps)):
            optimizer.lr = 1e-3
        for i, batch in enumerate(bfloat16_batches(2 * WARM_UP + 6)):
            one = train_step(eager, *batch, rates[i % 2])
            two = steps[i % 2](*batch)
            assert two.loss == pytest.approx(one.loss, rel=1e-6)
        assert [step.replayed for step in steps] == [3, 3]


def test_a_frozen_weight_that_moved_is_not_replayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = HostGpu()
    with casts_deferred(gpu, monkeypatch):
        model = Mixed().to("cpu")
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        step, said = captured(gpu, model, lambda p: SGD(trained.items(), 0.1))
        for batch in bfloat16_batches(WARM_UP + 1):
            step(*batch)
        assert step.replayed == 1 and said == []
        model.fc.weight.data = model.fc.weight.data * 2
        step(*batch)
        assert step.replayed == 1 and "parameters moved" in said[0]
