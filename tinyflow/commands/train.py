"""Train a network: the command line of ``train.py``."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from tinyflow.backend import DeviceError, SettingError, choose_device, explain
from tinyflow.commands import ending
from tinyflow.commands.fetching import fetch_shown
from tinyflow.commands.own import with_own
from tinyflow.commands.parsing import fail, kinds, named
from tinyflow.data import DataError
from tinyflow.flow import FlowError
from tinyflow.flow.trace import TraceWriter
from tinyflow.network import Find, Network, Zoo
from tinyflow.train import ConfigError, Result, TrainConfig, TrainError, train
from tinyflow.train import resume as go_on
from tinyflow.train.config import (
    EPOCHS,
    EPOCHS_LARGE,
    SCHEDULES,
    check_listing,
    check_named,
    check_resuming,
    default_epochs,
    idle_on_cpu,
)
from tinyflow.train.folder import check_output
from tinyflow.train.report import terminal_report

PROGRAM = "train.py"
DEFAULT = TrainConfig
CONFIGURES = frozenset(f.name for f in fields(TrainConfig)) - {"model"}
app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(cls=kinds(PROGRAM)[0])
def main(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Option(
            help="Network, e.g. vgg, resnet, se_resnet, densenet, or in a file of your "
            "own: my_net.py:MyNet, called with num_classes, image_size, in_channels "
            "and rng."
        ),
    ] = "",
    dataset: Annotated[
        str,
        typer.Option(
            help="shapes (drawn, needs no files), cifar10, cifar100, cifar100_coarse, "
            "mnist or fashion_mnist."
        ),
    ] = DEFAULT.dataset,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="TINYFLOW_DATA", help="Folder with the files of --dataset."
        ),
    ] = None,
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
    epochs: Annotated[
        int | None,
        typer.Option(
            help=f"Passes over the images  [default: {EPOCHS}; ImageNet's networks: "
            f"{EPOCHS_LARGE}]"
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Images per step.")
    ] = DEFAULT.batch_size,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate; left out: by the network; in a file of your own "
            f"{Network.lr:g} for sgd, {Network.adam_lr:g} for the others."
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="sgd, adam, adamw or rmsprop; left out: by the network; in a file of "
            "your own adamw."
        ),
    ] = DEFAULT.optimizer,
    schedule: Annotated[
        str, typer.Option(help=f"Of the rate: {', '.join(SCHEDULES)}.")
    ] = DEFAULT.schedule,
    milestones: Annotated[
        str,
        typer.Option(help="Of step: parts of the run, or epochs as in 82,123."),
    ] = ",".join(map(str, DEFAULT.milestones)),
    gamma: Annotated[
        float, typer.Option(help="Factor of step, exponential and plateau.")
    ] = DEFAULT.gamma,
    decay_epochs: Annotated[
        float | None, typer.Option(help="Of exponential: after how many epochs.")
    ] = DEFAULT.decay_epochs,
    patience: Annotated[
        int, typer.Option(help="Of plateau: epochs without a lower training loss.")
    ] = DEFAULT.patience,
    min_lr: Annotated[
        float, typer.Option(help="Lowest rate of cosine and plateau.")
    ] = DEFAULT.min_lr,
    weight_decay: Annotated[
        float | None, typer.Option(help="Pull to 0; left out: by the optimizer.")
    ] = DEFAULT.weight_decay,
    decay_norms: Annotated[
        bool,
        typer.Option(
            "--decay-norms/--no-decay-norms", help="Pull norms and biases to 0, too."
        ),
    ] = DEFAULT.decay_norms,
    momentum: Annotated[
        float, typer.Option(help="Of sgd and rmsprop.")
    ] = DEFAULT.momentum,
    nesterov: Annotated[
        bool, typer.Option("--nesterov", help="Nesterov's momentum, of sgd.")
    ] = DEFAULT.nesterov,
    label_smoothing: Annotated[
        float, typer.Option(help="Of the training loss, 0 to below 1.")
    ] = DEFAULT.label_smoothing,
    warmup_epochs: Annotated[
        float, typer.Option(help="Epochs in which the rate rises.")
    ] = DEFAULT.warmup_epochs,
    warmup_start: Annotated[
        float | None,
        typer.Option(help="Part of the rate at its first step; left out: one step's."),
    ] = DEFAULT.warmup_start,
    slow_until: Annotated[
        float | None,
        typer.Option(help="A tenth of the rate until an epoch's training accuracy."),
    ] = DEFAULT.slow_until,
    clip_grad: Annotated[
        float | None, typer.Option(help="Largest gradient norm.")
    ] = None,
    augment: Annotated[
        bool, typer.Option("--augment", help="Random crop and flip.")
    ] = DEFAULT.augment,
    seed: Annotated[
        int, typer.Option(help="Of weights, order and dropout.")
    ] = DEFAULT.seed,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = DEFAULT.device,
    precision: Annotated[
        str, typer.Option(help="float32; on a GPU also tf32 or bfloat16.")
    ] = DEFAULT.precision,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On a GPU: the same bits each time.")
    ] = DEFAULT.deterministic,
    capture: Annotated[
        bool, typer.Option("--capture/--no-capture", help="On a GPU: replay the step.")
    ] = DEFAULT.capture,
    limit_train: Annotated[
        int | None, typer.Option(help="Use only so many training images.")
    ] = None,
    limit_test: Annotated[
        int | None, typer.Option(help="Use only so many test images.")
    ] = None,
    trace_every: Annotated[
        int | None,
        typer.Option(help="Write the block terms of every so many steps."),
    ] = None,
    save_every: Annotated[
        str,
        typer.Option(
            help="When the state of the run is saved: epoch, '5 epochs' or '200 steps'."
        ),
    ] = DEFAULT.save_every,
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Go on with the run in this folder, stopped or killed, as if it had "
            "not been; all other options are the run's own."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Run folder  [default: runs/<model>-<dataset>-<n>]"),
    ] = None,
    list_models: Annotated[
        bool, typer.Option("--list-models", help="Print all networks and exit.")
    ] = False,
    num_classes: Annotated[
        int | None, typer.Option(help="Of the networks that --list-models counts.")
    ] = None,
) -> None:
    """Train a network and leave a run folder with metrics, curves and weights."""
    given, zoo = named(context), context.obj
    options = {k: v for k, v in locals().items() if k in CONFIGURES}
    try:
        if list_models:
            check_listing(given, num_classes)
            print("\n".join(zoo.list_models(num_classes or 10)))
            return
        if resume is not None:
            check_resuming(given)
            with terminal_report() as report:
                result = go_on(
                    resume,
                    with_own(zoo.find),
                    report,
                    TraceWriter,
                    data_dir=data_dir,
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
        options["epochs"] = default_epochs(network) if epochs is None else epochs
        options["milestones"] = _numbers("milestones", milestones)
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


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--{name} {text!r} must be numbers with commas between them, as in 82,123"
        ) from None


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
    print(
        f"{result.folder}: test accuracy {100 * last.test_accuracy:.1f} % after the "
        f"last epoch ({last.epoch}), {100 * best.test_accuracy:.1f} % after the best "
        f"({best.epoch}, chosen on the test set)"
    )
    if result.interrupted:
        fail(PROGRAM, on, ending.code())


def run(zoo: Zoo) -> None:
    """Start the command line with these networks."""
    ending.run(PROGRAM, lambda: app(obj=zoo))
