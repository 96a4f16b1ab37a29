"""The device's side of the array code, run against a strict stand-in for CuPy.

The kernels are the plain ones: those written in CUDA have tests of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import models
from benchmarks import conv_reference
from tests.fakes.strict_array import Machine, ndarray, view
from tests.kernels.test_windows import all_three, convolutions, is_hwnc
from tests.ops.test_table import ROWS, RUNNING, values_and_gradients
from tests.ops.test_table import orders as memory_orders
from tests.ops.windows import window
from tinyflow import Tape, Tensor, flow, nn, ops
from tinyflow.backend import asarray, asnumpy, device_of, numbers
from tinyflow.data import Dataset, Loader
from tinyflow.kernels.geometry import Window
from tinyflow.kernels.plain import conv, pool
from tinyflow.optim import SGD, Adam, AdamW, Optimizer, RMSprop, names_of_vectors
from tinyflow.testing import check_vjp, spaced
from tinyflow.train import evaluate, train_step
from tinyflow.train.step import StepResult


def up(x: np.ndarray) -> Any:
    """The device array whose memory is exactly that of `x`, gaps and all."""
    return view(x)


def close(a: Any, b: np.ndarray, digits: float = 1e-11) -> None:
    """Check that device array `a` is `b` up to rounding."""
    assert isinstance(a, ndarray), type(a)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    size = max(1.0, float(np.abs(b).max(initial=0.0)))
    assert np.abs(a.get() - b).max(initial=0.0) <= digits * size


# --- operators and kernels ---------------------------------------------------------

every_row = pytest.mark.parametrize(
    "row", ROWS, ids=[f"{r.operator}({r.options})" for r in ROWS]
)


@every_row
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operators(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, row: Any, dtype: str
) -> None:
    """Value and gradients are NumPy's in dtype and number, and nothing waits."""
    inputs = [x.astype(dtype) for x in row.inputs]
    y = row.function(*map(Tensor, inputs))
    u = spaced(*y.shape).astype(dtype)
    expected = values_and_gradients(row.function, inputs, u)
    for name, array in RUNNING.items():
        monkeypatch.setitem(RUNNING, name, up(array))
    choices = [list(memory_orders(x)) for x in row.inputs]
    for turn in range(max(map(len, choices))):
        there = [up(c[turn % len(c)].astype(dtype)) for c in choices]
        machine.made.clear()
        got = values_and_gradients(row.function, there, up(u))
        assert machine.syncs == 0
        if dtype == "float32":
            assert not machine.made["float64"]
        for a, b in zip(got, expected, strict=True):
            close(a, b, 1e-11 if dtype == "float64" else 2e-5)
        machine.syncs = 0


def test_the_checker_checks_on_the_device(machine: Machine) -> None:
    for row in ROWS[::9]:
        check_vjp(row.function, *map(up, row.inputs), float32=True)


@settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=convolutions())
def test_convolution_kernels(machine: Machine, case: Any) -> None:
    x, w, g, how = case
    expected = all_three(conv_reference, x, w, g, how)
    for module in (conv, conv_reference):
        got = all_three(module, up(x), up(w), up(g), how)
        for a, b in zip(got, expected, strict=True):
            close(a, b)
            assert module is conv_reference or is_hwnc(a)
    assert machine.syncs == 6
    machine.syncs = 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "at",
    [
        window((2, 2), (2, 2)),
        window((3, 2), (2, 1), (1, 0, 0, 1), (1, 2), True),
        window((17, 17), (1, 1), (8, 8)),  # more taps than a byte counts
    ],
)
def test_maximum_pooling_kernels(machine: Machine, dtype: str, at: Window) -> None:
    x = np.random.default_rng(0).integers(0, 9, (2, 3, 9, 8)).astype(dtype)  # ties
    x[0, 0, 3, 3] = np.nan
    y, taps = pool.max_pool2d_forward(x, at)
    got = pool.max_pool2d_forward(up(x), at)
    for a, b in zip(got, (y, taps), strict=True):
        np.testing.assert_array_equal(a.get(), b)
    back = pool.max_pool2d_input_grad(y, taps, x.shape, at)
    got = pool.max_pool2d_input_grad(up(y), up(taps), x.shape, at)
    np.testing.assert_allclose(got.get(), back, rtol=1e-6)


# --- a training step ---------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda m: SGD(m.named_parameters(), 0.05, 0.9, 5e-4, nesterov=True),
    "adam": lambda m: Adam(m.named_parameters(), weight_decay=0.01),
    "adamw": lambda m: AdamW(
        m.named_parameters(), no_decay=names_of_vectors(m.named_parameters())
    ),
    "rmsprop": lambda m: RMSprop(
        m.named_parameters(), weight_decay=0.01, momentum=0.9, centered=True
    ),
}
NETWORKS = ("resnet20", "se_resnet20", "densenet121", "vgg11")


def images(n: int = 4, size: int = 32, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, 3, size, size)).astype(dtype)


