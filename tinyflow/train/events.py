"""What the loop reports while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tinyflow.train.metrics import EpochRow, Times


@dataclass(frozen=True)
class Start:
    """Reported once, before the first step."""

    folder: Path
    model: str
    parameters: int
    dataset: str
    train_images: int
    test_images: int
    epochs: int
    steps: int
    lr: float
    device: str
    reason: str
    kernels: str
    total: int
    """Steps of the whole run: the last epoch may be cut short."""
    done: int = 0
    """Steps that were done before: the run goes on."""


@dataclass(frozen=True)
class Step:
    """Reported after every step: where the run is, and the epoch's means so far."""

    epoch: int
    step: int
    loss: float
    accuracy: float
    images_per_second: float
    lr: float


Event: TypeAlias = Start | Step | Times | EpochRow
"""An epoch's times are reported just before its row."""
Report: TypeAlias = Callable[[Event], None]
"""Called with every event; what it does is its own business."""
