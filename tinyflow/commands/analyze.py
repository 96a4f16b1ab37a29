"""Take gradients apart: the command line of ``analyze.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyflow import flow
from tinyflow.commands import ending
from tinyflow.commands.analysis import PROGRAM, Analysis, analysis
from tinyflow.commands.options import NewFolder, shared
from tinyflow.commands.parsing import after_the_command, kinds
from tinyflow.flow import compare as sides
from tinyflow.flow.claims import CLAIMS, to_rows
from tinyflow.flow.counterfactual import BRANCHES, check_branch
from tinyflow.flow.series import (
    check_claims,
    check_sweep,
    chosen_setup,
    described,
    judged,
    sweep,
)
from tinyflow.flow.settings import FOUR, Settings
from tinyflow.flow.show import tables
from tinyflow.flow.subject import Subject
from tinyflow.network import Zoo

COMMAND, GROUP = kinds(PROGRAM)
JUDGED = "The papers' claims, judged; minutes a seed."
LISTED = "\n".join(CLAIMS)
app = typer.Typer(
    cls=GROUP,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
@shared
def main(settings: Settings, output: Path | None, context: typer.Context) -> None:
    """Take gradients apart. Without a command: compare the four architectures."""
    if context.invoked_subcommand is None:
        run_compare(settings, output)
        return
    after_the_command(PROGRAM, context)


@app.command("compare", cls=COMMAND)
@shared
def compare_command(settings: Settings, output: Path | None) -> None:
    """Networks side by side, with all figures."""
    run_compare(settings, output)


def run_compare(settings: Settings, output: Path | None) -> None:
    """What the bare command does."""
    with analysis("compare", settings, output) as work:
        found = work.kept(_summary(work, s) for s in work.subjects(FOUR, 2, 2))
        said = work.source.conditions()
        work.show(tables.compared(found, f"{work.source.weights} · {said}"))
        _write_summaries(work, found)
        from tinyflow.flow.show.figures_blocks import along_depth

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


def _draw_terms(work: Analysis, s: sides.Summary) -> None:
    from tinyflow.flow.show.figures_blocks import terms

    if s.blocks:
        work.draw(f"terms-{s.name}", terms(s.blocks, s.name, work.said))


def _draw_heat_maps(work: Analysis, s: sides.Summary) -> None:
    from tinyflow.flow.show.figures_paths import heat_map

    for d in s.dense:
        where = d.name.rpartition(".")[2]
        work.draw(f"sources-{s.name}-{where}", heat_map(d, s.name, work.said))


@app.command(cls=COMMAND)
@shared
def blocks(settings: Settings, output: Path | None) -> None:
    """Terms, shares and cosines of every block."""
    with analysis("blocks", settings, output) as work:
        found = work.kept(_summary(work, s) for s in work.subjects(("resnet",), 2, 1))
        for s in found:
            if not s.blocks:
                raise flow.FlowError(
                    f"{s.name} has dense blocks: use analyze.py dense "
                    f"{work.option(s.name)}"
                )
            work.show(tables.blocks(s.blocks, f"{s.name} · {work.said}"))
            _draw_terms(work, s)
        _write_summaries(work, found)


@app.command(cls=COMMAND)
@shared
def dense(settings: Settings, output: Path | None) -> None:
    """What later layers send to each dense map."""
    with analysis("dense", settings, output) as work:
        found = work.kept(_summary(work, s) for s in work.subjects(("densenet",), 2, 4))
        for s in found:
            if not s.dense:
                raise flow.FlowError(
                    f"{s.name} has no dense blocks: use analyze.py blocks "
                    f"{work.option(s.name)}, or --model densenet"
                )
            work.show(tables.dense(s.dense, f"{s.name} · {work.said}"))
            _draw_heat_maps(work, s)
        _write_summaries(work, found)


@app.command(cls=COMMAND)
@shared
def paths(
    settings: Settings,
    output: Path | None,
    veit: Annotated[
        int, typer.Option(help="Paths sampled per length for Veit's estimate; 0: none.")
    ] = 3,
) -> None:
    """The gradient by path length, exactly.

    Costs about L²/2 blocks' backward, and as much again per path sampled.
    """
    from tinyflow.flow.show.figures_paths import spectrum

    with analysis("paths", settings, output) as work:
        if veit < 0:
            raise flow.FlowError(f"--veit must be 0 or more, not {veit}")

        def measure(s: Subject) -> tuple[str, flow.Spectrum]:
            work.check_forks(s, "no paths to count")
            work.progress.begin(f"paths of {s.name}", 2 * (1 + veit))
            seed, told = settings.seed, work.progress.within
            found = flow.spectrum(s.probe, veit_samples=veit, seed=seed, progress=told)
            return s.name, found

        models: dict[str, Any] = {}
        rows = []
        seen = work.subjects(("resnet20",), 2 + 2 * (1 + veit), 1)
        for name, found in work.kept(map(measure, seen)):
            work.errors.append(found.closure)
            work.show(tables.paths(found, f"{name} · {work.said}"))
            work.draw(f"paths-{name}", spectrum(found, name, work.said))
            table = sides.spectrum_rows(found, name)
            rows += table
            models[name] = {
                "blocks": found.blocks,
                "closure_max": found.closure,
                "mean_length": found.mean_length(),
                "total": found.total,
                "lengths": table,
                "gates": [[k, m, share] for (k, m), share in found.gates.items()],
            }
        work.content["models"] = models
        work.folder.csv("paths.csv", rows)


@app.command(cls=COMMAND)
@shared
def counterfactual(
    settings: Settings,
    output: Path | None,
    block: Annotated[str, typer.Argument(help="E.g. layer1.0; see analyze.py blocks.")],
    branch: Annotated[str, typer.Argument(help=f"One of {', '.join(BRANCHES)}.")],
    factor: Annotated[
        float, typer.Option(help="What crosses the branch is multiplied by this.")
    ] = 0.0,
) -> None:
    """The gradient if one branch sent back less.

    That of the first layer; the forward pass stays as it was.
    """
    with analysis("counterfactual", settings, output) as work:
        if not math.isfinite(factor):
            raise flow.FlowError(f"--factor must be a finite number, not {factor}")
        check_branch(branch)

        def measure(s: Subject) -> tuple[str, flow.Counterfactual]:
            work.check_forks(s, "no branch to cut")
            work.errors.append(sides.worst([*s.probe.tape.closure().values()]))
            return s.name, flow.measure_branch(s.probe, block, branch, factor)

        found = work.kept(map(measure, work.subjects(("resnet20",))))
        title = f"Gradient of the first layer · {work.said}"
        work.show(tables.counterfactual(found, title))
        rows = [{"model": name, **asdict(c)} for name, c in found]
        work.content["models"] = {row["model"]: row for row in rows}
        work.folder.csv("counterfactual.csv", rows)


@app.command(cls=COMMAND)
@shared
def importance(settings: Settings, output: Path | None) -> None:
    """Share, cut and lesion of every residual branch."""
    from tinyflow.flow.show import figures_importance

    with analysis("importance", settings, output) as work:

        def measure(s: Subject) -> tuple[str, list[flow.Importance]]:
            work.check_forks(s, "no branch to compare")
            work.errors.append(sides.worst([*s.probe.tape.closure().values()]))
            return s.name, flow.importance(s.model, s.probe, s.source.batch()[1])

        rows: list[dict[str, Any]] = []
        models: dict[str, Any] = {}
        for name, found in work.kept(map(measure, work.subjects(("resnet20",), 9, 1))):
            work.show(tables.importance(found, f"{name} · {work.said}"))
            picture = figures_importance.importance(found, name, work.said)
            work.draw(f"importance-{name}", picture)
            rows += [{"model": name, **asdict(i)} for i in found]
            ranks = flow.agreement(found)._asdict()
            models[name] = {"blocks": list(map(asdict, found)), "rank": ranks}
        work.content["models"] = models
        work.folder.csv("importance.csv", rows)


@app.command(cls=COMMAND, help=f"{JUDGED}\n\n\b\n{LISTED}")
@shared
def claims(
    settings: Settings,
    output: Path | None,
    claim: Annotated[
        list[str] | None,
        typer.Option(help="Only this one of the above; may be given again."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Networks each, from --seed on.")] = 1,
    batches: Annotated[
        int, typer.Option(help="Batches per seed, of other images each.")
    ] = 1,
    train_steps: Annotated[
        int, typer.Option(help="Judge small nets after so many steps, too.")
    ] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Deeper networks too: hours, not minutes.")
    ] = False,
) -> None:
    """Judge the claims; the help lists them."""
    with analysis("claims", settings, output) as work:
        wanted = check_claims(settings, claim, seeds, batches, train_steps)
        setup, left = chosen_setup(work.source, full)
        work.leave_out(left)
        found = work.kept(
            judged(
                work.source, setup, wanted, seeds, batches, train_steps, work.progress
            )
        )
        if not found:
            raise flow.FlowError(
                f"none of the networks belongs to {', '.join(wanted)}: leave --model "
                "out to judge every claim on networks of its own"
            )
        done = {c.id for c in found}
        missing = [name for name in wanted if name not in done]
        if missing and not work.interrupted:
            work.leave_out(f"not judged, none of its networks: {', '.join(missing)}")
        work.errors += [c.closure_max for c in found]
        rows = to_rows(found)
        work.content["seeds"] = [settings.seed + i for i in range(seeds)]
        title = f"Claims · {work.source.conditions(seeds)}"
        work.say(tables.judged(rows, title, work.width))
        measured = to_rows(found, measured=True)
        work.content["claims"], work.content["measured"] = rows, measured
        work.folder.csv("claims.csv", rows)
        work.folder.csv("measured.csv", measured)
        intervals = to_rows(found, intervals=True)
        work.content["intervals"] = intervals
        work.folder.csv("intervals.csv", intervals)


@app.command(cls=COMMAND)
@shared
def depth(
    settings: Settings,
    output: Path | None,
    depths: Annotated[
        str, typer.Option(help="Weighted layers, of 20, 32, 44, 56 and 110.")
    ] = "20,32,44,56,110",
    seeds: Annotated[int, typer.Option(help="Networks per depth, from --seed on.")] = 1,
) -> None:
    """Plain against residual nets over depth."""
    from tinyflow.flow.show.figures_sweep import depth_sweep

    with analysis("depth", settings, output) as work:
        chosen = check_sweep(settings, depths, seeds)
        points = work.kept(sweep(work.source, chosen, seeds, work.progress))
        work.errors += [p.closure for p in points]
        work.content["seeds"] = [settings.seed + i for i in range(seeds)]
        said = work.source.conditions(seeds)
        work.show(tables.depths(points, f"Depth sweep · initial weights · {said}"))
        work.draw("depth-sweep", depth_sweep(points, said))
        rows = [asdict(p) for p in points]
        work.content["points"] = rows
        work.folder.csv("depth-sweep.csv", rows)


@app.command(cls=COMMAND)
def training(
    run: Annotated[Path, typer.Argument(help="Folder of a run with --trace-every.")],
    output: NewFolder = None,
) -> None:
    """Terms over the steps of a traced run."""
    from tinyflow.flow.show.figures_sweep import training as draw
    from tinyflow.flow.trace import read_trace

    with analysis("training", Settings(dtype="float32"), output, reads=run) as work:
        rows = read_trace(run)
        work.errors.append(sides.missing_share(rows))
        steps = sorted({row.step for row in rows})
        name, said, facts = described(run)
        work.say(
            f"{name} · {said}\n{len(steps)} traced steps, {steps[0]} to {steps[-1]}, "
            f"of {len({row.block for row in rows})} blocks or maps"
        )
        work.draw("training", draw(rows, name, said))
        work.content |= {"data": facts, "run": str(run), "steps": steps}


def run(zoo: Zoo) -> None:
    """Start the command line with these networks."""
    ending.run(PROGRAM, lambda: app(obj=zoo))
