"""An image file as eight bits a channel, upright, on white.

Whatever the file is, what comes back is an image, or a sentence that names the file.
What must be decided, since files of one folder differ:

- Transparent pixels lie on white.
- 16 bits become the higher eight, y = ⌊x / 256⌋, of grey as of colour. (Pillow's own
  conversion of grey clips at 255.)
- CMYK becomes RGB by Pillow's plain formula; colour profiles are not applied.
- The orientation of a camera (EXIF) is applied.
- Of an animation, the first picture; of a TIFF, the first page.

Pillow is asked only for the formats in `FORMATS`: others start programs (EPS).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from tinyflow.data.base import DataError, reading

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = frozenset(
    ".png .jpg .jpeg .gif .bmp .webp .tif .tiff .ppm .pgm .pbm".split()
)
"""How files of these formats are called, in lower case."""
PIXELS = 2**28 // 3
"""Of the largest image: a quarter of a gigabyte as RGB."""
BYTES = 2**28
"""Of the longest file."""

_ORIENTATION = 0x0112  # its number in EXIF
_MODES = {1: "L", 3: "RGB"}


def decode(path: Path, channels: int = 3) -> Image:
    """Read an image file.

    Args:
        path: of a file in one of `FORMATS`; its name does not matter.
        channels: 3 for RGB, 1 for grey, 0.299 R + 0.587 G + 0.114 B.

    Returns:
        A Pillow image of mode "RGB" or "L".

    Raises:
        DataError: there is no such file, it is no image, cut short, damaged, larger
            than `PIXELS` or longer than `BYTES`, or holds numbers whose range nobody
            knows (32 bits).
    """
    if channels not in _MODES:
        raise DataError(f"Images have 1 or 3 channels, not {channels}.")
    with reading(path, "replace it") as file:
        if (size := os.fstat(file.fileno()).st_size) > BYTES:
            raise DataError(f"{path} holds {size:,} bytes, more than {BYTES:,}.")
        try:
            with _strictly():
                return _decoded(path, file, _MODES[channels])
        except DataError:
            raise
        except MemoryError as error:
            raise DataError(
                f"{path} needs more memory than there is: replace it."
            ) from error
        except Exception as error:  # there is no list of what Pillow raises
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's
            why = " ".join(str(error).split())[:100] or type(error).__name__
            raise DataError(
                f"{path} is damaged or cut short ({why}): replace it."
            ) from error


@contextmanager
def _strictly() -> Iterator[None]:
    """Pillow as we want it, whatever it was told: half an image is none.

    It warns of what does no harm, and of what is refused here.
    """
    from PIL import ImageFile

    told = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = told


def _decoded(path: Path, file: BinaryIO, mode: str) -> Image:
    from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

    assert TiffImagePlugin and WebPImagePlugin  # else Pillow imports all it has
    try:
        image: Image.Image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} is no image that can be read ({', '.join(FORMATS)}): replace it."
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, f"more than {PIXELS:,}") from error
    width, height = image.size
    if width * height > PIXELS:
        raise _too_large(path, f"{width:,} x {height:,}")
    image.load()
    turn = _turn(image)
    plain = _eight_bits(path, image)
    if plain.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in plain.info:
        plain = _on_white(plain.convert("RGBA"))
    plain = plain if plain.mode == mode else plain.convert(mode)
    return plain if turn is None else plain.transpose(turn)


def _too_large(path: Path, said: str) -> DataError:
    return DataError(
        f"{path} says that it has {said} pixels; {PIXELS:,} are read at most: make it "
        "smaller."
    )


def _turn(image: Image) -> Transpose | None:
    """What puts an image upright, once it is loaded."""
    from PIL.Image import Transpose as T

    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:  # damage there, which many cameras leave, harms no pixel
        return None
    turns = {
        2: T.FLIP_LEFT_RIGHT,
        3: T.ROTATE_180,
        4: T.FLIP_TOP_BOTTOM,
        5: T.TRANSPOSE,
        6: T.ROTATE_270,
        7: T.TRANSVERSE,
        8: T.ROTATE_90,
    }
    return turns.get(orientation) if isinstance(orientation, int) else None


def _eight_bits(path: Path, image: Image) -> Image:
    from PIL import Image

    wide = image.mode.startswith("I;16")
    if wide or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(
            f"{path} holds numbers of 32 bits, of which nobody knows what is white: "
            "save it with 8 or 16 bits a channel."
        )
    return image


def _on_white(image: Image) -> Image:
    """y = (a x + (255 - a) 255) / 255 of each colour x with opacity a."""
    from PIL import Image

    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white
