"""The four whole networks against PyTorch: loss and every gradient, in float64."""

import numpy as np
import pytest

import models
from tinyflow import Tape, Tensor, ops

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
    with Tape() as tape:
        x = tape.watch(Tensor(images))
        loss = ops.cross_entropy(model(x), labels)
    tape.backward(loss, release=True)

    t = torch.tensor(images, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(peer(t), torch.tensor(labels))
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
