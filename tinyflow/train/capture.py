"""A training step recorded once as a CUDA graph, then replayed for every batch.

At small image sizes a GPU waits for the host to launch the next kernel. Forward,
backward and update of a batch are always the same kernels on the same addresses, so
they are recorded once and launched as one. What changes from step to step is read from
device memory: the batch, the learning rate, Adam's step count, and the counter behind
dropout.

A step that cannot be replayed runs eagerly, and why is said once: one that is
inspected, a batch of another size, and every step after a recording that failed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from tinyflow import Tape, Tensor, nn
from tinyflow.backend import Array, array_module, asarray, device_of, numbers
from tinyflow.kernels.cuda.engine import CudaEngine
from tinyflow.kernels.cuda.settings import settings
from tinyflow.kernels.cuda.update import Recording
from tinyflow.kernels.engine import engine
from tinyflow.ops import cross_entropy
from tinyflow.optim import Optimizer
from tinyflow.train.step import StepResult, train_step

T = TypeVar("T")

WARM_UP = 3
"""Eager steps before the recording: they compile kernels, choose convolution
algorithms, and make the optimiser's state."""


class Records(Protocol):
    """What records; :class:`tinyflow.kernels.cuda.graph.Recorder`."""

    def running(self, private: bool = False) -> AbstractContextManager[None]:
        """Put what happens inside on one stream, `private` into memory of its own."""

    def record(self, run: Callable[[], T]) -> tuple[Any, T]:
        """A graph of what `run` does, and its answer."""

    def launch(self, graph: Any) -> None:
        """Execute a graph."""


@dataclass(frozen=True)
class _Graph:
    """A recorded step: what it reads, what it leaves, and what must stay alive."""

    graph: Any
    images: Array
    labels: Array
    loss: Array
    correct: Array
    norm: Array
    updates: Recording
    steps: dict[str, int]
    """The optimiser's counts before the recorded step."""
    gradients: list[Array]
    parameters: list[Array]


