"""ShuffleNet-v2 (Ma et al. 2018, arXiv:1807.11164).

A unit splits the channels in halves, leaves one as it is and convolves the other; the
shuffle afterwards lets the next unit see both. Counts and parameter names are those of
torchvision, which cuts the output of a unit with stride 2 in halves. (The authors' own
code keeps its first branch as wide as the input, and has no bias in the linear layer.)
"""

from __future__ import annotations

from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.ops.shuffle import concat_shuffle
from tinyflow.tensor import Tensor, fork

from .mobilenet import conv_bn

UNITS = (4, 8, 4)  # of each stage, the first with stride 2: Table 5 of the paper
STEM = 24
WIDTHS = {  # channels of each stage, and of the 1x1 convolution behind them
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


def branch(cin: int, cout: int, stride: int, rng: nn.Rng) -> list[nn.Module]:
    """3x3 of each channel, then a 1x1 convolution, which alone has a ReLU."""
    depthwise = conv_bn(cin, cin, 3, stride, rng, groups=cin)
    return [*depthwise, *conv_bn(cin, cout, 1, 1, rng, nn.ReLU())]


class SplitUnit(nn.Module):
    """y = shuffle(H), H = [x₁ | F(x₂)], x = [x₁ | x₂] the two halves of the channels.

    Nothing is added: ∂L/∂x = [g₁ | J_Fᵀ g₂], two terms that share no entry.
    """

    def __init__(self, channels: int, rng: nn.Rng) -> None:
        self.half = half = channels // 2
        first = conv_bn(half, half, 1, 1, rng, nn.ReLU())
        self.branch2 = nn.Sequential(*first, *branch(half, half, 1, rng))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) → the same shape."""
        shortcut, residual = fork(x, "shortcut", "residual")
        kept, f = shortcut[:, : self.half], self.branch2(residual[:, self.half :])
        return concat_shuffle([kept, f], "H")


class DownUnit(nn.Module):
    """y = shuffle(H), H = [F₁(x) | F₂(x)], both of stride 2 and half of the channels.

    x is read twice: two named edges into it.
    """

    def __init__(self, cin: int, cout: int, rng: nn.Rng) -> None:
        half = cout // 2
        self.branch1 = nn.Sequential(*branch(cin, half, 2, rng))
        first = conv_bn(cin, half, 1, 1, rng, nn.ReLU())
        self.branch2 = nn.Sequential(*first, *branch(half, half, 2, rng))

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H/2, W/2)."""
        one, two = fork(x, "branch1", "branch2")
        return concat_shuffle([self.branch1(one), self.branch2(two)], "H")


class ShuffleNetV2(nn.Module):
    """3x3 stem, max pool, three stages of units, 1x1 convolution, average, linear.

    Args:
        width: factor of the channels, one of WIDTHS.
        stem: stride of the first convolution and of the max pool behind it; the paper's
            is 2. With 1 there is no pool.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        width: float = 1.0,
        stem: int = 2,
        *,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        if width not in WIDTHS:
            raise ValueError(f"width must be 0.5, 1.0, 1.5 or 2.0, not {width!r}")
        *stages, last = WIDTHS[width]
        self.conv1 = conv_bn(in_channels, STEM, 3, stem, rng, nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem > 1 else nn.Identity()
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(
                DownUnit(cin, cout, rng),
                *(SplitUnit(cout, rng) for _ in range(units - 1)),
            )
            for cin, cout, units in zip([STEM, *stages], stages, UNITS, strict=False)
        )
        self.conv5 = conv_bn(stages[-1], last, 1, 1, rng, nn.ReLU())
        self.avgpool = nn.GlobalAvgPool2d()
        self.fc = nn.Linear(last, num_classes, std=0.01, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        logits: Tensor = self.fc(self.avgpool(self.conv5(x)))
        return logits


def _name(width: float) -> str:
    """The one of torchvision: 1.5 is ``x1_5``."""
    return "shufflenet_v2_x" + f"{width:.1f}".replace(".", "_")


_row = partial(Network, paper="Ma et al. 2018")
NETWORKS = [
    *(_row(_name(w), partial(ShuffleNetV2, w), 224) for w in WIDTHS),
    _row("shufflenet_v2_cifar", partial(ShuffleNetV2, stem=1), 32),
]
