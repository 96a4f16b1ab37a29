"""Matplotlib with settings of our own, wherever and however the program was started."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def own_settings(style: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Matplotlib's defaults and `style` inside the block; what the caller had, outside.

    Inside, neither the caller's ``matplotlibrc`` (``text.usetex``) nor ``MPLBACKEND``
    counts, nothing is drawn on a screen, and a name that holds letters the font lacks,
    or a folder that Matplotlib cannot keep its cache in, is no warning.

    Args:
        style: values of ``matplotlib.rcParams``.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matplotlib = _imported()
            with matplotlib.rc_context():
                matplotlib.rcdefaults()
                matplotlib.rcParams.update(style or {})
                yield
    finally:
        logger.setLevel(level)


def _imported() -> ModuleType:
    """Matplotlib; a backend that it does not know would end its first import."""
    asked = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        import matplotlib
    finally:
        if asked is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = asked
    module: ModuleType = matplotlib
    return module
