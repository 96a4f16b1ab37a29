"""One analysis on its way: what all of them do before, around and after measuring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from tinyflow import __version__, flow
from tinyflow.backend import choose_device, explain
from tinyflow.commands import ending
from tinyflow.commands.parsing import fail
from tinyflow.flow import compare as sides
from tinyflow.flow.blocks import has_forks
from tinyflow.flow.progress import Progress
from tinyflow.flow.settings import Settings, as_flow_error
from tinyflow.flow.show import figures, report
from tinyflow.flow.show.layout import Table, width
from tinyflow.flow.source import Source, find_source
from tinyflow.flow.subject import Subject, look
from tinyflow.kernels.native.library import settings as environment

PROGRAM = "analyze.py"
DRAWING = 1.0  # a figure, in probes
T = TypeVar("T")


class Analysis:
    """What an analysis measured, and what it will leave behind.

    Attributes:
        errors: every closure error met; the largest is what the run is judged by.
        folder: where files go.
        progress: told what is being done.
        content: of summary.json, below the head that all analyses share.
        interrupted: what ended it before its end, or None.
        width: columns of a line.
    """

    def __init__(
        self, settings: Settings, folder: report.Folder, progress: Progress
    ) -> None:
        self.settings, self.folder, self.progress = settings, folder, progress
        self.errors: list[float] = []
        self.content: dict[str, Any] = {}
        self.interrupted: KeyboardInterrupt | None = None
        self.width = width()
        self._source: Source | None = None

    @property
    def source(self) -> Source:
        """Where images and weights come from; read when first asked for."""
        if self._source is None:
            self.progress.begin("reading images and weights", 0.0)
            self._source = find_source(self.settings)
            self.content["data"] = self._source.facts()
        return self._source

    @property
    def said(self) -> str:
        """Weights and conditions in words, for titles."""
        return f"{self.source.weights} · {self.source.conditions()}"

    def option(self, name: str) -> str:
        """The option with which this network is analysed by another command."""
        if self.settings.checkpoint is not None:
            return f"--checkpoint {self.settings.checkpoint}"
        find = self.settings.find
        given = [m for m in self.settings.model if find(m).name == name]
        return f"--model {(given or [name])[0]}"

    def say(self, text: str) -> None:
        """Print, with no progress in the way."""
        with self.progress.hidden():
            print(text, flush=True)

    def show(self, table: Table) -> None:
        """Print a table as wide as the terminal."""
        self.say(table.text(self.width))

    def leave_out(self, sentence: str) -> None:
        """Say, here and in summary.json, what is not looked at."""
        if sentence:
            self.say(sentence)
            self.content.setdefault("left_out", []).append(sentence)

    def draw(self, name: str, figure: Any) -> None:
        """Save a figure as PNG and SVG."""
        self.progress.begin(f"drawing {name}", DRAWING)
        with self.folder.drawing(name):
            figures.save(figure, self.folder.partial / name)

    def subjects(
        self, default: Sequence[str], weight: float = 2, figures: float = 0
    ) -> Iterator[Subject]:
        """Each network probed, one after the other, saying so.

        Args:
            default: the networks if none is named.
            weight: work for each, in probes; the probe itself and as much for what is
                measured on it.
            figures: how many will be drawn for each.
        """
        networks, left = self.source.fitting(default)
        self.leave_out(left)
        self.content["networks"] = []
        self.progress.plan(len(networks) * (weight + figures * DRAWING))
        for network in networks:
            self.progress.begin(f"looking at {network.name}")
            subject = look(self.source, network, self.progress.watch)
            self.progress.begin(f"measuring {network.name}", weight - 1)
            yield subject
            facts = {"model": subject.name, "parameters": subject.parameters}
            if network.file is not None:
                facts["file"] = str(network.file)
            self.content["networks"].append(facts)

    def check_forks(self, subject: Subject, why: str) -> None:
        """Refuse a network whose blocks have no branches, naming what suits it.

        Raises:
            FlowError: in one sentence.
        """
        tape = subject.probe.tape
        if has_forks(tape):
            return
        sides.check_blocks(subject)
        other = "dense" if sides.is_dense(tape) else "blocks"
        raise flow.FlowError(
            f"{subject.name} has no residual branches, hence {why}: use analyze.py "
            f"{other} {self.option(subject.name)}, or --model resnet20"
        )

    def kept(self, found: Iterable[T]) -> list[T]:
        """All of `found`; after Ctrl-C, what was finished before, if anything was."""
        finished: list[T] = []
        try:
            for one in found:
                finished.append(one)
        except KeyboardInterrupt as error:
            if not finished:
                raise
            self.interrupted = error
        return finished

    def head(self, what: str) -> dict[str, Any]:
        """What every summary.json begins with."""
        s = self.settings
        worst, allowed = sides.worst(self.errors), flow.TOLERANCE[s.dtype]
        chosen = {f.name: getattr(s, f.name) for f in fields(s)}
        for name in ("data_dir", "find", "named"):
            del chosen[name]
        chosen["checkpoint"] = None if s.checkpoint is None else str(s.checkpoint)
        chosen["model"] = [n["model"] for n in self.content.get("networks", [])] or [
            network.name for network in s.networks(())
        ]
        if self._source is not None:
            chosen["dataset"] = self._source.data.name
            if self._source.told is not None and not chosen["model"]:
                chosen["model"] = [self._source.told.model]
        return {
            "analysis": what,
            "version": __version__,
            "settings": chosen,
            "interrupted": self.interrupted is not None,
            "tolerance": allowed,
            "closure_max": worst,
            "conserved": worst <= allowed,  # false for NaN too
        }


@contextmanager
def analysis(
    what: str, settings: Settings, output: Path | None, reads: Path | None = None
) -> Iterator[Analysis]:
    """Run an analysis; write its folder; judge conservation; turn errors into exits.

    Args:
        what: its name.
        settings: the options.
        output: the folder to write, or None for a new one in ``runs``.
        reads: the run folder that it only reads, computing nothing.
    """
    folder: report.Folder | None = None
    try:
        settings.validate()
        report.check_output(output)
        if reads is None:
            with as_flow_error():
                device, reason = choose_device(settings.device)
                environment()
            print(f"device: {device} ({reason})", flush=True)
        names = [network.name for network in settings.networks(())]
        stem = "-".join((what, *(names if len(names) == 1 else ())))
        with report.folder(output, stem) as folder, Progress() as progress:
            work = Analysis(settings, folder, progress)
            yield work
            head = work.head(what)
            folder.json("summary.json", head | work.content)
    except report.WriteError as error:
        fail(PROGRAM, str(error), 1)
    except flow.FlowError as error:
        fail(PROGRAM, str(error), 2)
    except KeyboardInterrupt:
        if folder is None or not folder.complete:
            fail(PROGRAM, "interrupted; nothing was written", ending.code())
        fail(PROGRAM, f"interrupted; written to {folder.path}", ending.code())
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        fail(PROGRAM, sentence, 2)
    worst, allowed = head["closure_max"], head["tolerance"]
    print(
        f"largest closure error {worst:.1e}, allowed {allowed:.0e} ({settings.dtype})"
    )
    print(f"written to {folder.path}")
    if not head["conserved"]:
        finer = ", and try --dtype float64" if settings.dtype == "float32" else ""
        fail(
            PROGRAM,
            f"conservation is violated: the terms miss the gradient by {worst:.1e}, "
            f"more than {allowed:.0e}; see the closure column of {folder.path}{finer}",
            1,
        )
    if work.interrupted is not None:
        sentence = f"interrupted; what was finished is kept in {folder.path}"
        fail(PROGRAM, sentence, ending.code())
