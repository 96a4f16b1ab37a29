"""Adam, and Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Collection

from tinyflow.kernels.table import Engine, Entry, Options
from tinyflow.ops.arguments import number, shown
from tinyflow.optim.base import Optimizer, Parameters


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1); at step t, with the decay in the gradient.

        g ← g + λ p
        m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²
        p ← p - η/(1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε)

    the rule of ``torch.optim.Adam``.

    Args:
        parameters, lr, weight_decay, no_decay: see :class:`Optimizer`.
        betas: (β₁, β₂), each in [0, 1).
        eps: ε ≥ 0, outside the root.
    """

    slots = ("m", "v")

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        no_decay: Collection[str] = (),
    ) -> None:
        super().__init__(parameters, lr, weight_decay, no_decay)
        self.eps = number(type(self).__name__, eps, "eps", 0)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"Adam: betas must be two numbers, not {shown(betas)}")
        beta1, beta2 = (number("Adam", b, "betas", 0) for b in betas)
        self.betas = float(beta1), float(beta2)
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"betas must lie in [0, 1), not {betas}")

    def _options(self, t: int, decay: float) -> Options:
        return {
            "step": t,
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "decay": decay,
            "shrink": 1.0,
        }

    def _update(
        self, run: Engine, entries: list[Entry], options: list[Options]
    ) -> None:
        run.adam(entries, options)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    p ← (1 - η λ) p comes first, then Adam's step without λ in the gradient: the rule of
    ``torch.optim.AdamW``. Arguments: see :class:`Adam`.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        no_decay: Collection[str] = (),
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay, no_decay)

    def _options(self, t: int, decay: float) -> Options:
        return {**super()._options(t, 0.0), "shrink": 1 - self.lr * decay}
