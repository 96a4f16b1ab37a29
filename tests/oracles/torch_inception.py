"""The Inception networks in PyTorch, from the papers' tables, layer after layer.

They take our weights in the order in which our networks made them, and refuse one whose
shape is not what stands here.
"""

import torch
import torch.nn.functional as F


class Layers:
    """Serves the weights of one of our networks in turn.

    Args:
        model: the network, in training mode.
        norm: whether its convolutions have batch normalisation and no bias.
    """

    def __init__(self, model, norm=True):
        self.p = {
            name: torch.tensor(array, requires_grad=array.dtype.kind == "f")
            for name, array in ((n, p.data) for n, p in model.named_parameters())
        }
        self.left, self.norm = list(self.p.values()), norm
        self.seen = []  # the maps that auxiliary classifiers read

    def take(self, *shape):
        found = self.left.pop(0)
        assert tuple(found.shape) == shape, (tuple(found.shape), shape)
        return found

    def conv(self, x, cout, kernel=1, stride=1, valid=False):
        """Convolution, normalisation if any, ReLU; a kernel is a number or (h, w)."""
        h, w = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        weight = self.take(cout, x.shape[1], h, w)
        pad = (0, 0) if valid else (h // 2, w // 2)
        if not self.norm:
            return F.relu(F.conv2d(x, weight, self.take(cout), stride, pad))
        y = F.conv2d(x, weight, None, stride, pad)
        gamma, beta = self.take(cout), self.take(cout)
        return F.relu(F.batch_norm(y, None, None, gamma, beta, True, eps=1e-3))

    def linear1x1(self, x, cout):
        return F.conv2d(x, self.take(cout, x.shape[1], 1, 1), self.take(cout))

    def classify(self, x, classes=10):
        x = x.mean((2, 3))
        return F.linear(x, self.take(classes, x.shape[1]), self.take(classes))


def halve(x):
    return F.max_pool2d(x, 3, 2)


def googlenet(t, x):
    large, last = (3, 2) if t.norm else (5, 3)
    x = F.max_pool2d(t.conv(x, 64, 7, 2), 3, 2, ceil_mode=True)
    x = t.conv(t.conv(x, 64), 192, 3)
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)

    def block(x, a, r3, b, r5, c, p):
        one, three = t.conv(x, a), t.conv(t.conv(x, r3), b, 3)
        five = t.conv(t.conv(x, r5), c, large)
        return torch.cat([one, three, five, t.conv(F.max_pool2d(x, 3, 1, 1), p)], 1)

    x = block(x, 64, 96, 128, 16, 32, 32)
    x = F.max_pool2d(block(x, 128, 128, 192, 32, 96, 64), 3, 2, ceil_mode=True)
    x = block(x, 192, 96, 208, 16, 48, 64)
    t.seen.append(x)
    x = block(x, 160, 112, 224, 24, 64, 64)
    x = block(x, 128, 128, 256, 24, 64, 64)
    x = block(x, 112, 144, 288, 32, 64, 64)
    t.seen.append(x)
    x = block(x, 256, 160, 320, 32, 128, 128)
    x = F.max_pool2d(x, last, 2, ceil_mode=True)
    x = block(x, 256, 160, 320, 32, 128, 128)
    return t.classify(block(x, 384, 192, 384, 48, 128, 128))


def googlenet_heads(t, classes=10):
    """The logits of both, given weights that begin with theirs."""
    for x in t.seen:
        x = t.conv(F.adaptive_avg_pool2d(x, 4), 128).flatten(1)
        x = F.relu(F.linear(x, t.take(1024, 2048), t.take(1024)))
        yield F.linear(x, t.take(classes, 1024), t.take(classes))


def old_stem(t, x):
    """That of Inception-v3."""
    x = t.conv(t.conv(x, 32, 3, 2, True), 32, 3, 1, True)
    x = halve(t.conv(x, 64, 3))
    return t.conv(t.conv(x, 80), 192, 3, 1, True)


def tail(t, x, c):
    return torch.cat([t.conv(x, c, (1, 3)), t.conv(x, c, (3, 1))], 1)


def inception_v3(t, x):
    x = halve(old_stem(t, x))
    for pool in (32, 64, 64):
        a, b = t.conv(x, 64), t.conv(t.conv(x, 48), 64, 5)
        c = t.conv(t.conv(t.conv(x, 64), 96, 3), 96, 3)
        x = torch.cat([a, b, c, t.conv(F.avg_pool2d(x, 3, 1, 1), pool)], 1)
    a = t.conv(x, 384, 3, 2, True)
    b = t.conv(t.conv(t.conv(x, 64), 96, 3), 96, 3, 2, True)
    x = torch.cat([a, b, halve(x)], 1)
    for q in (128, 160, 160, 192):
        a = t.conv(x, 192)
        b = t.conv(t.conv(t.conv(x, q), q, (1, 7)), 192, (7, 1))
        c = t.conv(t.conv(t.conv(x, q), q, (7, 1)), q, (1, 7))
        c = t.conv(t.conv(c, q, (7, 1)), 192, (1, 7))
        x = torch.cat([a, b, c, t.conv(F.avg_pool2d(x, 3, 1, 1), 192)], 1)
    a = t.conv(t.conv(x, 192), 320, 3, 2, True)
    b = t.conv(t.conv(t.conv(x, 192), 192, (1, 7)), 192, (7, 1))
    b = t.conv(b, 192, 3, 2, True)
    x = torch.cat([a, b, halve(x)], 1)
    for _ in range(2):
        a, b = t.conv(x, 320), tail(t, t.conv(x, 384), 384)
        c = tail(t, t.conv(t.conv(x, 448), 384, 3), 384)
        x = torch.cat([a, b, c, t.conv(F.avg_pool2d(x, 3, 1, 1), 192)], 1)
    return t.classify(x)


