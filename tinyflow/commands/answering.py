"""What the commands beside training share: how they end, how they find a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from tinyflow.backend import DeviceError, SettingError, choose_device, explain
from tinyflow.commands import ending
from tinyflow.commands.own import with_own
from tinyflow.commands.parsing import fail, named
from tinyflow.data import DataError
from tinyflow.reading import Unreadable, reason
from tinyflow.train import CheckpointError, ConfigError, TrainError
from tinyflow.train.trained import Trained, find_trained

PROGRAM = "train.py"
Run: TypeAlias = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder, or a weight file in it.")
]
Which: TypeAlias = Annotated[
    str, typer.Option(help="Weights of a run folder: last, or best on validation.")
]
Moved: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Its network, if that is your own and has moved: my_net.py:Mine"),
]
Device: TypeAlias = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@contextmanager
def answering() -> Iterator[None]:
    """Whatever ends a command is one sentence and an exit code."""
    try:
        yield
    except (ConfigError, SettingError) as error:
        fail(PROGRAM, str(error), 2)
    except (CheckpointError, DataError, DeviceError, TrainError, Unreadable) as error:
        fail(PROGRAM, str(error), 1)
    except KeyboardInterrupt:
        fail(PROGRAM, "interrupted; nothing was written", ending.code())
    except OSError as error:
        fail(PROGRAM, f"{error.filename} cannot be written ({reason(error)})", 1)
    except Exception as error:
        if (sentence := explain(error)) is None:
            raise
        fail(PROGRAM, sentence, 1)


def ready(
    context: typer.Context, run: Path, which: str, model: str | None, device: str
) -> tuple[Trained, str]:
    """A trained network on its device, and the device in words.

    Raises:
        ConfigError: --which is named for a file.
        CheckpointError, DeviceError: see there.
    """
    if "which" in named(context) and not run.is_dir():
        raise ConfigError("--which is of a run folder: leave it out")
    chosen, why = choose_device(device)
    trained = find_trained(run, with_own(context.obj.find), which, model)
    trained.model.to(chosen)
    return trained, f"{chosen} ({why})"
