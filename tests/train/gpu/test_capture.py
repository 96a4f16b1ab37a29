"""A replayed step is the eager step, on the host (``host_gpu``) and on a GPU."""

import weakref
from collections.abc import Callable

import numpy as np
import pytest

import models
from tests.fakes.host_cudnn import HostCudnn
from tests.fakes.host_gpu import HostGpu, HostRecorder, gpu_or_skip, here, host_engine
from tinyflow import nn, ops
from tinyflow.data.mixing import Mixed
from tinyflow.kernels.cuda.aside import WINDOW, Aside
from tinyflow.kernels.cuda.settings import configured
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.optim import SGD, Adam, AdamW, Optimizer, RMSprop, names_of_vectors
from tinyflow.train.gpu.capture import WARM_UP, CapturedStep
from tinyflow.train.step import train_step

Rule = Callable[[list], Optimizer]

RULES: dict[str, Rule] = {
    "sgd": lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "damped": lambda p: SGD(p, 0.1, momentum=0.9, dampening=0.5),
    "adam": lambda p: Adam(p, 0.01, weight_decay=1e-3),
    "adamw": lambda p: AdamW(p, 0.01),
    "parted": lambda p: AdamW(p, 0.01, no_decay=names_of_vectors(p)),
}


class Small(nn.Module):
    """Every kind of layer whose replay could go wrong."""

    def __init__(self, dropout: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False, rng=rng)
        self.bn = nn.BatchNorm2d(8)
        self.gate = nn.SqueezeExcitation(8, 2, rng=rng)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, rng=rng)
        self.average = nn.AvgPool2d(2)
        self.drop = nn.Dropout(dropout, rng=rng)
        self.fc = nn.Linear(8, 10, rng=rng)

    def forward(self, x: object) -> object:
        x = self.pool(self.gate(ops.relu(self.bn(self.conv(x)))))
        x = self.average(ops.relu(self.conv2(x) + x))
        return self.fc(self.drop(ops.global_avg_pool2d(x)))


