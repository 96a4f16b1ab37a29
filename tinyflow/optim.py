"""Optimisers with PyTorch's rules and defaults.

Parameters are updated in place, all of them in one call of their engine. Gradients are
only read: two of them may be the same array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyflow import display, habits
from tinyflow.backend import Array, array_module, asarray, device_of, numbers
from tinyflow.kernels.engine import engine
from tinyflow.kernels.table import Engine, Entry, Options
from tinyflow.lengths import length, scaled, square, together, trusted
from tinyflow.ops.arguments import number, shown
from tinyflow.signals import deferred
from tinyflow.state import fitting, needs_mapping, whole_number
from tinyflow.tensor import Tensor

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "clip_grad_norm", "grad_norm"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = habits.answers(__name__, habits.OPTIM)

Parameters: TypeAlias = Iterable[Tensor] | Iterable[tuple[str, Tensor]]


class Optimizer:
    """What the optimisers share: named parameters, and state by slot.

    Args:
        parameters: tensors, or (name, tensor) pairs as ``model.named_parameters()``
            gives them. Which is which is told by identity: a tensor listed twice is
            updated once, and of several with one name the later are called ``name#2``,
            ``name#3``, ….
        lr: learning rate; assign to ``optimizer.lr`` to follow a schedule.
        weight_decay: λ.

    Raises:
        ValueError: an option is out of its range, or nothing could be trained: there is
            no parameter, none that requires a gradient, or one that is no leaf.
        TypeError: something else than tensors or pairs was given.
    """

    slots: tuple[str, ...] = ()
    """Names of the arrays kept per parameter."""

    def __init__(
        self, parameters: Parameters, lr: float, weight_decay: float = 0.0
    ) -> None:
        self.lr = number(type(self).__name__, lr, "lr", 0)
        self.weight_decay = number(type(self).__name__, weight_decay, "weight_decay", 0)
        self.parameters = named_tensors(parameters, type(self).__name__)
        for name, p in self.parameters.items():
            if p.node.op != "leaf":
                raise ValueError(
                    f"{type(self).__name__}: {name!r} is the result of {p.node.op!r}, "
                    "not a parameter; give the tensors it was computed from"
                )
        if not any(p.requires_grad for p in self.parameters.values()):
            what = "none requires a gradient" if self.parameters else "there is none"
            raise ValueError(
                f"{type(self).__name__} got no parameter to train ({what}): give "
                "model.named_parameters() of a model whose layers are its attributes"
            )
        self.steps: dict[str, int] = {}
        self.state: dict[str, dict[str, Array]] = {}
        self._kept_for: dict[str, Array] = {}  # whose state it is, as it lies in memory

    def __repr__(self) -> str:
        given = {k: v for k, v in vars(self).items() if k != "slots"}
        count = len(self.parameters)
        return f"{type(self).__name__}({count} parameters, {display.options(given)})"

    def zero_grad(self) -> None:
        """Forget all gradients; one that is not used in the next step stays None."""
        for p in self.parameters.values():
            p.node.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient; leave the others as they are.

        As in PyTorch a parameter without a gradient does not decay, its state does not
        age, and its step is not counted. Gradients are not checked here: one that is
        not finite spoils what it updates (``train_step`` refuses it).

        All or nothing: what can fail comes before the first write, and Ctrl-C waits.

        Raises:
            ValueError: a parameter has changed its shape since its first step, or may
                not be written to; nothing has been updated then.
        """
        trained: dict[str, Tensor] = {}
        waiting: dict[Engine, tuple[list[Entry], list[Options]]] = {}
        for name, p in self.parameters.items():
            if (g := p.grad) is None:
                continue
            if self._kept_for.get(name) is not p.data:  # the first step, or it moved
                self._prepare(name, p)
            trained[name] = p
            entries, options = waiting.setdefault(engine(p.data), ([], []))
            entries.append((p.data, g, *self.state[name].values()))
            options.append(self._options(self.steps.get(name, 0) + 1))
        with deferred():
            for name, p in trained.items():
                self.steps[name] = self.steps.get(name, 0) + 1
                p.node.version += 1
            for run, (entries, options) in waiting.items():
                self._update(run, entries, options)

    def undo(self) -> Callable[[], None]:
        """What takes back the counts and the new state of steps taken after this call.

        Not what they write to parameters, or to state that is there already.
        """
        steps, state, kept = dict(self.steps), dict(self.state), dict(self._kept_for)

        def back() -> None:
            self.steps, self.state, self._kept_for = steps, state, kept

        return back

    def _prepare(self, name: str, p: Tensor) -> None:
        """State for a parameter: zeros, or that from before it moved, moved too."""
        if isinstance(p.data, np.ndarray) and not p.data.flags.writeable:
            raise ValueError(
                f"{name!r} cannot be updated, its array is read-only: give it a copy, "
                "p.data = p.data.copy()"
            )
        fresh = self._fresh(p.data)
        for slot, array in self.state.get(name, {}).items():
            if array.shape != p.shape:
                raise ValueError(
                    f"{name!r} has shape {p.shape} now and had {array.shape} when its "
                    f"{slot} was kept: make a new {type(self).__name__}"
                )
            fresh[slot][...] = asarray(array, device_of(p.data))
        self.state[name] = fresh
        self._kept_for[name] = p.data

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
        """The state, without options: ``<slot>/<parameter>``, ``steps/<parameter>``.

        Copies in C order, for any file format; see :func:`tinyflow.save`.
        """
        found: dict[str, Array] = {}
        for name, steps in self.steps.items():
            found[f"steps/{name}"] = np.asarray(steps)
            for slot, array in self.state[name].items():
                found[f"{slot}/{name}"] = array.copy(order="C")
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy what :meth:`state_dict` gave, to this optimiser's devices and dtypes.

        Raises:
            ValueError: a name, a shape or a dtype does not fit, or a value is not
                finite; nothing has been copied then.
        """
        needs_mapping("load_state_dict", state)
        names = [n for n in self.parameters if f"steps/{n}" in state]
        expected = {f"{s}/{n}" for n in names for s in ("steps", *self.slots)}
        if wrong := sorted(expected ^ {str(key) for key in state})[:3]:
            raise ValueError(
                f"this is not the state of {type(self).__name__} over these "
                f"parameters: missing or unknown are {wrong}"
            )
        steps = {n: whole_number(f"steps/{n}", state[f"steps/{n}"]) for n in names}
        fresh, kept = {}, {}
        for n in names:
            kept[n] = self.parameters[n].data
            fresh[n] = self._fresh(kept[n])
            for slot, array in fresh[n].items():
                array[...] = fitting(f"{slot}/{n}", state[f"{slot}/{n}"], array)
        self.steps, self.state, self._kept_for = steps, fresh, kept


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
        self.momentum = number(type(self).__name__, momentum, "momentum", 0)
        self.dampening = number(type(self).__name__, dampening, "dampening", 0)
        self.nesterov = nesterov
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("nesterov needs a momentum above 0 and dampening 0")
        self.slots = ("momentum",) if momentum else ()

    def _options(self, t: int) -> Options:
        return {
            "lr": self.lr,
            "decay": self.weight_decay,
            "momentum": self.momentum,
            "dampening": self.dampening if t > 1 else 0.0,  # the buffer starts as g
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
        self.eps = number(type(self).__name__, eps, "eps", 0)
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"Adam: betas must be two numbers, not {shown(betas)}")
        beta1, beta2 = (number("Adam", b, "betas", 0) for b in betas)
        self.betas = float(beta1), float(beta2)
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


def named_tensors(parameters: Any, who: str) -> dict[str, Tensor]:
    """Each tensor once, by name: its own, or its number in the list.

    TypeError if `who` was given anything else than tensors or (name, tensor) pairs.
    """
    if isinstance(parameters, (Tensor, Mapping)) or not isinstance(
        parameters, Iterable
    ):
        raise TypeError(_not_parameters(who, type(parameters).__name__))
    found: dict[str, Tensor] = {}
    known = set()
    for index, entry in enumerate(parameters):
        match entry:
            case Tensor():
                name, p = str(index), entry
            case (str(), Tensor()):
                name, p = entry
            case _:
                raise TypeError(_not_parameters(who, f"{type(entry).__name__} in it"))
        if p.node not in known:
            known.add(p.node)
            unique, count = name, 1
            while unique in found:
                unique, count = f"{name}#{count + 1}", count + 1
            found[unique] = p
    return found


def _not_parameters(who: str, what: str) -> str:
    return (
        f"{who} takes a list of tensors or of (name, tensor) pairs, such as "
        f"model.named_parameters(), not {what}; groups with options of their own need "
        "an optimiser each"
    )


def grad_norm(parameters: Parameters) -> float:
    """√(Σ ‖g‖²) over all gradients there are, each tensor once; 0 if there is none.

    Not finite only if a gradient is not, or the norm is beyond float64. Where squares
    may have under- or overflowed in the gradients' dtype, it is taken from lengths.
    """
    tensors = named_tensors(parameters, "grad_norm").values()
    found = [p.grad for p in tensors if p.grad is not None]
    if not found:
        return 0.0
    xp = array_module(found[0])
    with np.errstate(over="ignore", invalid="ignore"):
        squares = xp.stack([square(g) for g in found])  # one transfer
        whole = float(squares.sum(dtype="float64"))
    size = sum(g.size for g in found)
    if all(trusted(whole, size, dtype) for dtype in {g.dtype for g in found}):
        return math.sqrt(whole)
    return together(numbers(*map(length, found)))


def clip_grad_norm(
    parameters: Parameters, max_norm: float, norm: float | None = None
) -> float:
    """Scale all gradients by min(1, max_norm / (norm + 10⁻⁶)), as PyTorch does.

    They are replaced, not written to. Returns the norm before, which may be given if it
    is known.

    Raises:
        ValueError: `max_norm` is not above 0.
        FloatingPointError: a gradient is not finite, which no factor mends; all are as
            they were.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, not {max_norm}")
    tensors = named_tensors(parameters, "clip_grad_norm")
    norm = grad_norm(tensors.values()) if norm is None else norm
    if not math.isfinite(norm):
        bad = [n for n, p in tensors.items() if not math.isfinite(grad_norm([p]))]
        raise FloatingPointError(
            f"the gradient's norm became {norm}: "
            + (f"that of {bad[0]!r} is not finite" if bad else "no float64 holds it")
        )
    scale = float(max_norm) / (norm + 1e-6)
    if scale < 1:
        for p in tensors.values():
            if p.grad is not None:
                p.node.grad = scaled(p.grad, float(max_norm), norm + 1e-6)
    return norm
