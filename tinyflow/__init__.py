"""tinyflow: a reverse-mode autograd engine that keeps every gradient, on every edge."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING
from typing import Any as _Any

from tinyflow import habits as _habits
from tinyflow import methods as _methods  # noqa: F401  (attached to Tensor)
from tinyflow import nn, ops
from tinyflow.functional import grad, value_and_grad
from tinyflow.state import load, save
from tinyflow.tape import Tape, mark, record
from tinyflow.tensor import Edge, Node, TapeError, Tensor, fork

if TYPE_CHECKING:
    from tinyflow import backend, data, flow, optim, testing, train

__version__ = "0.1.0"

__all__ = [
    "Edge",
    "Node",
    "Tape",
    "TapeError",
    "Tensor",
    "backend",
    "data",
    "flow",
    "fork",
    "grad",
    "load",
    "mark",
    "nn",
    "ops",
    "optim",
    "record",
    "save",
    "testing",
    "train",
    "value_and_grad",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> _Any:
        """Rooms that are imported when they are first asked for; see ``__all__``."""
        if name in __all__:
            return _import_module(f"tinyflow.{name}")
        raise _habits.unknown("tinyflow", name, _habits.TINYFLOW)


def __dir__() -> list[str]:
    return __all__
