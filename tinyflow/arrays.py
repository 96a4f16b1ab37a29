"""Arrays as a tensor holds them: from whatever a caller gave, and read-only."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyflow.backend import Array
from tinyflow.node import Node


def plain_array(data: Any, what: str) -> Array:
    """`data` as an array of real numbers; itself, not a copy, if it is one.

    `what` names it in the error.

    Raises:
        TypeError: no numbers, complex ones, rows of different lengths, a mask (which
            would be lost), or a Tensor.
    """
    if type(data) is np.ndarray and data.dtype.kind in "fiu" and data.dtype.isnative:
        return data  # nearly always
    if hasattr(data, "__cuda_array_interface__"):
        device: Array = data
        return device
    if isinstance(getattr(data, "node", None), Node):
        raise TypeError(
            f"{what} is a Tensor already; for a leaf of its own give x.data"
        )
    mask = getattr(data, "mask", None)
    if isinstance(mask, np.ndarray) and mask.any():
        raise TypeError(f"{what} has a mask, which would be lost; fill it first")
    try:
        found = np.asarray(data)
    except Exception as error:  # whatever its __array__ raises
        raise TypeError(f"{what} cannot become an array of numbers") from error
    if found.dtype.kind not in "fiub" and found.dtype.name != "bfloat16":
        raise TypeError(
            f"{what} must be real numbers (an array, a number, nested lists), not "
            f"{type(data).__name__} of dtype {found.dtype}"
        )
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    return found


def frozen(array: Array) -> Array:
    """A read-only view (NumPy): writing to it fails, the array itself is as it was."""
    if isinstance(array, np.ndarray) and array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array
