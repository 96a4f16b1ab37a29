"""Modules: parameters with names.

A module's attribute names spell its path, ``layer3.2.conv1``; while a tape is active
everything a module records is named below that path, ``tape["layer3.2.conv1"]`` is its
output and ``tape["layer3.2.in"]`` its (first) input.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tinyflow import display, habits
from tinyflow.backend import (
    Array,
    DeviceError,
    array_module,
    asarray,
    choose_device,
    explain,
)
from tinyflow.kernels.engine import engine
from tinyflow.state import fitting, in_mode, needs_mapping
from tinyflow.tape import Tape, active_tape
from tinyflow.tensor import Tensor
from tinyflow.waiting import in_module

Rng: TypeAlias = np.random.Generator | None
"""Where initial weights are drawn; None leaves them zero (to count, or to load)."""

CONTAINERS = (list, tuple, dict, deque, set, frozenset)
"""What is looked into for modules, tensors and arrays."""

PLAIN = {int, float, bool, str, type(None)}
"""What most attributes are, and holds nothing: passed over first, for speed."""


class Module:
    """A part of a network: parameters, buffers and child modules, by attribute name.

    Subclasses define ``forward``; calling the module runs it under its own name.

    Tensors are parameters, arrays are buffers (state that is not trained). They, and
    modules, may stand in lists, tuples and dictionaries: ``self.layers = [a, b]`` makes
    ``layers.0`` and ``layers.1``. Each is counted, moved and saved once, under its
    first name, however often it is used.

    >>> import numpy as np
    >>> from tinyflow import nn
    >>> class Net(nn.Module):
    ...     def __init__(self, rng):
    ...         self.layers = [nn.Linear(4, 8, rng=rng), nn.Linear(8, 2, rng=rng)]
    ...
    ...     def forward(self, x):
    ...         first, second = self.layers
    ...         return second(first(x).relu())
    >>> Net(np.random.default_rng(0)).summary(shape=(1, 4))
    Net: 58 parameters
    name        module    holds                     parameters  output
                Net()                                       58  (1, 2)
      layers.0  Linear()  weight (8, 4); bias (8,)          40  (1, 8)
      layers.1  Linear()  weight (2, 8); bias (2,)          18  (1, 2)

    Raises:
        TypeError: (when looked through) a set, which has no order, holds any of them.
    """

    training: bool = True
    path: str = ""
    name: str = ""
    _spelled: bool = False

    def __init_subclass__(cls) -> None:
        for name, attribute in vars(cls).items():
            if isinstance(attribute, (Module, Tensor)):
                raise TypeError(
                    f"{cls.__name__}.{name} belongs to the class, so all its instances "
                    f"would share it: assign self.{name} in __init__"
                )

    def forward(self, *args: Any) -> Any:
        """Compute the module's output; defined by every subclass."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def __call__(self, *args: Any) -> Any:
        """Run ``forward`` under this module's name.

        TypeError if the first argument is a floating-point array, not a Tensor.
        """
        first: Any = args[0] if args else None
        if not isinstance(first, Tensor) and is_array(first):
            if first.dtype.kind in "fV":  # integers may well be labels or indices
                raise TypeError(
                    f"{type(self).__name__}: input must be a Tensor, not an array: "
                    "wrap it, model(Tensor(images))"
                )
        tape = active_tape()
        if tape is None or tape.fuse:  # nobody looks
            if tape is not None and not self._spelled:
                self._spell_paths()
            return in_module(self.forward, *args)
        names = tape.names
        if names.scope is None:  # whoever is called first is the root of the names
            self._spell_paths()
        path = names.unique(self.path)
        if isinstance(first, Tensor):
            names[f"{path}.in" if path else "in"] = first.node
        with names.within(path):
            out = self.forward(*args)
        if isinstance(out, Tensor):
            names[path or "out"] = out.node
        return out

    if not TYPE_CHECKING:  # a type checker should go on to refuse what is not there

        def __getattr__(self, name: str) -> Any:
            raise habits.unknown(type(self).__name__, name, habits.MODULE, self)

    def __repr__(self) -> str:
        return repr(display.module(self))

    def _repr_html_(self) -> str:
        return display.module(self)._repr_html_()

    def summary(self, shape: Sequence[int] | None = None) -> display.Table:
        """The tree that printing shows: modules, what they hold, and how many numbers.

        Args:
            shape: of an input, e.g. (1, 3, 32, 32). If given, zeros of that shape are
                run in evaluation mode, and each module's output shape is shown.
        """
        if shape is None:
            return display.module(self)
        first = next((p.data for p in self.parameters()), np.zeros((), np.float32))
        with in_mode(self, False), Tape() as tape:
            self(Tensor(array_module(first).zeros(shape, first.dtype)))
        paths = (path for path, _ in self.named_modules())
        run = {path: tape.names.get(path or "out") for path in paths}
        return display.module(self, {p: node.shape for p, node in run.items() if node})

    def _spell_paths(self) -> None:
        known = set()
        for path, module, all_held in self._walk(""):
            module.path, module._spelled = path, True
            for name, held in all_held:
                if isinstance(held, Tensor) and held.node not in known:
                    known.add(held.node)
                    held.node.name = f"{path}.{name}" if path else name

    # --- looking through -------------------------------------------------------------

    def _held(self) -> list[tuple[str, Any]]:
        """What the attributes hold, that of containers one by one; nothing PLAIN."""
        found: list[tuple[str, Any]] = []
        for name, attribute in vars(self).items():
            if type(attribute) in PLAIN:
                continue
            if isinstance(attribute, CONTAINERS):
                found += _opened(f"{type(self).__name__}.{name}", name, attribute)
            else:
                found.append((name, attribute))
        return found

    def children(self) -> Iterator[tuple[str, Module]]:
        """(attribute name, module) of each direct child, in order of definition."""
        for name, held in self._held():
            if isinstance(held, Module):
                yield name, held

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) of this module and everything below it, each once."""
        for path, module, _ in self._walk(prefix):
            yield path, module

    def _walk(self, prefix: str) -> list[tuple[str, Module, list[tuple[str, Any]]]]:
        """Path, module, and what it holds, of all; looked through once for both."""
        found, known = [], set()
        ahead: list[tuple[str, Module]] = [(prefix, self)]
        while ahead:
            path, module = ahead.pop()
            if id(module) in known:
                continue
            known.add(id(module))
            held = module._held()
            found.append((path, module, held))
            ahead += [
                (f"{path}.{name}" if path else name, child)
                for name, child in reversed(held)
                if isinstance(child, Module)
            ]
        return found

    def held(self) -> Iterator[Any]:
        """All that this module and those below hold: modules, tensors, arrays, …."""
        for _, _, all_held in self._walk(""):
            for _, held in all_held:
                yield held

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(path, tensor) of every trainable tensor, e.g. ``layer1.0.conv1.weight``."""
        yield from self.named(lambda a: isinstance(a, Tensor))

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """(path, array) of the running statistics: state that is not trained."""
        yield from self.named(is_array)

    def named(self, wanted: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
        """What is wanted with its path, each once; no path stands for two things."""
        known: set[int] = set()
        paths: set[str] = set()
        for path, _, all_held in self._walk(""):
            for name, held in all_held:
                if not wanted(held) or id(held) in known:
                    continue
                known.add(id(held))
                full = f"{path}.{name}" if path else name
                if full in paths:
                    raise ValueError(
                        f"two different attributes of this {type(self).__name__} are "
                        f"called {full!r}: rename one"
                    )
                paths.add(full)
                yield full, held

    def parameters(self) -> list[Tensor]:
        """Every trainable tensor, in order of definition."""
        return [p for _, p in self.named_parameters()]

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters, as an optimiser does of its own."""
        for p in self.parameters():
            p.grad = None

    # --- mode, place and state -------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Training mode (batch statistics, dropout) for this module and all below."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Evaluation mode: running statistics, no dropout."""
        return self.train(False)

    def to(self, device: str | None = None, dtype: Any = None) -> Module:
        """Move parameters and buffers to a device and/or a dtype, all or nothing.

        Parameters stay the tensors they are, and gradients move with them, so that an
        optimiser goes on with them, whether it was made before or after.

        Args:
            device: "cpu" or "cuda"; None leaves them where they are.
            dtype: "float32" or "float64" for what is floating-point; None keeps it.

        Raises:
            DeviceError: there is no GPU that can be used; the message says why.
            ValueError: an unknown device or dtype.
        """
        if device not in (None, "cpu", "cuda"):
            raise ValueError(
                f"a module moves to 'cpu' or 'cuda', not {device!r}; for a dtype write "
                "to(dtype='float64')"
            )
        if dtype is not None and _dtype_name(dtype) not in ("float32", "float64"):
            raise ValueError(
                f"a module computes in 'float32' or 'float64', not {dtype!r}; on a GPU "
                "train.py --precision has narrower ones"
            )
        parameters = [p for _, p in self.named_parameters()]
        held = [p.data for p in parameters] + [b for _, b in self.named_buffers()]
        try:
            moved = {id(a): _moved(a, device, dtype) for a in held}
            gradients = [
                None if p.grad is None else _moved(p.grad, device, dtype)
                for p in parameters
            ]
        except Exception as error:
            if device != "cuda" or explain(error) is not None:
                raise
            if (reason := choose_device("auto"))[0] == "cuda":
                raise
            raise DeviceError(f"a module cannot move to 'cuda': {reason[1]}") from error
        for p, g in zip(parameters, gradients, strict=True):
            if (new := moved[id(p.data)]) is not p.data:
                p.data, p.node.dtype = new, new.dtype
                p.node.version += 1
                p.node.grad = g
        for _, module in self.named_modules():
            for name, attribute in list(vars(module).items()):
                if (replaced := _replaced(attribute, moved)) is not attribute:
                    setattr(module, name, replaced)
        return self

    def state_dict(self) -> dict[str, Array]:
        """Parameters and buffers by path: copies in C order, for any file format.

        See :func:`tinyflow.save`.
        """
        return {path: a.copy(order="C") for path, a in self._state().items()}

    def _state(self) -> dict[str, Array]:
        state = {path: p.data for path, p in self.named_parameters()}
        state.update(self.named_buffers())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy values into the parameters and buffers, whose names must match exactly.

        Floating-point numbers of any width are converted to the model's.

        Raises:
            ValueError: a name is missing or unknown, a shape differs, or values are of
                another kind, NaN or infinite; nothing has been copied then.
            TypeError: `state` is no mapping.
        """
        needs_mapping("load_state_dict", state)
        own = self._state()
        missing = sorted(own.keys() - state.keys())
        extra = sorted(map(str, state.keys() - own.keys()))
        if missing or extra:
            raise ValueError(
                "these weights are not this model's: "
                f"missing {missing[:3]}, unknown {extra[:3]}"
            )
        new = {name: fitting(name, state[name], array) for name, array in own.items()}
        for name, array in own.items():
            array[...] = new[name]
        for p in self.parameters():
            p.node.version += 1


def _opened(where: str, name: str, held: Any) -> Iterator[tuple[str, Any]]:
    """The contents of a container, ``name.0``, ``name.key``, …, and of those in it."""
    if isinstance(held, dict):
        pairs: Any = held.items()
    elif isinstance(held, (set, frozenset)):
        if any(isinstance(h, (Module, Tensor)) for h in held):
            raise TypeError(
                f"{where} is a set, whose order is not fixed: keep modules and tensors "
                "in a list"
            )
        return
    else:
        pairs = enumerate(held)
    for key, item in pairs:
        if isinstance(item, CONTAINERS):
            yield from _opened(where, f"{name}.{key}", item)
        elif type(item) not in PLAIN:
            yield f"{name}.{key}", item


def _replaced(held: Any, new: Mapping[int, Array]) -> Any:
    """`held` with each array in it exchanged for ``new[id(array)]``, if that is there.

    Lists and dictionaries stay the same, tuples are made again.
    """
    if isinstance(held, (list, deque, dict)):
        for key, item in list(
            held.items() if isinstance(held, dict) else enumerate(held)
        ):
            held[key] = _replaced(item, new)
    elif isinstance(held, tuple):
        items = [_replaced(item, new) for item in held]
        if any(a is not b for a, b in zip(items, held, strict=True)):
            make = getattr(type(held), "_make", type(held))  # of a named tuple
            return make(items)
    elif is_array(held):
        return new.get(id(held), held)
    return held


def _moved(array: Array, device: str | None, dtype: Any) -> Array:
    array = array if device is None else asarray(array, device)
    if dtype is not None and array.dtype.kind == "f":
        array = array.astype(dtype, copy=False)
    return engine(array).store(array)


def is_array(held: Any) -> bool:
    """Whether `held` is an array of numbers."""
    return (
        isinstance(held, np.ndarray) or hasattr(held, "__cuda_array_interface__")
    ) and held.dtype.kind in "biufcV"


def _dtype_name(dtype: Any) -> str:
    try:
        return str(np.dtype(dtype).name)
    except TypeError:
        return ""
