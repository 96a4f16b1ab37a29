"""Networks with more than one classifier while they are trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from tinyflow.tensor import Tensor


class Heads(NamedTuple):
    """What a network with auxiliary classifiers gives in training mode.

        L = L(logits) + w Σ L(auxiliary)

    (Szegedy et al. 2014, arXiv:1409.4842, section 5). In evaluation mode it gives its
    logits alone.

    Attributes:
        logits: (N, K).
        auxiliary: those of the other classifiers, (N, K) each.
        weight: w.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
    weight: float


Output: TypeAlias = Tensor | Heads
"""What a network gives for a batch of images."""


def logits_of(output: Output) -> Tensor:
    """Those that count, (N, K)."""
    return output.logits if isinstance(output, Heads) else output


def loss_of(output: Output, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The loss of all classifiers, given that of logits."""
    if not isinstance(output, Heads):
        return loss(output)
    total = loss(output.logits)
    for logits in output.auxiliary:
        total = total + output.weight * loss(logits)
    return total
