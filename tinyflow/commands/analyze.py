"""Take gradients apart: the command line of ``analyze.py``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tinyflow import __version__, flow
from tinyflow.backend import choose_device, explain
from tinyflow.flow import compare as sides
from tinyflow.flow import figures, report, tables
from tinyflow.flow.claims import to_rows
from tinyflow.flow.options import shared
from tinyflow.flow.series import described, judged, say, sweep
from tinyflow.flow.subject import (
    FOUR,
    Settings,
    Subject,
    as_flow_error,
    conditions,
    look,
)

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Analysis:
    """One analysis on its way: what it measured, and what it will leave behind.

    Attributes:
        errors: every closure error met; the largest is what the run is judged by.
        folder: where files go.
    """

    def __init__(self, settings: Settings, folder: report.Folder) -> None:
        self.settings, self.folder = settings, folder
        self.errors: list[float] = []
        self.content: dict[str, Any] = {}

    def draw(self, name: str, figure: Any) -> None:
        """Save a figure as PNG and SVG."""
        figures.save(figure, self.folder.partial / name)

    def subjects(self, default: Sequence[str]) -> Iterator[Subject]:
        """Each network probed, one after the other, saying so on a terminal."""
        for name in self.settings.names(tuple(default)):
            say(f"looking at {name or self.settings.checkpoint} …")
            yield look(self.settings, name)


@contextmanager
def analysis(what: str, settings: Settings, output: Path | None) -> Iterator[Analysis]:
    """Run an analysis; write its folder; judge conservation; turn errors into exits."""
    try:
        settings.validate()
        report.check_output(output)
        if what != "training":  # which reads a file and computes nothing
            with as_flow_error():
                device, reason = choose_device(settings.device)
            print(f"device: {device} ({reason})")
        stem = "-".join((what, *(settings.model if len(settings.model) == 1 else ())))
        with report.folder(output, stem) as folder:
            work = Analysis(settings, folder)
            yield work
            worst = sides.worst(work.errors)
            allowed = flow.TOLERANCE[settings.dtype]
            conserved = worst <= allowed  # false for NaN too
            chosen = {k: v for k, v in asdict(settings).items() if k != "data_dir"}
            head = {
                "analysis": what,
                "version": __version__,
                "settings": chosen | {"checkpoint": _text(settings.checkpoint)},
                "tolerance": allowed,
                "closure_max": worst,
                "conserved": conserved,
            }
            folder.json("summary.json", head | work.content)
    except flow.FlowError as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        fail("interrupted; nothing was written", 130)
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        fail(sentence, 2)
    print(
        f"largest closure error {worst:.1e}, allowed {allowed:.0e} ({settings.dtype})"
    )
    print(f"written to {folder.path}")
    if not conserved:
        fail(
            f"conservation is violated: the terms miss the gradient by {worst:.1e}, "
            f"more than {allowed:.0e}; see the closure column of {folder.path}",
            1,
        )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def fail(sentence: str, code: int) -> NoReturn:
    """Print one sentence to stderr and exit."""
    print(f"analyze.py: {sentence}", file=sys.stderr)
    raise typer.Exit(code)


@app.callback(invoke_without_command=True)
@shared
def main(settings: Settings, output: Path | None, context: typer.Context) -> None:
    """Take gradients apart. Without a command: compare the four architectures."""
    if context.invoked_subcommand is None:
        run_compare(settings, output)
        return
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.replace("_", "-")
            fail(
                f"put --{option} after the command: "
                f"analyze.py {context.invoked_subcommand} --{option} …",
                2,
            )


@app.command("compare")
@shared
def compare_command(settings: Settings, output: Path | None) -> None:
    """Networks side by side: one table, every block's terms, all figures."""
    run_compare(settings, output)


def run_compare(settings: Settings, output: Path | None) -> None:
    """What the bare command does."""
    with analysis("compare", settings, output) as work:
        found = [_summary(work, s) for s in work.subjects(FOUR)]
        said = conditions(settings, found[0].dataset)
        tables.show(tables.compared(found, said))
        _write_summaries(work, found)
        from tinyflow.flow.figures_blocks import along_depth

        work.draw("depth", along_depth(found, said))
        for s in found:
            _draw_terms(work, s)
            _draw_heat_maps(work, s)


