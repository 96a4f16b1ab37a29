"""What ``--precision`` and ``--deterministic`` come to on a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyflow.train.checks import ConfigError


def activations(precision: str, device: str) -> Any:
    """The dtype of images and activations.

    Raises:
        ConfigError: a precision that the device does not have.
    """
    if device == "cpu":
        if precision != "float32":
            raise ConfigError(
                f"--precision {precision} needs a GPU; on a CPU only float32 is "
                "possible"
            )
        return np.float32
    if precision != "bfloat16":
        return np.float32
    try:
        import ml_dtypes
    except ImportError:
        raise ConfigError(
            "--precision bfloat16 needs the package ml_dtypes: pip install ml_dtypes"
        ) from None
    return ml_dtypes.bfloat16


def choose(precision: str, deterministic: bool) -> None:
    """Set up the GPU's engine for a run."""
    from tinyflow.kernels.cuda.settings import configure

    configure(
        precision=precision, deterministic=deterministic, autotune=not deterministic
    )
