"""The loss of a training batch."""

from __future__ import annotations

from typing import TypeAlias

from tinyflow.backend import Array
from tinyflow.data.mixing import Mixed
from tinyflow.heads import Output, loss_of
from tinyflow.ops import cross_entropy
from tinyflow.tensor import Tensor

Labels: TypeAlias = Array | Mixed
"""Class indices (N,), or those of blended images."""


def criterion(
    output: Output, labels: Labels, *, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy; of blended images λ L(first) + (1 - λ) L(second).

    Args:
        output: logits (N, K), or those of several classifiers.
        labels: N of them.
        label_smoothing: ε of the loss.
    """

    def mean(labels: Array) -> Tensor:
        return loss_of(
            output, lambda x: cross_entropy(x, labels, label_smoothing=label_smoothing)
        )

    if not isinstance(labels, Mixed):
        return mean(labels)
    first, second = mean(labels.first), mean(labels.second)
    return labels.weight * first + (1 - labels.weight) * second


def one_label(labels: Labels) -> Array:
    """The class of each image, of a blended one that of its greater part."""
    return labels.greater if isinstance(labels, Mixed) else labels
