"""RandAugment: a few random changes of an image, all of one strength.

Cubuk, Zoph, Shlens & Le 2020, arXiv:1909.13719, with the ranges of AutoAugment's
Table 6 (Cubuk et al. 2019, arXiv:1805.09501) at magnitude 10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = 128  # what comes in from outside, as in the authors' code
SHEAR, TURN, SHIFT, ENHANCE = 0.3, 30.0, 150 / 331, 0.9  # at magnitude 10

Change = Callable[["Image", float], "Image"]
"""Given an image and a strength, signed where that makes a difference."""


def _affine(picture: Image, matrix: tuple[float, ...]) -> Image:
    from PIL.Image import Resampling, Transform

    bands = len(picture.getbands())
    fill = GREY if bands == 1 else (GREY,) * bands
    kind = Transform.AFFINE
    size = picture.size
    return picture.transform(size, kind, matrix, Resampling.NEAREST, fillcolor=fill)


def _shear_x(picture: Image, m: float) -> Image:
    return _affine(picture, (1, SHEAR * m, 0, 0, 1, 0))


def _shear_y(picture: Image, m: float) -> Image:
    return _affine(picture, (1, 0, 0, SHEAR * m, 1, 0))


def _translate_x(picture: Image, m: float) -> Image:
    return _affine(picture, (1, 0, round(SHIFT * m * picture.width), 0, 1, 0))


def _translate_y(picture: Image, m: float) -> Image:
    return _affine(picture, (1, 0, 0, 0, 1, round(SHIFT * m * picture.height)))


def _rotate(picture: Image, m: float) -> Image:
    bands = len(picture.getbands())
    return picture.rotate(TURN * m, fillcolor=GREY if bands == 1 else (GREY,) * bands)


def _enhanced(name: str) -> Change:
    def change(picture: Image, m: float) -> Image:
        from PIL import ImageEnhance

        changed: Image = getattr(ImageEnhance, name)(picture).enhance(
            max(1 + ENHANCE * m, 0.0)
        )
        return changed

    return change


def _solarize(picture: Image, m: float) -> Image:
    from PIL import ImageOps

    return ImageOps.solarize(picture, max(round(256 * (1 - abs(m))), 0))


def _posterize(picture: Image, m: float) -> Image:
    from PIL import ImageOps

    return ImageOps.posterize(picture, max(8 - round(4 * abs(m)), 1))


def _autocontrast(picture: Image, m: float) -> Image:
    from PIL import ImageOps

    return ImageOps.autocontrast(picture)


def _equalize(picture: Image, m: float) -> Image:
    from PIL import ImageOps

    return ImageOps.equalize(picture)


CHANGES: dict[str, Change] = {
    "identity": lambda picture, m: picture,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": _solarize,
    "color": _enhanced("Color"),
    "posterize": _posterize,
    "contrast": _enhanced("Contrast"),
    "brightness": _enhanced("Brightness"),
    "sharpness": _enhanced("Sharpness"),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
"""The fourteen of the paper's section 3."""


def rand_augment(
    images: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    count: int = 2,
    magnitude: float = 9.0,
) -> NDArray[np.uint8]:
    """Change each image `count` times, each time in one of 14 ways drawn uniformly.

    With m = ± `magnitude` / 10: rotation by 30 m degrees, shear by 0.3 m, shift by
    150/331 m of the side; colour, contrast, brightness and sharpness times 1 + 0.9 m
    (at least 0); solarisation of pixels from 256 (1 - |m|) on; 8 - 4 |m| bits a
    channel (at least 1); automatic contrast, equalisation and no change have no m.

    Args:
        images: uint8 (N, C, H, W) with C 1 or 3; not modified.
        rng: source of all randomness; advanced by the same draws whatever is drawn.
        count: N of the paper, at least 1.
        magnitude: M of the paper, from 0; above 10 it goes beyond AutoAugment's ranges.

    Returns:
        A new uint8 array (N, C, H, W).
    """
    from PIL import Image

    kinds = list(CHANGES.values())
    chosen = rng.integers(0, len(kinds), (len(images), count))
    signs = rng.integers(0, 2, (len(images), count)) * 2 - 1
    out = np.empty_like(images)
    for i, pixels in enumerate(images):
        flat = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
        picture = Image.fromarray(np.ascontiguousarray(flat))
        for kind, sign in zip(chosen[i], signs[i], strict=True):
            picture = kinds[kind](picture, float(sign) * magnitude / 10)
        changed: Any = np.asarray(picture)
        out[i] = changed[None] if changed.ndim == 2 else changed.transpose(2, 0, 1)
    return out
