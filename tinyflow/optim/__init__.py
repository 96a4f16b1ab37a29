"""Optimisers with PyTorch's rules and defaults.

Parameters are updated in place, all of them in one call of their engine. Gradients are
only read: two of them may be the same array.
"""

from typing import TYPE_CHECKING

from tinyflow import habits
from tinyflow.optim.adam import Adam, AdamW
from tinyflow.optim.base import Optimizer, names_of_vectors
from tinyflow.optim.clip import clip_grad_norm, grad_norm
from tinyflow.optim.rmsprop import RMSprop
from tinyflow.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "clip_grad_norm",
    "grad_norm",
    "names_of_vectors",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = habits.answers(__name__, habits.OPTIM)