def steps(
    name: str,
    device: str,
    dtype: str = "float32",
    optimizer: str = "sgd",
    count: int = 1,
    clip: float | None = None,
) -> tuple[nn.Module, Optimizer, list[StepResult]]:
    """A network after some training steps on one batch."""
    size = max(16, models.MODELS[name].smallest)
    model = models.build_model(name, image_size=size).to(device, dtype)
    run, labels = OPTIMIZERS[optimizer](model), np.arange(4)
    batch = asarray(images(4, size, dtype), device)
    results = [
        train_step(model, batch, labels, run, label_smoothing=0.1, clip_grad=clip)
        for _ in range(count)
    ]
    return model, run, results


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_is_numpys(machine: Machine, name: str) -> None:
    dtype, digits = ("float32", 1e-4) if name == "vgg11" else ("float64", 1e-9)
    (ours, run, one), (theirs, reference, other) = (
        steps(name, device, dtype, clip=1.0) for device in ("cuda", "cpu")
    )
    assert asdict(one[0]) == pytest.approx(asdict(other[0]), rel=digits)
    for state, expected in (
        (ours.state_dict(), theirs.state_dict()),
        (
            {n: p.grad for n, p in ours.named_parameters()},
            {n: p.grad for n, p in theirs.named_parameters()},
        ),
    ):
        assert state.keys() == expected.keys()
        for key, array in expected.items():
            close(state[key], array, digits)
    for key, array in reference.state_dict().items():
        if not key.startswith("steps/"):
            close(run.state_dict()[key], array, digits)
    if dtype == "float32":
        assert_float32(machine, ours, run, 1)


def assert_float32(
    machine: Machine, model: nn.Module, run: Optimizer, count: int
) -> None:
    """Nothing of these steps is in another precision, nor was anything on the way."""
    assert machine.made["float64"] <= 2 * count, "but loss and hits, for the host"
    arrays = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    arrays += [a for slots in run.state.values() for a in slots.values()]
    assert {(type(a), a.dtype.name) for a in arrays} == {(ndarray, "float32")}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_everything_stays_float32(machine: Machine, optimizer: str) -> None:
    for name in NETWORKS[:3] if optimizer == "sgd" else NETWORKS[:1]:
        machine.made.clear()
        model, run, _ = steps(name, "cuda", optimizer=optimizer, count=2)
        assert_float32(machine, model, run, 2)


def test_a_step_waits_twice(machine: Machine) -> None:
    """For the loss, with the right answers, and for the gradient's norm."""
    for name in NETWORKS[:2]:
        for clip in (None, 1e-3):
            machine.syncs = 0
            steps(name, "cuda", count=3, clip=clip)
            assert machine.syncs == 3 * 2


def test_a_bad_step_updates_nothing(machine: Machine) -> None:
    model, run, _ = steps("resnet20", "cuda")
    before = {key: a.get() for key, a in model.state_dict().items() if "fc" in key}
    bad = images()
    bad[0, 0, 0, 0] = np.inf
    with pytest.raises(FloatingPointError, match="loss became nan"):
        train_step(model, asarray(bad, "cuda"), np.arange(4), run)
    for key, array in before.items():
        np.testing.assert_array_equal(model.state_dict()[key].get(), array)


