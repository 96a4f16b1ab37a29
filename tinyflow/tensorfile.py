"""Arrays in a safetensors file, the format that every framework reads.

A header that says of each array its dtype, shape and place, and may hold texts of the
writer; then the arrays, in C order. Nothing in it is code, and the library checks the
header against the size of the file before any array is read
(https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyflow.atomic import replacing
from tinyflow.reading import Unreadable, opened


def write_tensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]
) -> None:
    """Write arrays and texts to `path`, all or nothing (see ``tinyflow.atomic``).

    Raises:
        OSError: the disk is full or the folder gone; `path` is as it was.
        TypeError: an array of a dtype that the format does not know.
    """
    import safetensors
    import safetensors.numpy

    # The library writes memory as it lies: C order, the machine's own byte order.
    arrays = {
        name: np.asarray(array, array.dtype.newbyteorder("="), order="C")
        for name, array in tensors.items()
    }
    with replacing(path) as partial:
        try:
            safetensors.numpy.save_file(arrays, partial, metadata=dict(metadata))
        except safetensors.SafetensorError as error:  # wraps the system's, as text
            if number := re.search(r"\(os error (\d+)\)", str(error)):
                code = int(number[1])
                raise OSError(code, os.strerror(code), str(path)) from error
            raise TypeError(f"{path} cannot be written: {error}") from error


@dataclass(frozen=True)
class Entry:
    """What the header says of one array: safetensors' name of its dtype, its shape."""

    dtype: str
    shape: tuple[int, ...]


class TensorFile:
    """An open file whose header has been read and found true.

    Attributes:
        entries: what there is, by name.
        metadata: the writer's texts.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file
        self.metadata: dict[str, str] = dict(file.metadata() or {})
        slices = {name: file.get_slice(name) for name in file.keys()}
        self.entries = {
            name: Entry(part.get_dtype(), tuple(part.get_shape()))
            for name, part in slices.items()
        }
        self._bytes: dict[str, bytes] | None = None

    def read(self, name: str) -> NDArray[Any]:
        """One array; bfloat16, which NumPy has not, as float32 of the same value."""
        entry = self.entries[name]
        if entry.dtype == "BF16":
            upper = np.frombuffer(self._raw(name), "<u2").astype(np.uint32)
            wide = (upper << np.uint32(16)).view(np.float32)
            return wide.reshape(entry.shape)
        try:
            found: NDArray[Any] = self._file.get_tensor(name)
        except Exception as error:  # the library's own, or NumPy's, by dtype
            raise Unreadable(
                f"{path_of(self.path, name)} is stored as {entry.dtype}, which is not "
                "read here: save it as F32"
            ) from error
        return found

    def _raw(self, name: str) -> bytes:
        import safetensors

        if self._bytes is None:
            with opened(self.path) as file:
                found = safetensors.deserialize(file.read())  # type: ignore[no-untyped-call]
            self._bytes = {key: part["data"] for key, part in found}
        return self._bytes[name]


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file and check its header.

    Raises:
        Unreadable: it cannot be read, is damaged, or is none.
    """
    import safetensors

    with opened(path):  # the library would wait for a pipe
        try:
            file = safetensors.safe_open(path, framework="numpy")
        except safetensors.SafetensorError as error:
            why = str(error)[:200]  # it may quote the file
            raise Unreadable(
                f"{path} is damaged, cut short or no safetensors file ({why})"
            ) from error
        with file:
            yield TensorFile(path, file)


def path_of(path: Path, name: str) -> str:
    """How an array of a file is called in a sentence."""
    return f"{name[:100]!r} in {path}"
