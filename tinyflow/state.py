"""Weights and optimiser state in files, what a state must be to be loaded, and modes.

The format is safetensors, which holds memory: every array is written in C order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyflow.backend import Array, array_module, asarray, asnumpy, device_of
from tinyflow.reading import kind
from tinyflow.tensor import plain_array, value
from tinyflow.tensorfile import open_tensors, write_tensors

if TYPE_CHECKING:
    from tinyflow.module import Module


def save(
    path: str | os.PathLike[str],
    what: Any,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a module, an optimiser, or a mapping of names to arrays, all or nothing.

    >>> import numpy as np, tinyflow
    >>> model = tinyflow.nn.Linear(3, 2, rng=np.random.default_rng(0))
    >>> tinyflow.save("model.safetensors", model)
    >>> other = tinyflow.nn.Linear(3, 2, rng=None)
    >>> other.load_state_dict(tinyflow.load("model.safetensors"))
    >>> bool((other.weight == model.weight).all())
    True

    Args:
        path: the file; one that is there is replaced when the new one is complete.
        what: something with a ``state_dict()``, or a mapping of names to arrays.
        metadata: text to keep beside the arrays.

    Raises:
        OSError: the file cannot be written; what was there is as it was.
        TypeError: `what` is neither, or one of its arrays has no place in the format.
    """
    target = _path("save", path)
    state = what.state_dict() if hasattr(what, "state_dict") else what
    needs_mapping("save", state)
    arrays = {}
    for name, given in state.items():
        if not isinstance(name, str):
            raise TypeError(f"save: names are text, not {name!r}")
        arrays[name] = asnumpy(plain_array(value(given), f"save: {name!r}"))
    write_tensors(target, arrays, metadata or {})


def load(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a safetensors file by name, for ``load_state_dict``.

    bfloat16, which NumPy has not, comes as float32 of the same values.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read, is damaged, or is another kind of file.
    """
    source = _path("load", path)
    if kind(source) == "nothing":
        raise FileNotFoundError(f"there is no file {source}")
    with open_tensors(source) as file:
        return {name: file.read(name) for name in file.entries}


def _path(who: str, path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise TypeError(
            f"{who} takes the path of a file first, not {type(path).__name__}"
        ) from None


# --- what can be loaded ---------------------------------------------------------------


def needs_mapping(who: str, state: Any) -> None:
    """TypeError, in one sentence, unless `state` maps names to something."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"{who} takes names and arrays, such as model.state_dict() or "
            f"tinyflow.load(path), not {type(state).__name__}"
        )


def fitting(name: str, given: Any, like: Array) -> Array:
    """`given` in the dtype and on the device of `like`, a parameter or its state.

    Floating-point numbers of any width are converted.

    Raises:
        ValueError: another shape, another kind of number, or one that is not finite.
    """
    try:
        array = plain_array(value(given), name)
    except Exception as error:  # tensors of other libraries have their own
        raise ValueError(f"{name} holds no array of numbers: {error}") from error
    if array.shape != like.shape:
        raise ValueError(
            f"{name}: the file has shape {array.shape}, the model {like.shape}"
        )
    if not _converts(array, like):
        raise ValueError(
            f"{name} holds {array.dtype}, expected {like.dtype}: weights are "
            "floating-point numbers; convert them first, e.g. .astype('float32'), if "
            "that is what they mean"
        )
    array = asarray(array, device_of(like))
    with np.errstate(over="ignore", invalid="ignore"):
        result: Array = array.astype(like.dtype, copy=False)
    if like.dtype.kind == "f" and (bad := _not_finite(result)):
        why = "NaN or infinite" if _not_finite(array) else f"too large for {like.dtype}"
        raise ValueError(f"{name} holds {bad} values of {result.size} that are {why}")
    return result


def _converts(array: Array, like: Array) -> bool:
    if like.dtype.kind == "f":
        return array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    return bool(np.can_cast(array.dtype, like.dtype, "safe"))


def _not_finite(array: Array) -> int:
    return int((~array_module(array).isfinite(array)).sum())


def whole_number(name: str, given: Any) -> int:
    """A count; ValueError if `given` is none."""
    array = asnumpy(plain_array(value(given), name))
    if array.size != 1 or array.dtype.kind not in "iuf" or array.item() % 1:
        raise ValueError(f"{name} must be a whole number, not {array.tolist()}")
    if (count := int(array.item())) < 0:
        raise ValueError(f"{name} must be 0 or more, not {count}")
    return count


@contextmanager
def in_mode(model: Module, training: bool) -> Iterator[None]:
    """A model in that mode inside the block; afterwards each module in its own."""
    before = [(module, module.training) for _, module in model.named_modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
