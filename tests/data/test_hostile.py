"""Files that are damaged, hostile or no files: one sentence each, in bounded memory."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import pickle
import signal
import socket
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import models
from tests.train.small import tiny
from tinyflow.data import (
    DataError,
    load_cifar10,
    load_cifar100,
    load_fashion_mnist,
    load_mnist,
)
from tinyflow.flow import FlowError
from tinyflow.flow.trace import COLUMNS, read_trace
from tinyflow.reading import Unreadable, read_object
from tinyflow.train import CheckpointError, load_checkpoint
from tinyflow.train.checkpoint import Metadata, save_checkpoint
from tinyflow.train.metrics import COLUMNS as METRICS
from tinyflow.train.metrics import read_metrics

MEMORY = 100_000_000  # bytes; the largest good file here holds 31 million


def idx(array: np.ndarray) -> bytes:
    shape = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return shape + array.astype(np.uint8).tobytes()


def mnist(folder: Path, suffix: str = "") -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    for kind, array in (("images-idx3", pixels), ("labels-idx1", np.arange(6))):
        packed = gzip.compress(idx(array)) if suffix else idx(array)
        (folder / f"train-{kind}-ubyte{suffix}").write_bytes(packed)


def cifar(folder: Path, suffix: str = "") -> None:
    rows = np.zeros((10_000, 3073), np.uint8)
    rows[:20] = np.random.default_rng(0).integers(0, 10, (20, 3073))
    content = rows.tobytes()
    packed = lzma.compress(content, preset=0) if suffix else content
    (folder / f"test_batch.bin{suffix}").write_bytes(packed)


def cifar100(folder: Path) -> None:
    rows = np.zeros((10_000, 3074), np.uint8)
    rows[:20] = np.random.default_rng(0).integers(0, 10, (20, 3074))
    (folder / "test.bin.xz").write_bytes(lzma.compress(rows.tobytes(), preset=0))


METADATA = Metadata("tiny", 10, 32, 3, "shapes", 0, 1, 0.5)
IMAGE = np.linspace(0, 1, 3 * 32 * 32).reshape(3, 32, 32)


def checkpoint(folder: Path, **more: Any) -> None:
    model = models.build_model("tiny")
    save_checkpoint(folder / "last.safetensors", model, replace(METADATA, **more))


def trace(folder: Path) -> None:
    lines = [",".join(COLUMNS)]
    for step in range(3):
        for term in ("x", "F"):
            lines.append(f"{step},2.3,layer1.0,plain,{term},1,,0.5")
    (folder / "trace.csv").write_text("\n".join(lines) + "\n")


def metrics(folder: Path) -> None:
    lines = [",".join(METRICS), *(f"{n},2,0.1,2,0.1,0.1,9,1,1,1" for n in (1, 2))]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")


def config(folder: Path) -> None:
    content = {"model": "tiny", "dataset": "shapes", "seed": 0, "batch_size": 4}
    (folder / "config.json").write_text(json.dumps(content))


@dataclass
class Kind:
    """One kind of file: how a good one is made and read, how a bad one is refused."""

    make: Callable[[Path], None]
    name: str
    load: Callable[[Path], Any]
    error: type[Exception]


load_run = partial(load_checkpoint, find=models.find)
KINDS = {
    "mnist images": Kind(mnist, "train-images-idx3-ubyte", load_mnist, DataError),
    "mnist labels": Kind(mnist, "train-labels-idx1-ubyte", load_mnist, DataError),
    "mnist images.gz": Kind(
        lambda f: mnist(f, ".gz"), "train-images-idx3-ubyte.gz", load_mnist, DataError
    ),
    "mnist labels.gz": Kind(
        lambda f: mnist(f, ".gz"), "train-labels-idx1-ubyte.gz", load_mnist, DataError
    ),
    "cifar10": Kind(
        cifar, "test_batch.bin", lambda f: load_cifar10(f, "test", limit=20), DataError
    ),
    "cifar10.xz": Kind(
        lambda f: cifar(f, ".xz"),
        "test_batch.bin.xz",
        lambda f: load_cifar10(f, "test"),
        DataError,
    ),
    "cifar100.xz": Kind(
        cifar100, "test.bin.xz", lambda f: load_cifar100(f, "test"), DataError
    ),
    "fashion images.gz": Kind(
        lambda f: mnist(f, ".gz"),
        "train-images-idx3-ubyte.gz",
        load_fashion_mnist,
        DataError,
    ),
    "checkpoint": Kind(checkpoint, "last.safetensors", load_run, CheckpointError),
    "checkpoint with a mean image": Kind(
        lambda f: checkpoint(f, mean=IMAGE, std=(1.0,) * 3),
        "last.safetensors",
        load_run,
        CheckpointError,
    ),
    "trace": Kind(trace, "trace.csv", read_trace, FlowError),
    "metrics": Kind(
        metrics, "metrics.csv", lambda f: read_metrics(f / "metrics.csv"), Unreadable
    ),
    "config": Kind(
        config, "config.json", lambda f: read_object(f / "config.json"), Unreadable
    ),
}


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = models.Network("tiny", tiny, 32, 0.05)
    monkeypatch.setitem(models.MODELS, "tiny", entry)


@contextmanager
def bounded(memory: int = MEMORY, seconds: int = 30) -> Iterator[None]:
    """What happens here takes no more than this."""

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(kind: Kind, folder: Path) -> str:
    """The sentence with which a bad file is refused."""
    with bounded(), pytest.raises(kind.error) as caught:
        kind.load(folder)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 700, sentence
    return sentence


# --- any file ----------------------------------------------------------------------

CONTENTS = {
    "empty": b"",
    "one byte": b"\0",
    "zeros": bytes(5_000),
    "ones": b"\xff" * 5_000,
    "pickle": pickle.dumps({"state_dict": [1.0] * 100}),
    "zip": b"PK\x03\x04" + bytes(500),
    "nested": b"[" * 200_000,
    "nested objects": b'{"a":' * 200_000,
    "one long line": b"a" * 3_000_000,
    "UTF-16": "step,loss\n".encode("utf-16"),
    "bad UTF-8": b"step,\xff\xfe,\n" * 9,
    "header of 2⁶³ bytes": struct.pack("<Q", 2**63) + b"{}",
    "header of 4 GB": struct.pack("<Q", 2**32) + b"{" + b" " * 500,
    "nested header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "empty gzip": gzip.compress(b""),
    "empty xz": lzma.compress(b""),
    "null": b"null",
    "list": b"[1, 2]",
    "number": b"12",
    "NaN": b'{"model": NaN}',
    "twice": b'{"model": 1, "model": 2}',
    "digits": b'{"seed": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_foreign_bytes(tmp_path: Path, kind: str, content: str) -> None:
    KINDS[kind].make(tmp_path)
    (tmp_path / KINDS[kind].name).write_bytes(CONTENTS[content])
    assert KINDS[kind].name in refused(KINDS[kind], tmp_path)


@pytest.mark.parametrize("what", ["pipe", "folder", "loop", "socket", "device", "gone"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_file(tmp_path: Path, kind: str, what: str) -> None:
    KINDS[kind].make(tmp_path)
    path = tmp_path / KINDS[kind].name
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "socket":
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's name may not be long
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
        os.chdir(here)
    sentence = refused(KINDS[kind], tmp_path)
    assert path.name in sentence
    if what in ("pipe", "folder", "socket", "device"):
        assert f"is a {what}" in sentence


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_closed_to_us(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    KINDS[kind].make(tmp_path)
    real = os.stat

    def closed(path: Any, *args: Any, **how: Any) -> os.stat_result:
        if str(path).startswith(str(tmp_path)):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *args, **how)

    monkeypatch.setattr(os, "stat", closed)
    assert "Permission denied" in refused(KINDS[kind], tmp_path)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "a/b/c"])
def test_places_with_no_name(tmp_path: Path, name: str) -> None:
    for load, error in (
        (load_mnist, DataError),
        (load_fashion_mnist, DataError),
        (load_cifar10, DataError),
        (load_cifar100, DataError),
        (load_run, CheckpointError),
        (read_trace, FlowError),
        (read_metrics, Unreadable),
    ):
        with pytest.raises(error) as caught:
            load(tmp_path / name)  # type: ignore[operator]
        assert "\n" not in str(caught.value)


def whole_or_refused(kind: Kind, folder: Path) -> None:
    """Damage that shows is told in one sentence; none ends in another error."""
    with bounded():
        try:
            kind.load(folder)
        except kind.error as error:
            assert "\n" not in str(error) and len(str(error)) < 700, str(error)


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith("cifar")])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    """Cut anywhere, bits flipped, bytes put in: read, or refused in a sentence."""
    KINDS[kind].make(tmp_path)
    path = tmp_path / KINDS[kind].name
    content = bytearray(path.read_bytes())
    # The beginning, where headers lie, is hit more often.
    at = st.one_of(
        st.integers(0, min(700, len(content) - 1)), st.integers(0, len(content) - 1)
    )
    way = data.draw(st.sampled_from(["cut", "flip", "insert", "append"]))
    if way == "cut":
        content = content[: data.draw(at)]
    elif way == "flip":
        for place in data.draw(st.lists(at, min_size=1, max_size=4)):
            content[place] ^= data.draw(st.integers(1, 255))
    else:
        place = data.draw(at) if way == "insert" else len(content)
        content[place:place] = data.draw(st.binary(min_size=1, max_size=40))
    path.write_bytes(content)
    whole_or_refused(KINDS[kind], tmp_path)


@pytest.mark.parametrize(
    "kind", ["cifar10.xz", "cifar100.xz", "mnist images.gz", "mnist labels.gz"]
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_cut_archives(tmp_path: Path, kind: str, share: float) -> None:
    KINDS[kind].make(tmp_path)
    path = tmp_path / KINDS[kind].name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "damaged or cut short" in refused(KINDS[kind], tmp_path)


# --- bombs -------------------------------------------------------------------------


def bomb(head: bytes, zeros: int, how: str) -> bytes:
    """A small archive of `head` and so many zeros."""
    if how == "gz":
        return gzip.compress(head) + gzip.compress(bytes(10**6)) * (zeros // 10**6)
    return lzma.compress(head, preset=0) + lzma.compress(bytes(10**6)) * (
        zeros // 10**6
    )


@pytest.mark.parametrize("count", [6, 60_000, 60_001, 4_000_000, 2**32 - 1])
@pytest.mark.parametrize("which", ["images", "labels"])
def test_an_archive_that_grows(tmp_path: Path, which: str, count: int) -> None:
    """3 GB, whatever the header announces, labels that agree with it included."""
    kind = KINDS[f"mnist {which}.gz"]
    kind.make(tmp_path)
    packed = {}
    for name, item in (("images", (28, 28)), ("labels", ())):
        ndim = 1 + len(item)
        head = struct.pack(f">{1 + ndim}I", 0x0800 + ndim, count, *item)
        packed[name] = bomb(head, 3 * 10**9, "gz")
        assert len(packed[name]) < 4_000_000
    (tmp_path / kind.name).write_bytes(packed[which])
    refused(kind, tmp_path)
    if which == "images":
        other = KINDS["mnist labels.gz"]
        head = struct.pack(">2I", 0x0801, count)
        content = bomb(head, max(count, 10**6) if count < 10**7 else 10**7, "gz")
        (tmp_path / other.name).write_bytes(content)
        refused(kind, tmp_path)


def test_an_xz_archive_that_grows(tmp_path: Path) -> None:
    kind = KINDS["cifar10.xz"]
    content = bomb(b"", 3 * 10**9, "xz")
    assert len(content) < 1_000_000
    (tmp_path / kind.name).write_bytes(content)
    assert "more than 30730000" in refused(kind, tmp_path)


def test_an_xz_archive_that_wants_a_huge_dictionary(tmp_path: Path) -> None:
    kind = KINDS["cifar10.xz"]
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20, "preset": 0}]
    content = bytearray(lzma.compress(bytes(1000), lzma.FORMAT_XZ, filters=filters))
    (tmp_path / kind.name).write_bytes(content)
    assert "damaged" in refused(kind, tmp_path)


@pytest.mark.parametrize("extra", [b"\0" * 8, b"garbage"])
def test_what_follows_an_archive(tmp_path: Path, extra: bytes) -> None:
    """Zeros may pad an archive; anything else is damage."""
    for name in ("mnist images.gz", "cifar10.xz"):
        kind = KINDS[name]
        kind.make(tmp_path)
        path = tmp_path / kind.name
        path.write_bytes(path.read_bytes() + extra)
        if extra.strip(b"\0"):
            assert "damaged" in refused(kind, tmp_path)
        else:
            assert len(kind.load(tmp_path)) in (6, 10_000)


def test_archives_in_parts(tmp_path: Path) -> None:
    for name, pack in (("mnist images.gz", gzip), ("cifar10.xz", lzma)):
        kind = KINDS[name]
        kind.make(tmp_path)
        path, want = tmp_path / kind.name, kind.load(tmp_path)
        content = pack.decompress(path.read_bytes())  # type: ignore[attr-defined]
        level = {"compresslevel": 1} if pack is gzip else {"preset": 0}
        parts = (content[:1000], b"", content[1000:])
        path.write_bytes(b"".join(pack.compress(part, **level) for part in parts))  # type: ignore[attr-defined]
        np.testing.assert_array_equal(kind.load(tmp_path).images, want.images)
