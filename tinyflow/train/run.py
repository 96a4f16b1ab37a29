"""A run from its options, or its folder, to what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tinyflow.backend import explain
from tinyflow.data import DataError
from tinyflow.kernels.plain.scratch import keep_freed_memory
from tinyflow.network import Find
from tinyflow.train.board import check_board
from tinyflow.train.checks import ConfigError
from tinyflow.train.config import TrainConfig
from tinyflow.train.events import Report
from tinyflow.train.folder import RunFolder
from tinyflow.train.loop import Loop, Result, Tracer, TrainError, kept
from tinyflow.train.prepare import prepare
from tinyflow.train.record import config_of
from tinyflow.train.recording import recording


def silent(event: object) -> None:
    """Report to nobody."""


def train(
    config: TrainConfig, report: Report = silent, tracer: Tracer | None = None
) -> Result:
    """Train a network and leave a run folder.

    The folder is claimed first; then data are read and one batch is tried. Ctrl-C lets
    the step be finished, and saves the state of the run; a run without a step leaves
    nothing behind.

    Args:
        config: the options.
        report: called with every :data:`Event`.
        tracer: makes what ``config.trace_every`` calls.

    Raises:
        ConfigError, DataError, DeviceError: see :func:`tinyflow.train.prepare.prepare`.
        TrainError: the loss is no longer finite, a file cannot be written, an image
            cannot be decoded, memory is full or the GPU failed; the finished epochs are
            kept.
    """
    config.validate()
    _check_parts(config, tracer)
    folder = RunFolder(config.output, f"{config.model.name}-{config.dataset}")
    return _guarded(config, folder, report, tracer, None)


def resume(
    run: Path,
    find: Find,
    report: Report = silent,
    tracer: Tracer | None = None,
    *,
    data_dir: Path | None = None,
    said: Callable[[str], None] = silent,
) -> Result:
    """Go on with a run that was stopped, as if it had not been.

    On a CPU with the same kernels, threads and versions every bit that it leaves is the
    same, but for the times that it measures.

    Args:
        run: its folder.
        find: gives the network of a name, e.g. ``models.find``.
        report, tracer: see :func:`train`.
        data_dir: where its data lie now, if elsewhere.
        said: told, in a sentence each, why bits may differ.

    Raises:
        ConfigError: nothing there can be resumed, or its data or network have changed.
        DataError, DeviceError, TrainError: see :func:`train`.
    """
    config = config_of(run, find, data_dir)
    _check_parts(config, tracer)
    return _guarded(config, RunFolder(run, "", again=True), report, tracer, said)


def _check_parts(config: TrainConfig, tracer: Tracer | None) -> None:
    """See that what the options ask for beside training can be had."""
    if config.tensorboard:
        check_board()
    if config.trace_every is not None and tracer is None:
        raise ConfigError("trace_every needs a tracer, e.g. flow.trace.TraceWriter")


def _guarded(
    config: TrainConfig,
    folder: RunFolder,
    report: Report,
    tracer: Tracer | None,
    said: Callable[[str], None] | None,
) -> Result:
    """Run in a claimed folder; whatever ends it is one sentence."""
    result = Result(folder.path)
    try:
        keep_freed_memory()
        ready = prepare(config)
        # One stream for steps, testing and saving: each finds what the last one left.
        with recording(config, folder, result, report) as to, ready.stepper.running():
            Loop(config, ready, folder, result, to).go(tracer, to.said(said))
    except KeyboardInterrupt:
        result.interrupted = True
    except TrainError:
        raise
    except DataError as error:
        if not result.rows and not result.saved:
            raise
        raise TrainError(f"{str(error).rstrip('.')}; {kept(result)}") from error
    except FloatingPointError as error:
        raise TrainError(
            f"{error}: lower the learning rate, e.g. --lr "
            f"{config.lower_rate:g}; {kept(result)}"
        ) from None
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        size = f"--batch-size {config.batch_size}"
        raise TrainError(f"{sentence}; it ran with {size}; {kept(result)}") from error
    finally:
        folder.end()
        if not folder.kept:
            result.folder = None
    return result
