"""What a run writes down of its course, beside what the caller is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tinyflow.reading import reason
from tinyflow.train.board import BoardReport
from tinyflow.train.config import TrainConfig
from tinyflow.train.events import Event, Report
from tinyflow.train.folder import RunFolder
from tinyflow.train.log import LogReport
from tinyflow.train.loop import Result, TrainError, kept


class Recorder:
    """Reports to the caller, to ``log.txt``, and to TensorBoard if that was asked for.

    Args:
        config: of the run.
        folder: its folder.
        result: what it has left so far.
        report: the caller's.
    """

    def __init__(
        self, config: TrainConfig, folder: RunFolder, result: Result, report: Report
    ) -> None:
        self._report, self._result = report, result
        self.log = LogReport(folder)
        self.board = BoardReport(folder) if config.tensorboard else None

    def __call__(self, event: Event) -> None:
        """Tell all of them.

        Raises:
            TrainError: a file cannot be written.
        """
        try:
            self.log(event)
            if self.board is not None:
                self.board(event)
        except OSError as error:
            raise TrainError(
                f"{error.filename or self.log.path} cannot be written "
                f"({reason(error)}): free space; {kept(self._result)}"
            ) from error
        self._report(event)

    def said(self, tell: Callable[[str], None] | None) -> Callable[[str], None] | None:
        """`tell`, which also writes into the log."""
        if tell is None:
            return None

        def both(sentence: str) -> None:
            self.log.line(sentence)
            tell(sentence)

        return both


@contextmanager
def recording(
    config: TrainConfig, folder: RunFolder, result: Result, report: Report
) -> Iterator[Recorder]:
    """A :class:`Recorder` of a run; how it ended is the last line of the log."""
    recorder = Recorder(config, folder, result, report)
    end = "finished"
    try:
        yield recorder
    except KeyboardInterrupt:
        end = "interrupted"
        raise
    except BaseException as error:
        end = f"ended by {type(error).__name__}: {error}"
        raise
    finally:
        with suppress(OSError):  # what ended the run is what is to be said
            recorder.log.line(end)
        if recorder.board is not None:
            with suppress(OSError):
                recorder.board.close()
