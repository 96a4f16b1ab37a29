"""Networks in PyTorch, as modules written from the papers, small enough to compare.

Their parameters have the names of ours, so that a state of ours can be loaded.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def conv(cin, cout, kernel=3, stride=1, **how):
    """A convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False, **how)


def stage(block, cin, cout, count, stride, *how):
    """`count` blocks, the first with `stride` and another width."""
    first = block(cin, cout, stride, *how)
    return nn.Sequential(first, *(block(cout, cout, 1, *how) for _ in range(count - 1)))


class Gate(nn.Module):
    """Hu et al. 2018, Figure 3."""

    def __init__(self, channels, squeezed):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        s = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(s))))


class Basic(nn.Module):
    """He et al. 2016, Figure 2, with option B, and a gate where asked for."""

    def __init__(self, cin, cout, stride, reduction=0):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, cout, 3, stride), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = conv(cout, cout), nn.BatchNorm2d(cout)
        self.se = Gate(cout, cout // reduction) if reduction else nn.Identity()
        self.downsample = nn.Identity()
        if (cin, stride) != (cout, 1):
            self.downsample = nn.Sequential(
                conv(cin, cout, 1, stride), nn.BatchNorm2d(cout)
            )

    def forward(self, x):
        f = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.se(f) + self.downsample(x))


