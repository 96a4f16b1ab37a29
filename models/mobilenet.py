"""MobileNets (Howard et al. 2017, arXiv:1704.04861; Sandler et al. 2018, 1801.04381).

A depthwise convolution looks at each channel alone, a 1x1 convolution mixes them: about
a ninth of the arithmetic of a 3x3 convolution. Names of the second are torchvision's.
"""

from __future__ import annotations

from functools import partial

from tinyflow import nn
from tinyflow.network import Network
from tinyflow.ops import relu
from tinyflow.tape import mark
from tinyflow.tensor import Tensor, fork

V1 = (  # width and stride of each separable convolution: Table 1 of the paper
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
V2 = (  # expansion, width, blocks, stride of the first: Table 2 of the paper
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
WIDTHS = (0.25, 0.5, 0.75, 1.0)


def conv_bn(
    cin: int,
    cout: int,
    kernel: int,
    stride: int,
    rng: nn.Rng,
    then: nn.Module | None = None,
    groups: int = 1,
    norm: tuple[float, float] = (1e-5, 0.1),
) -> nn.Sequential:
    """Convolution that keeps the size at stride 1, normalisation, activation if any.

    `norm` are ε and momentum of the normalisation.
    """
    pad = kernel // 2
    conv = nn.Conv2d(cin, cout, kernel, stride, pad, groups=groups, bias=False, rng=rng)
    after = () if then is None else (then,)
    return nn.Sequential(conv, nn.BatchNorm2d(cout, *norm), *after)


class Separable(nn.Module):
    """y = relu(H), H = 1x1 of relu(3x3 of each channel): the first paper's Figure 3."""

    def __init__(self, cin: int, cout: int, stride: int, rng: nn.Rng) -> None:
        self.depthwise = conv_bn(cin, cin, 3, stride, rng, groups=cin)
        self.pointwise = conv_bn(cin, cout, 1, 1, rng)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H/stride, W/stride)."""
        return relu(mark(self.pointwise(relu(self.depthwise(x))), "H"))


class MobileNetV1(nn.Module):
    """3x3 stem, thirteen separable convolutions, global average, one linear layer.

    Args:
        width: factor of all channels, α of the paper.
        stem: stride of the first convolution; the paper's is 2.
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
        wide = [int(32 * width), *(int(c * width) for c, _ in V1)]
        self.stem = conv_bn(in_channels, wide[0], 3, stem, rng, nn.ReLU())
        self.features = nn.Sequential(
            *(
                Separable(cin, cout, stride, rng)
                for cin, cout, (_, stride) in zip(wide, wide[1:], V1, strict=False)
            )
        )
        self.avgpool = nn.GlobalAvgPool2d()
        self.fc = nn.Linear(wide[-1], num_classes, std=0.01, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        logits: Tensor = self.fc(self.avgpool(self.features(self.stem(x))))
        return logits


class InvertedResidual(nn.Module):
    """y = x + F(x), F = 1x1 to t times as many, 3x3 of each channel, 1x1 to few again.

    Nothing acts on the sum. Where the shape changes y = F(x).
    """

    def __init__(
        self, cin: int, cout: int, stride: int, expansion: int, rng: nn.Rng
    ) -> None:
        self.shortcuts = stride == 1 and cin == cout
        wide = expansion * cin
        narrow = conv_bn(wide, cout, 1, 1, rng)
        depthwise = conv_bn(wide, wide, 3, stride, rng, nn.ReLU6(), groups=wide)
        layers: list[nn.Module] = [depthwise, *narrow]
        if expansion > 1:
            layers.insert(0, conv_bn(cin, wide, 1, 1, rng, nn.ReLU6()))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, cin, H, W) → (N, cout, H/stride, W/stride)."""
        if not self.shortcuts:
            return mark(self.conv(x), "H")
        residual, shortcut = fork(x, "residual", "shortcut")
        return mark(self.conv(residual) + shortcut, "H")


class MobileNetV2(nn.Module):
    """3x3 stem, seventeen blocks, 1x1 convolution, global average, one linear layer.

    Args:
        stem: stride of the first convolution; the paper's is 2.
        dropout: probability, of the averaged features; torchvision's is 0.2.
        num_classes, image_size, in_channels: of the data.
        rng: where the initial weights come from.
    """

    def __init__(
        self,
        stem: int = 2,
        *,
        dropout: float = 0.2,
        num_classes: int,
        image_size: int,
        in_channels: int,
        rng: nn.Rng,
    ) -> None:
        cin, last = 32, 1280
        layers: list[nn.Module] = [conv_bn(in_channels, cin, 3, stem, rng, nn.ReLU6())]
        for expansion, cout, blocks, stride in V2:
            for i in range(blocks):
                s = stride if i == 0 else 1
                layers.append(InvertedResidual(cin, cout, s, expansion, rng))
                cin = cout
        layers.append(conv_bn(cin, last, 1, 1, rng, nn.ReLU6()))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.GlobalAvgPool2d()
        self.classifier = nn.Sequential(
            nn.Dropout(dropout, rng=rng),
            nn.Linear(last, num_classes, std=0.01, rng=rng),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, S, S) → logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)))
        return logits


HOWARD, SANDLER = "Howard et al. 2017", "Sandler et al. 2018"
NETWORKS = [
    *(
        Network(f"mobilenet_v1_{w:g}", partial(MobileNetV1, w), 224, paper=HOWARD)
        for w in WIDTHS
    ),
    Network("mobilenet_v2", MobileNetV2, 224, paper=SANDLER),
    Network("mobilenet_v1_cifar", partial(MobileNetV1, stem=1), 32, paper=HOWARD),
    Network("mobilenet_v2_cifar", partial(MobileNetV2, 1), 32, paper=SANDLER),
]
