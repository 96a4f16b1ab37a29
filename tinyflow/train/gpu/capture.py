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

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from tinyflow import Tape, Tensor, nn
from tinyflow.backend import Array, array_module, asarray, device_of
from tinyflow.data.mixing import Mixed
from tinyflow.heads import logits_of
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.engine import CudaEngine
from tinyflow.kernels.cuda.settings import settings
from tinyflow.kernels.cuda.update import Recording
from tinyflow.kernels.cuda.weights import Copies
from tinyflow.kernels.engine import engine
from tinyflow.kernels.geometry import Shape
from tinyflow.optim import Optimizer
from tinyflow.train.criterion import Labels, criterion
from tinyflow.train.step import Answer, Look, StepResult, train_step

T = TypeVar("T")

WARM_UP = 3
"""Eager steps on batches of one shape before the recording: they compile kernels,
choose convolution algorithms, and make the optimiser's state."""


class Records(Protocol):
    """What records; :class:`tinyflow.kernels.cuda.graph.Recorder`."""

    def running(self, private: bool = False) -> AbstractContextManager[None]:
        """Put what happens inside on one stream, `private` into memory of its own."""

    def record(self, run: Callable[[], T]) -> tuple[Any, T]:
        """A graph of what `run` does, and its answer."""

    def launch(self, graph: Any) -> None:
        """Execute a graph."""

    def fetch(self, array: Array) -> Callable[[], Array]:
        """Start a copy to the host of what is there now; waits for it when called."""


@dataclass(frozen=True)
class _Graph:
    """A recorded step: what it reads, what it leaves, and what must stay alive."""

    graph: Any
    images: Array
    labels: Array
    outcome: Array
    """Loss, right answers and gradient norm; see `launch.outcome`."""
    updates: Recording
    steps: dict[str, int]
    """The optimiser's counts before the recorded step."""
    gradients: list[Array]


