"""Squeeze-and-excitation: a gate for each channel."""

from __future__ import annotations

from tinyflow import ops
from tinyflow.module import Module, Rng
from tinyflow.nn.linear import Conv2d
from tinyflow.ops.arguments import NOT_GIVEN, choice, source_of, whole
from tinyflow.tensor import Tensor, fork

ACTIVATIONS = ("relu", "relu6", "silu", "hardswish", "tanh")


class SqueezeExcitation(Module):
    """Channel gates: y = s ⊙ x, s = σ(W₂ φ(W₁ mean(x) + b₁) + b₂) (Hu et al. 2018).

    The input is forked into its two uses, so that ∂L/∂x is the sum of two named edges:
    "scale", s ⊙ g, and "squeeze", what comes back through the gate.

    Args:
        channels: C.
        squeezed: width of the bottleneck, C / r.
        activation: φ, one of `ACTIVATIONS`: "relu" is the paper's, "silu" that of
            EfficientNet (Tan & Le 2019).
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        activation: str = "relu",
        *,
        rng: Rng = NOT_GIVEN,
    ) -> None:
        op = type(self).__name__
        channels = whole(op, channels, "channels", 1)
        squeezed, rng = whole(op, squeezed, "squeezed", 1), source_of(op, rng)
        self.activation = choice(op, activation, "activation", ACTIVATIONS)
        self.fc1 = Conv2d(channels, squeezed, 1, rng=rng)
        self.fc2 = Conv2d(squeezed, channels, 1, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → the same shape."""
        scale, squeeze = fork(x, "scale", "squeeze")
        z = ops.mean(squeeze, dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
        z = self.fc2(getattr(ops, self.activation)(self.fc1(z)))
        return ops.mul(scale, ops.sigmoid(z))
