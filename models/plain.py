"""Plain nets: residual nets without their shortcuts (He et al. 2016, section 3.3)."""

from __future__ import annotations

from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.ops import relu
from tinyflow.tape import mark
from tinyflow.tensor import Tensor

from .resnet import BLOCKS, PAPER, BasicBlock, Make, ResNet, no_gate


def no_shortcut(cin: int, cout: int, stride: int, rng: nn.Rng) -> nn.Module:
    """Nothing that could be counted or loaded; it is never called."""
    return nn.Identity()


class PlainBlock(BasicBlock):
    """y = relu(F(x)): a basic block without its shortcut, Figure 3 of the paper."""

    shortcuts = False

    def __init__(
        self, cin: int, width: int, stride: int, shortcut: Make, gate: Make, rng: nn.Rng
    ) -> None:
        super().__init__(cin, width, stride, no_shortcut, no_gate, rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, width, H/stride, W/stride)."""
        f = relu(self.bn1(self.conv1(x)))
        f = self.bn2(self.conv2(f))
        return relu(mark(f, "H"))


NETWORKS = [
    Network(
        f"plain{depth}", partial(ResNet, PlainBlock, BLOCKS[depth]), 224, paper=PAPER
    )
    for depth in (18, 34)
]
