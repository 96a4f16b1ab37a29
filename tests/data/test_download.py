"""Fetching from a host on this machine: whole, cut, wrong, killed, two at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.data.server import (
    CIFAR_FILES,
    NOWHERE,
    REFUSALS,
    ROWS,
    Host,
    archive,
    publish_cifar10,
    publish_mnist,
    serving,
)
from tinyflow.data import DataError, Fetching, download, fetch, load_mnist, transfer
from tinyflow.data.sources import MNIST, SOURCES

FIRST = "train-images-idx3-ubyte.gz"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Serves a small MNIST; nothing else is asked, through no proxy."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "POLL", 0.01)
    with serving() as found:
        publish_mnist(found, monkeypatch, tmp_path / "origin")
        publish_cifar10(found, monkeypatch, archive(CIFAR_FILES))
        yield found


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def mnist(host: Host) -> dict[str, bytes]:
    return {f"mnist/{name}": host.files[name] for name in MNIST.published}


def refused(folder: Path, name: str = "mnist", mirror: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        fetch(name, folder, mirror)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 700, sentence
    return sentence


# --- whole -------------------------------------------------------------------------


def test_four_files_and_then_none(host: Host, tmp_path: Path) -> None:
    seen: list[Fetching] = []
    fetch("mnist", tmp_path / "data", report=seen.append)
    assert files(tmp_path / "data") == mnist(host)
    assert host.asked == [(f"/a/{name}", None) for name in MNIST.published]
    for path, content in mnist(host).items():
        done = [at.done for at in seen if at.path == path]
        assert done == sorted(done) and (done[0], done[-1]) == (0, len(content))
    assert {at.size for at in seen if at.path.endswith(FIRST)} == {
        len(host.files[FIRST])
    }
    assert len(load_mnist(tmp_path / "data", "test")) == 20
    fetch("mnist", tmp_path / "data")
    assert len(host.asked) == 4


def test_only_what_is_missing(host: Host, tmp_path: Path) -> None:
    """Unpacked, or in the data folder itself, it is there too."""
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    (tmp_path / "data" / FIRST).touch()
    (tmp_path / "data" / "mnist" / "t10k-labels-idx1-ubyte").touch()
    fetch("mnist", tmp_path / "data")
    names = ["train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"]
    assert [path for path, _ in host.asked] == [f"/a/{name}" for name in names]


def test_an_archive_is_unpacked_and_goes(host: Host, tmp_path: Path) -> None:
    fetch("cifar10", tmp_path / "data")
    assert files(tmp_path / "data") == CIFAR_FILES
    fetch("cifar10", tmp_path / "data")
    assert host.asked == [("/a/cifar-10-binary.tar.gz", None)]
    (tmp_path / "data" / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    fetch("cifar10", tmp_path / "data")
    assert files(tmp_path / "data") == CIFAR_FILES


@pytest.mark.parametrize("end", ["", "/"])
def test_a_mirror_is_laid_out_like_a_data_folder(
    host: Host, tmp_path: Path, end: str
) -> None:
    for name in ("cifar10", "mnist"):
        fetch(name, tmp_path / "data", f"{host.url}copy/of{end}")
    assert files(tmp_path / "data") == {**CIFAR_FILES, **mnist(host)}
    paths = ["cifar-10-binary.tar.gz", *mnist(host)]
    assert [path for path, _ in host.asked] == [f"/copy/of/{path}" for path in paths]


# --- cut ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cut", "cut, no length", "cut by silence"])
def test_a_cut_file_is_gone_on_with(
    host: Host, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    host.ways = [way, way]
    fetch("mnist", tmp_path / "data")
    assert files(tmp_path / "data") == mnist(host)
    size = len(host.files[FIRST])
    half = size // 2
    more = half + (size - half) // 2
    ranges = [None, f"bytes={half}-", f"bytes={more}-"]
    assert host.asked[:3] == [(f"/a/{FIRST}", asked) for asked in ranges]


def test_what_came_is_kept_for_the_next_time(host: Host, tmp_path: Path) -> None:
    host.ways = ["cut"] * 2 * transfer.TRIES
    said = refused(tmp_path / "data")
    content = host.files[FIRST]
    ((name, kept),) = files(tmp_path / "data").items()
    assert name == f"mnist/{FIRST}.part" and content.startswith(kept)
    assert len(content) - 40 < len(kept) < len(content)
    assert f"({len(kept):,} bytes are kept)" in said and "the connection ended" in said
    before = len(host.asked)
    fetch("mnist", tmp_path / "data")
    assert host.asked[before] == (f"/a/{FIRST}", f"bytes={len(kept)}-")
    assert files(tmp_path / "data") == mnist(host)


def test_a_host_without_ranges_begins_anew(host: Host, tmp_path: Path) -> None:
    """Of what was there nothing stays, however far it went."""
    host.ways = ["cut", "cut", "no ranges, cut"]
    fetch("mnist", tmp_path / "data")
    assert files(tmp_path / "data") == mnist(host)
    half = len(host.files[FIRST]) // 2
    assert host.asked[1][1] == host.asked[3][1] == f"bytes={half}-"


def test_a_host_may_send_another_range(host: Host, tmp_path: Path) -> None:
    host.ways = ["cut", "another range"]
    fetch("cifar10", tmp_path / "data")
    assert files(tmp_path / "data") == CIFAR_FILES and len(host.asked) == 2


@pytest.mark.parametrize("more", [-9, 0, 9])
def test_a_wrong_beginning_is_thrown_away(
    host: Host, tmp_path: Path, more: int
) -> None:
    """Shorter than the file, as long, and longer."""
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    part = tmp_path / "data" / "mnist" / f"{FIRST}.part"
    part.write_bytes(bytes(len(host.files[FIRST]) + more))
    fetch("mnist", tmp_path / "data")
    assert files(tmp_path / "data") == mnist(host)


def test_a_whole_part_is_not_fetched_again(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    part = tmp_path / "data" / "cifar-10-binary.tar.gz.part"
    part.write_bytes(host.files["cifar-10-binary.tar.gz"])
    fetch("cifar10", tmp_path / "data")
    assert files(tmp_path / "data") == CIFAR_FILES and not host.asked


KILLED = """
import sys
from tinyflow.data import fetch, sources
from dataclasses import replace
name, size, sha, host, folder = sys.argv[1:]
row = replace(sources.CIFAR10, archive=(name, int(size), sha), hosts=(host,))
sources.SOURCES["cifar10"] = row
fetch("cifar10", folder)
"""


def test_killed_and_started_again(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = {**CIFAR_FILES, "noise": os.urandom(300_000)}
    publish_cifar10(host, monkeypatch, archive(noise))
    row = SOURCES["cifar10"]
    (remote,) = row.remotes
    host.ways = ["slow"]
    arguments = (remote.path, str(remote.size), remote.sha256, f"{host.url}a/")
    code = [sys.executable, "-c", KILLED, *arguments, str(tmp_path / "data")]
    part = tmp_path / "data" / f"{remote.path}.part"
    with subprocess.Popen(code, cwd=ROOT) as process:
        until = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = part.stat().st_size
    assert 0 < kept < remote.size
    fetch("cifar10", tmp_path / "data")
    assert host.asked[1:] == [(f"/a/{remote.path}", f"bytes={kept}-")]
    assert files(tmp_path / "data") == CIFAR_FILES


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_two_at_once(host: Host, tmp_path: Path, name: str) -> None:
    """One fetches each file, the other waits and sees how far it is."""
    host.ways = ["slow"]
    seen: list[list[Fetching]] = [[], []]
    both = [
        threading.Thread(target=fetch, args=(name, tmp_path / "data", None, s.append))
        for s in seen
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    expected = CIFAR_FILES if name == "cifar10" else mnist(host)
    assert files(tmp_path / "data") == expected
    assert len(host.asked) == len(SOURCES[name].remotes)
    assert all(len(events) > 1 for events in seen)


# --- refused -----------------------------------------------------------------------


@pytest.mark.parametrize("way", REFUSALS)
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_what_no_host_gives(
    host: Host, tmp_path: Path, name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    host.ways = [way] * 30  # a circle is followed for a while
    said = refused(tmp_path / "data", name)
    assert said.count(f"127.0.0.1:{host.server_port}: ") == 2
    assert said.count(REFUSALS[way]) == 2
    remote = SOURCES[name].remotes[0]
    file = remote.path.rpartition("/")[2]
    where = f"unpack it in {tmp_path}" if name == "cifar10" else f"put it at {tmp_path}"
    for word in (f"get {host.url}a/{file} elsewhere", remote.sha256, where):
        assert word in said
    assert f"{remote.size:,} bytes" in said
    assert files(tmp_path / "data") == {}


@pytest.mark.parametrize("way", REFUSALS)
def test_the_next_host_is_asked(
    host: Host, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.2)
    host.ways = [way] * (5 if way == "redirect in a circle" else 1)
    fetch("cifar10", tmp_path / "data")
    assert files(tmp_path / "data") == CIFAR_FILES
    assert host.asked[-1] == ("/b/cifar-10-binary.tar.gz", None)


def test_a_refusal_keeps_what_came_before(host: Host, tmp_path: Path) -> None:
    host.ways = ["cut", "gone", "too long"]
    said = refused(tmp_path / "data")
    size = len(host.files[FIRST])
    assert "bytes are kept" in said
    assert f"it offers {size + 1:,} bytes, not {size:,}" in said
    ((name, kept),) = files(tmp_path / "data").items()
    assert name.endswith(".part") and kept == host.files[FIRST][: len(kept)]


@pytest.mark.parametrize("mirror", ["", "example.org", "file:///etc", "ftp://a/b"])
def test_a_mirror_that_is_no_web_address(tmp_path: Path, mirror: str) -> None:
    assert "is no web address" in refused(tmp_path / "data", mirror=mirror)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("mirror", [NOWHERE, "http://[", "http://a:b/", "http://../x"])
def test_a_mirror_that_is_not_there(tmp_path: Path, mirror: str) -> None:
    said = refused(tmp_path / "data", mirror=mirror)
    assert f"get {MNIST.hosts[0]}{FIRST} elsewhere" in said
    assert files(tmp_path / "data") == {}


def test_nothing_to_fetch(tmp_path: Path) -> None:
    for name in ("shapes", "imagenet"):
        assert "choose one of cifar10, cifar100" in refused(tmp_path, name)


@pytest.mark.parametrize("what", ["file", "no name", "full disk", "pipe", "loop"])
def test_a_folder_that_cannot_be_written_to(
    host: Host, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    if what == "file":
        folder.touch()
    elif what == "no name":
        folder = tmp_path / "a\0b"
    elif what == "full disk":

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    else:
        (folder / "mnist").mkdir(parents=True)
        part = folder / "mnist" / f"{FIRST}.part"
        os.mkfifo(part) if what == "pipe" else part.symlink_to(part)
    said = refused(folder)
    word = {
        "file": f"{folder}/mnist cannot be written",
        "no name": "is no name of a file",
        "full disk": "(No space left on device): make room",
        "pipe": "is a pipe, not a file: remove it",
        "loop": "Too many levels of symbolic links",
    }
    assert word[what] in said


# --- archives ----------------------------------------------------------------------


def test_only_known_members_are_written(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd: dict[str, bytes | str] = {
        "../evil": b"x",
        f"{tmp_path}/evil": b"x",
        "cifar-10-batches-bin/../../evil": b"x",
        "cifar-10-batches-bin/readme.html": b"x",
        "link": "/etc/passwd",
    }
    publish_cifar10(host, monkeypatch, archive({**odd, **CIFAR_FILES}))
    fetch("cifar10", tmp_path / "data")
    assert files(tmp_path / "data") == CIFAR_FILES
    assert not (tmp_path / "evil").exists()


LAST = "cifar-10-batches-bin/test_batch.bin"
BAD = {
    "too long": archive({**CIFAR_FILES, LAST: ROWS + b"x"}),
    "too short": archive({**CIFAR_FILES, LAST: ROWS[1:]}),
    "a link": archive({**CIFAR_FILES, LAST: "/etc/passwd"}),
    "not there": archive({k: v for k, v in CIFAR_FILES.items() if k != LAST}),
    "cut": archive({**CIFAR_FILES, "noise": os.urandom(90_000)})[:40_000],
    "no archive": b"x" * 1000,
    "empty": archive({}),
}


@pytest.mark.parametrize("what", BAD)
def test_an_archive_that_is_not_what_it_should_be(
    host: Host, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its checksum is right: all of it is left out."""
    publish_cifar10(host, monkeypatch, BAD[what])
    said = refused(tmp_path / "data", "cifar10")
    assert "cannot be unpacked" in said
    if what in ("too long", "too short", "a link"):
        assert f"{LAST} is no file of {len(ROWS):,} bytes" in said
    assert files(tmp_path / "data") == {}
