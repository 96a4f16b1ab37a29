"""The training loop: steps, epochs, and what is kept when a run ends early."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tinyflow import Tape, __version__
from tinyflow.atomic import replacing
from tinyflow.backend import Array, array_module, explain
from tinyflow.kernels.plain.scratch import keep_freed_memory
from tinyflow.network import count_parameters
from tinyflow.reading import reason
from tinyflow.signals import deferred
from tinyflow.train.checkpoint import BEST, LAST, Metadata, save_checkpoint
from tinyflow.train.config import DTYPE, ConfigError, TrainConfig
from tinyflow.train.events import Report, Start, Step
from tinyflow.train.folder import RunFolder
from tinyflow.train.metrics import EpochRow, MetricsFile, peak_memory_mb
from tinyflow.train.prepare import DATA_SEED, Prepared, prepare
from tinyflow.train.step import StepResult, evaluate, served


class TrainError(RuntimeError):
    """Training that cannot go on: what happened, where, what to do, what is kept."""


@dataclass
class Result:
    """What a run has left.

    Attributes:
        folder: the run folder, or None if it was removed: no epoch was finished.
        rows: one per finished epoch.
        interrupted: whether Ctrl-C ended it.
    """

    folder: Path | None
    rows: list[EpochRow] = field(default_factory=list)
    interrupted: bool = False

    @property
    def last(self) -> EpochRow:
        """The last finished epoch."""
        return self.rows[-1]

    @property
    def best(self) -> EpochRow:
        """The first epoch of the highest test accuracy: chosen on the test set."""
        return max(self.rows, key=lambda row: row.test_accuracy)


Inspector: TypeAlias = Callable[[int, float, Tape], None]
"""Called with (step of the run, loss, tape) of every traced step."""


def train(
    config: TrainConfig,
    report: Report = lambda event: None,
    tracer: Callable[[Path], Inspector] | None = None,
) -> Result:
    """Train a network and leave a run folder.

    The folder is claimed first; then data are read and one batch is tried. Ctrl-C ends
    the run and keeps its finished epochs; a run without one leaves nothing behind.

    Args:
        config: the options.
        report: called with every :data:`Event`.
        tracer: given the run folder, returns what ``config.trace_every`` calls, e.g.
            ``tinyflow.flow.trace.TraceWriter``; its `path` is the file it writes.

    Raises:
        ConfigError, DataError, DeviceError: see :func:`tinyflow.train.prepare.prepare`.
        TrainError: the loss is no longer finite, a file cannot be written, memory is
            full or the GPU failed; the finished epochs are kept.
    """
    config.validate()
    if config.trace_every is not None and tracer is None:
        raise ConfigError("trace_every needs a tracer, e.g. flow.trace.TraceWriter")
    folder = RunFolder(config.output, f"{config.model.name}-{config.dataset}")
    result = Result(folder.path)
    try:
        keep_freed_memory()
        ready = prepare(config)
        # One stream for steps, testing and saving: each finds what the last one left.
        with ready.stepper.running():
            _run(config, ready, folder, result, report, tracer)
    except KeyboardInterrupt:
        result.interrupted = True
    except TrainError:
        raise
    except FloatingPointError as error:
        raise TrainError(
            f"{error}: lower the learning rate, e.g. --lr "
            f"{config.lower_rate:g}; {_kept(result)}"
        ) from None
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        size = f"--batch-size {config.batch_size}"
        raise TrainError(f"{sentence}; it ran with {size}; {_kept(result)}") from error
    finally:
        folder.end()
        if not folder.kept:
            result.folder = None
    return result


def _run(
    config: TrainConfig,
    ready: Prepared,
    folder: RunFolder,
    result: Result,
    report: Report,
    tracer: Callable[[Path], Inspector] | None,
) -> None:
    """Train epoch by epoch; draw the curves however that ends."""
    inspect = None
    with _writing(folder, result):
        _write_config(config, ready, folder)
        metrics = MetricsFile(folder.file("metrics.csv"))
        if config.trace_every and tracer:
            trace = tracer(folder.place)
            if isinstance(path := getattr(trace, "path", None), Path):
                folder.own(path)

            def inspect(step: int, loss: float, tape: Tape) -> None:
                with _writing(folder, result):
                    trace(step, loss, tape)

    report(_start(config, ready, folder.path))
    try:
        for epoch in range(1, config.epochs + 1):
            row = _epoch(config, ready, epoch, report, inspect)
            with deferred(), _writing(folder, result):
                folder.check()
                with metrics.adding(row):
                    _save(config, ready, folder, result, row)
                result.rows.append(row)
                folder.kept = True
            report(row)
    except BaseException:
        if result.rows:
            with suppress(Exception):  # what ended the run is what is to be said
                _draw(config, ready, folder, result)
        raise
    try:
        with _writing(folder, result):
            _draw(config, ready, folder, result)
    except (TrainError, MemoryError):
        raise
    except Exception as error:
        raise TrainError(
            f"curves.png cannot be drawn ({type(error).__name__}: {error}); "
            f"{_kept(result)}"
        ) from error


@contextmanager
def _writing(folder: RunFolder, result: Result) -> Iterator[None]:
    """Errors of the disk, as the sentence that ends the run."""
    try:
        yield
    except OSError as error:
        raise TrainError(
            f"{error.filename or folder.path} cannot be written ({reason(error)}): "
            f"free space or choose another --output; {_kept(result)}"
        ) from error


def _epoch(
    config: TrainConfig,
    ready: Prepared,
    epoch: int,
    report: Report,
    inspect: Inspector | None,
) -> EpochRow:
    """Train for one epoch and test."""
    means = _Means(epoch, report)
    with served(ready.train.epoch(epoch - 1)) as batches:
        _steps(config, ready, epoch, batches, means, inspect)
    test_loss, test_accuracy = evaluate(ready.model, ready.test)
    if not np.isfinite(test_loss):
        raise FloatingPointError(f"the test loss became {test_loss} in epoch {epoch}")
    row = EpochRow(
        epoch=epoch,
        train_loss=means.loss,
        train_accuracy=means.accuracy,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        lr=ready.optimizer.lr,
        images_per_second=means.speed,
        seconds=time.perf_counter() - means.start,
        grad_norm=means.norm_sum / ready.steps,
        peak_memory_mb=peak_memory_mb(),
    )
    ready.schedule.observe(vars(row))
    return row


def _steps(
    config: TrainConfig,
    ready: Prepared,
    epoch: int,
    batches: Iterator[tuple[Array, Array]],
    means: _Means,
    inspect: Inspector | None,
) -> None:
    """All steps of an epoch.

    One that has been launched on a GPU is waited for after the next one has been, so
    that the GPU has work while the host sees to the batches and what is reported.
    """
    optimizer = ready.optimizer
    launched: Callable[[], None] | None = None
    for step in range(ready.steps):
        images, labels = next(batches)
        done = (epoch - 1) * ready.steps + step
        optimizer.lr = config.learning_rate * ready.schedule(done)
        traced = inspect is not None and done % (config.trace_every or 1) == 0
        look = partial(inspect, done) if traced and inspect else None
        take = partial(means.take, step + 1, optimizer.lr, len(labels))
        answer = ready.stepper.launch(images, labels, look is not None)
        if launched is not None:
            launched()
        launched = partial(take, answer) if answer else None
        if answer is None:
            take(partial(ready.stepper.eager, images, labels, look))
    if launched is not None:
        launched()


class _Means:
    """The means of an epoch, as its steps are done one after the other."""

    def __init__(self, epoch: int, report: Report) -> None:
        self.epoch, self.report, self.start = epoch, report, time.perf_counter()
        self.images, self.correct = 0, 0
        self.loss_sum = self.norm_sum = self.speed = 0.0

    loss = property(lambda self: self.loss_sum / self.images)
    accuracy = property(lambda self: self.correct / self.images)

    def take(
        self, step: int, lr: float, images: int, done: Callable[[], StepResult]
    ) -> None:
        """Do or wait for a step, and report it."""
        try:
            result = done()
        except FloatingPointError as error:
            raise FloatingPointError(
                f"{error} at step {step} of epoch {self.epoch} (learning rate {lr:.3g})"
            ) from None
        self.images += images
        self.loss_sum += result.loss * images
        self.correct += result.correct
        self.norm_sum += result.grad_norm
        self.speed = self.images / (time.perf_counter() - self.start)
        self.report(Step(self.epoch, step, self.loss, self.accuracy, self.speed))


def _save(
    config: TrainConfig,
    ready: Prepared,
    folder: RunFolder,
    result: Result,
    row: EpochRow,
) -> None:
    """Write last.safetensors and, if the test accuracy is a new high, best: or none."""
    data = ready.train.dataset
    metadata = Metadata(
        model=config.model.label,
        num_classes=data.num_classes,
        image_size=data.image_size,
        in_channels=data.in_channels,
        dataset=config.dataset,
        seed=config.seed,
        epoch=row.epoch,
        test_accuracy=row.test_accuracy,
    )
    new_high = not result.rows or row.test_accuracy > result.best.test_accuracy
    with ExitStack() as files:
        for name in (LAST, BEST) if new_high else (LAST,):
            path = folder.file(f"{name}.safetensors")
            partial = files.enter_context(replacing(path))
            save_checkpoint(partial, ready.model, metadata)


def _start(config: TrainConfig, ready: Prepared, folder: Path) -> Start:
    return Start(
        folder=folder,
        model=config.model.name,
        parameters=count_parameters(ready.model),
        dataset=config.dataset,
        train_images=len(ready.train.dataset),
        test_images=len(ready.test.dataset),
        epochs=config.epochs,
        steps=ready.steps,
        lr=config.learning_rate,
        device=ready.device,
        reason=ready.reason,
        kernels=ready.kernels,
    )


def _write_config(config: TrainConfig, ready: Prepared, folder: RunFolder) -> None:
    """Write config.json: every option as given, and what they came to."""
    facts: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(config)}
    facts["model"] = config.model.reference
    facts |= {
        name: str(path) if path else None
        for name, path in (("data_dir", config.data_dir), ("output", config.output))
    }
    xp = array_module(ready.model.parameters()[0].data)
    facts["resolved"] = {
        "model": config.model.name,
        "model_sha256": config.model.sha256,
        "parameters": count_parameters(ready.model),
        "num_classes": ready.train.dataset.num_classes,
        "image_size": ready.train.dataset.image_size,
        "in_channels": ready.train.dataset.in_channels,
        "train_images": len(ready.train.dataset),
        "test_images": len(ready.test.dataset),
        "data_seed": DATA_SEED,
        "optimizer": config.optimizer_name,
        "lr": config.learning_rate,
        "weight_decay": config.decay,
        "steps_per_epoch": ready.steps,
        "device": ready.device,
        "device_reason": ready.reason,
        "kernels": ready.kernels,
        "dtype": DTYPE,
        "precision": config.precision,
        "tinyflow": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cupy": xp.__version__ if xp is not np else None,
    }
    text = json.dumps(facts, indent=2) + "\n"
    with replacing(folder.file("config.json")) as partial:
        partial.write_text(text, encoding="utf-8")


def _draw(
    config: TrainConfig, ready: Prepared, folder: RunFolder, result: Result
) -> None:
    from tinyflow.train.curves import draw_curves

    title = (
        f"{config.model.name} on {config.dataset}, seed {config.seed}, "
        f"{config.precision} on {ready.device}"
    )
    classes = ready.train.dataset.num_classes
    draw_curves(folder.file("curves.png"), result.rows, title, 1 / classes)


def _kept(result: Result) -> str:
    if not result.rows:
        return "no epoch was finished, so nothing was kept"
    return f"the run up to epoch {result.last.epoch} is kept in {result.folder}"