def average(x):
    """Over what lies inside the map."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def new_stem(t, x):
    x = t.conv(t.conv(t.conv(x, 32, 3, 2, True), 32, 3, 1, True), 64, 3)
    x = torch.cat([halve(x), t.conv(x, 96, 3, 2, True)], 1)
    a = t.conv(t.conv(x, 64), 96, 3, 1, True)
    b = t.conv(t.conv(t.conv(x, 64), 64, (1, 7)), 64, (7, 1))
    x = torch.cat([a, t.conv(b, 96, 3, 1, True)], 1)
    return torch.cat([t.conv(x, 192, 3, 2, True), halve(x)], 1)


def reduction_a(t, x, k, el, m, n):
    a = t.conv(x, n, 3, 2, True)
    b = t.conv(t.conv(t.conv(x, k), el, 3), m, 3, 2, True)
    return torch.cat([a, b, halve(x)], 1)


def inception_v4(t, x):
    x = new_stem(t, x)
    for _ in range(4):
        a, b = t.conv(x, 96), t.conv(t.conv(x, 64), 96, 3)
        c = t.conv(t.conv(t.conv(x, 64), 96, 3), 96, 3)
        x = torch.cat([a, b, c, t.conv(average(x), 96)], 1)
    x = reduction_a(t, x, 192, 224, 256, 384)
    for _ in range(7):
        a = t.conv(x, 384)
        b = t.conv(t.conv(t.conv(x, 192), 224, (1, 7)), 256, (7, 1))
        c = t.conv(t.conv(t.conv(x, 192), 192, (7, 1)), 224, (1, 7))
        c = t.conv(t.conv(c, 224, (7, 1)), 256, (1, 7))
        x = torch.cat([a, b, c, t.conv(average(x), 128)], 1)
    a = t.conv(t.conv(x, 192), 192, 3, 2, True)
    b = t.conv(t.conv(t.conv(x, 256), 256, (1, 7)), 320, (7, 1))
    x = torch.cat([a, t.conv(b, 320, 3, 2, True), halve(x)], 1)
    for _ in range(3):
        a, b = t.conv(x, 256), tail(t, t.conv(x, 384), 256)
        c = t.conv(t.conv(t.conv(x, 384), 448, (3, 1)), 512, (1, 3))
        x = torch.cat([a, b, tail(t, c, 256), t.conv(average(x), 256)], 1)
    return t.classify(x)


def inception_resnet(t, x, version):
    small, wide = (32, 32) if version == "v1" else (48, 64)
    counts = (10, 20, 10) if version == "v2" else (5, 10, 5)
    if version == "v1":
        x = t.conv(old_stem(t, x), 256, 3, 2, True)
    elif version == "v2_paper":
        x = new_stem(t, x)
    else:
        x = halve(old_stem(t, x))
        a, b = t.conv(x, 96), t.conv(t.conv(x, 48), 64, 5)
        c = t.conv(t.conv(t.conv(x, 64), 96, 3), 96, 3)
        x = torch.cat([a, b, c, t.conv(average(x), 64)], 1)
    for _ in range(counts[0]):
        a, b = t.conv(x, 32), t.conv(t.conv(x, 32), 32, 3)
        c = t.conv(t.conv(t.conv(x, 32), small, 3), wide, 3)
        f = t.linear1x1(torch.cat([a, b, c], 1), x.shape[1])
        x = F.relu(x + 0.17 * f)
    x = reduction_a(
        t, x, *((192, 192, 256, 384), (256, 256, 384, 384))[version != "v1"]
    )
    first = {"v1": (128, 128, 128, 128)}.get(version, (192, 128, 160, 192))
    for _ in range(counts[1]):
        a = t.conv(x, first[0])
        b = t.conv(t.conv(t.conv(x, first[1]), first[2], (1, 7)), first[3], (7, 1))
        x = F.relu(x + 0.1 * t.linear1x1(torch.cat([a, b], 1), x.shape[1]))
    m, n = (256, 256) if version == "v1" else (288, 320)
    a = t.conv(t.conv(x, 256), 384, 3, 2, True)
    b = t.conv(t.conv(x, 256), m, 3, 2, True)
    c = t.conv(t.conv(t.conv(x, 256), m, 3), n, 3, 2, True)
    x = torch.cat([a, b, c, halve(x)], 1)
    mid, end = (192, 192) if version == "v1" else (224, 256)
    for i in range(counts[2]):
        a = t.conv(x, 192)
        b = t.conv(t.conv(t.conv(x, 192), mid, (1, 3)), end, (3, 1))
        f = t.linear1x1(torch.cat([a, b], 1), x.shape[1])
        last = version == "v2" and i == counts[2] - 1
        x = x + f if last else F.relu(x + 0.2 * f)
    if version == "v2":
        x = t.conv(x, 1536)
    return t.classify(x)


def network(name):
    """The function of a name of ours, of (layers, images)."""
    if name.startswith("inception_resnet_"):
        version = name.removeprefix("inception_resnet_")
        return lambda t, x: inception_resnet(t, x, version)
    return {"inception_v3": inception_v3, "inception_v4": inception_v4}.get(
        name, googlenet
    )