class CapturedStep:
    """Does what :func:`tinyflow.train.step.train_step` does, replayed where it can be.

    The host sees loss and norm of a captured step only afterwards. Where they are not
    finite the device itself leaves parameters and the optimiser's state as they were;
    the running statistics have moved, so go back to saved ones. Steps launched since
    have been done. Eager steps are all or nothing.

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
        self._eager: Counter[Shape] = Counter()
        self._graph: _Graph | None = None
        self._failed = False

    def running(self) -> AbstractContextManager[None]:
        """Put what happens inside on the stream of the steps, in order with them."""
        return self.recorder.running()

    def __call__(
        self,
        images: Array,
        labels: Labels,
        inspect: Look | None = None,
    ) -> StepResult:
        """One step on a batch; waits for it.

        Raises:
            FloatingPointError: loss or gradient norm is not finite.
        """
        answer = self.launch(images, labels, inspect is not None)
        return answer() if answer else self.eager(images, labels, inspect)

    def launch(
        self, images: Array, labels: Labels, inspected: bool = False
    ) -> Answer | None:
        """Start a replayed step; None if it cannot be one: then :meth:`eager` does it.

        The function returned waits for this step, but for none that was launched later,
        and raises as a call does.
        """
        if self._failed or (not self._graph and self._eager[images.shape] < WARM_UP):
            return None
        if inspected:
            self._because("a step that is inspected keeps what a replay cannot")
            return None
        if isinstance(labels, Mixed):
            self._because("the labels of blended images are not recorded")
            return None
        with self.recorder.running():
            labels = asarray(labels, device_of(images))
            if self._graph is None:
                self._graph = self._record(images, labels)
            if (done := self._graph) is None or not self._fits(done, images):
                return None
            done.updates.copies.refresh()
            _fill(done.images, images)
            _fill(done.labels, labels)
            taken = self._count(done, 1)
            for rates in done.updates.rates:
                rates.write(rates.count + taken, self.optimizer.lr)
            self.recorder.launch(done.graph)
            done.updates.copies.written()
            self.replayed += 1
            return partial(self._answer, done, self.recorder.fetch(done.outcome))

    def _fits(self, done: _Graph, images: Array) -> bool:
        """Whether a batch can be replayed; says why not."""
        if images.shape != done.images.shape or images.dtype != done.images.dtype:
            self._because(
                f"a batch of {images.shape[0]} is not the one of "
                f"{done.images.shape[0]} that was recorded"
            )
            return False
        if done.updates.copies.moved():
            self._because("parameters moved after the step was recorded")
            return False
        return True

    def _answer(self, done: _Graph, fetched: Callable[[], Array]) -> StepResult:
        """What a step came to, as soon as it is known."""
        loss, correct, norm, _ = map(float, fetched())
        for name, value in (("loss", loss), ("gradient's norm", norm)):
            if not np.isfinite(value):
                self._count(done, -1)  # the device has updated nothing
                raise FloatingPointError(f"the {name} became {value}")
        return StepResult(loss, int(correct), norm)

    def _count(self, done: _Graph, step: int) -> int:
        """Count a step, or take it back; how many were taken since the recording."""
        counts = self.optimizer.steps
        taken = 0
        for name, before in done.steps.items():
            taken = counts[name] - before
            counts[name] += step
            self.optimizer.parameters[name].node.version += 1
        return taken

    def eager(
        self,
        images: Array,
        labels: Labels,
        inspect: Look | None = None,
        update: bool = True,
    ) -> StepResult:
        """The step as :func:`tinyflow.train.step.train_step` does it."""
        self._eager[images.shape] += inspect is None and update
        # Once there is a graph its memory belongs to it alone.
        with self.recorder.running(private=self._graph is None):
            return train_step(
                self.model,
                images,
                labels,
                self.optimizer,
                label_smoothing=self.label_smoothing,
                clip_grad=self.clip_grad,
                inspect=inspect,
                update=update,
            )

    def _because(self, reason: str) -> None:
        """Say once why a step runs eagerly."""
        if reason not in self.reasons:
            self.reasons.append(reason)
            self.say(f"not replayed, but run eagerly: {reason}")

    # --- recording -------------------------------------------------------------------

    def _record(self, images: Array, labels: Array) -> _Graph | None:
        """Record the step for batches like this one; None if that fails."""
        run = engine(self.model.parameters()[0].data)
        if not isinstance(run, CudaEngine):
            self._failed = True
            self._because(f"the engine {run.name} cannot be recorded")
            return None
        with self.recorder.running(private=True):
            run.prepare(images)
            static = (
                run.empty(images.shape, images),
                array_module(labels).zeros_like(labels),
            )
            own = [*self.model.parameters(), *self.optimizer.parameters.values()]
            narrow = images.dtype if images.dtype != np.float32 else None
            updates = Recording(Copies(own, narrow))
        before, undo = dict(self.optimizer.steps), self.optimizer.undo()
        run.updates.recording = updates
        try:
            graph, found = self.recorder.record(lambda: self._step(run, *static))
        except Exception as error:
            self._failed = True
            self.optimizer.zero_grad()
            text = str(error).strip().split("\n")[0] or type(error).__name__
            self._because(f"the step cannot be recorded ({text})")
            return None
        finally:
            run.updates.recording, run.updates.clip = None, None
            counted = self.optimizer.steps
            moved = {n: t for n, t in before.items() if counted[n] != t}
            undo()  # nothing has been executed yet, no new state was filled
        gradients = [p.grad for p in self.optimizer.parameters.values()]
        return _Graph(
            graph,
            *static,
            found,
            updates,
            moved,
            [g for g in gradients if g is not None],
        )

    def _step(self, run: CudaEngine, images: Array, labels: Array) -> Array:
        """What is recorded; its outcome on the device."""
        parameters = self.optimizer.parameters.values()
        self.optimizer.zero_grad()
        with run.aside.of(p.data for p in parameters if settings().overlap):
            with Tape(fuse=True) as tape:
                output = self.model(Tensor(images))
                loss = criterion(output, labels, label_smoothing=self.label_smoothing)
            correct = run.hits(logits_of(output).data, labels)
            tape.backward(loss, release=True)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = run.updates.norm(gradients, self.clip_grad)
        outcome = launch.outcome(loss.data, correct, norm)
        run.updates.clip = outcome[3:]
        known = {name: id(held) for name, held in self.optimizer.state.items()}
        self.optimizer.step()
        made = {name: id(held) for name, held in self.optimizer.state.items()}
        if made != known:  # a replay would make it again
            raise RuntimeError(
                "a parameter got its first gradient while recording, or had moved"
            )
        run.advance(images)
        return outcome


def _fill(static: Array, batch: Array) -> None:
    """Copy part of a batch to where the graph reads it."""
    engine(static).copy(batch, static)
