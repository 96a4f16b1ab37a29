"""tinyflow: a reverse-mode autograd engine that keeps every gradient, on every edge."""

from tinyflow import nn, ops
from tinyflow.state import load, save
from tinyflow.tape import Tape, mark, record
from tinyflow.tensor import Edge, Node, TapeError, Tensor, fork

__version__ = "0.1.0"

__all__ = [
    "Edge",
    "Node",
    "Tape",
    "TapeError",
    "Tensor",
    "fork",
    "load",
    "mark",
    "nn",
    "ops",
    "record",
    "save",
]
