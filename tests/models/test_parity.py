"""The four whole networks against PyTorch: loss and every gradient, in float64."""

import numpy as np
import pytest

import models
from tests.models.compare import same_as_pytorch

torch = pytest.importorskip("torch")


NAMES = ["vgg19", "resnet50", "se_resnet50", "densenet121", "resnet20"]
NAMES += ["plain20", "se_resnet20"]


@pytest.mark.parametrize("name", NAMES)
def test_whole_network_equals_pytorch(name):
    model = models.build_model(name, seed=3).to(dtype="float64")
    if name == "vgg19":
        model.classifier.eval()  # no dropout: the two would draw different masks
    from benchmarks.peers import Peer

    peer = Peer(model)
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((4, 3, 32, 32)), rng.integers(0, 10, 4)
    same_as_pytorch(torch, model, images, labels, peer, peer.p)
    for path, buffer in model.named_buffers():
        assert np.allclose(buffer, peer.p[path].numpy(), rtol=1e-9, atol=1e-12), path
