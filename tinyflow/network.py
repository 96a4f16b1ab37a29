"""A network as others are given it: how to build it, and what belongs to it.

Training and the instrument know no network. They are given one, or a `Find`, which
gives the network of a name: ``models.find``, or for one's own ``lambda name: mine``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter, signature
from pathlib import Path
from traceback import extract_tb
from typing import Any, TypeAlias

import numpy as np

from tinyflow import nn
from tinyflow.state import in_mode
from tinyflow.tape import Tape
from tinyflow.tensor import Tensor


@dataclass(frozen=True)
class Network:
    """One network: how to build it, and what belongs to it.

    ``Network("mine", MyNet)`` is enough for one's own.

    Attributes:
        name: of its run folders, tables and figures.
        make: called with num_classes, image_size, in_channels and rng, where its
            initial weights are drawn (None: zeros); returns an ``nn.Module``.
        native: side of the images it was designed for, in pixels, or None.
        lr: a learning rate at which SGD with momentum 0.9 and batch 64 trains it.
        adam_lr: the same for Adam and AdamW.
        smallest: side of the smallest image it can take, in pixels.
        paper: where it was published.
        file, sha256: where `make` was found, if the user named a file of their own,
            and that of its content then.
    """

    name: str
    make: Callable[..., nn.Module]
    native: int | None = None
    lr: float = 0.05
    adam_lr: float = 5e-4
    smallest: int = 1
    paper: str = ""
    file: Path | None = None
    sha256: str | None = None

    @property
    def label(self) -> str:
        """What weight files call it: its name, or ``file.py:name``."""
        return self.name if self.file is None else f"{self.file.name}:{self.name}"

    @property
    def reference(self) -> str:
        """Its label with the whole path: what finds it again."""
        return self.name if self.file is None else f"{self.file}:{self.name}"

    def takes(self, option: str) -> bool:
        """Whether `make` has a keyword of this name, or takes any."""
        known = signature(self.make).parameters
        return option in known or any(
            p.kind is Parameter.VAR_KEYWORD for p in known.values()
        )

    def build(
        self,
        *,
        num_classes: int = 10,
        image_size: int = 32,
        in_channels: int = 3,
        seed: int | np.random.Generator | None = 0,
        **options: Any,
    ) -> nn.Module:
        """The network with initial weights drawn from `seed`, or zero for None.

        Args:
            num_classes, image_size, in_channels, seed: see `make`.
            options: what else `make` may take, e.g. ``dropout``.

        Raises:
            ValueError: images too small for it, it is no module with parameters, or
                `make` takes no such option.
        """
        for name in options:
            if not self.takes(name):
                raise ValueError(f"{self.label} has no {name}: leave it out")
        if image_size < self.smallest:
            raise ValueError(
                f"{self.name} needs images of at least {self.smallest}x{self.smallest} "
                f"pixels, not {image_size}x{image_size}: resnet, se_resnet and the "
                "plain nets take any, and --image-size enlarges shapes and folders"
            )
        with self.blamed():
            model = self.make(
                num_classes=num_classes,
                image_size=image_size,
                in_channels=in_channels,
                rng=None if seed is None else np.random.default_rng(seed),
                **options,
            )
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"{self.label} gave a {type(model).__name__}, not a network: let it "
                "return an nn.Module"
            )
        if not model.parameters():
            raise ValueError(
                f"{self.label} has no parameters: keep its layers in attributes"
            )
        model.name = self.name
        return model

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """What the code of the user's own file raises, as a ValueError in one sentence.

        The code of a network without a file raises what it raises.
        """
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            if self.file is None:
                raise
            raise ValueError(blame(self.file, error)) from error


Find: TypeAlias = Callable[[str], Network]
"""Gives the network of a name, or a ValueError that says what there is."""


@dataclass(frozen=True)
class Zoo:
    """What the command lines are given: the networks, and a way to list them.

    Attributes:
        find: gives the network of a name.
        list_models: given a number of classes and a pattern of names, a line per
            network; ValueError if no name is like that.
    """

    find: Find
    list_models: Callable[[int, str], Iterable[str]]


def is_own(name: str) -> bool:
    """Whether a name is that of a network in a file, ``my_net.py:MyNet``."""
    return ":" in name or name.endswith(".py")


def no_networks(name: str) -> Network:
    """A `Find` that knows none: what stands where none was given."""
    raise ValueError(
        f"no networks were given, so none is called {name!r}: pass find=models.find"
    )


SAID = 300
"""Letters of what somebody else's code says that are repeated."""


def blame(file: Path, error: BaseException) -> str:
    """What was raised, and at which line of `file`, if it came by there."""
    said, passed = str(error), extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in passed if frame.filename == str(file)]
    if isinstance(error, SyntaxError) and error.filename == str(file):
        said, lines = error.msg, [error.lineno]
    said = " ".join(said.split())[:SAID]
    if not said or not isinstance(error, ValueError):
        said = f"{type(error).__name__}: {said}".rstrip(": ")
    return f"{said} ({file.name}{f', line {lines[-1]}' if lines else ''})"


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(math.prod(p.shape) for p in model.parameters())


def count_macs(model: nn.Module, image_size: int, in_channels: int = 3) -> int:
    """Multiply-adds of its convolutions and linear layers for one image.

    Runs the network on a batch of *no* images: every shape is computed, no arithmetic.
    """
    with in_mode(model, False), Tape() as tape:
        model(Tensor(np.zeros((0, in_channels, image_size, image_size), np.float32)))
    macs = 0
    for node in tape.nodes:
        if node.op in ("conv2d", "linear"):
            per_output = math.prod(node.edges[1].producer.shape[1:])
            macs += math.prod(node.shape[1:]) * per_output
    return macs
