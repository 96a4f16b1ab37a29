"""Image files that are damaged, hostile or no images: one sentence each, or an image.

All are decoded by a process of its own whose memory has a limit, by the second.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import ROOT
from tests.data.pictures import chunk, file_bytes, photo, png
from tinyflow.data import DataError
from tinyflow.data.decode import BYTES, decode

GOOD = Image.fromarray(photo(40, 32))
FILES = {
    "png": file_bytes(GOOD, "PNG"),
    "palette.png": file_bytes(GOOD.quantize(16), "PNG"),
    "jpg": file_bytes(GOOD, "JPEG"),
    "progressive.jpg": file_bytes(GOOD, "JPEG", progressive=True),
    "gif": file_bytes(GOOD.quantize(16), "GIF"),
    "bmp": file_bytes(GOOD, "BMP"),
    "webp": file_bytes(GOOD, "WEBP"),
    "lossless.webp": file_bytes(GOOD, "WEBP", lossless=True),
    "tif": file_bytes(GOOD, "TIFF"),
    "packed.tif": file_bytes(GOOD, "TIFF", compression="tiff_lzw"),
    "ppm": file_bytes(GOOD, "PPM"),
}
HUGE = 60_000


def lying() -> Iterator[tuple[str, bytes]]:
    """Files whose headers claim what nobody can hold."""
    nothing = np.zeros((1, 3), np.uint8)
    sizes = {"60000": (HUGE, HUGE), "most": (2**31 - 1,) * 2, "long": (2**31 - 1, 1)}
    for name, size in (*sizes.items(), ("none", (0, 5)), ("less", (0, 0))):
        yield f"{name}.png", png(nothing, size=size)
    yield "bits.png", png(nothing[:, :1], size=(HUGE, HUGE), bits=1, colour=0)
    jpeg = bytearray(FILES["jpg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xdc" * 2
    yield "65500.jpg", bytes(jpeg)
    gif = bytearray(FILES["gif"])
    gif[6:10] = b"\xff" * 4
    yield "65535.gif", bytes(gif)
    at = FILES["gif"].index(b",\0\0\0\0")
    gif = bytearray(FILES["gif"])
    gif[at + 5 : at + 9] = b"\xff" * 4
    yield "frame.gif", bytes(gif)
    bmp = bytearray(FILES["bmp"])
    for name, value in (("most", 2**31 - 1), ("60000", HUGE), ("less", -(2**31))):
        bmp[18:26] = struct.pack("<2i", abs(value) % 2**31, value)
        yield f"{name}.bmp", bytes(bmp)
    yield "60000.ppm", b"P6\n60000 60000\n255\n" + bytes(99)
    yield "digits.ppm", b"P6\n" + b"9" * 100_000 + b" 1\n255\n"
    yield "words.ppm", b"P3\n2 2\n255\n" + b"9" * 1_000_000
    # 16383 x 16383, the most that a WebP can say.
    yield (
        "16383.webp",
        b"RIFF\x1c\0\0\0WEBPVP8L\x0f\0\0\0\x2f\xfe\xbf\xff\x0f" + bytes(9),
    )
    canvas = b"VP8X\x0a\0\0\0\x02\0\0\0" + b"\xfe\x3f\0" * 2
    yield "canvas.webp", b"RIFF\x16\0\0\0WEBP" + canvas


def tiff(*entries: tuple[int, int, int, int], after: int = 0) -> bytes:
    """A TIFF of one page: tags with their type, count and value."""
    body = b"".join(struct.pack("<2H2I", *entry) for entry in sorted(entries))
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + body + bytes(4 + after)


SHORT, LONG = 3, 4
PAGE = {256: 40, 257: 32, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 32, 279: 1280}


def hostile() -> Iterator[tuple[str, bytes]]:
    """Files whose parts want more than there is, or never end."""
    rows = np.zeros((5, 21), np.uint8)
    flood = zlib.compress(bytes(100_000_000), 9)
    yield "text.png", png(rows, extra=chunk(b"zTXt", b"a\0\0" + flood))
    yield "profile.png", png(rows, extra=chunk(b"iCCP", b"a\0\0" + flood))
    yield "pixels.png", png(np.zeros((9_000, 9_000), np.uint8), size=(5, 3))
    yield "words.png", png(rows, extra=chunk(b"tEXt", b"a\0b") * 50_000)
    yield "length.png", FILES["png"][:8] + b"\xff\xff\xff\xffIHDR" + FILES["png"][16:]
    yield "comments.gif", FILES["gif"][:-1] + b"\x21\xfe\xff" * 100_000
    yield "markers.jpg", FILES["jpg"][:2] + b"\xff\xfe\0\2" * 100_000
    yield "fill.jpg", FILES["jpg"][:2] + b"\xff" * 1_000_000
    page = {**PAGE}
    for name, change in (
        ("60000", {256: HUGE, 257: HUGE}),
        ("strip", {273: 2**32 - 1}),
        ("strips", {279: 2**32 - 1}),
        ("samples", {277: 60_000}),
        ("packed", {259: 5, 279: 2**31}),
        ("jpeg", {259: 7}),
        ("fax", {259: 4, 258: 1}),
        ("tiles", {322: 2**31 - 16, 323: 2**31 - 16, 324: 8, 325: 99}),
        ("depth", {258: 64}),
        ("other", {259: 34_712}),
    ):
        entries = [(tag, LONG, 1, v) for tag, v in (page | change).items()]
        yield f"{name}.tif", tiff(*entries, after=1300)
    entries = [(tag, LONG, 1, v) for tag, v in page.items()]
    circle = bytearray(tiff(*entries, after=1300))
    circle[10 + 12 * len(page) :][:4] = struct.pack("<I", 8)
    yield "circle.tif", bytes(circle)
    yield "count.tif", tiff(*entries, (270, 2, 2**32 - 1, 8), after=1300)
    yield "exif.tif", tiff(*entries, (34665, LONG, 1, 8), after=1300)
    # EXIF whose directory is its own directory.
    own = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<2H2I", 34665, LONG, 1, 8) + bytes(4)
    yield "circle.png", png(rows, extra=chunk(b"eXIf", own))


def foreign() -> Iterator[tuple[str, bytes]]:
    """Files that are no images, under names of images."""
    yield "empty.png", b""
    yield "byte.png", b"\x89"
    yield "zeros.jpg", bytes(5_000)
    yield "ones.jpg", b"\xff" * 5_000
    yield "pickle.png", pickle.dumps({"a": [1.0] * 100})
    yield "gzip.png", gzip.compress(FILES["png"])
    yield "xml.png", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
    yield "page.jpg", b"<!DOCTYPE html><title>404 Not Found</title>"
    yield "text.jpg", b"these are not the pixels\n" * 99
    yield "print.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    yield "document.png", b"%PDF-1.7\n" + bytes(99)
    yield "film.jpg", b"\0\0\0\x20ftypisom" + bytes(999)
    yield "icon.png", file_bytes(GOOD, "ICO")
    yield "targa.png", file_bytes(GOOD, "TGA")
    yield "signature.png", FILES["png"][:8]
    yield "start.jpg", b"\xff\xd8\xff"
    yield "ends.png", FILES["png"][:8] + chunk(b"IEND", b"")
    yield "letters.png", FILES["png"].replace(b"IDAT", b"idat")
    yield "swapped.jpg", FILES["jpg"][::-1]
    yield "pointer.jpg", b"version https://git-lfs.github.com/spec/v1\n"


def cut() -> Iterator[tuple[str, bytes]]:
    """Good files, cut at many places."""
    for name, content in FILES.items():
        for part in (1, 5, 25, 50, 75, 95, 99):
            yield f"{part}.{name}", content[: len(content) * part // 100]


CASES = dict(item for make in (lying, hostile, foreign, cut) for item in make())

CHILD = """
import json, re, resource, sys, time
from pathlib import Path
from tinyflow.data.base import DataError
from tinyflow.data.decode import decode
import PIL.Image, PIL.WebPImagePlugin
PIL.Image.init()
def kb(what):
    text = Path("/proc/self/status").read_text()
    return int(re.search(what + r":\\s*(\\d+) kB", text)[1])
