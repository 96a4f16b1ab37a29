"""The page figures are drawn on: Matplotlib's, which a notebook shows by itself."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from tinyflow.drawing import own_settings

DPI = 60  # of what a notebook shows: 16:9 inches are 960 by 540 pixels


class Page(Figure):
    """A figure without pyplot: nothing keeps it open, and no screen is needed.

    Attributes:
        style: Matplotlib's settings with which it is drawn.
    """

    style: Mapping[str, Any] | None = None

    def _repr_png_(self) -> bytes:
        with own_settings(self.style), io.BytesIO() as buffer:
            self.savefig(buffer, format="png", dpi=DPI)
            return buffer.getvalue()
