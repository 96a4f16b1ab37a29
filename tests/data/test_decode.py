"""Image files of every kind, against pixels that are known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from tests.data.pictures import chunk, file_bytes, photo, png
from tinyflow.data import DataError
from tinyflow.data import decode as module
from tinyflow.data.decode import FORMATS, SUFFIXES, decode

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
WIDE = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)


def decoded(folder: Path, content: bytes, channels: int = 3) -> NDArray[np.int64]:
    path = folder / "image.of.some-kind"
    path.write_bytes(content)
    image = decode(path, channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    return np.asarray(image).astype(int)


def said(folder: Path, content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        decoded(folder, content)
    assert "image.of.some-kind" in str(caught.value)
    return str(caught.value)


def luma(rgb: NDArray[np.integer]) -> NDArray[np.float64]:
    return rgb @ np.array([0.299, 0.587, 0.114])


EXACT = {
    "PNG": {},
    "BMP": {},
    "PPM": {},
    "TIFF": {},
    "WEBP": {"lossless": True, "exact": True},
}


@pytest.mark.parametrize("format", FORMATS)
def test_colours_and_grey_in_every_format(tmp_path: Path, format: str) -> None:
    if format in EXACT:
        want, error = COLOURS, 0
    else:  # GIF has a palette, JPEG approximates
        want, error = photo(96, 64), 8 if format == "JPEG" else 0
        if format == "GIF":
            want = (want // 86 * 100).astype(np.uint8)  # 27 colours
    how = EXACT.get(format, {"quality": 95} if format == "JPEG" else {})
    content = file_bytes(Image.fromarray(want), format, **how)
    found = decoded(tmp_path, content)
    assert found.shape == want.shape
    assert np.abs(found - want).max() <= error
    grey = decoded(tmp_path, content, channels=1)
    assert np.abs(grey - luma(want)).max() <= error + 0.5001


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_grey_files(tmp_path: Path, format: str) -> None:
    content = file_bytes(Image.fromarray(GREY), format)
    np.testing.assert_array_equal(decoded(tmp_path, content, 1), GREY)
    found = decoded(tmp_path, content)
    np.testing.assert_array_equal(found, np.repeat(GREY[..., None], 3, 2))


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_black_and_white(tmp_path: Path, format: str) -> None:
    content = file_bytes(Image.fromarray(GREY).convert("1", dither=0), format)
    want = np.where(GREY > 127, 255, 0)
    np.testing.assert_array_equal(decoded(tmp_path, content, 1), want)


def over_white(rgb: NDArray[np.integer], alpha: NDArray[np.integer]) -> NDArray:
    a = alpha[..., None] / 255
    return a * rgb + (1 - a) * 255


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, format: str) -> None:
    how = EXACT[format]
    both = np.concatenate([COLOURS, GREY[..., None]], -1)
    both[0, :, 3], both[1, :, 3] = 0, 255
    content = file_bytes(Image.fromarray(both), format, **how)
    found, want = decoded(tmp_path, content), over_white(COLOURS, both[..., 3])
    assert np.abs(found - want).max() <= 1
    assert (found[0] == 255).all() and (found[1] == COLOURS[1]).all()


def test_grey_with_opacity(tmp_path: Path) -> None:
    both = np.stack([GREY, COLOURS[..., 0]], -1)
    found = decoded(tmp_path, file_bytes(Image.fromarray(both, "LA"), "PNG"), 1)
    want = over_white(GREY[..., None], both[..., 1])[..., 0]
    assert np.abs(found - want).max() <= 1


@pytest.mark.parametrize("transparent", [2, bytes([255, 128, 0])])
def test_palettes_with_transparency(tmp_path: Path, transparent: int | bytes) -> None:
    image = Image.fromarray((GREY % 3).astype(np.uint8), "P")
    table = [200, 10, 30, 40, 250, 60, 70, 80, 90]
    image.putpalette(table)
    content = file_bytes(image, "PNG", transparency=transparent)
    alpha = np.array([255, 255, 0] if transparent == 2 else [255, 128, 0])
    colours = np.array(table).reshape(3, 3)
    want = over_white(colours[GREY % 3], alpha[GREY % 3])
    assert np.abs(decoded(tmp_path, content) - want).max() <= 1


def test_a_colour_that_stands_for_nothing(tmp_path: Path) -> None:
    """PNG's way for RGB: all pixels of one colour are transparent."""
    colours = COLOURS.copy()
    colours[2, 3] = 1, 2, 3
    content = file_bytes(Image.fromarray(colours), "PNG", transparency=(1, 2, 3))
    colours[2, 3] = 255
    np.testing.assert_array_equal(decoded(tmp_path, content), colours)


