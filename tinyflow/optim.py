"""Optimisers with PyTorch's rules and defaults.

Parameters are updated in place, all of them in one call of their engine. Gradients are
only read: two of them may be the same array.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from tinyflow.backend import Array, array_module, asarray, device_of
from tinyflow.kernels.engine import Engine, Entry, Options, engine
from tinyflow.tensor import Tensor

Parameters: TypeAlias = Iterable[Tensor] | Iterable[tuple[str, Tensor]]


class Optimizer:
    """What the optimisers share: named parameters, and state by slot.

    Args:
        parameters: tensors, or (name, tensor) pairs as ``model.named_parameters()``
            gives them; a tensor listed twice is updated once.
        lr: learning rate; assign to ``optimizer.lr`` to follow a schedule.
        weight_decay: λ.

    An option out of its range is a ValueError.
    """

    slots: tuple[str, ...] = ()
    """Names of the arrays kept per parameter."""

    def __init__(
        self, parameters: Parameters, lr: float, weight_decay: float = 0.0
    ) -> None:
        self.lr = _at_least_zero("lr", lr)
        self.weight_decay = _at_least_zero("weight_decay", weight_decay)
        self.parameters: dict[str, Tensor] = {}
        for index, entry in enumerate(parameters):
            name, p = entry if isinstance(entry, tuple) else (str(index), entry)
            if p not in self.parameters.values():
                self.parameters[name] = p
        self.steps: dict[str, int] = {}
        self.state: dict[str, dict[str, Array]] = {}

    def zero_grad(self) -> None:
        """Forget all gradients; one that is not used in the next step stays None."""
        for p in self.parameters.values():
            p.node.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient; leave the others as they are.

        As in PyTorch a parameter without a gradient does not decay, its state does not
        age, and its step is not counted.
        """
        waiting: dict[Engine, tuple[list[Entry], list[Options]]] = {}
        for name, p in self.parameters.items():
            g = p.grad
            if g is None:
                continue
            if name not in self.state:
                self.state[name] = self._fresh(p.data)
            self.steps[name] = t = self.steps.get(name, 0) + 1
            entries, options = waiting.setdefault(engine(p.data), ([], []))
            entries.append((p.data, g, *self.state[name].values()))
            options.append(self._options(t))
        for run, (entries, options) in waiting.items():
            self._update(run, entries, options)

    def _options(self, t: int) -> Options:
        """The numbers of a parameter's t-th step, t from 1."""
        raise NotImplementedError

    def _update(
        self, run: Engine, entries: list[Entry], options: list[Options]
    ) -> None:
        """Hand the lists to the engine."""
        raise NotImplementedError

    def _fresh(self, p: Array) -> dict[str, Array]:
        return {slot: array_module(p).zeros_like(p) for slot in self.slots}

    def state_dict(self) -> dict[str, Array]:
        """The state, without options: ``<slot>/<parameter>``, ``steps/<parameter>``."""
        found: dict[str, Array] = {}
        for name, steps in self.steps.items():
            found[f"steps/{name}"] = np.asarray(steps)
            for slot, array in self.state[name].items():
                found[f"{slot}/{name}"] = array
        return found

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Copy what :meth:`state_dict` gave, to this optimiser's devices and dtypes.

        ValueError if a name or a shape does not fit; nothing has been copied then.
        """
        names = [n for n in self.parameters if f"steps/{n}" in state]
        expected = {f"{s}/{n}" for n in names for s in ("steps", *self.slots)}
        if wrong := sorted(expected ^ state.keys())[:3]:
            raise ValueError(
                f"this is not the state of {type(self).__name__} over these "
                f"parameters: missing or unknown are {wrong}"
            )
        for n, slot in ((n, slot) for n in names for slot in self.slots):
            have, want = state[f"{slot}/{n}"].shape, self.parameters[n].shape
            if have != want:
                raise ValueError(f"{slot}/{n} has shape {have}, {n} has {want}")
        self.steps = {n: int(state[f"steps/{n}"]) for n in names}
        self.state = {}
        for n in names:
            self.state[n] = self._fresh(self.parameters[n].data)
            for slot, array in self.state[n].items():
                array[...] = asarray(state[f"{slot}/{n}"], device_of(array))


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
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        dampening: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.momentum = _at_least_zero("momentum", momentum)
        self.dampening = _at_least_zero("dampening", dampening)
        self.nesterov = nesterov
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("nesterov needs a momentum above 0 and dampening 0")
        self.slots = ("momentum",) if momentum else ()

    def _options(self, t: int) -> Options:
        return {
            "lr": self.lr,
            "decay": self.weight_decay,
            "momentum": self.momentum,
            "share": 1 - self.dampening if t > 1 else 1.0,  # the buffer starts as g
            "nesterov": self.nesterov,
        }

    def _update(
        self, run: Engine, entries: list[Entry], options: list[Options]
    ) -> None:
        run.sgd(entries, options)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1); at step t, with the decay in the gradient.

        g ← g + λ p
        m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²
        p ← p - η/(1 - β₁ᵗ) · m / (√v / √(1 - β₂ᵗ) + ε)

    the rule of ``torch.optim.Adam``.

    Args:
        parameters, lr, weight_decay: see :class:`Optimizer`.
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
    ) -> None:
        super().__init__(parameters, lr, weight_decay)
        self.eps = _at_least_zero("eps", eps)
        self.betas = beta1, beta2 = float(betas[0]), float(betas[1])
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"betas must lie in [0, 1), not {betas}")

    def _options(self, t: int) -> Options:
        return {
            "step": t,
            "lr": self.lr,
            "betas": self.betas,
            "eps": self.eps,
            "decay": self.weight_decay,
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
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def _options(self, t: int) -> Options:
        shrink = 1 - self.lr * self.weight_decay
        return {**super()._options(t), "decay": 0.0, "shrink": shrink}


def grad_norm(parameters: Iterable[Tensor]) -> float:
    """√(Σ ‖g‖²) over all gradients there are; 0 if there is none."""
    flat = [p.grad.ravel(order="K") for p in parameters if p.grad is not None]
    if not flat:
        return 0.0
    squares = array_module(flat[0]).stack([g @ g for g in flat])  # one transfer
    return math.sqrt(float(squares.sum(dtype="float64")))


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients by min(1, max_norm / (norm + 10⁻⁶)), as PyTorch does.

    They are replaced, not written to. Returns the norm before; `max_norm` must be above
    0 (ValueError).
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, not {max_norm}")
    parameters = list(parameters)
    norm = grad_norm(parameters)
    scale = float(max_norm) / (norm + 1e-6)
    if scale < 1:
        for p in parameters:
            if p.grad is not None:
                p.node.grad = p.grad * scale
    return norm


def _at_least_zero(name: str, number: float) -> float:
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a finite number of 0 or more, not {number}")
    return float(number)
