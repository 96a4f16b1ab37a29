"""Image files, and folders of them, as people have them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinyflow.data import ImageFolder, load_folder

U8 = NDArray[np.uint8]


def photo(width: int, height: int, seed: int = 0, channels: int = 3) -> U8:
    """Soft coloured patches, which JPEG keeps well: (H, W, C)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, channels), dtype=np.uint8)
    if channels == 1:
        small = small[..., 0]
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def file_bytes(image: Image.Image, format: str, **how: Any) -> bytes:
    """What the file of an image holds."""
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    crc = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + crc


def png(
    rows: NDArray[Any],
    *,
    size: tuple[int, int] | None = None,
    bits: int = 8,
    colour: int = 2,
    extra: bytes = b"",
) -> bytes:
    """A PNG written by hand from its rows (H, values of a row, big-endian if 16 bits).

    Args:
        rows: what is packed.
        size: what the header says, if something else.
        bits, colour: as in the header; 0 is grey, 2 is RGB, 4 is grey and opacity.
        extra: parts between header and pixels.
    """
    values = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    width, height = size or (rows.shape[1] // values, rows.shape[0])
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def write_folder(
    root: Path,
    train: int = 6,
    test: int = 3,
    classes: tuple[str, ...] = ("ant", "bee", "cat"),
    val: str = "val",
) -> Path:
    """A folder of class folders; each class has its colour, each image its patches."""
    kinds = (("png", {}), ("jpg", {"quality": 90}), ("bmp", {}), ("webp", {}))
    for split, count in (("train", train), (val, test)):
        for label, name in enumerate(classes):
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(count):
                seed = label * 1000 + i + (split != "train") * 100_000
                rng = np.random.default_rng(seed)
                width, height = rng.integers(20, 80, 2)
                pixels = photo(int(width), int(height), seed) // 2
                pixels[..., label % 3] += 120
                suffix, how = kinds[i % len(kinds)]
                format = {"jpg": "JPEG"}.get(suffix, suffix.upper())
                content = file_bytes(Image.fromarray(pixels), format, **how)
                (place / f"{i:03}.{suffix}").write_bytes(content)
    return root


def load_small(folder: Path, split: str = "train", **how: Any) -> ImageFolder:
    return load_folder(folder, split, **{"image_size": 16, "workers": 0} | how)
