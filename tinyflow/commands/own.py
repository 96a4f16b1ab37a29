"""Networks in files of the user's own: ``--model my_net.py:MyNet``.

The file is run once, under no name that another module could have, with its folder
first on the import path, as Python does with a script: it may import what lies beside
it. Whatever is wrong with it is said in one sentence.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from tinyflow.network import Find, Network, blame, is_own
from tinyflow.reading import opened

KEYWORDS = ("num_classes", "image_size", "in_channels", "rng")
MOST = 100
"""Letters that a weight file has for the name of its network."""
LONGEST = 10_000_000
"""Bytes of a file that is run."""


def with_own(find: Find) -> Find:
    """A `Find` that knows the networks of `find`, and those that lie in files."""

    def found(name: str) -> Network:
        return own_network(name) if is_own(name) else find(name)

    return found


def own_network(reference: str) -> Network:
    """The network that ``path/my_net.py:MyNet`` names: a class, or a function.

    Raises:
        ValueError: the file or what it should define cannot be used, in one sentence.
    """
    place, _, name = reference.rpartition(":")
    if not (place.endswith(".py") and name.isidentifier()):
        raise ValueError(
            f"{reference} names no network: write the file and the class or function "
            "in it, e.g. my_net.py:MyNet"
        )
    file = Path(os.path.abspath(os.path.expanduser(place)))
    module = _module(file)
    make = _defined(module, file, name)
    try:
        inspect.signature(make).bind(**dict.fromkeys(KEYWORDS))
    except TypeError as error:
        raise ValueError(
            f"{file.name}:{name} must take {', '.join(KEYWORDS)} as keywords ({error})"
        ) from error
    except ValueError:  # it does not tell; calling it will
        pass
    network = Network(name, make, file=file, sha256=vars(module)["__sha256__"])
    if len(network.label) > MOST or not network.label.isprintable():
        raise ValueError(
            f"{network.label!r} is too long for a weight file, or cannot be printed: "
            "rename the file or the network"
        )
    return network


def _module(file: Path) -> ModuleType:
    """The file as a module, run when it is first asked for."""
    name = str(file)
    if (known := sys.modules.get(name)) is not None:
        return known
    with opened(file) as source:
        text = source.read(LONGEST + 1)
    if len(text) > LONGEST:
        raise ValueError(f"{file} holds more than {LONGEST:,} bytes: it is no program")
    _check_beside(file)
    module = sys.modules[name] = ModuleType(name)
    vars(module).update(__file__=name, __sha256__=sha256(text).hexdigest())
    folder = str(file.parent)
    sys.path[:] = [folder, *(place for place in sys.path if place != folder)]
    try:
        exec(compile(text, name, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):
            raise
        raise ValueError(f"{file} cannot be run: {blame(file, error)}") from error
    return module


def _check_beside(file: Path) -> None:
    """Refuse a file that would be given what lies beside an earlier one instead."""
    folders = {Path(name).parent for name in sys.modules if name.endswith(".py")}
    for module in list(sys.modules.values()):
        known = Path(getattr(module, "__dict__", {}).get("__file__") or ".")
        if known.parent in folders - {file.parent} and str(known) not in sys.modules:
            if (file.parent / known.name).exists():
                raise ValueError(
                    f"{file} has a {known.name} beside it, but {known} is in use: look "
                    "at the two networks one at a time"
                )


def _defined(module: ModuleType, file: Path, name: str) -> Callable[..., Any]:
    """What the file calls `name`, if it can be called."""
    there = {n: v for n, v in vars(module).items() if not n.startswith("_")}
    if name not in there:
        own = [
            n
            for n, v in there.items()
            if callable(v) and getattr(v, "__module__", "") == module.__name__
        ]
        near = get_close_matches(name, own, 4, 0.4) or own[:4]
        said = f"it has {', '.join(near)}" if near else "nor anything else to call"
        raise ValueError(f"{file} defines no {name}; {said}")
    if not callable(there[name]):
        raise ValueError(
            f"{name} in {file} is a {type(there[name]).__name__}: name a class or "
            "function that returns the network"
        )
    made: Callable[..., Any] = there[name]
    return made