def batches(count: int, size: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [
        (
            np.ascontiguousarray(
                rng.standard_normal((size, 8, 8, 3), dtype=np.float32)
            ).transpose(0, 3, 1, 2),
            rng.integers(0, 10, size),
        )
        for _ in range(count)
    ]


def captured(
    gpu: HostGpu, model: nn.Module, rule: Rule, **how: object
) -> tuple[CapturedStep, list[str]]:
    said: list[str] = []
    rates = rule(list(model.named_parameters()))
    return CapturedStep(model, rates, HostRecorder(gpu), say=said.append, **how), said


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", RULES)
def test_captured_is_eager_step_by_step(name: str, clip: float | None) -> None:
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        eager, replayed = Small().to("cpu"), Small().to("cpu")
        rates = RULES[name](list(eager.named_parameters()))
        step, said = captured(gpu, replayed, RULES[name], clip_grad=clip)
        for i, (images, labels) in enumerate(batches(WARM_UP + 4)):
            step.optimizer.lr = rates.lr = 0.05 / (i + 1)
            one = train_step(eager, images, labels, rates, clip_grad=clip)
            two = step(images, labels)
            assert two.loss == pytest.approx(one.loss, rel=1e-5)
            assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
            assert two.correct == one.correct
            for (path, p), q in zip(
                eager.state_dict().items(), replayed.state_dict().values(), strict=True
            ):
                np.testing.assert_allclose(p, q, 1e-5, 1e-6, err_msg=path)
        assert (step.replayed, said, step.reasons) == (4, [], [])
        assert step.optimizer.steps == rates.steps
        for key, array in rates.state_dict().items():
            np.testing.assert_allclose(
                array, step.optimizer.state_dict()[key], 1e-4, 1e-6, err_msg=key
            )


def test_rmsprop_has_no_kernel_and_runs_eagerly() -> None:
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        rule = lambda p: RMSprop(p, 0.01, momentum=0.9)  # noqa: E731
        eager, model = Small().to("cpu"), Small().to("cpu")
        rates = rule(list(eager.named_parameters()))
        step, said = captured(gpu, model, rule)
        for images, labels in batches(WARM_UP + 2):
            step.optimizer.lr = rates.lr = rates.lr / 2
            one = train_step(eager, images, labels, rates)
            assert step(images, labels) == one
        for p, q in zip(eager.parameters(), model.parameters(), strict=True):
            np.testing.assert_array_equal(p.data, q.data)
        assert step.replayed == 0 and len(said) == 1
        assert "cannot be recorded (RMSprop has no kernel" in said[0]


class Reused(nn.Module):
    """Weights that are used twice, and read through another operator."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False, rng=rng)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, bias=False, rng=rng)
        self.more = nn.Conv2d(8, 8, 3, padding=1, bias=False, rng=rng)
        self.bn = nn.BatchNorm2d(8)
        self.rest = [nn.Conv2d(8, 8, 1, bias=False, rng=rng) for _ in range(WINDOW)]
        self.fc = nn.Linear(8, 10, rng=rng)

    def forward(self, x: object) -> object:
        x = self.twice(self.twice(self.stem(x)))
        x = ops.relu(self.bn(x))
        for layer in self.rest:
            x = layer(x) + x
        w = self.twice.weight
        x = ops.conv2d(x, w + self.more.weight, padding=1) + ops.conv2d(x, w, padding=1)
        return self.fc(ops.global_avg_pool2d(x))


@pytest.mark.parametrize("overlap", [True, False])
def test_weight_gradients_on_a_second_stream_are_waited_for(overlap: bool) -> None:
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)), configured(overlap=overlap):
        eager, replayed = Reused().to("cpu"), Reused().to("cpu")
        slow = lambda p: SGD(p, 1e-4, momentum=0.9)  # noqa: E731
        rates = slow(list(eager.named_parameters()))
        step, said = captured(gpu, replayed, slow)
        for images, labels in batches(WARM_UP + 3):
            one = train_step(eager, images, labels, rates)
            two = step(images, labels)
            assert two.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
            for p, q in zip(eager.parameters(), replayed.parameters(), strict=True):
                np.testing.assert_allclose(p.data, q.data, 1e-5, 1e-6)
        assert (step.replayed, said) == (3, [])
        # stem, the uses of `twice` but the one in a sum, and the 1x1 convolutions
        assert gpu.waited == (4 + WINDOW if overlap else 0)
        assert not gpu.second


def test_operands_live_until_their_weight_gradient_is_waited_for() -> None:
    gpu = HostGpu()
    gpu.deferred = []
    aside, alive = Aside(gpu), []
    weights = [np.ones(1, "f4") for _ in range(WINDOW + 2)]
    with aside.of(weights):
        for w in weights:
            operand = np.ones(3)
            alive.append(weakref.ref(operand))
            aside.run(w, lambda: (gpu.do(lambda: None), np.zeros(1))[1], operand)
            del operand
        assert [a() is not None for a in alive] == [False] * 2 + [True] * WINDOW
        assert len(gpu.deferred) == 2
    assert len(gpu.deferred) == WINDOW + 2 and not any(a() for a in alive)


def test_blended_images_are_not_replayed() -> None:
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        eager, replayed = Small().to("cpu"), Small().to("cpu")
        rates = RULES["sgd"](list(eager.named_parameters()))
        step, said = captured(gpu, replayed, RULES["sgd"])
        for i, (images, labels) in enumerate(batches(WARM_UP + 3)):
            if i == WARM_UP + 1:
                labels = Mixed(labels, labels[::-1].copy(), 0.25)
            one = train_step(eager, images, labels, rates)
            assert step(images, labels).loss == pytest.approx(one.loss, rel=1e-4)
        assert step.replayed == 2 and len(said) == 1 and "blended" in said[0]


def test_a_step_of_another_kind_is_eager_and_the_next_one_replayed() -> None:
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        eager, replayed = Small().to("cpu"), Small().to("cpu")
        rates = RULES["adam"](list(eager.named_parameters()))
        step, said = captured(gpu, replayed, RULES["adam"])
        seen: list[float] = []
        look = lambda loss, tape: seen.append(loss)  # noqa: E731
        for i, (images, labels) in enumerate(batches(WARM_UP + 6)):
            if i in (WARM_UP + 1, WARM_UP + 4):  # a last, short batch
                images, labels = images[:2], labels[:2]
            inspect = look if i == WARM_UP + 2 else None
            one = train_step(eager, images, labels, rates)
            two = step(images, labels, inspect)
            assert two.loss == pytest.approx(one.loss, rel=1e-4)
        assert step.replayed == 3 and len(seen) == 1
        assert step.optimizer.steps == rates.steps
        assert len(said) == len(step.reasons) == 2  # each reason once
        assert "a batch of 2" in said[0] and "inspected" in said[1]
        recorder = step.recorder
        assert isinstance(recorder, HostRecorder)
        # Only until there is a graph may anything else use its memory.
        assert recorder.private.count(True) == WARM_UP + 1


def test_dropout_draws_new_numbers_on_each_replay() -> None:
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        model = Small(0.5).to("cpu")
        step, _ = captured(gpu, model, lambda p: SGD(p, lr=0.0))
        (batch,) = batches(1)
        losses = [step(*batch).loss for _ in range(WARM_UP + 4)]
        assert len(set(losses)) == len(losses)
        assert step.replayed == 4


def test_what_cannot_be_recorded_runs_eagerly_and_says_so_once() -> None:
    class Synchronising(Small):
        def forward(self, x: object) -> object:
            if gpu.deferred is not None:
                raise NotImplementedError("calling cuBLAS API during stream capture")
            return super().forward(x)

    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        model, eager = Synchronising().to("cpu"), Small().to("cpu")
        rates = RULES["adamw"](list(eager.named_parameters()))
        step, said = captured(gpu, model, RULES["adamw"])
        for images, labels in batches(WARM_UP + 3):
            one, two = train_step(eager, images, labels, rates), step(images, labels)
            assert one == two
        assert step.replayed == 0 and step.optimizer.steps == rates.steps
        assert said == [
            "not replayed, but run eagerly: the step cannot be recorded (calling "
            "cuBLAS API during stream capture)"
        ]


def test_a_late_parameter_is_not_recorded() -> None:
    class Late(Small):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Linear(10, 10, rng=np.random.default_rng(0))
            self.calls = 0

        def forward(self, x: object) -> object:
            self.calls += 1
            y = super().forward(x)
            return self.extra(y) if self.calls > WARM_UP else y

    gpu = HostGpu()
    with host_engine(gpu):  # without cuDNN, which would lack a plan first
        step, said = captured(gpu, Late().to("cpu"), RULES["sgd"])
        for batch in batches(WARM_UP + 2):
            step(*batch)
        assert step.replayed == 0 and "first gradient while recording" in said[0]
        assert step.optimizer.steps["extra.weight"] == 2


def test_what_moved_before_the_recording_is_not_recorded_and_keeps_its_state() -> None:
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        eager, moved = Small().to("cpu"), Small().to("cpu")
        rates = RULES["sgd"](list(eager.named_parameters()))
        step, said = captured(gpu, moved, RULES["sgd"])
        for i, (images, labels) in enumerate(batches(WARM_UP + 3)):
            if i == WARM_UP:
                moved.fc.weight.data = moved.fc.weight.data.copy()
            train_step(eager, images, labels, rates)
            step(images, labels)
        assert step.replayed == 0 and "or had moved" in said[0]
        for key, array in rates.state_dict().items():
            np.testing.assert_array_equal(array, step.optimizer.state_dict()[key])
        for p, q in zip(eager.parameters(), moved.parameters(), strict=True):
            np.testing.assert_array_equal(p.data, q.data)


def test_only_the_gpu_engine_records() -> None:
    gpu = HostGpu()
    with forced(PLAIN):
        step, said = captured(gpu, Small(), RULES["sgd"])
        for batch in batches(WARM_UP + 1):
            step(*batch)
    assert step.replayed == 0 and "the engine numpy cannot be recorded" in said[0]


@pytest.mark.slow
def test_a_whole_network_is_replayed() -> None:
    gpu = HostGpu()
    rng = np.random.default_rng(2)
    with host_engine(gpu, HostCudnn(gpu)):
        # Without shortcuts: their padding is array code, which cannot be deferred here.
        eager, replayed = (models.build_model("plain20").to("cpu") for _ in range(2))
        rates = RULES["sgd"](list(eager.named_parameters()))
        step, said = captured(gpu, replayed, RULES["sgd"])
        for _ in range(WARM_UP + 2):
            images = rng.standard_normal((4, 3, 32, 32), dtype=np.float32)
            labels = rng.integers(0, 10, 4)
            one = train_step(eager, images, labels, rates)
            two = step(images, labels)
        assert step.replayed == 2 and not said
        assert two.loss == pytest.approx(one.loss, rel=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("name", RULES)
def test_gpu_captured_is_eager_step_by_step(name: str) -> None:
    gpu_or_skip()
    import cupy

    from tinyflow.kernels.cuda.graph import Recorder

    eager, replayed = Small().to("cuda"), Small().to("cuda")
    rates = RULES[name](list(eager.named_parameters()))
    said: list[str] = []
    step = CapturedStep(
        replayed,
        RULES[name](list(replayed.named_parameters())),
        Recorder(),
        say=said.append,
    )
    for i, (images, labels) in enumerate(batches(WARM_UP + 8)):
        step.optimizer.lr = rates.lr = 0.05 / (i + 1)
        images, labels = cupy.asarray(images), cupy.asarray(labels)
        cupy.cuda.runtime.deviceSynchronize()
        one = train_step(eager, images, labels, rates)
        two = step(images, labels)
        assert two.loss == pytest.approx(one.loss, rel=1e-3)
        for p, q in zip(eager.parameters(), replayed.parameters(), strict=True):
            np.testing.assert_allclose(here(p.data), here(q.data), 1e-2, 1e-3)
    assert step.replayed == 8 and said == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet20", "se_resnet20", "densenet121"])
def test_gpu_networks_are_replayed(name: str) -> None:
    gpu_or_skip()
    import cupy

    from tinyflow.kernels.cuda.graph import Recorder

    model = models.build_model(name).to("cuda")
    said: list[str] = []
    optimizer = SGD(model.named_parameters(), 0.01, momentum=0.9)
    step = CapturedStep(model, optimizer, Recorder(), say=said.append)
    rng = np.random.default_rng(0)
    images = cupy.asarray(rng.standard_normal((16, 3, 32, 32), dtype=np.float32))
    labels = cupy.asarray(rng.integers(0, 10, 16))
    cupy.cuda.runtime.deviceSynchronize()  # the step has a stream of its own
    losses = [step(images, labels).loss for _ in range(WARM_UP + 12)]
    assert step.replayed == 12 and said == []
    assert losses[-1] < losses[0]
