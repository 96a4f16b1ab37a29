"""The training loop: steps, epochs, and what is kept when a run ends early."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tinyflow import Tape
from tinyflow.atomic import replacing
from tinyflow.backend import Array
from tinyflow.network import count_parameters
from tinyflow.reading import reason
from tinyflow.signals import deferred
from tinyflow.train.checkpoint import BEST, LAST, Metadata, save_checkpoint
from tinyflow.train.checks import interval
from tinyflow.train.config import TrainConfig
from tinyflow.train.criterion import Labels
from tinyflow.train.events import Report, Start, Step
from tinyflow.train.fitting import StepMemory, advice, of_a_step, release
from tinyflow.train.folder import RunFolder
from tinyflow.train.metrics import (
    METRICS,
    TIMES,
    EpochRow,
    MetricsFiles,
    Times,
    peak_memory_mb,
)
from tinyflow.train.prepare import Prepared
from tinyflow.train.record import CONFIG, write_config
from tinyflow.train.resume import STATE, Position, cut, facts, load_state, save_state
from tinyflow.train.step import Batches, Look, StepResult, evaluate, served


class TrainError(RuntimeError):
    """Training that cannot go on: what happened, where, what to do, what is kept."""


@dataclass
class Result:
    """What a run has left.

    Attributes:
        folder: the run folder, or None if it was removed: no step was finished.
        rows: one per finished epoch.
        interrupted: whether Ctrl-C ended it; then :func:`resume` goes on.
        saved: whether the state of the run, of some step of it, is in the folder.
    """

    folder: Path | None
    rows: list[EpochRow] = field(default_factory=list)
    interrupted: bool = False
    saved: bool = False

    @property
    def last(self) -> EpochRow:
        """The last finished epoch."""
        return self.rows[-1]

    @property
    def best(self) -> EpochRow | None:
        """The first epoch of the highest accuracy on the validation images, if any."""
        judged = [row for row in self.rows if row.val_accuracy == row.val_accuracy]
        return max(judged, key=lambda row: row.val_accuracy, default=None)


Inspector: TypeAlias = Callable[[int, float, Tape], None]
"""Called with (step of the run, loss, tape) of every traced step."""


Tracer: TypeAlias = Callable[..., Inspector]
"""Given the run folder, and ``again=True`` if the run goes on, makes an Inspector, as
``tinyflow.flow.trace.TraceWriter`` does; its `path` is the file it writes."""


class Loop:
    """A run from a position to its end."""

    def __init__(
        self,
        config: TrainConfig,
        ready: Prepared,
        folder: RunFolder,
        result: Result,
        report: Report,
    ) -> None:
        self.config, self.ready, self.report = config, ready, report
        self.folder, self.result = folder, result
        self.position = Position(rows=result.rows)
        self.known = facts(ready)
        self.often, self.unit = interval(config.save_every)
        self._saved = (1, 0)  # epoch and step of the state in the folder
        self._inspect: Inspector | None = None

    def go(self, tracer: Tracer | None, said: Callable[[str], None] | None) -> None:
        """Train epoch by epoch; draw the curves however that ends."""
        with self._writing():
            self._begin(tracer, said)
        self.report(self._start())
        try:
            for _ in range(self.position.epoch, self.ready.epochs + 1):
                row, took = self._epoch()
                with deferred(), self._writing():
                    self._finish(row, took)
                self.report(took)
                self.report(row)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                with deferred(), self._writing():
                    self._save_state()
            if self.result.rows:
                with suppress(Exception):  # what ended the run is what is to be said
                    self._draw()
            raise
        try:
            with self._writing():
                self._draw()
                (self.folder.place / STATE).unlink(missing_ok=True)
        except (TrainError, MemoryError):
            raise
        except Exception as error:
            raise TrainError(
                f"curves.png cannot be drawn ({type(error).__name__}: {error}); "
                f"{kept(self.result)}"
            ) from error

    def _begin(self, tracer: Tracer | None, said: Callable[[str], None] | None) -> None:
        """The files of a new run, or those of one that goes on, as they were then."""
        place = self.folder.place
        if said is None:
            write_config(self.config, self.ready, self.folder.file(CONFIG))
        else:
            self.position = load_state(place, self.ready, self.known, said)
            cut(place, self.position.lengths)
            self.result.rows = self.position.rows
            self._saved = self.position.epoch, self.position.step
            self.result.saved = True
        again = said is not None
        files = self.folder.file(METRICS), self.folder.file(TIMES)
        self.metrics = MetricsFiles(*files, again)
        self.position.lengths |= {METRICS: 0, TIMES: 0}
        if self.config.trace_every and tracer:
            trace = tracer(place, again=True) if again else tracer(place)
            if isinstance(path := getattr(trace, "path", None), Path):
                self.folder.own(path)
                self.position.lengths[path.name] = 0

            def inspect(step: int, loss: float, tape: Tape) -> None:
                with self._writing():
                    trace(step, loss, tape)

            self._inspect = inspect
        if not again:
            save_state(self.folder.file(STATE), self.ready, self.position, self.known)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Errors of the disk, as the sentence that ends the run."""
        try:
            yield
        except OSError as error:
            raise TrainError(
                f"{error.filename or self.folder.path} cannot be written "
                f"({reason(error)}): free space or choose another --output; "
                f"{kept(self.result)}"
            ) from error

    def _epoch(self) -> tuple[EpochRow, Times]:
        """Train for the rest of an epoch, and test."""
        ready, now = self.ready, self.position
        try:
            with served(ready.train.epoch(now.epoch - 1, start=now.step)) as batches:
                self._steps(batches)
        except StepMemory as error:
            release(error)
            raise TrainError(self._too_large(error)) from error
        begun = time.perf_counter()
        with ready.averaged():
            val_loss, val_accuracy = self._judged("validation", ready.val)
            test_loss, test_accuracy = self._judged("test", ready.test)
        row = EpochRow(
            epoch=now.epoch,
            train_loss=now.loss_sum / now.images,
            train_accuracy=now.correct / now.images,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            lr=self._rate(self._done() - 1),
            grad_norm=now.norm_sum / now.step,
        )
        seconds = now.seconds + time.perf_counter() - begun
        speed = now.images / now.seconds
        return row, Times(now.epoch, speed, seconds, peak_memory_mb())

    def _too_large(self, error: StepMemory) -> str:
        """What to say where a batch does not fit into memory."""
        size, result = self.config.batch_size, self.result
        advised = advice(self.ready, size, self._inspect is not None)
        said = f"{error} in a step with --batch-size {size}: {advised}; {kept(result)}"
        if result.saved:
            said += f"; where there is more memory, --resume {result.folder} goes on"
        return said

    def _judged(self, name: str, batches: Batches | None) -> tuple[float, float]:
        """Loss and accuracy over a set of images, or nan if there is none."""
        if batches is None:
            return math.nan, math.nan
        loss, accuracy = evaluate(self.ready.model, batches)
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the {name} loss became {loss} in epoch {self.position.epoch}"
            )
        return loss, accuracy

    def _done(self) -> int:
        """Steps of the run that are done."""
        return (self.position.epoch - 1) * self.ready.steps + self.position.step

    def _rate(self, step: int) -> float:
        return self.config.learning_rate * self.ready.schedule(step)

    def _steps(self, batches: Iterator[tuple[Array, Labels]]) -> None:
        """What remains of an epoch, step by step; a signal waits for the end of one.

        A step that has been launched on a GPU is waited for after the next one has
        been, so that the GPU has work while the host sees to the batches and what is
        reported.
        """
        config, ready, now = self.config, self.ready, self.position
        take = partial(self._take, time.perf_counter() - now.seconds)
        launched: deque[Callable[[], None]] = deque()

        def settle(but: int = 0) -> None:
            """Wait for what has been launched, `but` for the last so many."""
            while len(launched) > but:
                launched.popleft()()

        try:
            before = (now.epoch - 1) * ready.steps
            for step in range(now.step, min(ready.steps, ready.total - before)):
                with deferred():
                    with of_a_step():
                        images, labels = next(batches)
                    done = before + step
                    ready.optimizer.lr = self._rate(done)
                    look = None
                    if self._inspect and done % (config.trace_every or 1) == 0:
                        look = partial(self._inspect, done)
                    with of_a_step():
                        answer = ready.stepper.launch(images, labels, look is not None)
                    if answer is not None:
                        ready.stepped()  # in the order of the steps
                        launched.append(partial(take, len(labels), answer))
                        settle(but=1)
                    else:
                        settle()
                        take(len(labels), partial(self._eager, images, labels, look))
                    if self.unit == "steps" and (done + 1) % self.often == 0:
                        settle()
                        with self._writing():
                            self._save_state()
        except KeyboardInterrupt:
            with deferred():
                settle()
            raise
        settle()

    def _eager(self, images: Array, labels: Labels, look: Look | None) -> StepResult:
        """A step at once."""
        result = self.ready.stepper.eager(images, labels, look)
        self.ready.stepped()
        return result

    def _take(self, start: float, images: int, done: Callable[[], StepResult]) -> None:
        """Do or wait for a step, and report it."""
        now = self.position
        rate = self._rate(self._done())
        try:
            with of_a_step():
                result = done()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} at step {now.step + 1} of epoch {now.epoch} (learning rate "
                f"{rate:.3g})"
            ) from None
        now.step += 1
        now.images += images
        now.loss_sum += result.loss * images
        now.correct += result.correct
        now.norm_sum += result.grad_norm
        now.seconds = time.perf_counter() - start
        means = now.loss_sum / now.images, now.correct / now.images
        speed = now.images / now.seconds
        self.report(Step(now.epoch, now.step, *means, speed, rate))

    def _finish(self, row: EpochRow, took: Times) -> None:
        """Keep an epoch: its row, its weights, and the state if it is due."""
        self.folder.check()
        with self.metrics.adding(row, took), self.ready.averaged():
            self._save_weights(row)
        self.position.turn(row)
        self.ready.schedule.observe(vars(row))
        self.folder.kept = True
        due = self.unit == "epochs" and row.epoch % self.often == 0
        if due and row.epoch < self.ready.epochs:
            self._save_state()

    def _save_state(self) -> None:
        """Write the state of the run, unless nothing has been done since."""
        now = self.position.epoch, self.position.step
        if now != self._saved:
            self.folder.check()
            path = self.folder.place / STATE
            save_state(path, self.ready, self.position, self.known)
            self._saved, self.folder.kept, self.result.saved = now, True, True

    def _save_weights(self, row: EpochRow) -> None:
        """Write last.safetensors, and best if validation says so: both or none."""
        data = self.ready.train.dataset
        metadata = Metadata(
            model=self.config.model.label,
            num_classes=data.num_classes,
            image_size=data.image_size,
            in_channels=data.in_channels,
            dataset=self.config.dataset,
            seed=self.config.seed,
            epoch=row.epoch,
            test_accuracy=row.test_accuracy,
            classes=data.classes,
            mean=data.mean,
            std=data.std,
        )
        best = self.result.best
        new_high = row.val_accuracy > (-1 if best is None else best.val_accuracy)
        with ExitStack() as files:
            for name in (LAST, BEST) if new_high else (LAST,):
                path = self.folder.file(f"{name}.safetensors")
                partial = files.enter_context(replacing(path))
                save_checkpoint(partial, self.ready.model, metadata)

    def _start(self) -> Start:
        config, ready = self.config, self.ready
        return Start(
            folder=self.folder.path,
            model=config.model.name,
            parameters=count_parameters(ready.model),
            dataset=config.dataset,
            train_images=len(ready.train.dataset),
            test_images=len(ready.test.dataset),
            epochs=ready.epochs,
            steps=ready.steps,
            total=ready.total,
            lr=config.learning_rate,
            device=ready.device,
            reason=ready.reason,
            kernels=ready.kernels,
            done=self._done(),
        )

    def _draw(self) -> None:
        from tinyflow.train.curves import draw_curves

        config = self.config
        title = (
            f"{config.model.name} on {config.dataset}, seed {config.seed}, "
            f"{config.precision} on {self.ready.device}"
        )
        classes = self.ready.train.dataset.num_classes
        file = self.folder.file("curves.png")
        draw_curves(file, self.result.rows, title, 1 / classes)


def kept(result: Result) -> str:
    """What of a run is there, for the sentence that ends it."""
    if not result.rows and not result.saved:
        return "no epoch was finished, so nothing was kept"
    if not result.rows:
        return f"no epoch was finished; the state of the run is kept in {result.folder}"
    return f"the run up to epoch {result.last.epoch} is kept in {result.folder}"
