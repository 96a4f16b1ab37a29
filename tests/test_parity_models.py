"""The four whole networks against PyTorch: loss and every gradient, in float64."""

import numpy as np
import pytest

import models
from tinyflow import Tape, Tensor, ops

torch = pytest.importorskip("torch")
F = torch.nn.functional


class Peer:
    """The same network in PyTorch, written as functions over our parameter names."""

    def __init__(self, model):
        self.p = {}
        for name, array in model.state_dict().items():
            self.p[name] = torch.tensor(np.ascontiguousarray(array))
        for name, _ in model.named_parameters():
            self.p[name].requires_grad_()

    def conv(self, x, name, **how):
        return F.conv2d(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"), **how)

    def bn(self, x, name):
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.p[f"{name}.{k}"] for k in keys), training=True)

    def linear(self, x, name):
        return F.linear(x, self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def vgg19(self, x):
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
                    z = f.mean((2, 3), keepdim=True)
                    z = F.relu(self.conv(z, f"{at}.se.fc1"))
                    f = f * torch.sigmoid(self.conv(z, f"{at}.se.fc2"))
                if i == 0:
                    x = self.conv(x, f"{at}.downsample.0", stride=stride)
                    x = self.bn(x, f"{at}.downsample.1")
                x = F.relu(f + x)
        return self.linear(x.mean((2, 3)), "fc")

    def se_resnet50(self, x):
        return self.resnet50(x, se=True)

    def densenet121(self, x):
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


@pytest.mark.parametrize("name", ["vgg19", "resnet50", "se_resnet50", "densenet121"])
def test_whole_network_equals_pytorch(name):
    model = models.build_model(name, seed=3).to(dtype="float64")
    if name == "vgg19":
        model.classifier.eval()  # no dropout: the two would draw different masks
    peer = Peer(model)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((4, 3, 32, 32)), rng.integers(0, 10, 4)
    with Tape() as tape:
        x = tape.watch(Tensor(images))
        loss = ops.cross_entropy(model(x), labels)
    tape.backward(loss, release=True)

    t = torch.tensor(images, requires_grad=True)
    expected = F.cross_entropy(getattr(peer, name)(t), torch.tensor(labels))
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    pairs = [("images", x.grad, t.grad)]
    pairs += [(k, p.grad, peer.p[k].grad) for k, p in model.named_parameters()]
    for path, ours, theirs in pairs:
        scale = float(theirs.abs().max())
        error = float(np.abs(ours - theirs.numpy()).max())
        # A bias before batch normalisation has a gradient of exactly zero but rounding.
        assert error <= 1e-9 * max(scale, 1e-6), (path, error, scale)
    for path, buffer in model.named_buffers():
        assert np.allclose(buffer, peer.p[path].numpy(), rtol=1e-9, atol=1e-12), path
