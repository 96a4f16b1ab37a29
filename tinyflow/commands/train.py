"""Train a network: the command line of ``train.py``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyflow.backend import DeviceError, SettingError, choose_device, explain
from tinyflow.commands import ending
from tinyflow.commands.curves import curves
from tinyflow.commands.evaluate import evaluate
from tinyflow.commands.fetching import fetch_shown
from tinyflow.commands.listing import recipes, runs
from tinyflow.commands.own import with_own
from tinyflow.commands.parsing import after_the_command, fail, kinds, named, say
from tinyflow.commands.predict import predict
from tinyflow.commands.train_options import configured, read
from tinyflow.data import DataError
from tinyflow.flow import FlowError
from tinyflow.flow.trace import TraceWriter
from tinyflow.network import Find, Network, Zoo
from tinyflow.train import ConfigError, Result, TrainConfig, TrainError, train
from tinyflow.train import resume as go_on
from tinyflow.train.checks import (
    check_listing,
    check_named,
    check_resuming,
    idle_on_cpu,
)
from tinyflow.train.config import default_epochs
from tinyflow.train.folder import check_output
from tinyflow.train.recipes import from_recipe
from tinyflow.train.report import terminal_report
from tinyflow.train.several import Series, is_series, resume_several, train_several

PROGRAM = "train.py"
COMMAND, GROUP = kinds(PROGRAM)
app = typer.Typer(
    cls=GROUP,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
@configured
def main(
    context: typer.Context,
    configuration: dict[str, Any],
    model: Annotated[
        str,
        typer.Option(
            help="Network, e.g. vgg, resnet, se_resnet, densenet, or in a file of your "
            "own: my_net.py:MyNet, called with num_classes, image_size, in_channels "
            "and rng."
        ),
    ] = "",
    download: Annotated[
        bool, typer.Option("--download", help="Fetch what --data-dir lacks.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            envvar="TINYFLOW_MIRROR",
            help="Of --download: address of a copy laid out like a data folder.",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Train so many times, from --seed on, each in a folder below "
            "--output, and say how far they lie apart."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run, or with all the --seeds, in this folder, stopped "
            "or killed, as if it had not been; all other options are the run's own."
        ),
    ] = None,
    list_models: Annotated[
        bool, typer.Option("--list-models", help="Print all networks and exit.")
    ] = False,
    filter: Annotated[
        str | None,
        typer.Option(help="Of --list-models: only names like this, e.g. 'se_*'."),
    ] = None,
) -> None:
    """Train a network and leave a run folder with metrics, curves and weights."""
    given, zoo = named(context), context.obj
    if context.invoked_subcommand is not None:
        after_the_command(PROGRAM, context)
        return
    result: Result | Series
    try:
        if list_models:
            classes = configuration["num_classes"]
            check_listing(given, classes)
            for line in _listed(zoo, classes or 10, filter or "*"):
                print(line, flush=True)
            return
        if resume is not None:
            check_resuming(given)
            with terminal_report() as report:
                how: Any = {
                    "data_dir": configuration["data_dir"],
                    "said": partial(say, PROGRAM),
                }
                whose = resume, with_own(zoo.find), report, TraceWriter
                if is_series(resume):
                    result = resume_several(*whose, **how, announce=report.line)
                else:
                    result = go_on(*whose, **how)
            finish(result)
            return
        if not model:
            raise ConfigError(
                "name a network with --model, e.g. --model resnet; --list-models "
                "prints all"
            )
        network = _find(zoo.find, model)
        options = read(configuration)
        if options["recipe"] is not None:
            options |= _from_recipe(network, options, given)
        if options["epochs"] is None:
            options["epochs"] = default_epochs(network)
        config = TrainConfig(network, **options)
        config.validate()
        check_named(config, given)
        if choose_device(config.device)[0] == "cpu":
            for said in idle_on_cpu(given):
                say(PROGRAM, said)
        if download and config.data_dir is not None:
            check_output(config.output)  # before half an hour of waiting, not after
            fetch_shown(PROGRAM, config.dataset, config.data_dir, mirror)
        with terminal_report() as report:
            if seeds is None:
                result = train(config, report, TraceWriter)
            else:
                result = train_several(
                    config, seeds, report, TraceWriter, announce=report.line
                )
    except (ConfigError, SettingError) as error:
        fail(PROGRAM, str(error), 2)
    except (DataError, DeviceError, FlowError, TrainError) as error:
        fail(PROGRAM, str(error), 1)
    except KeyboardInterrupt:
        said = "interrupted before the first step; nothing was written"
        fail(PROGRAM, said, ending.code())
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        fail(PROGRAM, sentence, 1)
    finish(result)


def _from_recipe(
    network: Network, options: dict[str, Any], given: Collection[str]
) -> dict[str, Any]:
    """The recipe's options, and in place of them those that the user named."""
    name = options["recipe"]
    chosen = {option: options[option] for option in given if option in options}
    taken, left_out = from_recipe(name, network, options["dataset"], chosen)
    for sentence in left_out:
        say(PROGRAM, f"--recipe {name}: {sentence}")
    return taken


def _listed(zoo: Zoo, classes: int, pattern: str) -> Iterator[str]:
    try:
        yield from zoo.list_models(classes, pattern)
    except ValueError as error:
        raise ConfigError(f"--filter: {error}") from error


def _find(find: Find, name: str) -> Network:
    try:
        return with_own(find)(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def finish(result: Result | Series) -> None:
    """Say where it is and how good it got."""
    if result.folder is None:
        said = "interrupted before the first step was finished; nothing was kept"
        fail(PROGRAM, said, ending.code())
    on = f"interrupted; --resume {result.folder} goes on where it stopped"
    said = summed_up(result) if isinstance(result, Series) else judged(result)
    if said:
        print(f"{result.folder}: {said}")
    if result.interrupted:
        fail(PROGRAM, on, ending.code())


def judged(result: Result) -> str:
    """How good a run got; "" if it has no finished epoch."""
    if not result.rows:
        return ""
    last, best = result.last, result.best
    said = (
        f"test accuracy {100 * last.test_accuracy:.1f} % after the last epoch "
        f"({last.epoch})"
    )
    if best is not None:
        said += (
            f", {100 * best.test_accuracy:.1f} % after the one that was best on the "
            f"validation images ({best.epoch}, {100 * best.val_accuracy:.1f} % of them)"
        )
    return said


def summed_up(series: Series) -> str:
    """How good the finished runs of a series got; "" if there is none."""
    if series.last is None:
        return ""
    n = len(series.runs)
    said = f"test accuracy {series.last}, after the last epoch"
    if series.best is not None:
        said += f"; {series.best}, after the one best on the validation images"
    return f"{said} ({n} seed{'s' * (n > 1)}: mean ± standard deviation, range)"


app.command("evaluate", cls=COMMAND)(evaluate)
app.command("predict", cls=COMMAND)(predict)
app.command("runs", cls=COMMAND)(runs)
app.command("curves", cls=COMMAND)(curves)
app.command("recipes", cls=COMMAND)(recipes)


def run(zoo: Zoo) -> None:
    """Start the command line with these networks."""
    ending.run(PROGRAM, lambda: app(obj=zoo))