before = kb("VmHWM")
resource.setrlimit(resource.RLIMIT_AS, (kb("VmSize") * 1024 + 3 * 2**30,) * 2)
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.perf_counter()
    try:
        said = list(decode(path).size)
    except DataError as error:
        said = str(error)
    found[path.name] = said, time.perf_counter() - start
print(json.dumps({"found": found, "kb": kb("VmHWM") - before}))
"""


linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for memory")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("bad")
    for name, content in CASES.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "zip.png", "w") as packed:
        packed.writestr("a.png", FILES["png"])
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to("nowhere.png")
    with (folder / "endless.png").open("wb") as file:
        file.write(FILES["png"])
        file.truncate(BYTES + 1)
    here = os.getcwd()
    os.chdir(folder)  # a socket's name may not be long
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
    os.chdir(here)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


WHOLE = {
    # What Pillow reads though a part of it is missing or odd: an image of that size.
    *("pixels.png", "words.png", "circle.png", "circle.tif", "exif.tif"),
    *("strips.tif", "tiles.tif", "count.tif", "comments.gif", "99.palette.png"),
}


@linux
def test_each_is_refused_in_a_sentence_that_names_it(answers) -> None:
    wrong = {}
    for name, (said, _) in answers["found"].items():
        if not isinstance(said, str):
            if name not in WHOLE:
                wrong[name] = said
        elif name not in said or "\n" in said or len(said) > 500:
            wrong[name] = said
    assert not wrong
    assert len(answers["found"]) == len(CASES) + 8 > 140


@linux
@pytest.mark.parametrize("what", ["pipe", "folder", "device", "socket"])
def test_no_file_is_said_to_be_none(answers, what: str) -> None:
    assert f"is a {what}, not a file" in answers["found"][f"{what}.png"][0]


@linux
@pytest.mark.parametrize(
    "name", ["60000.png", "65500.jpg", "65535.gif", "60000.ppm", "60000.tif"]
)
def test_what_claims_too_much_is_not_decoded(answers, name: str) -> None:
    said, seconds = answers["found"][name]
    assert "pixels" in said and seconds < 1


@linux
def test_memory_and_time_are_bounded(answers) -> None:
    assert answers["kb"] < 100_000
    slow = {n: took for n, (_, took) in answers["found"].items() if took > 10}
    assert not slow


@pytest.mark.parametrize("name", FILES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_damage(name: str, tmp_path: Path, data: st.DataObject) -> None:
    """Cut anywhere, bits flipped, bytes put in: read, or refused in a sentence."""
    content = bytearray(FILES[name])
    # The beginning, where headers lie, is hit more often.
    at = st.one_of(
        st.integers(0, min(200, len(content) - 1)), st.integers(0, len(content) - 1)
    )
    for _ in range(data.draw(st.integers(1, 3))):
        place = min(data.draw(at), len(content) - 1)
        match data.draw(st.sampled_from(["cut", "flip", "insert"])):
            case "cut":
                del content[max(1, place) :]
            case "flip":
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case _:
                content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    path = tmp_path / name
    path.write_bytes(content)
    begun = time.monotonic()
    try:
        assert decode(path).mode == "RGB"
    except DataError as error:
        assert name in str(error) and "\n" not in str(error)
    assert time.monotonic() - begun < 10