def test_cmyk(tmp_path: Path) -> None:
    """R = (255 - C)(255 - K) / 255 and so on."""
    inks = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(inks, "CMYK")
    want = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    found = decoded(tmp_path, file_bytes(image, "TIFF"))
    assert np.abs(found - want).max() <= 1
    # A JPEG of inks, as Photoshop writes it: inverted, which nobody sees.
    flat = np.broadcast_to(np.array([200, 30, 90, 40], np.uint8), (16, 16, 4))
    content = file_bytes(Image.fromarray(flat, "CMYK"), "JPEG", quality=95)
    want = (255.0 - flat[..., :3]) * (255.0 - flat[..., 3:]) / 255
    assert np.abs(decoded(tmp_path, content) - want).max() <= 3


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_of_grey(tmp_path: Path, format: str, channels: int) -> None:
    content = file_bytes(Image.fromarray(WIDE), format)
    found = decoded(tmp_path, content, channels).reshape(20, 30, -1)
    np.testing.assert_array_equal(found[..., 0], WIDE // 256)
    assert found.min() == 0 and found.max() == 255
    assert (found == found[..., :1]).all()


def test_sixteen_bits_whose_first_byte_is_the_higher(tmp_path: Path) -> None:
    big = Image.frombytes("I;16B", (30, 20), WIDE.astype(">u2").tobytes())
    found = decoded(tmp_path, file_bytes(big, "TIFF"), 1)
    np.testing.assert_array_equal(found, WIDE // 256)


def test_sixteen_bits_of_colour_are_as_those_of_grey(tmp_path: Path) -> None:
    rows = np.stack([WIDE, WIDE[::-1], WIDE[:, ::-1]], -1)
    content = png(rows.reshape(20, -1).astype(">u2"), bits=16)
    np.testing.assert_array_equal(decoded(tmp_path, content), rows // 256)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_a_white_are_refused(tmp_path: Path, kind: type) -> None:
    content = file_bytes(Image.fromarray(WIDE.astype(kind)), "TIFF")
    assert "32 bits" in said(tmp_path, content)


def stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """How a camera stores an image, from EXIF's words.

    The 0th row and the 0th column of what is stored are the visual top, left side …
    """
    row, column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    height, width = upright.shape[:2]
    turned = row in ("left", "right")
    out = np.empty_like(upright.swapaxes(0, 1) if turned else upright)
    for y in range(height):
        for x in range(width):
            away = {"top": y, "bottom": height - 1 - y}
            away |= {"left": x, "right": width - 1 - x}
            out[away[row], away[column]] = upright[y, x]
    return out


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_put_upright(tmp_path: Path, format: str, orientation: int) -> None:
    want = photo(96, 64) if format == "JPEG" else COLOURS
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = EXACT.get(format, {"quality": 95, "subsampling": 0}) | {"exif": exif}
    image = Image.fromarray(stored(want, orientation))
    found = decoded(tmp_path, file_bytes(image, format, **how))
    assert found.shape == want.shape
    assert np.abs(found - want).max() <= (8 if format == "JPEG" else 0)


def test_sixteen_bits_are_put_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = file_bytes(Image.fromarray(stored(WIDE, 6)), "PNG", exif=exif)
    np.testing.assert_array_equal(decoded(tmp_path, content, 1), WIDE // 256)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = file_bytes(Image.fromarray(COLOURS), "PNG", exif=exif)
    np.testing.assert_array_equal(decoded(tmp_path, content), COLOURS)


@pytest.mark.parametrize("size", [0, 1, 5, 20, 60])
def test_damaged_words_of_a_camera_harm_no_pixel(tmp_path: Path, size: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera" * 9
    words = exif.tobytes()[6:][:size] + b"\xff" * 9
    content = png(COLOURS.reshape(5, -1), extra=chunk(b"eXIf", words))
    found = decoded(tmp_path, content)
    assert found.shape in (COLOURS.shape, (7, 5, 3))


def test_the_first_picture_of_many(tmp_path: Path) -> None:
    first, second = (photo(24, 16, seed) // 86 * 100 for seed in (1, 2))
    frames = [Image.fromarray(part.astype(np.uint8)) for part in (first, second)]
    for format, how in (("GIF", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        how |= {"save_all": True, "append_images": frames[1:]}
        content = file_bytes(frames[0], format, **how)
        np.testing.assert_array_equal(decoded(tmp_path, content), first)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_small_and_thin_ones(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    content = file_bytes(Image.fromarray(pixels), "PNG")
    np.testing.assert_array_equal(decoded(tmp_path, content), pixels)


def test_limits_are_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = file_bytes(Image.fromarray(COLOURS), "PNG")
    monkeypatch.setattr(module, "PIXELS", 35)
    monkeypatch.setattr(module, "BYTES", len(content))
    assert decoded(tmp_path, content).shape == (5, 7, 3)
    monkeypatch.setattr(module, "PIXELS", 34)
    assert "says that it has 7 x 5 pixels; 34 are read" in said(tmp_path, content)
    monkeypatch.setattr(module, "BYTES", len(content) - 1)
    assert f"{len(content):,} bytes, more than" in said(tmp_path, content)


def test_what_is_decoded_is_the_same_whatever_pillow_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = file_bytes(Image.fromarray(photo(64, 64)), "JPEG", quality=95)
    whole = decoded(tmp_path, content)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    np.testing.assert_array_equal(decoded(tmp_path, content), whole)
    assert "cut short" in said(tmp_path, content[: len(content) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_other_numbers_of_channels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 or 3 channels, not 4"):
        decode(tmp_path / "a.png", 4)


def test_names_of_files(tmp_path: Path) -> None:
    known = {s for s, format in Image.registered_extensions().items()}
    assert known >= SUFFIXES
    of = {s: f for s, f in Image.registered_extensions().items() if s in SUFFIXES}
    assert set(of.values()) == set(FORMATS)
