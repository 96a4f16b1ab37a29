"""What the optimisers share: named parameters, steps, and state by slot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from tinyflow import display
from tinyflow.backend import Array, array_module, asarray, device_of
from tinyflow.kernels.engine import engine
from tinyflow.kernels.table import Engine, Entry, Options
from tinyflow.ops.arguments import number, shown
from tinyflow.signals import deferred
from tinyflow.state import fitting, needs_mapping, whole_number
from tinyflow.tensor import Tensor

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
        no_decay: names of parameters whose λ is 0, whatever `weight_decay` says; often
            those of norms and biases, ``names_of_vectors(model.named_parameters())``.

    Raises:
        ValueError: an option is out of its range, `no_decay` names no parameter, or
            nothing could be trained: there is no parameter, none that requires a
            gradient, or one that is no leaf.
        TypeError: something else than tensors or pairs was given.
    """

    slots: tuple[str, ...] = ()
    """Names of the arrays kept per parameter."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float,
        weight_decay: float = 0.0,
        no_decay: Collection[str] = (),
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
        self.no_decay = _names(no_decay, self.parameters, type(self).__name__)
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
            decay = 0.0 if name in self.no_decay else self.weight_decay
            options.append(self._options(self.steps.get(name, 0) + 1, decay))
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

    def _options(self, t: int, decay: float) -> Options:
        """The numbers of a parameter's t-th step, t from 1, with its own λ."""
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


def names_of_vectors(parameters: Parameters) -> frozenset[str]:
    """The names of those with one axis or none: norms' weights, and all biases."""
    found = named_tensors(parameters, "names_of_vectors")
    return frozenset(name for name, p in found.items() if p.ndim <= 1)


def _names(given: Any, parameters: Mapping[str, Tensor], who: str) -> frozenset[str]:
    """`no_decay` as a set."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{who}: no_decay takes a list of names, not {shown(given)}")
    names = frozenset(given)
    if unknown := sorted(map(str, names - parameters.keys())):
        raise ValueError(
            f"{who}: no_decay names {unknown[0]!r}, which is no parameter; these are "
            f"{', '.join(list(parameters)[:3])}, …"
        )
    return names


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
