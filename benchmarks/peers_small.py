"""The small networks once more in PyTorch, as functions over our parameter names."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from benchmarks.peers import Peer
from models import efficientnet, mobilenet, shufflenet, squeezenet


def peer_of(model, channels_last=False):
    """The peer that knows this network."""
    kind = model.name.partition("_")[0].rstrip("0123456789")
    kinds = ("mobilenet", "shufflenet", "efficientnet", "squeezenet")
    return (SmallPeer if kind in kinds else Peer)(model, channels_last)


class SmallPeer(Peer):
    """MobileNets, ShuffleNet, EfficientNet and SqueezeNet, without dropout."""

    def __call__(self, images):
        """Logits."""
        network, _, version = self.name.partition("_")
        if network == "mobilenet":
            run = {"v1": self.mobilenet_v1, "v2": self.mobilenet_v2}[version[:2]]
        elif network == "shufflenet":
            run = self.shufflenet
        elif network == "efficientnet":
            run = self.efficientnet
        else:
            run = self.squeezenet
        return run(images.contiguous(memory_format=self.format))

    def unit(self, x, at, act=None, conv="0", bn="1", **how):
        """Convolution that keeps the size, normalisation, activation."""
        weight = self.p[f"{at}.{conv}.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = self.conv(
            x, f"{at}.{conv}", padding=weight.shape[2] // 2, groups=groups, **how
        )
        x = self.bn(x, f"{at}.{bn}")
        return x if act is None else act(x)

    def mobilenet_v1(self, x):
        """MobileNet-v1."""
        x = self.unit(x, "stem", F.relu, stride=2)
        for i, (_, stride) in enumerate(mobilenet.V1):
            x = self.unit(x, f"features.{i}.depthwise", F.relu, stride=stride)
            x = self.unit(x, f"features.{i}.pointwise", F.relu)
        return self.linear(x.mean((2, 3)), "fc")

    def mobilenet_v2(self, x):
        """MobileNet-v2."""
        x, index = self.unit(x, "features.0", F.relu6, stride=2), 1
        for expansion, cout, blocks, stride in mobilenet.V2:
            for i in range(blocks):
                at, f, layer = f"features.{index}.conv", x, 0
                if expansion > 1:
                    f, layer = self.unit(f, f"{at}.0", F.relu6), 1
                s = 1 if i else stride
                f = self.unit(f, f"{at}.{layer}", F.relu6, stride=s)
                f = self.unit(f, at, conv=str(layer + 1), bn=str(layer + 2))
                x = x + f if s == 1 and x.shape[1] == cout else f
                index += 1
        x = self.unit(x, f"features.{index}", F.relu6)
        return self.linear(x.mean((2, 3)), "classifier.1")

    def shufflenet(self, x):
        """ShuffleNet-v2 with the stem of ImageNet."""
        x = self.unit(x, "conv1", F.relu, stride=2)
        x = F.max_pool2d(x, 3, 2, 1)
        for stage, units in zip((2, 3, 4), shufflenet.UNITS, strict=True):
            for i in range(units):
                at, stride = f"stage{stage}.{i}", 1 if i else 2
                kept, rest = x.chunk(2, 1) if i else (self.first(x, at), x)
                f = self.unit(rest, f"{at}.branch2", F.relu)
                f = self.unit(f, f"{at}.branch2", conv="3", bn="4", stride=stride)
                f = self.unit(f, f"{at}.branch2", F.relu, conv="5", bn="6")
                x = torch.stack((kept, f), 2).flatten(1, 2)
        x = self.unit(x, "conv5", F.relu)
        return self.linear(x.mean((2, 3)), "fc")

    def first(self, x, at):
        """The first branch of a unit with stride 2."""
        x = self.unit(x, f"{at}.branch1", stride=2)
        return self.unit(x, f"{at}.branch1", F.relu, conv="2", bn="3")

    def efficientnet(self, x):
        """EfficientNet."""
        scale = int(self.name[-1])
        if scale > 4:
            raise ValueError("B5 to B7 normalise with another epsilon")
        depth = efficientnet.SCALES[scale][1]
        x = self.unit(x, "features.0", F.silu, stride=2)
        for stage, (expansion, _, stride, _, count) in enumerate(efficientnet.STAGES):
            for i in range(-(-round(10 * count * depth) // 10)):
                at, f, layer = f"features.{stage + 1}.{i}.block", x, 0
                if expansion > 1:
                    f, layer = self.unit(f, f"{at}.0", F.silu), 1
                s = 1 if i else stride
                f = self.unit(f, f"{at}.{layer}", F.silu, stride=s)
                z = self.conv(f.mean((2, 3), keepdim=True), f"{at}.{layer + 1}.fc1")
                z = self.conv(F.silu(z), f"{at}.{layer + 1}.fc2")
                f = self.unit(f * torch.sigmoid(z), f"{at}.{layer + 2}")
                x = x + f if s == 1 and x.shape == f.shape else f
        x = self.unit(x, "features.8", F.silu)
        return self.linear(x.mean((2, 3)), "classifier.1")

    def squeezenet(self, x):
        """SqueezeNet."""
        version = self.name[-3:].replace("_", ".")
        x = F.relu(self.conv(x, "features.0", stride=2))
        x, index = F.max_pool2d(x, 3, 2, ceil_mode=True), 3
        for fire in squeezenet.FIRES[version].split():
            at = f"features.{index}"
            index += 1
            if fire == "pool":
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
                continue
            s = F.relu(self.conv(x, f"{at}.squeeze"))
            x = self.conv(s, f"{at}.expand1x1")
            y = self.conv(s, f"{at}.expand3x3", padding=1)
            x = F.relu(torch.cat([x, y], 1))
        return F.relu(self.conv(x, "classifier.1")).mean((2, 3))
