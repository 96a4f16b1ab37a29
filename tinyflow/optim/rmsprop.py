"""RMSprop, plain, centred and with momentum."""

from __future__ import annotations

from collections.abc import Collection

from tinyflow.kernels.table import Engine, Entry, Options
from tinyflow.ops.arguments import number
from tinyflow.optim.base import Optimizer, Parameters


class RMSprop(Optimizer):
    """RMSprop (Hinton's lecture 6e, 2012; centred: Graves 2013).

        g ← g + λ p
        v ← α v + (1 - α) g²,   centred also  m ← α m + (1 - α) g
        d = g / (√v + ε),   centred  g / (√(v - m²) + ε)
        b ← μ b + d
        p ← p - η b

    the rule of ``torch.optim.RMSprop``; without momentum b is d. Where rounding leaves
    v - m² below 0 it counts as 0 (PyTorch's step is NaN there).

    Args:
        parameters, lr, weight_decay, no_decay: see :class:`Optimizer`.
        alpha: α in [0, 1).
        eps: ε ≥ 0, outside the root.
        momentum: μ ≥ 0.
        centered: divide by the deviation of g instead of its root mean square.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        no_decay: Collection[str] = (),
    ) -> None:
        super().__init__(parameters, lr, weight_decay, no_decay)
        self.alpha = number("RMSprop", alpha, "alpha", 0)
        if not self.alpha < 1:
            raise ValueError(f"RMSprop: alpha must lie in [0, 1), not {alpha}")
        self.eps = number("RMSprop", eps, "eps", 0)
        self.momentum = number("RMSprop", momentum, "momentum", 0)
        self.centered = centered
        self.slots = (
            "square",
            *(("mean",) if centered else ()),
            *(("momentum",) if momentum else ()),
        )

    def _options(self, t: int, decay: float) -> Options:
        return {
            "lr": self.lr,
            "alpha": self.alpha,
            "eps": self.eps,
            "decay": decay,
            "momentum": self.momentum,
            "centered": self.centered,
        }

    def _update(
        self, run: Engine, entries: list[Entry], options: list[Options]
    ) -> None:
        run.rmsprop(entries, options)
