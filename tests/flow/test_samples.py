"""Rows of a message are backward passes of single images."""

from functools import cache

import numpy as np
import pytest

import models
from tinyflow import flow, nn
from tinyflow.flow.samples import most_opposed

LABELS = np.array([4, 1, 4, 7, 1])
RNG = np.random.default_rng(5)
IMAGES = RNG.standard_normal((5, 3, 32, 32))


@cache
def network(name: str) -> nn.Module:
    """With running statistics that are not those of the beginning."""
    model = models.build_model(name, image_size=32, seed=2).to(dtype="float64")
    rng = np.random.default_rng(1)
    for path, buffer in model.named_buffers():
        buffer[...] = rng.uniform(0.5, 1.5, buffer.shape) * (
            1 if "var" in path else 0.2
        )
    return model.eval()


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20", "squeezenet_cifar"])
def test_each_row_is_the_backward_pass_of_one_image(name):
    model = network(name)
    whole = flow.probe(model, IMAGES, LABELS, training=False)
    found = {s.name: s for s in flow.block_samples(whole, LABELS)}
    alone = [
        flow.probe(model, IMAGES[i : i + 1], LABELS[i : i + 1], training=False)
        for i in range(5)
    ]
    blocks = [flow.find_blocks(p.tape) for p in alone]
    for j, block in enumerate(flow.find_blocks(whole.tape)):
        rows = [flow.split(p.tape, b[j]) for p, b in zip(alone, blocks, strict=True)]
        for term in rows[0]:
            one = found[f"{block.name} {term}"]
            messages = [r[term].ravel() for r in rows]
            wanted = [np.linalg.norm(m) for m in messages]
            np.testing.assert_allclose(one.norms, wanted, rtol=1e-9)
            assert one.classes.tolist() == [1, 4, 7]
            groups = [(1, 4), (0, 2), (3,)]
            np.testing.assert_allclose(
                one.means, [np.mean([wanted[i] for i in g]) for g in groups], 1e-9
            )
            sums = [sum(messages[i] for i in g) for g in groups]
            with np.errstate(invalid="ignore"):  # a gate may be dead: 0 / 0
                sums = np.array([s / np.linalg.norm(s) for s in sums])
            np.testing.assert_allclose(one.conflict, sums @ sums.T, atol=1e-9)


def test_an_edge_a_node_and_an_array_are_the_same_thing():
    probe = flow.probe(network("resnet20"), IMAGES, LABELS, training=False)
    block = flow.find_blocks(probe.tape)[3]
    edge, node = block.shortcut, block.x
    a = flow.per_sample(probe, edge, LABELS)
    b = flow.per_sample(probe, edge.grad, LABELS, "an array")
    np.testing.assert_array_equal(a.norms, b.norms)
    assert (a.name, b.name) == (f"{node.name} → {edge.consumer}", "an array")
    assert flow.per_sample(probe, node, LABELS).name == node.name


def test_classes_that_pull_against_each_other_are_named():
    probe = flow.probe(network("resnet20"), IMAGES, LABELS, training=False)
    message = np.zeros((5, 2, 1, 1))
    message[:, :, 0, 0] = [[1, 0], [0, 2], [3, 0], [-1, -1], [0, 0]]  # 4, 1, 4, 7, 1
    found = flow.per_sample(probe, message, LABELS, "made")
    root = np.sqrt(0.5)
    np.testing.assert_allclose(
        found.conflict, [[1, 0, -root], [0, 1, -root], [-root, -root, 1]], atol=1e-15
    )
    np.testing.assert_allclose(found.norms, [5, 10, 15, 5 * np.sqrt(2), 0])
    message[3] = -message[0]
    assert most_opposed([flow.per_sample(probe, message, LABELS, "made")]) == [
        ("made", 4, 7, pytest.approx(-1))
    ]
    message[1:4:2] = 0  # classes 1 and 7 send nothing
    found = flow.per_sample(probe, message, LABELS, "made")
    assert np.isnan(found.conflict).sum() == 8 and found.conflict[1, 1] == 1
    assert most_opposed([found]) == []


def test_coupled_samples_and_what_has_no_rows_are_refused():
    model = network("resnet20")
    coupled = flow.probe(model, IMAGES, LABELS)
    with pytest.raises(flow.FlowError, match="probe with training=False"):
        flow.block_samples(coupled, LABELS)
    free = models.build_model("vgg11", image_size=32, seed=1).to(dtype="float64")
    probe = flow.probe(free, IMAGES, LABELS)  # no normalisation, nothing couples
    assert len(flow.block_samples(probe, LABELS)) == 8
    probe = flow.probe(model, IMAGES, LABELS, training=False)
    weight = next(e for n in probe.tape.nodes for e in n.edges if e.producer.index < 0)
    edge = next(
        e
        for n in probe.tape.nodes
        for e in n.edges
        if len(e.producer.shape) == 4 and e.producer.op == "leaf" and e.slot == 1
    )
    assert weight.producer.op == "leaf"
    with pytest.raises(flow.FlowError, match="no row for each of 5 samples"):
        flow.per_sample(probe, edge, LABELS)
    with pytest.raises(flow.FlowError, match="give one for each"):
        flow.per_sample(probe, flow.find_blocks(probe.tape)[0].x, LABELS[:4])