class CapturedStep:
    """Does what :func:`tinyflow.train.step.train_step` does, replayed where it can be.

    The update of a captured step comes before the host has seen loss and norm, so one
    whose loss is not finite has updated parameters, optimiser state and running
    statistics when it is reported: go back to saved weights then. Eager steps are all
    or nothing.

    Args:
        model: in training mode, on the GPU.
        optimizer: of its parameters.
        recorder: records and replays.
        label_smoothing, clip_grad: see ``train_step``.
        say: called with the sentence that says why a step runs eagerly, once for each
            reason.

    Attributes:
        replayed: how many steps have been replayed.
        reasons: why steps ran eagerly.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        recorder: Records,
        *,
        label_smoothing: float = 0.0,
        clip_grad: float | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.model, self.optimizer, self.recorder = model, optimizer, recorder
        self.label_smoothing, self.clip_grad, self.say = label_smoothing, clip_grad, say
        self.replayed = 0
        self.reasons: list[str] = []
        self._eager = 0
        self._graph: _Graph | None = None
        self._failed = False

    def running(self) -> AbstractContextManager[None]:
        """Where batches must be made that this step takes: its stream."""
        return self.recorder.running()

    def __call__(
        self,
        images: Array,
        labels: Array,
        inspect: Callable[[float, Tape], None] | None = None,
    ) -> StepResult:
        """One step on a batch; waits for it.

        Raises:
            FloatingPointError: loss or gradient norm is not finite.
        """
        if not self.launch(images, labels, inspect is not None):
            return self._run_eagerly(images, labels, inspect)
        assert self._graph is not None
        done = self._graph
        with self.recorder.running():
            loss, correct, norm = numbers(done.loss, done.correct, done.norm)
        for name, value in (("loss", loss), ("gradient's norm", norm)):
            if not np.isfinite(value):
                raise FloatingPointError(f"the {name} became {value}")
        return StepResult(loss, int(correct), norm)

    def launch(self, images: Array, labels: Array, inspected: bool = False) -> bool:
        """Start a replayed step without waiting for it; False if it cannot be one."""
        if self._failed or self._eager < WARM_UP:
            return False
        labels = asarray(labels, device_of(images))
        if inspected:
            return self._because("a step that is inspected keeps what a replay cannot")
        if self._graph is None and not self._record(images, labels):
            return False
        done = self._graph
        assert done is not None
        if images.shape != done.images.shape or images.dtype != done.images.dtype:
            return self._because(
                f"a batch of {images.shape[0]} is not the one of "
                f"{done.images.shape[0]} that was recorded"
            )
        held = self.optimizer.parameters.values()
        if any(p.data is not a for p, a in zip(held, done.parameters, strict=True)):
            return self._because("parameters moved after the step was recorded")
        with self.recorder.running():
            _fill(done.images, images)
            _fill(done.labels, labels)
            taken = self._count(done)
            for rates in done.updates.rates:
                rates.write(rates.count + taken, self.optimizer.lr)
            self.recorder.launch(done.graph)
        self.replayed += 1
        return True

    def _count(self, done: _Graph) -> int:
        """Count this step; how many were taken since the recording, this one not."""
        counts = self.optimizer.steps
        taken = 0
        for name, before in done.steps.items():
            taken = counts[name] - before
            counts[name] += 1
            self.optimizer.parameters[name].node.version += 1
        return taken

    def _run_eagerly(
        self,
        images: Array,
        labels: Array,
        inspect: Callable[[float, Tape], None] | None,
    ) -> StepResult:
        self._eager += inspect is None
        # Once there is a graph its memory belongs to it alone.
        private = self._graph is None and not self._failed
        with self.recorder.running(private):
            return train_step(
                self.model,
                images,
                labels,
                self.optimizer,
                label_smoothing=self.label_smoothing,
                clip_grad=self.clip_grad,
                inspect=inspect,
            )

    def _because(self, reason: str) -> bool:
        """Say once why a step runs eagerly; False."""
        if reason not in self.reasons:
            self.reasons.append(reason)
            self.say(f"not replayed, but run eagerly: {reason}")
        return False

    # --- recording -------------------------------------------------------------------

    def _record(self, images: Array, labels: Array) -> bool:
        """Record the step for batches like this one; False if that fails."""
        run = engine(self.model.parameters()[0].data)
        if not isinstance(run, CudaEngine):
            self._failed = True
            return self._because(f"the engine {run.name} cannot be recorded")
        with self.recorder.running(private=True):
            run.prepare(images)
            static = (
                run.empty(images.shape, images),
                array_module(labels).zeros_like(labels),
            )
        before, updates = dict(self.optimizer.steps), Recording()
        run.updates.recording = updates
        try:
            graph, found = self.recorder.record(lambda: self._step(run, *static))
        except MemoryError:
            raise
        except Exception as error:
            self._failed = True
            text = str(error).strip().split("\n")[0] or type(error).__name__
            return self._because(f"the step cannot be recorded ({text})")
        finally:
            run.updates.recording, run.updates.clip = None, None
            counted = self.optimizer.steps
            moved = {n: t for n, t in before.items() if counted[n] != t}
            self.optimizer.steps = before  # nothing has been executed yet
        gradients = [p.grad for p in self.optimizer.parameters.values()]
        self._graph = _Graph(
            graph,
            *static,
            *found,
            updates,
            moved,
            [g for g in gradients if g is not None],
            [p.data for p in self.optimizer.parameters.values()],
        )
        return True

    def _step(
        self, run: CudaEngine, images: Array, labels: Array
    ) -> tuple[Array, Array, Array]:
        """What is recorded: loss, right answers and gradient norm, on the device."""
        parameters = self.optimizer.parameters.values()
        self.optimizer.zero_grad()
        with run.aside.of(p.data for p in parameters if settings().overlap):
            with Tape(fuse=True) as tape:
                logits = self.model(Tensor(images))
                loss = cross_entropy(
                    logits, labels, label_smoothing=self.label_smoothing
                )
            correct = run.hits(logits.data, labels)
            tape.backward(loss, release=True)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = run.updates.norm(gradients, self.clip_grad)
        run.updates.clip = None if self.clip_grad is None else norm[1:]
        known = set(self.optimizer.state)
        self.optimizer.step()
        if set(self.optimizer.state) != known:  # a replay would set it to 0 again
            raise RuntimeError("a parameter got its first gradient while recording")
        run.advance(images)
        return loss.data, correct, norm[:1].reshape(())


def _fill(static: Array, batch: Array) -> None:
    """Copy part of a batch to where the graph reads it."""
    engine(static).copy(batch, static)