def test_evaluation(machine: Machine) -> None:
    """As on the CPU, with one wait for all; the last batch is smaller."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 16, 16), np.uint8)
    data = Dataset(
        "noise", pixels, np.arange(10), tuple("abcdefghij"), (0.5,) * 3, (0.2,) * 3
    )
    loader = Loader(data, 4, shuffle=False)
    found = []
    for device in ("cpu", "cuda"):
        model = steps("resnet20", "cpu")[0].to(device)
        machine.syncs = 0
        found.append(evaluate(model, loader))
    assert len(loader) == 3 and machine.syncs == 1
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_label_out_of_range_is_refused(machine: Machine) -> None:
    """On the host, where it costs nothing: indexing a device array would wrap."""
    x = Tensor(up(spaced(2, 3)))
    for labels in ([0, 3], np.array([-1, 0])):
        with pytest.raises(ValueError, match="labels must lie in"):
            ops.cross_entropy(x, labels)
    assert machine.syncs == 0


# --- moving and keeping ------------------------------------------------------------


def test_moving_keeps_values_and_memory_order(machine: Machine) -> None:
    model = models.build_model("resnet20")

    def arrays() -> dict[str, np.ndarray]:
        parameters = {key: p.data for key, p in model.named_parameters()}
        return parameters | dict(model.named_buffers())

    before = {key: (a.copy(), a.strides) for key, a in arrays().items()}
    for device in ("cuda", "cuda", "cpu"):
        model.to(device)
        for key, array in arrays().items():
            assert (device_of(array), array.strides) == (device, before[key][1])
    for key, array in arrays().items():
        np.testing.assert_array_equal(array, before[key][0])
        assert array.flags.writeable


@pytest.mark.parametrize("start, end", [("cpu", "cuda"), ("cuda", "cpu")])
def test_state_moves_between_devices(machine: Machine, start: str, end: str) -> None:
    model, run, _ = steps("resnet20", start, "float64", "adamw")
    other = models.build_model("resnet20", seed=1).to(end, "float64")
    heir = OPTIMIZERS["adamw"](other)
    state = model.state_dict()
    if start == "cuda":  # a device array is never taken to the host unasked
        with pytest.raises(TypeError, match="Implicit conversion"):
            next(iter(other.state_dict().values()))[...] = next(iter(state.values()))
    other.load_state_dict(state)
    heir.load_state_dict(run.state_dict())
    batch, labels = images(4, 16, "float64"), np.arange(4)
    for network, optimizer in ((model, run), (other, heir)):
        device = device_of(network.parameters()[0].data)
        train_step(network, asarray(batch, device), labels, optimizer)
    for key, array in model.state_dict().items():
        np.testing.assert_allclose(
            asnumpy(other.state_dict()[key]), asnumpy(array), rtol=1e-8, atol=1e-10
        )


def test_numbers_come_in_one_transfer(machine: Machine) -> None:
    found = numbers(up(np.array(1.5, "float32")), up(np.array(3)), up(np.array(True)))
    assert found == [1.5, 3.0, 1.0] and machine.syncs == 1
    assert numbers() == [] and numbers(np.float32(2), np.array(1)) == [2.0, 1.0]


# --- the tape and the instrument ---------------------------------------------------


def taped(device: str, retain: str, name: str = "resnet20") -> tuple[Tape, Tensor]:
    model = models.build_model(name).to(device, "float64")
    with Tape(retain) as tape:
        x = tape.watch(Tensor(asarray(images(dtype="float64"), device), name="images"))
        loss = ops.cross_entropy(model(x), np.arange(4))
    return tape, loss


@pytest.mark.parametrize("retain", ["leaves", "statistics", "tensors", "edges"])
def test_retention(machine: Machine, retain: str) -> None:
    """The same norms and gradients as on the CPU; all norms in one transfer."""
    (ours, loss), (theirs, reference) = (taped(d, retain) for d in ("cuda", "cpu"))
    ours.backward(loss)
    assert machine.syncs == (1 if retain in ("statistics", "tensors") else 0)
    theirs.backward(reference)
    kept = 0
    for node, other in zip(
        (*ours.nodes, *ours.uses), (*theirs.nodes, *theirs.uses), strict=True
    ):
        assert node.name == other.name
        for a, b in ((node, other), *zip(node.edges, other.edges, strict=True)):
            assert (a.grad is None) == (b.grad is None)
            kept += b.grad is not None
            if retain == "statistics":
                assert type(a.norm) is type(b.norm)
            if b.norm is not None:
                assert a.norm == pytest.approx(b.norm, rel=1e-8, abs=1e-12)
            if b.grad is not None:
                close(a.grad, b.grad, 1e-8)
    assert machine.syncs > 1 or retain == "statistics"
    assert kept >= {"leaves": 60, "statistics": 60, "tensors": 99, "edges": 99}[retain]


def test_conservation_is_exact(machine: Machine) -> None:
    tape, loss = taped("cuda", "edges")
    tape.backward(loss)
    errors = tape.closure()
    assert len(errors) > 100 and set(errors.values()) == {0.0}
    assert machine.syncs == 1


def approximately(found: Any) -> Any:
    """The same structure, its numbers up to rounding."""
    if isinstance(found, dict):
        return {key: approximately(entry) for key, entry in found.items()}
    if isinstance(found, list | tuple):
        return type(found)(map(approximately, found))
    if isinstance(found, float | np.ndarray):
        return pytest.approx(found, rel=1e-6, abs=1e-9, nan_ok=True)
    return found


@pytest.mark.parametrize(
    "name",
    ["plain20", pytest.param("se_resnet20", marks=pytest.mark.slow), "densenet121"],
)
def test_the_instrument(machine: Machine, name: str) -> None:
    """Blocks, dense blocks, paths and counterfactuals are those of the CPU."""
    found: list[Any] = []
    for device in ("cpu", "cuda"):
        model = models.build_model(name).to(device, "float64")
        size = max(16, models.MODELS[name].smallest)
        x = asarray(images(4, size, "float64"), device)
        probe = flow.probe(model, x, np.arange(4), training=name != "plain20")
        dense = name == "densenet121"
        terms: Sequence[Any] = (flow.dense_terms if dense else flow.block_terms)(
            probe.tape
        )
        assert max(t.closure for t in terms) <= flow.TOLERANCE["float64"]
        answer = [asdict(t) | {"closure": 0.0} for t in terms]
        if name == "se_resnet20":
            answer.append(asdict(flow.measure_branch(probe, "layer1.0", "residual")))
            path = asdict(flow.spectrum(probe, veit_samples=1))
            answer.append(path | {"closure": 0.0, "seconds": 0.0})
        found.append(answer)
    assert len(found[1]) == len(found[0])
    for ours, theirs in zip(found[1], found[0], strict=True):
        assert ours == approximately(theirs)
