"""Train a network: the command line of ``train.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyflow.backend import DeviceError, SettingError, choose_device, explain
from tinyflow.commands import ending
from tinyflow.commands.curves import curves
from tinyflow.commands.evaluate import evaluate
from tinyflow.commands.fetching import fetch_shown
from tinyflow.commands.listing import runs
from tinyflow.commands.own import with_own
from tinyflow.commands.parsing import after_the_command, fail, kinds, named
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
from tinyflow.train.report import terminal_report

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
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this folder, stopped or killed, as if it had "
            "not been; all other options are the run's own."
        ),
    ] = None,
    list_models: Annotated[
        bool, typer.Option("--list-models", help="Print all networks and exit.")
    ] = False,
) -> None:
    """Train a network and leave a run folder with metrics, curves and weights."""
    given, zoo = named(context), context.obj
    if context.invoked_subcommand is not None:
        after_the_command(PROGRAM, context)
        return
    try:
        if list_models:
            classes = configuration["num_classes"]
            check_listing(given, classes)
            print("\n".join(zoo.list_models(classes or 10)))
            return
        if resume is not None:
            check_resuming(given)
            with terminal_report() as report:
                result = go_on(
                    resume,
                    with_own(zoo.find),
                    report,
                    TraceWriter,
                    data_dir=configuration["data_dir"],
                    said=lambda sentence: print(
                        f"{PROGRAM}: {sentence}", file=sys.stderr
                    ),
                )
            finish(result)
            return
        if not model:
            raise ConfigError(
                "name a network with --model, e.g. --model resnet; --list-models "
                "prints all"
            )
        network = _find(zoo.find, model)
        options = read(configuration)
        if options["epochs"] is None:
            options["epochs"] = default_epochs(network)
        config = TrainConfig(network, **options)
        config.validate()
        check_named(config, given)
        if choose_device(config.device)[0] == "cpu":
            for said in idle_on_cpu(given):
                print(f"{PROGRAM}: {said}", file=sys.stderr)
        if download and config.data_dir is not None:
            check_output(config.output)  # before half an hour of waiting, not after
            fetch_shown(PROGRAM, config.dataset, config.data_dir, mirror)
        with terminal_report() as report:
            result = train(config, report, TraceWriter)
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


def _find(find: Find, name: str) -> Network:
    try:
        return with_own(find)(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def finish(result: Result) -> None:
    """Say where the run is and how good it got."""
    if result.folder is None:
        said = "interrupted before the first step was finished; nothing was kept"
        fail(PROGRAM, said, ending.code())
    on = f"interrupted; --resume {result.folder} goes on where it stopped"
    if not result.rows:
        fail(PROGRAM, on, ending.code())
    last, best = result.last, result.best
    said = (
        f"{result.folder}: test accuracy {100 * last.test_accuracy:.1f} % after the "
        f"last epoch ({last.epoch})"
    )
    if best is not None:
        said += (
            f", {100 * best.test_accuracy:.1f} % after the one that was best on the "
            f"validation images ({best.epoch}, {100 * best.val_accuracy:.1f} % of them)"
        )
    print(said)
    if result.interrupted:
        fail(PROGRAM, on, ending.code())


app.command("evaluate", cls=COMMAND)(evaluate)
app.command("predict", cls=COMMAND)(predict)
app.command("runs", cls=COMMAND)(runs)
app.command("curves", cls=COMMAND)(curves)


def run(zoo: Zoo) -> None:
    """Start the command line with these networks."""
    ending.run(PROGRAM, lambda: app(obj=zoo))
