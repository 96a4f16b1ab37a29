"""Small networks of each family against PyTorch: loss and all gradients, float64."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is the oracle")

import torch

from tests.models.compare import same_as_pytorch
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
    theirs = dict(peer.named_parameters())
    assert len(theirs) == len(model.parameters())
    same_as_pytorch(torch, model, images, labels, peer, theirs, small.floor)
    buffers = dict(peer.named_buffers())
    for path, buffer in model.named_buffers():
        np.testing.assert_allclose(buffer, buffers[path], 1e-9, 1e-12, err_msg=path)
