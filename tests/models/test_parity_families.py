"""Small networks of each family against PyTorch: loss and all gradients, float64."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is the oracle")

import torch

from tests.models.families import FAMILIES
from tests.oracles import torch_families
from tinyflow import Tape, Tensor, ops


@pytest.mark.parametrize("name", FAMILIES)
def test_fused_and_traced_steps_leave_the_same_bits(name):
    images, labels = FAMILIES[name].batch()
    found = []
    for how in ({"fuse": True}, {"retain": "edges"}):
        model = FAMILIES[name].build()
        with Tape(**how) as tape:
            loss = ops.cross_entropy(model(Tensor(images.astype("float32"))), labels)
        tape.backward(loss)
        found.append({k: p.grad for k, p in model.named_parameters()})
        found[-1] |= {k: b.copy() for k, b in model.named_buffers()} | {"": loss.data}
    for path, ours in found[0].items():
        assert np.array_equal(ours, found[1][path]), path


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_equals_pytorch(name):
    small = FAMILIES[name]
    model, (images, labels) = small.moved(), small.batch()
    peer = getattr(torch_families, small.peer[0])(*small.peer[1:]).double()
    state = {k: torch.tensor(np.array(a)) for k, a in model.state_dict().items()}
    loaded = peer.load_state_dict(state, strict=False)
    assert not loaded.unexpected_keys
    assert {k.rpartition(".")[2] for k in loaded.missing_keys} <= {
        "num_batches_tracked"
    }
    with Tape() as tape:
        x = tape.watch(Tensor(images))
        loss = ops.cross_entropy(model(x), labels)
    tape.backward(loss)

    t = torch.tensor(images, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(peer(t), torch.tensor(labels))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    theirs = dict(peer.named_parameters())
    pairs = [("images", x, t)]
    pairs += [(k, p, theirs[k]) for k, p in model.named_parameters()]
    assert len(pairs) == 1 + len(theirs)
    for path, ours, other in pairs:
        scale = float(other.grad.abs().max())
        error = float(np.abs(ours.grad - other.grad.numpy()).max())
        # What normalisation takes away has a gradient of exactly zero but rounding.
        assert error <= 1e-9 * max(scale, 1e-6), (path, error, scale)
    buffers = dict(peer.named_buffers())
    for path, buffer in model.named_buffers():
        np.testing.assert_allclose(buffer, buffers[path], 1e-9, 1e-12, err_msg=path)