def _summary(work: Analysis, subject: Subject) -> sides.Summary:
    summary = sides.summarise(subject)
    work.errors.append(summary.closure_max)
    return summary


def _write_summaries(work: Analysis, found: Sequence[sides.Summary]) -> None:
    work.content["models"] = {s.name: sides.to_json(s) for s in found}
    work.folder.csv("blocks.csv", sides.block_rows(found))
    work.folder.csv("dense.csv", sides.dense_rows(found))
    work.folder.csv("depth.csv", sides.profile_rows(found))


def _said(work: Analysis, s: sides.Summary) -> str:
    return f"{s.state} · {conditions(work.settings, s.dataset)}"


def _draw_terms(work: Analysis, s: sides.Summary) -> None:
    from tinyflow.flow.figures_blocks import terms

    if s.blocks:
        work.draw(f"terms-{s.name}", terms(s.blocks, s.name, _said(work, s)))


def _draw_heat_maps(work: Analysis, s: sides.Summary) -> None:
    from tinyflow.flow.figures_paths import heat_map

    for d in s.dense:
        where = d.name.rpartition(".")[2]
        figure = heat_map(d, s.name, _said(work, s))
        work.draw(f"sources-{s.name}-{where}", figure)


@app.command()
@shared
def blocks(settings: Settings, output: Path | None) -> None:
    """Terms, shares and cosines of every block, e.g. --model resnet20."""
    with analysis("blocks", settings, output) as work:
        found = [_summary(work, s) for s in work.subjects(("resnet",))]
        for s in found:
            if not s.blocks:
                raise flow.FlowError(
                    f"{s.name} has dense blocks: use analyze.py dense --model {s.name}"
                )
            tables.show(tables.blocks(s.blocks, f"{s.name} · {_said(work, s)}"))
            _draw_terms(work, s)
        _write_summaries(work, found)


@app.command()
@shared
def dense(settings: Settings, output: Path | None) -> None:
    """What every layer of a dense block sends to every earlier map."""
    with analysis("dense", settings, output) as work:
        found = [_summary(work, s) for s in work.subjects(("densenet",))]
        for s in found:
            if not s.dense:
                raise flow.FlowError(
                    f"{s.name} has no dense blocks: use analyze.py blocks --model "
                    f"{s.name}, or --model densenet"
                )
            tables.show(tables.dense(s.dense, f"{s.name} · {_said(work, s)}"))
            _draw_heat_maps(work, s)
        _write_summaries(work, found)


@app.command()
@shared
def paths(
    settings: Settings,
    output: Path | None,
    veit: Annotated[
        int, typer.Option(help="Paths sampled per length for Veit's estimate; 0: none.")
    ] = 3,
) -> None:
    """The gradient by path length, exactly; costs about L²/2 blocks' backward."""
    from tinyflow.flow.figures_paths import spectrum

    with analysis("paths", settings, output) as work:
        if veit < 0:
            raise flow.FlowError(f"--veit must be 0 or more, not {veit}")
        models: dict[str, Any] = {}
        rows = []
        for s in work.subjects(("resnet20",)):
            found = flow.spectrum(s.probe, veit_samples=veit, seed=settings.seed)
            work.errors.append(found.closure)
            said = f"{s.state} · {s.conditions}"
            tables.show(tables.paths(found, f"{s.name} · {said}"))
            work.draw(f"paths-{s.name}", spectrum(found, s.name, said))
            table = sides.spectrum_rows(found, s.name)
            rows += table
            models[s.name] = {
                "blocks": found.blocks,
                "closure_max": found.closure,
                "mean_length": found.mean_length(),
                "total": found.total,
                "lengths": table,
                "gates": [[k, m, share] for (k, m), share in found.gates.items()],
            }
        work.content["models"] = models
        work.folder.csv("paths.csv", rows)


