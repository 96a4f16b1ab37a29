"""Which image files a folder of class folders holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from tinyflow.data.base import DataError
from tinyflow.data.decode import SUFFIXES
from tinyflow.reading import Unreadable, kind, reason

LAYOUT = "put the images of each class into {0}/train/<class>/ and {0}/val/<class>/"


class Entry(NamedTuple):
    """A file: its path below the folder, with slashes, its bytes, and its class."""

    path: str
    size: int
    label: int


def classes_in(data_dir: Path) -> tuple[str, ...]:
    """The names of the class folders in ``data_dir/train``, in the order of letters.

    Raises:
        DataError: there are none.
    """
    names = _folders(data_dir, data_dir / "train")
    if not names:
        raise DataError(
            f"{data_dir / 'train'} holds no folders: " + LAYOUT.format(data_dir) + "."
        )
    return tuple(names)


def place_of(data_dir: Path, split: str) -> Path:
    """The folder of a split: ``train``; to test ``val``, or ``test`` if there is none.

    Raises:
        DataError: it is not there.
    """
    names = ("train",) if split == "train" else ("val", "test")
    try:
        for name in names:
            if kind(data_dir / name) == "folder":
                return data_dir / name
    except Unreadable as error:
        raise DataError(f"{error}: check the data folder.") from error
    raise DataError(
        f"{data_dir} holds no folder {' or '.join(names)}: {LAYOUT.format(data_dir)}."
    )


def scan(data_dir: Path, place: Path, classes: tuple[str, ...]) -> list[Entry]:
    """The image files in the class folders of a split, in a mixed order.

    The first files of all classes come first, then the second ones …: among the first n
    of them no class has two more than another that has as many to give. Files are
    images if their names end as those of images do; hidden ones are none. Folders
    within those of the classes are looked into, and links are followed.

    Args:
        data_dir: for messages.
        place: the folder of the split.
        classes: of the training images; others must not be there.

    Raises:
        DataError: a folder cannot be read, a class is unknown, a class of the training
            images is empty, an image lies in no class, or links go in circles.
    """
    found = _folders(data_dir, place)
    if strange := sorted(set(found) - set(classes)):
        raise DataError(
            f"{place / strange[0]} is of a class that {data_dir / 'train'} lacks: "
            "remove it, or add images of it there."
        )
    lists = []
    for label, name in enumerate(classes):
        files = sorted(_walk(place / name)) if name in found else []
        if not files and place.name == "train":
            raise DataError(
                f"{place / name} holds no image ({', '.join(sorted(SUFFIXES))}): add "
                "some, or remove the folder."
            )
        head = len(os.fspath(place)) + 1
        lists.append([Entry(path[head:], size, label) for path, size in files])
    return [entry for row in zip_longest(*lists) for entry in row if entry]


def _folders(data_dir: Path, place: Path) -> list[str]:
    """The names of the folders in the folder of a split."""
    names = []
    for entry in _listed(place):
        if entry.is_dir():
            names.append(entry.name)
        elif _is_image(entry.name):
            raise DataError(
                f"{entry.path} lies in no class: {LAYOUT.format(data_dir)}."
            )
    return sorted(names)


def _walk(top: Path) -> Iterator[tuple[str, int]]:
    """The paths and sizes of the images below a folder, in no order."""
    ahead, met = [os.fspath(top)], set()
    while ahead:
        folder = ahead.pop()
        for entry in _listed(folder):
            image = _is_image(entry.name)
            try:
                status = entry.stat()
            except OSError:  # a link to nowhere; whoever reads it says so
                if image:
                    yield _slashed(entry.path), 0
                continue
            if image:
                yield _slashed(entry.path), status.st_size
            elif stat.S_ISDIR(status.st_mode):
                where = os.stat(entry.path)
                if (number := (where.st_dev, where.st_ino)) in met:
                    raise DataError(
                        f"{entry.path} leads to a folder that was met before: remove "
                        "the link, which goes in circles or brings images twice."
                    )
                met.add(number)
                ahead.append(entry.path)


def _slashed(path: str) -> str:
    return path.replace(os.sep, "/")


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _listed(folder: str | Path) -> list[os.DirEntry[str]]:
    """What lies in a folder and is not hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({reason(error)}): check the data folder."
        ) from error
    except ValueError as error:  # a zero byte
        raise DataError(f"{str(folder)!r} is no name of a folder.") from error