class PreActivated(nn.Module):
    """He et al. 2016, arXiv:1603.05027, Figure 1 (b); a stage's first `opens` it."""

    def __init__(self, cin, width, stride, opens, layers):
        super().__init__()
        cout = width if layers == 2 else 4 * width
        widths = (cin, width, cout) if layers == 2 else (cin, width, width, cout)
        self.layers, self.opens, self.stride, self.cout = layers, opens, stride, cout
        for i in range(1, layers + 1):
            kernel = 3 if layers == 2 or i == 2 else 1
            step = stride if i == layers - 1 else 1
            setattr(self, f"bn{i}", nn.BatchNorm2d(widths[i - 1]))
            setattr(self, f"conv{i}", conv(widths[i - 1], widths[i], kernel, step))
        if layers == 3 and opens:
            self.downsample = conv(cin, cout, 1, stride)

    def forward(self, x):
        f = F.relu(self.bn1(x))
        shortcut = f if self.opens else x
        f = self.conv1(f)
        for i in range(2, self.layers + 1):
            f = getattr(self, f"conv{i}")(F.relu(getattr(self, f"bn{i}")(f)))
        if self.layers == 3 and self.opens:
            shortcut = self.downsample(shortcut)
        elif self.stride == 2:
            more = (self.cout - x.shape[1]) // 2
            shortcut = F.pad(shortcut[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
        return f + shortcut


class PreAct(nn.Module):
    """The same paper's networks for CIFAR, of units with 2 or 3 `layers`."""

    def __init__(self, layers, n):
        super().__init__()
        self.conv1, cin = conv(3, 16), 16
        for i, width in enumerate((16, 32, 64), 1):
            units = []
            for j in range(n):
                stride = 2 if i > 1 and j == 0 else 1
                units.append(PreActivated(cin, width, stride, j == 0, layers))
                cin = units[-1].cout
            setattr(self, f"layer{i}", nn.Sequential(*units))
        self.bn, self.fc = nn.BatchNorm2d(cin), nn.Linear(cin, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(F.relu(self.bn(x)).mean((2, 3)))


class CifarB(nn.Module):
    """He et al. 2016, section 4.2, with option B."""

    def __init__(self, n):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 16), nn.BatchNorm2d(16)
        self.layer1 = stage(Basic, 16, 16, n, 1)
        self.layer2 = stage(Basic, 16, 32, n, 2)
        self.layer3 = stage(Basic, 32, 64, n, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


class SEResNet(nn.Module):
    """He et al. 2016, Table 1, with the gates of Hu et al. 2018 in basic blocks."""

    def __init__(self, counts):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        cin = 64
        for i, count in enumerate(counts):
            cout, stride = 64 * 2**i, 1 if i == 0 else 2
            setattr(self, f"layer{i + 1}", stage(Basic, cin, cout, count, stride, 16))
            cin = cout
        self.fc = nn.Linear(512, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


class DenseLayer(nn.Module):
    """Huang et al. 2017, section 3: what one layer adds, with a bottleneck or not."""

    def __init__(self, cin, growth, bottleneck):
        super().__init__()
        wide = 4 * growth if bottleneck else growth
        self.norm1 = nn.BatchNorm2d(cin)
        self.conv1 = conv(cin, wide, 1 if bottleneck else 3)
        self.norm2 = nn.BatchNorm2d(wide) if bottleneck else None
        self.conv2 = conv(wide, growth) if bottleneck else None

    def forward(self, x):
        f = self.conv1(F.relu(self.norm1(x)))
        return f if self.norm2 is None else self.conv2(F.relu(self.norm2(f)))


class Dense(nn.Module):
    """The same paper's networks, for ImageNet (`large`) or CIFAR."""

    def __init__(self, counts, growth, large, bc):
        super().__init__()
        self.features, channels = nn.Module(), 2 * growth if bc else 16
        self.counts, self.large = counts, large
        stem = nn.Conv2d(3, channels, 7, 2, 3, bias=False) if large else None
        self.features.conv0 = stem or conv(3, channels)
        if large:
            self.features.norm0 = nn.BatchNorm2d(channels)
        for i, count in enumerate(counts, 1):
            block = nn.Module()
            for j in range(1, count + 1):
                layer = DenseLayer(channels, growth, bc)
                setattr(block, f"denselayer{j}", layer)
                channels += growth
            setattr(self.features, f"denseblock{i}", block)
            if i < len(counts):
                kept, transition = channels // 2 if bc else channels, nn.Module()
                transition.norm = nn.BatchNorm2d(channels)
                transition.conv = conv(channels, kept, 1)
                setattr(self.features, f"transition{i}", transition)
                channels = kept
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x):
        parts, x = self.features, self.features.conv0(x)
        if self.large:
            x = F.max_pool2d(F.relu(parts.norm0(x)), 3, 2, 1)
        for i in range(1, len(self.counts) + 1):
            for layer in getattr(parts, f"denseblock{i}").children():
                x = torch.cat([x, layer(x)], 1)
            if i < len(self.counts):
                transition = getattr(parts, f"transition{i}")
                x = transition.conv(F.relu(transition.norm(x)))
                x = F.avg_pool2d(x, 2)
        return self.classifier(F.relu(parts.norm5(x)).mean((2, 3)))


class QuadirCNN(nn.Module):
    """Quadir 2019, figure 2, on images of `size` pixels."""

    def __init__(self, channels, size, padding):
        super().__init__()
        widths = (channels, 64, 32, 64, 32, 64)
        self.layers = nn.ModuleList()
        for cin, cout in pairwise(widths):
            layer = nn.Module()
            layer.conv = nn.Conv2d(cin, cout, 3, padding=padding)
            self.layers.append(layer)
            size -= 0 if padding == "same" else 2
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64 * size**2, 10))

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer.conv(x))
        return self.classifier(x)


class QuadirResNet(nn.Module):
    """Quadir 2019, figure 3, on images of `size` pixels."""

    def __init__(self, channels, size, stem):
        super().__init__()
        self.stem = nn.Identity()
        if stem:
            convolution = nn.Conv2d(channels, 32, 3, padding=1)
            self.stem, channels = nn.Sequential(convolution, nn.ReLU()), 32
        self.blocks = nn.ModuleList(nn.Module() for _ in range(5))
        for i, block in enumerate(self.blocks):
            cin = channels if i == 0 else 32
            block.conv1 = nn.Conv2d(cin, 64, 3, padding=1)
            block.conv2 = nn.Conv2d(64, 32, 3, padding=1)
            block.downsample = nn.Conv2d(cin, 32, 1) if cin != 32 else nn.Identity()
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(32 * size**2, 10))

    def forward(self, x):
        x = self.stem(x)
        for b in self.blocks:
            x = F.relu(b.downsample(x) + b.conv2(F.relu(b.conv1(x))))
        return self.classifier(x)


