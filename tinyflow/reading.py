"""Reading files that may be damaged, hostile, or no files at all.

Whatever lies at a path is opened only if it is a regular file (a pipe would keep us
waiting for ever), is read only as far as its reader said beforehand, and is refused in
one sentence that names it.
"""

from __future__ import annotations

import csv
import json
import lzma
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 16
LINE = 10_000
"""Bytes of the longest line of a table."""
XZ_MEMORY = 1 << 27
"""What unpacking may take: xz -9 needs half of it, a hostile header asks for all."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "pipe"),
    (stat.S_ISSOCK, "socket"),
)


class Unreadable(ValueError):
    """A file that cannot be used: which, and what is wrong with it."""


def kind(path: Path) -> str:
    """What lies at `path`, links followed: "file", "folder", "pipe" … or "nothing".

    Raises:
        Unreadable: that cannot be told: a closed folder, a link to itself, no name.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except OSError as error:
        raise Unreadable(f"{path} cannot be read ({reason(error)})") from error
    except ValueError as error:  # a zero byte
        raise Unreadable(f"{str(path)!r} is no name of a file") from error
    return next((name for test, name in KINDS if test(mode)), "device")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; whatever goes wrong names it.

    Raises:
        Unreadable: there is none, it cannot be read, or reading fails in the block.
    """
    what = kind(path)
    if what == "nothing":
        raise Unreadable(f"{path} does not exist")
    if what != "file":
        raise Unreadable(f"{path} is a {what}, not a file")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise Unreadable(f"{path} cannot be read ({reason(error)})") from error


def reason(error: OSError) -> str:
    """What the system says, without numbers and names."""
    return error.strerror or str(error)


def read_text(path: Path, most: int) -> str:
    """The UTF-8 text of a file of at most `most` bytes.

    Raises:
        Unreadable: see :func:`opened`; or it is longer, or no UTF-8.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most) + 1)  # room is made for as much at once
    if len(content) > most:
        raise Unreadable(f"{path} holds more than {most:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path} is no UTF-8 text (byte {error.start:,})") from error


def read_object(path: Path, most: int = 1_000_000) -> dict[str, Any]:
    """The JSON object in a file, e.g. a ``config.json``, of at most `most` bytes.

    Raises:
        Unreadable: see :func:`read_text` and :func:`parse_object`.
    """
    return parse_object(read_text(path, most), str(path))


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """The JSON object that `text` is, strictly: no key twice, no NaN.

    Raises:
        Unreadable: it is none; `what` begins the sentence.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(found)
        if len(content) < len(found):
            names = [name for name, _ in found]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{twice[:60]!r} stands there twice")
        return content

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no number")

    try:
        found = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError as error:
        raise Unreadable(f"{what} is nested too deeply") from error
    except ValueError as error:
        raise Unreadable(f"{what} is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise Unreadable(f"{what} is no JSON object, but {type(found).__name__}")
    return found


def read_table(path: Path, columns: tuple[str, ...], most: int) -> Iterator[list[str]]:
    """The rows of a CSV file below a line that names `columns`, as far as it is whole.

    A last line without an end was being written when the program was killed, and is
    left out.

    Raises:
        Unreadable: see :func:`opened`; the file is longer than `most` bytes, begins
            with another line, or a line is no text, too long or has other columns.
    """
    number = 0
    with opened(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise Unreadable(f"{path} holds {size:,} bytes, more than {most:,}")

        def damaged(why: str) -> Unreadable:
            return Unreadable(f"{path} is damaged near line {number}: {why}")

        def lines() -> Iterator[str]:
            nonlocal number
            while line := file.readline(LINE):
                number += 1
                if not line.endswith(b"\n"):
                    if len(line) == LINE:
                        raise damaged(f"it is longer than {LINE:,} bytes")
                    return
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise damaged("it is no UTF-8 text") from None
                text = text.rstrip("\r\n")
                if not text.isprintable():
                    raise damaged("it holds bytes that are no text")
                yield text

        try:
            rows = csv.reader(lines(), strict=True)
            if tuple(next(rows, ())) != columns:
                raise Unreadable(f"{path} does not begin with {','.join(columns)}")
            for row in rows:
                if len(row) != len(columns):
                    raise damaged(f"{len(row)} entries, not {len(columns)}")
                yield row
        except csv.Error as error:
            raise damaged(str(error)) from error


def number(text: str) -> float:
    """A finite decimal number as programs write it.

    Raises:
        ValueError: it is none: letters, blanks, underscores, other alphabets' digits.
    """
    if not NUMBER.fullmatch(text) or not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:40]!r} is no number")
    return value


def whole(text: str) -> int:
    """A whole number from 0 on, of at most 15 digits; ValueError if it is none."""
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise ValueError(f"{text[:40]!r} is no whole number")
    return int(text)


def read_xz(file: BinaryIO, most: int) -> bytes:
    """The first `most` bytes of what an xz file holds, one stream after the other.

    Raises:
        EOFError, lzma.LZMAError: it is cut short or damaged, or wants more than
            `XZ_MEMORY` to be unpacked in.
    """
    out = bytearray()
    stream: lzma.LZMADecompressor | None = None
    while len(out) < most:
        data = b""
        if stream is None or stream.eof:
            data = b"" if stream is None else stream.unused_data
            while not (data := data.lstrip(b"\0")):  # zeros may lie between streams
                if not (data := file.read(CHUNK)):
                    return bytes(out)
            stream = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
        elif stream.needs_input and not (data := file.read(CHUNK)):
            raise EOFError("it ends before the end of what was packed")
        out += stream.decompress(data, most - len(out))
    return bytes(out)
