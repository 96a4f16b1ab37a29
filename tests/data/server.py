"""A host on this machine that serves data sets, badly where a test asks for it."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.data.files import write_mnist
from tinyflow.data.sources import CIFAR10, MNIST, SOURCES

NOWHERE = "http://127.0.0.1:9/"  # the port that throws all away, closed here
REFUSALS = {
    "gone": "404 Not Found",
    "busy": "503 Service",
    "redirect to nothing": "Connection refused",
    "redirect in a circle": "302 The HTTP",
    "redirect to a file": "302 Found",
    "too short": "it offers ",
    "too long": "it offers ",
    "flipped": "not the published file",
    "flipped, no length": "not the published file",
    "silence": "timed out",
    "no HTTP": "BadStatusLine",
}
"""Ways to answer from which no file comes, and what is said of them."""


class Host(ThreadingHTTPServer):
    """Serves `files` by the last part of their address.

    Attributes:
        ways: how the next requests are answered, one each; afterwards well.
        asked: path and range of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.ways: list[str] = []
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"


class Answer(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Host
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append((self.path, self.headers.get("Range")))
        way = self.server.ways.pop(0) if self.server.ways else "well"
        with suppress(BrokenPipeError, ConnectionResetError):
            self.answer(way, self.server.files[self.path.rpartition("/")[2]])

    def answer(self, way: str, content: bytes) -> None:
        if way in ("gone", "busy"):
            self.send_error(404 if way == "gone" else 503)
            return
        if way.startswith("redirect"):
            self.send_response(302)
            to = {"nothing": NOWHERE, "circle": self.path, "file": "file:///etc/passwd"}
            self.send_header("Location", to[way.rpartition(" ")[2]])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if way == "silence":
            time.sleep(1)
        if way == "no HTTP":
            self.wfile.write(b"\r\nhello\r\n\r\n")
            return
        if "flipped" in way:
            content = content[:-1] + bytes([content[-1] ^ 1])
        content = content[:-1] if way == "too short" else content
        content = content + b"\0" if "too long" in way else content
        start = 0
        if (asked := self.headers.get("Range")) and "no ranges" not in way:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            last = len(content) - 1
            start = 0 if way == "another range" else start
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        else:
            self.send_response(200)
        content = content[start:]
        if "no length" not in way:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if way == "slow":
            for at in range(0, len(content), 4000):
                self.wfile.write(content[at : at + 4000])
                time.sleep(0.05)
            return
        self.wfile.write(content[: len(content) // 2] if "cut" in way else content)
        if way == "cut by silence":
            time.sleep(1)


@contextmanager
def serving() -> Iterator[Host]:
    with Host() as host:
        thread = threading.Thread(target=host.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield host
        finally:
            host.shutdown()
            thread.join()


def archive(members: dict[str, bytes | str]) -> bytes:
    """A tar.gz of files, or of links where text says to what."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                packed.addfile(member)
            else:
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
    return out.getvalue()


ROWS = np.random.default_rng(0).bytes(2 * 3073)  # two rows of CIFAR-10
CIFAR_FILES: dict[str, bytes | str] = {
    **{f"cifar-10-batches-bin/data_batch_{i}.bin": ROWS for i in range(1, 6)},
    "cifar-10-batches-bin/test_batch.bin": ROWS[::-1],
}


def publish_cifar10(
    host: Host, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Serve an archive, which the table takes for CIFAR-10's, of two rows a file."""
    name = CIFAR10.archive[0]
    host.files[name] = content
    digest = hashlib.sha256(content).hexdigest()
    row = replace(
        CIFAR10,
        rows={"train": 2, "test": 2},
        hosts=(f"{host.url}a/", f"{host.url}b/"),
        archive=(name, len(content), digest),
    )
    monkeypatch.setitem(SOURCES, "cifar10", row)


def publish_mnist(
    host: Host, monkeypatch: pytest.MonkeyPatch, folder: Path, *counts: int
) -> None:
    """Serve a small MNIST, which is made in `folder`, under two addresses."""
    for prefix, count in zip(("train", "t10k"), counts or (40, 20), strict=True):
        write_mnist(folder, prefix, count, ".gz")
    published = {}
    for name in MNIST.published:
        host.files[name] = content = (folder / name).read_bytes()
        published[name] = (len(content), hashlib.sha256(content).hexdigest())
    hosts = (f"{host.url}a/", f"{host.url}b/")
    row = replace(MNIST, hosts=hosts, published=published)
    monkeypatch.setitem(SOURCES, "mnist", row)
