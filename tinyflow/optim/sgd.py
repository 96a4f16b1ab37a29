"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Collection

from tinyflow.kernels.table import Engine, Entry, Options
from tinyflow.ops.arguments import number
from tinyflow.optim.base import Optimizer, Parameters


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013).

        g ← g + λ p
        b ← g at the first step, then μ b + (1 - d) g
        p ← p - η b,  or with Nesterov's variant  p - η (g + μ b)

    the rule of ``torch.optim.SGD``; without momentum b is g.

    Args:
        parameters, lr, weight_decay: see :class:`Optimizer`.
        momentum, dampening: μ, d ≥ 0.
        nesterov: needs momentum and no dampening.
        no_decay: see :class:`Optimizer`.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        dampening: float = 0.0,
        no_decay: Collection[str] = (),
    ) -> None:
        super().__init__(parameters, lr, weight_decay, no_decay)
        self.momentum = number(type(self).__name__, momentum, "momentum", 0)
        self.dampening = number(type(self).__name__, dampening, "dampening", 0)
        self.nesterov = nesterov
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("nesterov needs a momentum above 0 and dampening 0")
        self.slots = ("momentum",) if momentum else ()

    def _options(self, t: int, decay: float) -> Options:
        return {
            "lr": self.lr,
            "decay": decay,
            "momentum": self.momentum,
            "dampening": self.dampening if t > 1 else 0.0,  # the buffer starts as g
            "nesterov": self.nesterov,
        }

    def _update(
        self, run: Engine, entries: list[Entry], options: list[Options]
    ) -> None:
        run.sgd(entries, options)
