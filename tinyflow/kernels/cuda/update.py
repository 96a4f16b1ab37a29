"""The optimisers' steps on the device, in a form that a captured graph can replay.

What changes from step to step, the learning rate and Adam's step count, is read by the
kernels from device memory. In an eager step it is written there right before; while a
step is being captured it is not, and whoever replays it calls :meth:`Updates.set`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinyflow.backend import Array, array_module
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.cudnn import Device
from tinyflow.kernels.cuda.weights import Copies
from tinyflow.kernels.table import Entry, Options


@dataclass
class Rates:
    """What the update of one group of parameters reads from the device.

    Attributes:
        steps: int32 (1,), steps taken before this one.
        lr: float32 (1,).
        rates: float32 (3,), what the kernels make of the two.
        count: what `steps` held when the step was captured.
    """

    steps: Array
    lr: Array
    rates: Array
    count: int = 0

    def write(self, steps: int, lr: float) -> None:
        """Set both, in stream order; nothing is waited for."""
        self.steps.fill(steps)
        self.lr.fill(lr)


@dataclass
class Recording:
    """What a captured step's updates need for as long as it is replayed."""

    copies: Copies = field(default_factory=Copies)
    rates: list[Rates] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)


class Updates:
    """SGD and Adam for whole lists of parameters.

    Args:
        device: the GPU.

    Attributes:
        clip: a float64 device array of one entry, the factor for all gradients, or
            None.
        recording: set while a step is being captured.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.clip: Array | None = None
        self.recording: Recording | None = None
        self._rates: list[Rates] = []

    def sgd(self, entries: list[Entry], hyper: Options) -> bool:
        """One step of ``plain/update.py``'s `sgd`; False if not taken."""
        if not _floats(entries):
            return False
        rates = self._ready(entries, 1, hyper["lr"])
        launch.advance_sgd(
            rates.steps, rates.lr, rates.rates, dampening=hyper["dampening"]
        )
        launch.sgd_step(
            self._table(entries),
            rates.rates,
            momentum=hyper["momentum"],
            weight_decay=hyper["decay"],
            nesterov=hyper["nesterov"],
            clip=self.clip,
        )
        return True

    def adam(self, entries: list[Entry], hyper: Options) -> bool:
        """One step of ``plain/update.py``'s `adam`; False if not taken."""
        if not _floats(entries):
            return False
        rates, lr = self._ready(entries, hyper["step"] - 1, hyper["lr"]), hyper["lr"]
        decoupled = hyper["shrink"] != 1
        launch.advance_adam(
            rates.steps,
            rates.lr,
            rates.rates,
            betas=hyper["betas"],
            decoupled_decay=(1 - hyper["shrink"]) / lr if decoupled else 0.0,
        )
        launch.adam_step(
            self._table(entries),
            rates.rates,
            betas=hyper["betas"],
            eps=hyper["eps"],
            weight_decay=hyper["decay"],
            decoupled=decoupled,
            clip=self.clip,
        )
        return True

    def norm(self, gradients: list[Array], max_norm: float | None) -> Array:
        """√Σ‖g‖² and the factor that clips it, float64 (2,), on the device."""
        entries: list[Entry] = [(g, g) for g in gradients]
        limit = float("inf") if max_norm is None else max_norm
        return launch.gradient_norm(self._table(entries), limit)

    def _ready(self, entries: list[Entry], steps: int, lr: float) -> Rates:
        """Device memory for a group, filled unless a step is being captured."""
        like = entries[0][0]
        if self.recording is not None:
            with self.device.outside():
                rates = _new_rates(like)
            rates.count = steps
            self.recording.rates.append(rates)
            return rates
        if not self._rates:
            self._rates.append(_new_rates(like))
        rates = self._rates[0]  # groups take turns: the stream keeps them in order
        rates.write(steps, lr)
        return rates

    def _table(self, entries: list[Entry]) -> launch.TensorTable:
        """The addresses of a group. Those that a graph reads are kept with it.

        Each gradient lies in memory as its parameter does, or is copied.
        """
        gradients = [_like(g, p) for p, g, *_ in entries]
        states = zip(*(state for _, _, *state in entries), strict=True)
        parameters, copies = [p for p, *_ in entries], None
        if self.recording is not None:
            copies = [self.recording.copies.of(p) for p in parameters]
        with self.device.outside():
            table = launch.tensor_table(
                gradients, parameters, *map(list, states), copies=copies
            )
        if self.recording is not None:
            self.recording.kept.append(table)
        return table


def _new_rates(like: Array) -> Rates:
    xp = array_module(like)
    return Rates(
        xp.zeros(1, np.int32), xp.zeros(1, np.float32), xp.zeros(3, np.float32)
    )


def _floats(entries: list[Entry]) -> bool:
    return all(a.dtype == np.float32 for entry in entries for a in entry)


def _like(g: Array, p: Array) -> Array:
    """The gradient in its parameter's memory order."""
    axes = zip(g.shape, g.strides, p.strides, strict=True)
    if all(a == b for n, a, b in axes if n > 1):
        return g
    copy: Array = array_module(p).empty_like(p)
    copy[...] = g
    return copy
