"""One batch through a network of ours and through the same in PyTorch, in float64."""

import numpy as np
import pytest

from tinyflow import Tape, Tensor, ops


def same_as_pytorch(torch, model, images, labels, peer, theirs, floor=1e-6):
    """Loss and every gradient agree to 1e-9, those of the images too.

    Args:
        torch: the module.
        model: ours, in training mode.
        images, labels: the batch.
        peer: gives PyTorch's logits for a tensor of images.
        theirs: PyTorch's parameters by our names, to be looked up afterwards.
        floor: size of a gradient below which only rounding is left, as of what
            normalisation takes away.
    """
    t = torch.tensor(images, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(peer(t), torch.tensor(labels))
    expected.backward()
    with Tape() as tape:
        x = tape.watch(Tensor(images))
        loss = ops.cross_entropy(model(x), labels)
    tape.backward(loss, release=True)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    named = dict(model.named_parameters())
    pairs = [("images", x, t), *((k, p, theirs[k]) for k, p in named.items())]
    for path, ours, other in pairs:
        scale = float(other.grad.abs().max())
        error = float(np.abs(ours.grad - other.grad.numpy()).max())
        assert error <= 1e-9 * max(scale, floor), (path, error, scale)
