"""Exponential moving averages of a model's weights, to evaluate it by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinyflow import nn
from tinyflow.backend import Array, asarray, device_of
from tinyflow.ops.arguments import number
from tinyflow.signals import deferred
from tinyflow.state import fitting, needs_mapping, whole_number


class EMA:
    """Averages s of the parameters and running statistics w of a model.

        s ← s + (1 - d) (w - s) at each update, with s = w when it is made

    the rule of ``torch.optim.swa_utils.AveragedModel`` with an exponential average and
    ``use_buffers``. Buffers of whole numbers are copied.

    Args:
        model: it may move or be saved and loaded meanwhile, but keeps its layers.
        decay: d in [0, 1).
        warm_up: d is min(decay, (1 + t) / (10 + t)) at the update after t others, so
            that the first weights are soon forgotten (TensorFlow's ``num_updates``).

    Attributes:
        updates: how many there were.
        averages: s by the paths that ``model.state_dict()`` has.

    Raises:
        ValueError: `decay` is out of its range.
    """

    def __init__(
        self, model: nn.Module, decay: float = 0.9999, warm_up: bool = False
    ) -> None:
        if not number("EMA", decay, "decay", 0) < 1:
            raise ValueError(f"EMA: decay must lie in [0, 1), not {decay}")
        self.model, self.decay, self.warm_up = model, float(decay), warm_up
        self.updates = 0
        self.averages = {name: array.copy() for name, array in model._state().items()}

    def update(self) -> None:
        """Take in the weights as they are now; call it after each step.

        Raises:
            ValueError: the model has got or lost weights; nothing has changed then.
        """
        held, t = self._same(), self.updates
        d = min(self.decay, (1 + t) / (10 + t)) if self.warm_up else self.decay
        averages = {name: _beside(self.averages[name], held[name]) for name in held}
        with deferred():
            for name, average in averages.items():
                if average.dtype.kind == "f":
                    change = held[name] - average
                    change *= 1 - d
                    average += change
                else:
                    average[...] = held[name]
            self.averages, self.updates = averages, t + 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The averages as the model's weights inside the block, e.g. to evaluate it.

        Afterwards it has its own again, bit for bit, however the block is left.

        Raises:
            ValueError: the model has got or lost weights.
        """
        before = {name: array.copy() for name, array in self._same().items()}
        try:
            self._write(self.averages)
            yield
        finally:
            self._write(before)

    def state_dict(self) -> dict[str, Array]:
        """``updates`` and ``average/<path>``: copies in C order, as for files."""
        found = {f"average/{n}": a.copy(order="C") for n, a in self.averages.items()}
        return {"updates": np.asarray(self.updates), **found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy what :meth:`state_dict` gave.

        Raises:
            ValueError: a name, a shape or a dtype does not fit, or a value is not
                finite; nothing has been copied then.
        """
        needs_mapping("load_state_dict", state)
        expected = {"updates", *(f"average/{name}" for name in self.averages)}
        if wrong := sorted(expected ^ {str(key) for key in state})[:3]:
            raise ValueError(
                f"these are no averages of this model: missing or unknown are {wrong}"
            )
        updates = whole_number("updates", state["updates"])
        fresh = {}
        for name, array in self.averages.items():
            key = f"average/{name}"
            fresh[name] = array.copy()
            fresh[name][...] = fitting(key, state[key], array)
        self.updates, self.averages = updates, fresh

    def _same(self) -> dict[str, Array]:
        """What the model holds, if that is what was averaged."""
        held = self.model._state()
        if other := sorted(held.keys() ^ self.averages.keys())[:3]:
            raise ValueError(
                f"the model's weights are not those that are averaged, {other} are new "
                "or gone: make a new EMA after replacing layers"
            )
        return held

    def _write(self, values: Mapping[str, Array]) -> None:
        with deferred():
            for name, array in self.model._state().items():
                array[...] = _beside(values[name], array)
            for p in self.model.parameters():
                p.node.version += 1


def _beside(array: Array, like: Array) -> Array:
    """An array on the device and in the dtype of another: itself, if it is so."""
    moved: Array = asarray(array, device_of(like)).astype(like.dtype, copy=False)
    return moved
