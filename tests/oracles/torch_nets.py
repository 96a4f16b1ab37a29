"""Small networks once more in PyTorch, so that every use of a value can be seen.

A *use* of a tensor is a copy of its own, whose gradient PyTorch hands out; to cut a
path, the copy is detached. What the instrument says of a network is then computed here
from its definition.
"""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from models import cifar_resnet, vgg
from models.densenet import DenseNet
from tinyflow import flow
from tinyflow.optim import SGD
from tinyflow.train import train_step

torch.set_num_threads(1)  # the arrays are small, and threads would wait for each other


def same(ours, theirs, rel=1e-9, at=""):
    """Compare nested numbers; NaN equals NaN, None and words equal themselves."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), at
        for key in theirs:
            same(ours[key], theirs[key], rel, f"{at}.{key}")
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), at
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            same(a, b, rel, f"{at}[{i}]")
    elif isinstance(theirs, float):
        assert isinstance(ours, float), (at, ours, theirs)
        close = math.isclose(ours, theirs, rel_tol=rel, abs_tol=1e-13)
        assert close or (math.isnan(ours) and math.isnan(theirs)), (at, ours, theirs)
    else:
        assert ours == theirs and type(ours) is type(theirs), (at, ours, theirs)


def size(a):
    """‖a‖₂ as a number."""
    return float(torch.linalg.vector_norm(a.detach()))


def inner(a, b):
    """⟨a, b⟩ as a number."""
    return float((a.detach() * b.detach()).sum())


def angle(a, b):
    """Cosine between two tensors; None if one is zero."""
    return inner(a, b) / (size(a) * size(b)) if size(a) * size(b) else None


class Oracle:
    """A network with the weights of `model`, run on one batch with every use kept.

    `routes` says, for a block's place, which way alone its gradient may take:
    "shortcut", "residual", "gain" or "gate". `factors` multiplies the gradient of uses,
    by (place of the block, name of the use). `first_reader` cuts, in dense block
    `first_reader[0]`, the uses by readers before `first_reader[1]`.
    """

    def __init__(self, model, images, labels, *, training=True, **how):
        self.routes = how.get("routes", {})
        self.factors = how.get("factors", {})
        self.first_reader = how.get("first_reader", (None, 0))
        self.training = training
        self.p = {
            name: torch.tensor(np.ascontiguousarray(a))
            for name, a in model.state_dict().items()
        }
        for name, _ in model.named_parameters():
            self.p[name].requires_grad_()
        self.blocks, self.dense = [], []
        images = torch.tensor(np.ascontiguousarray(images)).requires_grad_()
        logits = self.forward(self.keep(images))
        self.loss = F.cross_entropy(logits, torch.tensor(np.asarray(labels)))
        self.loss.backward(retain_graph=True)

    def use(self, x, factor=1.0, cut=False):
        """A copy of `x` with a gradient of its own, `factor` of which goes back."""
        x = x.detach().clone() if cut else x.clone()
        if factor != 1.0:
            x = x.detach() + factor * (x - x.detach())
        return self.keep(x)

    def keep(self, x):
        """`x`; what the loss sends to it, and nothing later, will be ``x.g``."""
        x.g = None

        def note(g):
            x.g = g.clone() if x.g is None else x.g

        if x.requires_grad:
            x.register_hook(note)
        return x

    def conv(self, x, name, **how):
        """Convolution layer `name`."""
        return F.conv2d(x, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"), **how)

    def bn(self, x, name):
        """Batch normalisation `name`; the running statistics stay as they are."""
        mean, var, weight, bias = (
            self.p[f"{name}.{k}"]
            for k in ("running_mean", "running_var", "weight", "bias")
        )
        mean, var = mean.clone(), var.clone()
        return F.batch_norm(x, mean, var, weight, bias, training=self.training)


class Cifar(Oracle):
    """``models.cifar_resnet.CifarResNet``: residual, plain or SE, shortcuts A or B."""

    plain = False

    def forward(self, x):
        """Logits."""
        x = self.keep(F.relu(self.bn(self.conv(x, "conv1", padding=1), "bn1")))
        for stage in (1, 2, 3):
            for i in itertools.count():
                at = f"layer{stage}.{i}"
                if f"{at}.conv1.weight" not in self.p:
                    break
                x = self.block(x, at, 2 if stage > 1 and i == 0 else 1)
        self.last = x
        return F.linear(x.mean((2, 3)), self.p["fc.weight"], self.p["fc.bias"])

    def block(self, x, at, stride):
        """One block; what happened in it goes to `self.blocks`."""
        place = len(self.blocks)
        route = self.routes.get(place)
        through = route in (None, "residual", "gain", "gate")

        def use(value, name, open_):
            return self.use(value, self.factors.get((place, name), 1.0), not open_)

        b = {"name": at, "x": x}
        residual = x if self.plain else use(x, "residual", through)
        f = self.conv(residual, f"{at}.conv1", stride=stride, padding=1)
        f = self.conv(F.relu(self.bn(f, f"{at}.bn1")), f"{at}.conv2", padding=1)
        f = b["f"] = self.keep(self.bn(f, f"{at}.bn2"))
        b["residual"] = residual
        if f"{at}.se.fc1.weight" in self.p:
            b["scale"] = use(f, "scale", route != "gate")
            b["squeeze"] = use(f, "squeeze", route != "gain")
            z = b["squeeze"].mean((2, 3), keepdim=True)
            b["z"] = F.relu(self.conv(z, f"{at}.se.fc1"))
            b["s"] = torch.sigmoid(self.conv(b["z"], f"{at}.se.fc2"))
            f = b["scale"] * b["s"]
        b["kind"] = "plain"
        if not self.plain:
            shortcut = b["shortcut"] = use(x, "shortcut", route in (None, "shortcut"))
            b["kind"] = "identity"
            if f"{at}.downsample.0.weight" in self.p:
                shortcut = self.conv(shortcut, f"{at}.downsample.0", stride=stride)
                shortcut = self.bn(shortcut, f"{at}.downsample.1")
                b["kind"] = "projection"
            elif stride == 2:
                half = x.shape[1] // 2
                shortcut = F.pad(shortcut[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
                b["kind"] = "option A"
            f = f + shortcut
        b["h"] = self.keep(f)
        b["y"] = self.keep(F.relu(b["h"]))
        self.blocks.append(b)
        return b["y"]


class PlainCifar(Cifar):
    """The same without shortcuts."""

    plain = True


class Vgg(Oracle):
    """``models.vgg.VGG`` without batch normalisation, for no dropout or evaluation."""

    def forward(self, x):
        """Logits."""
        place = 0
        for stage in vgg.CONFIGURATIONS[TINY]:
            for _ in stage:
                h = self.keep(self.conv(x, f"features.{place}", padding=1))
                y = self.keep(F.relu(h))
                name = f"features.block{len(self.blocks)}"
                b = {"name": name, "kind": "plain", "x": x, "f": h, "h": h, "y": y}
                self.blocks.append(b)
                x, place = y, place + 2
            x, place = self.keep(F.max_pool2d(x, 2)), place + 1
        self.last, x = x, x.flatten(1)
        for i in (0, 3, 6):
            name = f"classifier.{i}"
            x = F.linear(x, self.p[f"{name}.weight"], self.p[f"{name}.bias"])
            x = F.relu(x) if i < 6 else x
        return x


class Dense(Oracle):
    """``models.densenet.DenseNet`` of DENSE layers."""

    def forward(self, x):
        """Logits."""
        x = self.conv(x, "features.conv0", stride=2, padding=3)
        x = F.relu(self.bn(x, "features.norm0"))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        count = len(DENSE)
        for i in range(1, count + 1):
            maps, readers = [self.keep(x)], []
            for layer in range(1, DENSE[i - 1] + 1):
                at = f"features.denseblock{i}.denselayer{layer}"
                f = self.read(maps, readers, f"denselayer{layer}")
                f = F.relu(self.bn(f, f"{at}.norm1"))
                f = F.relu(self.bn(self.conv(f, f"{at}.conv1"), f"{at}.norm2"))
                maps.append(self.keep(self.conv(f, f"{at}.conv2", padding=1)))
            last = i == count
            x = self.read(maps, readers, "classifier" if last else f"transition{i}")
            self.dense.append({"maps": maps, "readers": readers})
            if not last:
                x = F.relu(self.bn(x, f"features.transition{i}.norm"))
                x = F.avg_pool2d(self.conv(x, f"features.transition{i}.conv"), 2)
        x = self.last = self.keep(F.relu(self.bn(x, "features.norm5")))
        weight, bias = self.p["classifier.weight"], self.p["classifier.bias"]
        return F.linear(x.mean((2, 3)), weight, bias)

    def read(self, maps, readers, name):
        """The concatenation of a use of each map, by the next reader."""
        block, first = self.first_reader
        cut = block == len(self.dense) and len(readers) < first
        uses = [self.use(x, cut=cut) for x in maps]
        readers.append((name, uses))
        return torch.cat(uses, 1)


# --- the networks that are compared ---------------------------------------------------

TINY = 8  # a name and a "depth" for all of them
DENSE = 4, 2
NETWORKS = {"resnet8": Cifar, "plain8": PlainCifar, "se_resnet8": Cifar}
NETWORKS |= {"resnet8b": Cifar, "vgg8": Vgg, "densenet8": Dense}


STATES = ("initial", "trained")


class Case:
    """A small network of ours in float64, with a batch, and its oracle."""

    def __init__(self, name, state="initial", training=True, n=5, seed=0):
        rng = np.random.default_rng(seed)
        side = 32 if name in ("vgg8", "densenet8") else 12
        images, labels = rng.standard_normal((n, 3, side, side)), rng.integers(0, 10, n)
        with pytest.MonkeyPatch.context() as patch:
            small_networks(patch)
            model = models.build_model(name, image_size=side, seed=seed)
        self.hold(name, model.to(dtype="float64"), images, labels, training)
        if state == "trained":
            self.train(rng)

    @classmethod
    def of(cls, *what, training=True):
        """The same of a given name, network, images and labels."""
        case = cls.__new__(cls)
        case.hold(*what, training)
        return case

    def hold(self, name, model, images, labels, training):
        """What it consists of."""
        self.name, self.model, self.training = name, model, training
        self.images, self.labels = images, labels

    def train(self, rng):
        """Move the weights at random, then take a few steps of SGD."""
        for p in self.model.parameters():
            p.data += (0.1 * rng.standard_normal(p.shape)).astype(p.dtype)
        optimizer = SGD(self.model.named_parameters(), lr=0.02, momentum=0.9)
        for _ in range(4):
            images = self.images.astype(self.model.parameters()[0].dtype)
            train_step(self.model, images, self.labels, optimizer)

    def oracle(self, **how):
        """The same in PyTorch."""
        with pytest.MonkeyPatch.context() as patch:
            small_networks(patch)
            how["training"] = self.training
            return NETWORKS[self.name](self.model, self.images, self.labels, **how)

    def probe(self):
        """What the instrument looks at."""
        how = {"training": self.training}
        return flow.probe(self.model, self.images, self.labels, **how)


def small_networks(patch):
    """Put small networks into the tables of ``models``, under the names of NETWORKS."""
    patch.setitem(vgg.CONFIGURATIONS, TINY, ((4,), (6,), (8, 8), (8,), (8,)))
    patch.setattr(vgg, "HIDDEN", 12)
    patch.setattr(vgg, "DROPOUT", 0.0)

    def build(kind, shortcut):
        return lambda **how: cifar_resnet.CifarResNet(TINY, kind, shortcut, **how)

    for name, make in {
        "resnet8": build("residual", "A"),
        "resnet8b": build("residual", "B"),
        "plain8": build("plain", "A"),
        "se_resnet8": build("se", "A"),
        "vgg8": lambda **how: vgg.VGG(TINY, False, **how),
        "densenet8": lambda **how: DenseNet(DENSE, 4, **how),
    }.items():
        patch.setitem(models.MODELS, name, models.Network(name, make, 32, 0.1))