class BottleneckRS(nn.Module):
    """Bello et al. 2021: a bottleneck with a gate, its shortcut averaged first."""

    def __init__(self, cin, width, stride):
        super().__init__()
        cout = 4 * width
        self.conv1, self.bn1 = conv(cin, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, cout, 1), nn.BatchNorm2d(cout)
        self.se, self.downsample = Gate(cout, width), nn.Identity()
        if cin != cout:
            how = {"ceil_mode": True, "count_include_pad": False}
            pool = nn.AvgPool2d(stride, stride, **how) if stride > 1 else nn.Identity()
            project = conv(cin, cout, 1), nn.BatchNorm2d(cout)
            self.downsample = nn.Sequential(pool, *project)

    def forward(self, x):
        f = F.relu(self.bn1(self.conv1(x)))
        f = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(f)))))
        return F.relu(self.se(f) + self.downsample(x))


class ResNetRS(nn.Module):
    """The same paper's network."""

    def __init__(self, counts):
        super().__init__()
        self.conv1 = nn.Sequential(
            *(conv(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU()),
            *(conv(32, 32), nn.BatchNorm2d(32), nn.ReLU(), conv(32, 64)),
        )
        self.bn1, cin = nn.BatchNorm2d(64), 64
        self.maxpool = nn.Sequential(conv(64, 64, 3, 2), nn.BatchNorm2d(64), nn.ReLU())
        for i, count in enumerate(counts):
            width, blocks = 64 * 2**i, []
            for j in range(count):
                blocks.append(BottleneckRS(cin, width, 2 if i and not j else 1))
                cin = 4 * width
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, 10)

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


def alone(cin, cout, kernel=1, stride=1, relu=True, groups=1):
    """Convolution, normalisation and, where asked for, ReLU."""
    layers = conv(cin, cout, kernel, stride, groups=groups), nn.BatchNorm2d(cout)
    return [*layers, *([nn.ReLU()] if relu else [])]


class ShuffleUnit(nn.Module):
    """Ma et al. 2018, Figure 3 (c) and, with stride 2, (d)."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.stride, half = stride, cout // 2
        if stride == 2:
            self.branch1 = nn.Sequential(
                *alone(cin, cin, 3, 2, False, cin), *alone(cin, half)
            )
        self.branch2 = nn.Sequential(
            *alone(cin if stride == 2 else half, half),
            *alone(half, half, 3, stride, False, half),
            *alone(half, half),
        )

    def forward(self, x):
        if self.stride == 2:
            parts = self.branch1(x), self.branch2(x)
        else:
            kept, rest = x.chunk(2, 1)
            parts = kept, self.branch2(rest)
        return torch.stack(parts, 2).flatten(1, 2)


class Shuffle(nn.Module):
    """The same paper's network; torchvision's halves, a max pool if `large`."""

    def __init__(self, widths, last, large):
        super().__init__()
        self.conv1, cin = nn.Sequential(*alone(3, 24, 3, 2 if large else 1)), 24
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        for i, (cout, count) in enumerate(zip(widths, (4, 8, 4), strict=True), 2):
            units = [ShuffleUnit(cin, cout, 2)]
            units += [ShuffleUnit(cout, cout, 1) for _ in range(count - 1)]
            setattr(self, f"stage{i}", nn.Sequential(*units))
            cin = cout
        self.conv5, self.fc = nn.Sequential(*alone(cin, last)), nn.Linear(last, 10)

    def forward(self, x):
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(x.mean((2, 3)))
