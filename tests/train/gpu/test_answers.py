"""What a captured step answers: late, not finite, out of memory, of another shape."""

from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest

from tests.fakes.cuda_host import emulator
from tests.fakes.host_cudnn import HostCudnn
from tests.fakes.host_gpu import HostGpu, HostRecorder, host_engine
from tests.train.gpu.test_capture import RULES, Small, batches, captured
from tinyflow.train.gpu.capture import WARM_UP
from tinyflow.train.step import train_step

pytestmark = pytest.mark.skipif(
    emulator.COMPILER is None, reason="the host emulation needs g++"
)


def test_a_recording_that_runs_out_of_memory_says_so_and_the_step_is_eager() -> None:
    class Full(Small):
        def forward(self, x: object) -> object:
            if gpu.deferred is not None:
                raise MemoryError("Out of memory allocating 512 bytes.\nand more")
            return super().forward(x)

    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)) as run:
        step, said = captured(gpu, Full().to("cpu"), RULES["sgd"])
        for batch in batches(WARM_UP + 2):
            step(*batch)
        assert step.replayed == 0 and len(said) == 1
        assert said[0].endswith(
            "cannot be recorded (Out of memory allocating 512 bytes.)"
        )
        assert step.optimizer.steps["fc.weight"] == WARM_UP + 2
        assert run.updates.recording is None and run.updates.clip is None
        recorder = step.recorder
        assert isinstance(recorder, HostRecorder)
        assert recorder.private[-1]  # the memory is used, no graph needs it


def test_a_full_memory_ends_an_eager_step() -> None:
    class Full(Small):
        def forward(self, x: object) -> object:
            raise MemoryError("full")

    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        step, _ = captured(gpu, Full().to("cpu"), RULES["sgd"])
        with pytest.raises(MemoryError):
            step(*batches(1)[0])


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_step_that_is_not_finite_is_reported_and_updates_nothing(name: str) -> None:
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        eager, model = Small().to("cpu"), Small().to("cpu")
        rates = RULES[name](list(eager.named_parameters()))
        step, _ = captured(gpu, model, RULES[name])
        *first, good = batches(WARM_UP + 3)
        for batch in first:
            train_step(eager, *batch, rates)
            step(*batch)
        before = [p.data.copy() for p in model.parameters()]
        state = step.optimizer.state_dict()
        for bad, what in ((np.nan, "loss became nan"), (np.inf, "became nan")):
            images = good[0].copy()
            images[0, 0, 0, 0] = bad
            with pytest.raises(FloatingPointError, match=what):
                step(images, good[1])
        for p, old in zip(model.parameters(), before, strict=True):
            np.testing.assert_array_equal(p.data, old)
        for key, array in step.optimizer.state_dict().items():
            np.testing.assert_array_equal(array, state[key], err_msg=key)
        # And the next one is the one that would have come.
        assert step(*good).loss == pytest.approx(
            train_step(eager, *good, rates).loss, rel=1e-5
        )
        assert step.optimizer.steps == rates.steps
        for p, q in zip(eager.parameters(), model.parameters(), strict=True):
            np.testing.assert_allclose(p.data, q.data, 1e-5, 1e-6)


def test_an_answer_read_late_is_that_of_its_own_step() -> None:
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        eager, model = Small().to("cpu"), Small().to("cpu")
        rates = RULES["sgd"](list(eager.named_parameters()))
        step, _ = captured(gpu, model, RULES["sgd"])
        found, wanted = [], []
        for i, batch in enumerate(batches(WARM_UP + 4)):
            wanted.append(train_step(eager, *batch, rates))
            answer = step.launch(*batch)
            assert (answer is None) == (i < WARM_UP)
            found.append(answer or partial(replace, step.eager(*batch)))
        for answer, result in zip(found, wanted, strict=True):
            assert asdict(answer()) == pytest.approx(asdict(result), rel=1e-5)


def test_a_batch_is_brought_to_the_device_on_the_stream_of_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu, places = HostGpu(), []
    with host_engine(gpu, HostCudnn(gpu)):
        step, _ = captured(gpu, Small().to("cpu"), RULES["sgd"])

        def asarray(array: np.ndarray, device: str) -> np.ndarray:
            places.append(step.recorder.inside)
            return array

        monkeypatch.setattr("tinyflow.train.gpu.capture.asarray", asarray)
        for batch in batches(WARM_UP + 2):
            step(*batch)
    assert step.replayed == 2 and places and all(places)


def test_only_a_shape_that_has_been_warmed_up_is_recorded() -> None:
    """A short batch right after the warm-up of full ones has no plans yet."""
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu)):
        step, said = captured(gpu, Small().to("cpu"), RULES["sgd"])
        for i, (images, labels) in enumerate(batches(WARM_UP + 3)):
            short = i == WARM_UP
            step(images[:2] if short else images, labels[:2] if short else labels)
    assert step.replayed == 2 and not said
