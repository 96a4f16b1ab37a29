"""One file from one address of the web, to the last byte and to its checksum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tinyflow.reading import CHUNK

TIMEOUT = 30.0  # seconds of silence
TRIES = 5  # how often a host is asked for the rest


class Refused(Exception):
    """This address does not give the file: why, in a few words."""


class _Cut(Exception):
    """The connection ended before the file did: why."""


def take(
    url: str, part: Path, size: int, sha256: str, came: Callable[[int], None]
) -> None:
    """Bring a file that holds some of what is published, or none, to all of it.

    Args:
        url: where it is published.
        part: the file. What is in it is not fetched again, unless it turns out wrong.
        size: its bytes in the end.
        sha256: its checksum in the end.
        came: called with the bytes that are there, whenever more have come.

    Raises:
        Refused: The host gives nothing, something else, or is cut `TRIES` times;
            `part` then holds what has come, unless it is known to be wrong.
        OSError: `part` cannot be written to.
    """
    why = ""
    for _ in range(TRIES):
        start = part.stat().st_size
        try:
            if start < size:
                start = _receive(url, part, size, start, came)
        except _Cut as error:
            why = str(error)
            continue
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == sha256:
            return
        os.truncate(part, 0)
        why = f"what came is not the published file, its SHA-256 is {found}"
        if start == 0:  # else what was there before may have been wrong
            break
    raise Refused(why)


def _receive(
    url: str, part: Path, size: int, start: int, came: Callable[[int], None]
) -> int:
    """Write what a host sends from byte `start` on; return where that began."""
    try:
        response = _request(url, start)
    except (OSError, HTTPException, ValueError) as error:
        raise Refused(_said(error)) from error
    with response, part.open("r+b") as file:
        begins = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status != 206 or not begins:
            start = 0
        if response.length not in (None, size - start):
            offered = start + (response.length or 0)
            raise Refused(f"it offers {offered:,} bytes, not {size:,}")
        done = file.seek(start)
        file.truncate()
        while done < size:
            came(done)
            try:
                chunk = response.read1(min(CHUNK, size - done))
            except (OSError, HTTPException) as error:
                raise _Cut(_said(error)) from error
            if not chunk:
                raise _Cut(f"the connection ended after {done:,} bytes")
            done += file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        came(done)
    return start


def _request(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "tinyflow", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    return response


def _said(error: Exception) -> str:
    """What went wrong, in a few words on one line."""
    if isinstance(error, HTTPError):
        error.close()
        said = f"{error.code} {error.reason}"
    else:
        inner = getattr(error, "reason", error)  # of a URLError
        said = getattr(inner, "strerror", None) or str(inner)
    return " ".join(said.split())[:100] or type(error).__name__
