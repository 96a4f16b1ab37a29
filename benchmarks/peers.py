"""The networks once more in PyTorch, as functions over our parameter names.

An oracle for the tests and the opponent of the benchmarks; nothing in ``tinyflow`` or
``models`` knows of it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

import models


class Peer:
    """A network with the weights of one of ours; call it on images (N, C, H, W).

    Args:
        model: built by ``models.build_model``.
        channels_last: keep weights and images in that memory format.
    """

    def __init__(self, model, channels_last=False):
        self.name, self.training = model.name, True
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.p = {}
        for name, array in model.state_dict().items():
            tensor = torch.tensor(np.ascontiguousarray(array))
            if tensor.ndim == 4:
                tensor = tensor.to(memory_format=self.format)
            self.p[name] = tensor
        trained = [name for name, _ in model.named_parameters()]
        self.parameters = [self.p[name].requires_grad_() for name in trained]

    def __call__(self, images):
        """Logits."""
        kind = self.name.rstrip("0123456789")
        depth = int(self.name[len(kind) :])
        if kind != "vgg" and depth in models.cifar_resnet.DEPTHS:
            network = self.cifar
        else:
            network = getattr(self, self.name)
        return network(images.contiguous(memory_format=self.format))

    def cifar(self, x):
        """CIFAR ResNet or plain net, option A."""
        plain = self.name.startswith("plain")
        n = (int(self.name.lstrip("abcdefghijklmnopqrstuvwxyz_")) - 2) // 6
        x = F.relu(self.bn(self.conv(x, "conv1", padding=1), "bn1"))
        for stage in (1, 2, 3):
            for i in range(n):
                at = f"layer{stage}.{i}"
                stride = 2 if stage > 1 and i == 0 else 1
                f = self.conv(x, f"{at}.conv1", stride=stride, padding=1)
                f = F.relu(self.bn(f, f"{at}.bn1"))
                f = self.bn(self.conv(f, f"{at}.conv2", padding=1), f"{at}.bn2")
                if f"{at}.se.fc1.weight" in self.p:
                    f = self.gate(f, at)
                if stride == 2:
                    half = x.shape[1] // 2
                    x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
                x = F.relu(f if plain else f + x)
        return self.linear(x.mean((2, 3)), "fc")

    def gate(self, f, at):
        """Squeeze-and-excitation."""
        z = F.relu(self.conv(f.mean((2, 3), keepdim=True), f"{at}.se.fc1"))
        return f * torch.sigmoid(self.conv(z, f"{at}.se.fc2"))

    def conv(self, x, name, **how):
        """Convolution layer `name`."""
        return F.conv2d(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"), **how)

    def bn(self, x, name):
        """Batch normalisation `name`."""
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(
            x, *(self.p[f"{name}.{k}"] for k in keys), training=self.training
        )

    def linear(self, x, name):
        """Linear layer `name`."""
        return F.linear(x, self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def vgg19(self, x):
        """VGG-19 without dropout."""
        index = 0
        for stage in models.vgg.CONFIGURATIONS[19]:
            for _ in stage:
                x = F.relu(self.conv(x, f"features.{index}", padding=1))
                index += 2
            x = F.max_pool2d(x, 2)
            index += 1
        x = x.flatten(1)
        for i in (0, 3):
            x = F.relu(self.linear(x, f"classifier.{i}"))
        return self.linear(x, "classifier.6")

    def resnet50(self, x, se=False):
        """ResNet-50."""
        x = F.relu(self.bn(self.conv(x, "conv1", stride=2, padding=3), "bn1"))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage, count in enumerate(models.resnet.BLOCKS[50], 1):
            for i in range(count):
                at = f"layer{stage}.{i}"
                stride = 2 if stage > 1 and i == 0 else 1
                f = F.relu(self.bn(self.conv(x, f"{at}.conv1"), f"{at}.bn1"))
                f = self.conv(f, f"{at}.conv2", stride=stride, padding=1)
                f = F.relu(self.bn(f, f"{at}.bn2"))
                f = self.bn(self.conv(f, f"{at}.conv3"), f"{at}.bn3")
                if se:
                    f = self.gate(f, at)
                if i == 0:
                    x = self.conv(x, f"{at}.downsample.0", stride=stride)
                    x = self.bn(x, f"{at}.downsample.1")
                x = F.relu(f + x)
        return self.linear(x.mean((2, 3)), "fc")

    def se_resnet50(self, x):
        """SE-ResNet-50."""
        return self.resnet50(x, se=True)

    def densenet121(self, x):
        """DenseNet-121."""
        x = self.conv(x, "features.conv0", stride=2, padding=3)
        x = F.max_pool2d(F.relu(self.bn(x, "features.norm0")), 3, 2, 1)
        for block, count in enumerate(models.densenet.LAYERS[121], 1):
            for i in range(count):
                at = f"features.denseblock{block}.denselayer{i + 1}"
                h = self.conv(F.relu(self.bn(x, f"{at}.norm1")), f"{at}.conv1")
                h = F.relu(self.bn(h, f"{at}.norm2"))
                x = torch.cat([x, self.conv(h, f"{at}.conv2", padding=1)], 1)
            if block < 4:
                at = f"features.transition{block}"
                x = self.conv(F.relu(self.bn(x, f"{at}.norm")), f"{at}.conv")
                x = F.avg_pool2d(x, 2)
        x = F.relu(self.bn(x, "features.norm5"))
        return self.linear(x.mean((2, 3)), "classifier")
