"""How the files that commands read are corrupted: of a good one, many bad ones.

None of them may be read as if it were good: what nobody can see, such as another pixel
in a file without a checksum, is left out.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.files import idx
from tests.data.test_bad_images import CASES as IMAGES
from tests.data.test_hostile import bomb
from tinyflow.tensorfile import open_tensors, write_tensors

Cases = dict[str, bytes | int]
"""What lies in the file; a number is its good content, and zeros up to that length."""

EXECUTED = "executed"
"""A file that the code in a hostile pickle would make."""


class Hostile:
    def __reduce__(self) -> Any:
        return open, (EXECUTED, "w")


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("archive/data.pkl", pickle.dumps(Hostile()))
    return file.getvalue()


FOREIGN: Cases = {
    "empty": b"",
    "one byte": b"\0",
    "zeros": bytes(5_000),
    "ones": b"\xff" * 5_000,
    "pickle": pickle.dumps(Hostile()),
    "PyTorch's pickle": archive(),
    "header of 2⁶³ bytes": struct.pack("<Q", 2**63) + b"{}",
    "header of 4 GB": struct.pack("<Q", 2**32) + b"{" + b" " * 500,
    "nested header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "nested": b"[" * 200_000,
    "one long line": b"a" * 3_000_000,
    "UTF-16": "step,loss\n".encode("utf-16"),
}


def cut(good: bytes) -> Cases:
    return {f"cut at {p} %": good[: len(good) * p // 100] for p in (10, 50, 90)}


def flipped(good: bytes, places: dict[str, int]) -> Cases:
    found: Cases = {}
    for name, place in places.items():
        content = bytearray(good)
        content[place] ^= 0x41
        found[f"flipped in {name}"] = bytes(content)
    return found


# --- images and labels -------------------------------------------------------------


def of_mnist(good: bytes) -> Cases:
    """An idx file's header: two zeros, type, axes, then the lengths of the axes."""
    places = {"its magic": 2, "its axes": 3, "its count": 7}
    found = FOREIGN | cut(good) | flipped(good, places) | {"too long": good + b"\0"}
    axes = good[3]
    for name, count in (("none", 0), ("most", 2**32 - 1), ("5 GB", 5 * 10**9 // 784)):
        found[f"claims {name}"] = good[:4] + struct.pack(">I", count) + good[8:]
    if axes == 3:
        shape = np.zeros((20, 27, 29), np.uint8)
        found["wrong shape"] = idx(shape)
        found["one axis"] = idx(np.zeros(20, np.uint8))
    else:
        found["label 10"] = good[:-1] + b"\x0a"
        found["wrong shape"] = idx(np.zeros((20, 1), np.uint8))
    return found | {"endless": 5 * 10**9}


def of_packed(good: bytes) -> Cases:
    """A gzip or xz file: also such that grow to 3 GB."""
    how = "gz" if good[:2] == b"\x1f\x8b" else "xz"
    pack = gzip.compress if how == "gz" else lzma.compress
    places = {"its magic": 0, "the middle": len(good) // 2, "its end": len(good) - 5}
    found = FOREIGN | cut(good) | flipped(good, places)
    head = struct.pack(">4I", 0x803, 20, 28, 28) if how == "gz" else b""
    most = struct.pack(">4I", 0x803, 2**32 - 1, 28, 28)
    return found | {
        "grows": bomb(head, 3 * 10**9, how),
        "grows as it says": bomb(most, 3 * 10**9, how),
        "packed nothing": pack(b""),
        "packed pickle": pack(pickle.dumps(Hostile())),
        "packed twice": pack(good),
        "followed by others": good + b"garbage",
    }


def of_cifar(good: bytes) -> Cases:
    """Rows of a label, in CIFAR-100 two, and 3,072 pixels; nothing says how many."""
    found = FOREIGN | cut(good) | {"label 255": b"\xff\xff" + good[2:]}
    return found | {
        "one byte less": good[:-1],
        "one byte more": good + b"\0",
        "one row less": good[:-3073],
        "wrong shape": good[: 10_000 * 785],
        "packed": gzip.compress(good, 1),
        "endless": 5 * 10**9,
    }


BROKEN = (
    *("60000.png", "most.png", "long.png", "none.png", "bits.png", "65500.jpg"),
    *("65535.gif", "frame.gif", "most.bmp", "60000.ppm", "digits.ppm", "words.ppm"),
    *("16383.webp", "canvas.webp", "text.png", "profile.png", "length.png"),
    *("60000.tif", "strip.tif", "samples.tif", "packed.tif"),
    *("xml.png", "print.png", "document.png", "film.jpg", "signature.png"),
    *("ends.png", "letters.png", "swapped.jpg", "pointer.jpg"),
)
"""Of the images in test_bad_images.py; the formats do not depend on a file's name."""


def of_images(good: bytes) -> Cases:
    found = FOREIGN | cut(good) | {name: IMAGES[name] for name in BROKEN}
    middle = {"its pixels": len(good) // 2, "its magic": 1, "its size": 18}
    return found | flipped(good, middle) | {"endless": 5 * 10**9}


# --- what a run leaves -------------------------------------------------------------


def of_tensors(good: bytes) -> Cases:
    """A length, a header in JSON, arrays."""
    length = struct.unpack("<Q", good[:8])[0]
    header, rest = json.loads(good[8 : 8 + length]), good[8 + length :]

    def put(change: Callable[[dict[str, Any]], object]) -> bytes:
        changed = json.loads(json.dumps(header))
        change(changed)
        text = json.dumps(changed).encode()
        return struct.pack("<Q", len(text)) + text + rest

    name = next(n for n in header if n.endswith("fc.weight"))
    return (
        FOREIGN
        | cut(good)
        | flipped(good, {"its length": 1, "its header": 8, "names": 12})
        | {
            "wrong shape": put(lambda h: h[name].update(shape=[512, 10])),
            "shape of 10¹²": put(lambda h: h[name].update(shape=[10**12])),
            "shape below 0": put(lambda h: h[name].update(shape=[-10, 512])),
            "beyond its end": put(lambda h: h[name].update(data_offsets=[0, 10**15])),
            "another type": put(lambda h: h[name].update(dtype="I32")),
            "no array": put(lambda h: h.pop(name)),
            "says nothing": put(lambda h: h.pop("__metadata__")),
            "says other things": put(
                lambda h: h.update(__metadata__={"tinyflow": "[]"})
            ),
            "endless": 5 * 10**9,
        }
    )


def of_weights(good: bytes) -> Cases:
    bad = bytearray(good)
    bad[-4:] = struct.pack("<f", np.nan)
    return of_tensors(good) | {"NaN": bytes(bad)}


def of_state(good: bytes) -> Cases:
    """Also such as say something else of their run."""
    Path("good").write_bytes(good)
    with open_tensors(Path("good")) as file:
        arrays = {name: file.read(name) for name in file.entries}
        told = json.loads(file.metadata["tinyflow"])

    def saying(change: Callable[[dict[str, Any]], object]) -> bytes:
        entry = json.loads(json.dumps(told))
        change(entry)
        write_tensors(Path("bad"), arrays, {"tinyflow": json.dumps(entry)})
        return Path("bad").read_bytes()

    found: Cases = {
        "no position": saying(lambda e: e.pop("position")),
        "step -1": saying(lambda e: e["position"].update(step=-1)),
        "another epoch": saying(lambda e: e["position"].update(epoch=7)),
        "outside": saying(lambda e: e["position"]["lengths"].update({"../a": 0})),
        "no generators": saying(lambda e: e["generators"].clear()),
        "another format": saying(lambda e: e.update(format=2)),
    }
    return of_tensors(good) | found


def of_json(good: bytes) -> Cases:
    return (
        FOREIGN
        | cut(good)
        | flipped(good, {"its beginning": 0, "its end": -2})
        | {
            "null": b"null",
            "a list": b"[1, 2]",
            "a number": b"12",
            "another's": b'{"model": "tiny"}',
            "NaN": b'{"model": NaN}',
            "twice": b'{"seed": 1, "seed": 2}',
            "digits": b'{"seed": ' + b"9" * 10_000 + b"}",
            "nested objects": b'{"a":' * 200_000,
            "endless": 5 * 10**9,
        }
    )


def of_config(good: bytes) -> Cases:
    changes = (
        *({"epochs": "3"}, {"seed": True}, {"lr": [1]}, {"new": 1}, {"batch_size": 0}),
        *({"model": "nobody"}, {"model": 3}, {"dataset": "../.."}, {"optimizer": "x"}),
    )
    told = json.loads(good)
    return of_json(good) | {
        str(change): json.dumps(told | change).encode() for change in changes
    }


def of_seeds(good: bytes) -> Cases:
    lists: tuple[Any, ...] = ([], [-1], ["0"], [0.5], [0, 0], {}, None, [*range(9999)])
    return of_json(good) | {
        f"seeds {str(seeds)[:20]}": json.dumps({"seeds": seeds}).encode()
        for seeds in lists
    }


def of_table(good: bytes) -> Cases:
    """A line of names, then numbers; one cut in a later line is read up to there."""
    head, first, *rest = good.splitlines(keepends=True)
    entries = first.split(b",")

    def row(*changed: bytes) -> bytes:
        return b"".join([head, b",".join([*changed, *entries[len(changed) :]]), *rest])

    return (
        FOREIGN
        | flipped(good, {"its head": 0})
        | {
            "cut in its head": head[:-9],
            "no head": first,
            "wrong shape": head + b"1,2\n",
            "another head": b"a," + good,
            "letters": row(b"one"),
            "below 0": row(b"-1"),
            "NaN": row(b"nan"),
            "digits": row(b"1" * 5_000),
            "a long line": head + b"1" * 20_000 + b"\n",
            "a quote": row(b'"'),
            "zeros in it": row(b"1\0"),
            "no text": row(b"\xff\xfe"),
            "endless": 5 * 10**9,
        }
    )


NET = b"""
import numpy as np
from tinyflow import nn
class Net(nn.Module):
    def __init__(self, num_classes, image_size, in_channels, rng):
        super().__init__()
        self.fc = nn.Linear(in_channels * image_size**2, num_classes, rng=rng)
    def forward(self, x):
        return self.fc(x.reshape(len(x.data), -1))
"""


def of_source(good: bytes) -> Cases:
    """Python: to run it is what it is for, but not to run what else lies there."""
    wrong = good.replace(b"num_classes, rng", b"3, rng")
    assert wrong != good
    return (
        FOREIGN
        | cut(good)
        | flipped(good, {"its text": 3})
        | {
            "wrong shape": wrong,
            "another name": good.replace(b"Net", b"Ten"),
            "no network": good.split(b"class")[0] + b"Net = 3\n",
            "other arguments": good.replace(b"image_size, in_channels", b"size"),
            "ends": good + b"raise SystemExit(3)\n",
            "raises": good + b"raise Exception('two\\nlines' + 'x' * 10**6)\n",
            "endless": 5 * 10**9,
        }
    )