@app.command()
@shared
def counterfactual(
    settings: Settings,
    output: Path | None,
    block: Annotated[str, typer.Argument(help="E.g. layer1.0; see analyze.py blocks.")],
    branch: Annotated[
        str, typer.Argument(help="residual, shortcut, scale or squeeze.")
    ],
    factor: Annotated[
        float, typer.Option(help="What crosses the branch is multiplied by this.")
    ] = 0.0,
) -> None:
    """The first layer's gradient if one branch had sent back less, or nothing."""
    with analysis("counterfactual", settings, output) as work:
        if not math.isfinite(factor):
            raise flow.FlowError(f"--factor must be a finite number, not {factor}")
        rows = []
        for s in work.subjects(("resnet20",)):
            work.errors.append(sides.worst([*s.probe.tape.closure().values()]))
            found = flow.measure_branch(s.probe, block, branch, factor)
            rows.append({"model": s.name, **asdict(found)})
        title = f"Gradient of the first layer · {s.state} · {s.conditions}"
        tables.show(tables.plain(rows, title))
        work.content["models"] = {row["model"]: row for row in rows}
        work.folder.csv("counterfactual.csv", rows)


@app.command()
@shared
def claims(
    settings: Settings,
    output: Path | None,
    claim: Annotated[
        list[str] | None, typer.Option(help="Only this claim; may be given again.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Networks each, from --seed on.")] = 1,
    train_steps: Annotated[
        int, typer.Option(help="Judge small nets after so many steps, too.")
    ] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Deeper networks too: hours, not minutes.")
    ] = False,
) -> None:
    """The papers' claims, measured and judged; minutes per seed."""
    with analysis("claims", settings, output) as work:
        found = judged(settings, claim, seeds, full, train_steps)
        work.errors += [c.closure_max for c in found]
        rows = to_rows(found)
        said = conditions(settings, seeds=seeds)
        tables.show(tables.judged(rows, f"Claims · {said}"))
        measured = to_rows(found, measured=True)
        work.content["claims"], work.content["measured"] = rows, measured
        work.folder.csv("claims.csv", rows)
        work.folder.csv("measured.csv", measured)


@app.command()
@shared
def depth(
    settings: Settings,
    output: Path | None,
    depths: Annotated[
        str, typer.Option(help="Weighted layers, of 20, 32, 44, 56 and 110.")
    ] = "20,32,44,56,110",
    seeds: Annotated[int, typer.Option(help="Networks per depth, from --seed on.")] = 1,
) -> None:
    """Plain against residual nets: the first layer's gradient over depth."""
    from tinyflow.flow.figures_sweep import depth_sweep

    with analysis("depth", settings, output) as work:
        points = sweep(settings, depths, seeds)
        work.errors += [p.closure for p in points]
        rows = [asdict(p) for p in points]
        said = conditions(settings, seeds=seeds)
        tables.show(tables.plain(rows, f"Depth sweep · initial weights · {said}"))
        work.draw("depth-sweep", depth_sweep(points, said))
        work.content["points"] = rows
        work.folder.csv("depth-sweep.csv", rows)


@app.command()
def training(
    run: Annotated[Path, typer.Argument(help="Folder of a run with --trace-every.")],
    output: Annotated[
        Path | None, typer.Option(help="New folder  [default: runs/analysis-…]")
    ] = None,
) -> None:
    """The terms of a block's gradient over the steps of a traced training run."""
    from tinyflow.flow.figures_sweep import training as draw
    from tinyflow.flow.trace import read_trace

    with analysis("training", Settings(dtype="float32"), output) as work:
        rows = read_trace(run)
        work.errors.append(sides.missing_share(rows))
        steps = sorted({row.step for row in rows})
        print(f"{run}: {len(steps)} traced steps, {steps[0]} to {steps[-1]}")
        name, said = described(run)
        work.draw("training", draw(rows, name, said))
        work.content["run"], work.content["steps"] = str(run), steps


def run() -> None:
    """Start the command line."""
    app()


if __name__ == "__main__":
    run()
