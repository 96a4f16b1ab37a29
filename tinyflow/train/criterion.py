"""The loss of a training batch."""

from __future__ import annotations

from typing import TypeAlias

from tinyflow.backend import Array
from tinyflow.data.mixing import Mixed
from tinyflow.ops import cross_entropy
from tinyflow.tensor import Tensor

Labels: TypeAlias = Array | Mixed
"""Class indices (N,), or those of blended images."""


def criterion(
    logits: Tensor, labels: Labels, *, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy; of blended images λ L(first) + (1 - λ) L(second).

    Args:
        logits: (N, K).
        labels: N of them.
        label_smoothing: ε of the loss.
    """
    if not isinstance(labels, Mixed):
        return cross_entropy(logits, labels, label_smoothing=label_smoothing)
    first, second = (
        cross_entropy(logits, part, label_smoothing=label_smoothing)
        for part in (labels.first, labels.second)
    )
    return labels.weight * first + (1 - labels.weight) * second


def one_label(labels: Labels) -> Array:
    """The class of each image, of a blended one that of its greater part."""
    return labels.greater if isinstance(labels, Mixed) else labels
