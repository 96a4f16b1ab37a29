"""What a trained network takes a picture for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyflow import Tensor
from tinyflow.backend import asarray, asnumpy, device_of
from tinyflow.data.augment import normalize
from tinyflow.data.crops import short_side
from tinyflow.data.dataset import FOLDER
from tinyflow.data.picture import Job, picture
from tinyflow.state import in_mode
from tinyflow.train.checkpoint import Metadata
from tinyflow.train.trained import Trained


def pixels(path: Path, told: Metadata) -> NDArray[np.uint8]:
    """An image file as a network sees images, (C, H, W): grey for one of grey images.

    The shorter side becomes the network's size, and the longer one is cut; for one
    that learned from image files the middle is cut out a little closer, as its own test
    images were.

    Raises:
        DataError: it is no image that can be read; the sentence names it.
    """
    size = told.image_size
    short = short_side(size) if told.dataset == FOLDER else size
    return picture(Job.of(path, size, short, told.in_channels))


def probabilities(
    trained: Trained, told: Metadata, images: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """y[n, k] = exp x[n, k] / Σⱼ exp x[n, j] of the logits x, in float64.

    Args:
        trained: the network, on its device.
        told: :meth:`~tinyflow.train.trained.Trained.known` of it.
        images: bytes (N, C, H, W).

    Raises:
        FloatingPointError: an output of the network is not finite.
    """
    x = normalize(images, () if told.mean is None else told.mean, told.std or ())
    model = trained.model
    device = next((device_of(p.data) for p in model.parameters()), "cpu")
    with in_mode(model, False), np.errstate(over="ignore", invalid="ignore"):
        logits: NDArray[Any] = asnumpy(model(Tensor(asarray(x, device))).data)
    if not np.isfinite(logits).all():
        raise FloatingPointError("the network's output is not finite")
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    raised = np.exp(shifted)
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def likeliest(
    told: Metadata, chances: NDArray[np.float64], count: int
) -> list[tuple[str, float]]:
    """Names and probabilities of the `count` likeliest classes of one image.

    Of equal ones the class with the lower number comes first.
    """
    order = np.argsort(-chances, kind="stable")[:count].tolist()
    return [((told.classes or ())[i], float(chances[i])) for i in order]
