"""Losses as modules: called with what the network says and what is right."""

from __future__ import annotations

from typing import Any

from tinyflow import ops
from tinyflow.backend import Array
from tinyflow.module import Module
from tinyflow.ops.arguments import LARGEST, choice, number, whole
from tinyflow.ops.loss import REDUCTIONS, constant
from tinyflow.tensor import Tensor


class _Loss(Module):
    """What all have: `reduction`."""

    def __init__(self, reduction: str) -> None:
        self.reduction = choice(type(self).__name__, reduction, "reduction", REDUCTIONS)


class _ClassLoss(_Loss):
    """What those of classes have: a weight for each, a buffer, and one that is not."""

    def __init__(self, weight: Any, ignore_index: int | None, reduction: str) -> None:
        super().__init__(reduction)
        op = type(self).__name__
        self.weight: Array | None = constant(op, weight, "weight")
        self.ignore_index = ignore_index
        if ignore_index is not None:
            self.ignore_index = whole(op, ignore_index, "ignore_index", -LARGEST)


class CrossEntropyLoss(_ClassLoss):
    """Of logits and classes, see :func:`tinyflow.ops.cross_entropy`."""

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, ignore_index, reduction)
        op = type(self).__name__
        self.label_smoothing = number(op, label_smoothing, "label_smoothing", 0, 1)

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """(N, K, …) and (N, …) → a number, or (N, …) with reduction "none"."""
        return ops.cross_entropy(
            input,
            target,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
        )


class NLLLoss(_ClassLoss):
    """Of logarithms of probabilities, see :func:`tinyflow.ops.nll_loss`."""

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, ignore_index, reduction)

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """(N, K, …) and (N, …) → a number, or (N, …) with reduction "none"."""
        return ops.nll_loss(
            input, target, self.weight, self.ignore_index, self.reduction
        )


class MSELoss(_Loss):
    """The squared error, see :func:`tinyflow.ops.mse_loss`."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Two of one shape → a number, or that shape with reduction "none"."""
        return ops.mse_loss(input, target, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Of logits of yes or no, see :func:`tinyflow.ops.bce_with_logits`."""

    def __init__(
        self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
    ) -> None:
        super().__init__(reduction)
        op = type(self).__name__
        self.weight: Array | None = constant(op, weight, "weight")
        self.pos_weight: Array | None = constant(op, pos_weight, "pos_weight")

    def forward(self, input: Tensor, target: Any) -> Tensor:
        """Two of one shape → a number, or that shape with reduction "none"."""
        return ops.bce_with_logits(
            input, target, self.weight, self.reduction, self.pos_weight
        )
