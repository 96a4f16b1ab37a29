"""Fetching the published files of a data set, checked before they get their names.

A file arrives as ``NAME.part`` beside its place; if it is cut, the rest is fetched next
time. Only when its SHA-256 is the published one does it get its name, or is unpacked.
Nothing here runs unless it is asked for.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path

from tinyflow.atomic import locked, replacing
from tinyflow.data.base import DataError, locate
from tinyflow.data.sources import SOURCES, Remote, Source
from tinyflow.reading import Unreadable, kind, reason

POLL = 0.2  # seconds between two looks at what another fetches


@dataclass(frozen=True)
class Fetching:
    """How much of a file has come.

    Attributes:
        path: the file, below the data folder.
        done: bytes that are there.
        size: all of them.
    """

    path: str
    done: int
    size: int


Report = Callable[[Fetching], None]


def fetch(
    name: str,
    folder: str | os.PathLike[str],
    mirror: str | None = None,
    report: Report | None = None,
) -> None:
    """Fetch what is not yet there of a data set; nothing, if all of it is.

    Two that fetch into one folder at once wait for each other.

    Args:
        name: of the data set, one of `DATASETS` but ``shapes``, which is drawn.
        folder: the data folder, made if it is not there. Archives are unpacked in it,
            and go.
        mirror: address of a copy laid out like a data folder, to be asked instead of
            the hosts that publish the files: ``MIRROR/cifar-10-binary.tar.gz``,
            ``MIRROR/mnist/train-images-idx3-ubyte.gz``.
        report: called with a `Fetching` whenever more has come.

    Raises:
        DataError: For an unknown name, a mirror that is no web address, a file that no
            host gives or that is not the published one, or a folder that cannot be
            written to. What has come of a cut file stays, as ``NAME.part``.
    """
    if name not in SOURCES:
        raise DataError(
            f"There is nothing to fetch for {name!r}: choose one of "
            f"{', '.join(SOURCES)}."
        )
    if mirror is not None and not re.match(r"https?://[^/?#]", mirror):
        raise DataError(
            f"The mirror {mirror} is no web address, e.g. https://example.org/data: "
            "name one."
        )
    source, folder = SOURCES[name], Path(folder)
    try:
        for remote in source.remotes:
            if _missing(source, remote, folder):
                _fetch(source, remote, folder, mirror, report or (lambda _: None))
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be written ({reason(error)}): make "
            "room, or choose another data folder."
        ) from error
    except Unreadable as error:
        raise DataError(f"{error}: check the data folder.") from error


def _missing(source: Source, remote: Remote, folder: Path) -> bool:
    return any(locate(source, folder, name) is None for name in remote.files)


def _fetch(
    source: Source, remote: Remote, folder: Path, mirror: str | None, report: Report
) -> None:
    from tinyflow.data import transfer  # urllib takes long to import

    def came(done: int) -> None:
        report(Fetching(remote.path, done, remote.size))

    place = folder / remote.path
    published = [f"{host}{place.name}" for host in source.hosts]
    urls = [f"{mirror.rstrip('/')}/{remote.path}"] if mirror else published
    part = place.with_name(f"{place.name}.part")
    place.parent.mkdir(parents=True, exist_ok=True)
    with _alone(part, came):
        if not _missing(source, remote, folder):  # another has fetched it meanwhile
            return
        refusals = []
        for url in urls:
            try:
                transfer.take(url, part, remote.size, remote.sha256, came)
                break
            except transfer.Refused as error:
                refusals.append(f"{url.split('/')[2]}: {error}")
        else:
            kept = part.stat().st_size
            where = f"unpack it in {folder}" if remote.members else f"put it at {place}"
            raise DataError(
                f"{place.name} cannot be fetched ({'; '.join(refusals)}): "
                + (f"try again ({kept:,} bytes are kept), or " if kept else "")
                + f"get {published[0]} elsewhere ({remote.size:,} bytes, SHA-256 "
                f"{remote.sha256}) and {where}."
            )
        if remote.members:
            _unpack(remote, part, folder)
        else:
            os.replace(part, place)


@contextmanager
def _alone(part: Path, came: Callable[[int], None]) -> Iterator[None]:
    """Work on a partial file while no other does; if it stays empty, it goes."""
    if (what := kind(part)) not in ("file", "nothing"):
        raise DataError(f"{part} is a {what}, not a file: remove it.")
    with ExitStack() as stack:
        while True:
            held = stack.enter_context(part.open("ab"))
            while locked(held.fileno()) is False:
                came(_length(part))
                time.sleep(POLL)
            with suppress(FileNotFoundError):  # its last holder has finished it
                if os.path.samestat(os.fstat(held.fileno()), part.stat()):
                    break
        part.touch()
        try:
            yield
        finally:
            if not _length(part):
                part.unlink(missing_ok=True)


def _length(path: Path) -> int:
    """The bytes of a file; 0 if it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _unpack(remote: Remote, archive: Path, folder: Path) -> None:
    """Write the members we know, all or none, and nothing else; the archive goes."""
    left = dict(remote.members)
    try:
        with ExitStack() as stack, tarfile.open(archive, "r:gz") as packed:
            for member in packed:
                size = left.pop(member.name, None)
                if size is None:
                    continue
                file = packed.extractfile(member) if member.isreg() else None
                if file is None or member.size != size:
                    raise tarfile.TarError(
                        f"{member.name} is no file of {size:,} bytes"
                    )
                place = folder / member.name
                place.parent.mkdir(exist_ok=True)
                with stack.enter_context(replacing(place)).open("wb") as out:
                    shutil.copyfileobj(file, out)
            if left:
                raise tarfile.TarError(f"{min(left)} is not in it")
    except (tarfile.TarError, EOFError, zlib.error, BadGzipFile) as error:
        archive.unlink()
        raise DataError(
            f"{Path(remote.path).name} is the published file but cannot be unpacked "
            f"({error}): get the files of {folder} elsewhere."
        ) from error
    archive.unlink()
