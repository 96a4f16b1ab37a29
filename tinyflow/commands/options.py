"""The options that every command of ``analyze.py`` shares, written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from tinyflow.commands.own import with_own
from tinyflow.commands.parsing import named
from tinyflow.flow.settings import Settings

NONE, KEYWORD = Settings(), inspect.Parameter.KEYWORD_ONLY
NewFolder: TypeAlias = Annotated[
    Path | None, typer.Option(help="New folder  [default: runs/analysis-…]")
]


def shared_options(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Network, e.g. resnet, or in a file of your own, my_net.py:MyNet; may "
            "be given more than once."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Run folder or weight file of train.py: trained weights."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="shapes (drawn), cifar10, cifar100, cifar100_coarse, mnist, "
            "fashion_mnist, or folder: images in train/<class>/  [default: shapes]"
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="TINYFLOW_DATA", help="Folder with the files of --dataset."
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Width and height of images of folder, or of shapes  [default: 224, "
            "32, or the checkpoint's]"
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Images in the one batch.")
    ] = NONE.batch_size,
    seed: Annotated[int, typer.Option(help="Of weights and batch.")] = NONE.seed,
    dtype: Annotated[
        str, typer.Option(help="float64 closes to 1e-12, float32 to 1e-5.")
    ] = NONE.dtype,
    mode: Annotated[
        str, typer.Option(help="train: batch statistics; eval: running ones.")
    ] = NONE.mode,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = NONE.device,
    output: NewFolder = None,
) -> tuple[Settings, Path | None]:
    """The options of every analysis, as settings and output folder."""
    return Settings(
        model=tuple(model or ()),
        checkpoint=checkpoint,
        dataset=dataset,
        data_dir=data_dir,
        image_size=image_size,
        batch_size=batch_size,
        seed=seed,
        dtype=dtype,
        mode=mode,
        device=device,
    ), output


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options after its own arguments.

    ``command(settings, output, own, …)`` becomes ``run(own, …, --model, --seed, …)``.
    """
    common = inspect.signature(shared_options, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters
    both = {**dict(list(own.items())[2:]), **common}
    told = inspect.Parameter("context", KEYWORD, annotation=typer.Context)

    def run(**given: Any) -> None:
        context = given["context"] if "context" in own else given.pop("context")
        settings, output = shared_options(**{n: given.pop(n) for n in common})
        find = with_own(context.obj.find)
        settings = replace(settings, find=find, named=named(context))
        command(settings, output, **given)

    parameters = [p.replace(kind=KEYWORD) for p in ({"context": told} | both).values()]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
