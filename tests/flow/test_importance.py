"""Share, cut and lesion of a branch, each against another way to the same number."""

import numpy as np
import pytest

import models
from tinyflow import Tensor, flow, nn, ops
from tinyflow.flow.importance import Importance

LABELS = np.array([4, 1, 4, 7, 1, 0])
IMAGES = np.random.default_rng(5).standard_normal((6, 3, 32, 32))
LAST = {  # the normalisation that ends F
    "resnet20": "bn2",
    "se_resnet20": "bn2",
    "resnet20_b": "bn2",
    "resnet50": "bn3",
}


def network(name: str) -> nn.Module:
    return models.build_model(name, image_size=32, seed=2).to(dtype="float64")


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize("training", [True, False])
def test_a_lesion_is_a_branch_whose_last_layer_gives_zero(name, training):
    model = network(name)
    probe = flow.probe(model, IMAGES, LABELS, training=training)
    kept = {path: b.copy() for path, b in model.named_buffers()}
    found = flow.importance(model, probe, LABELS)
    assert [i.block for i in found] == [b.name for b in flow.find_blocks(probe.tape)]
    for path, buffer in model.named_buffers():
        assert np.array_equal(buffer, kept[path])
    before = probe.loss.item()
    right = (probe.logits.data.argmax(1) == LABELS).mean()
    modules = dict(model.named_modules())
    for one in found[:: max(1, len(found) // 4)]:
        bn = modules[f"{one.block}.{LAST[name]}"]
        weight, bias = bn.weight.data.copy(), bn.bias.data.copy()
        bn.weight.data[...], bn.bias.data[...] = 0, 0
        without = flow.probe(model, IMAGES, LABELS, training=training)
        bn.weight.data[...], bn.bias.data[...] = weight, bias
        assert one.loss == pytest.approx(without.loss.item() - before, abs=1e-12)
        correct = (without.logits.data.argmax(1) == LABELS).mean() - right
        assert one.correct == pytest.approx(correct, abs=1e-15)


def test_share_and_cut_are_those_of_the_block_and_of_the_counterfactual():
    model = network("resnet20")
    probe = flow.probe(model, IMAGES, LABELS)
    terms = {t.name: t for t in flow.block_terms(probe.tape)}
    for one in flow.importance(model, probe, LABELS):
        assert one.share == pytest.approx(1 - terms[one.block].shares["shortcut"])
        assert one.kind == terms[one.block].kind
        cut = flow.measure_branch(probe, one.block, "residual")
        assert one.cut == cut.change > 0


@pytest.mark.parametrize("name", ["mobilenet_v2_cifar", "preact_resnet110"])
def test_blocks_without_a_last_relu(name):
    model = network(name)
    probe = flow.probe(model, IMAGES[:2], LABELS[:2])
    found = flow.importance(model, probe, LABELS[:2])
    kinds = {b.name: b.kind for b in flow.find_blocks(probe.tape) if b.through}
    assert {i.block: i.kind for i in found} == kinds
    assert all(np.isfinite([i.share, i.cut, i.loss]).all() for i in found)


def test_agreement_is_spearmans():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((7, 3))
    found = [Importance(f"b{i}", "identity", *row, 0.0) for i, row in enumerate(rows)]
    share, cut, loss = rows.T

    def ranks(values):
        return [sum(v > w for w in values) for v in values]

    wanted = [
        np.corrcoef(ranks(a), ranks(b))[0, 1]
        for a, b in ((share, cut), (share, abs(loss)), (cut, abs(loss)))
    ]
    np.testing.assert_allclose(flow.agreement(found), wanted, atol=1e-12)


class Parallel(nn.Module):
    """Shortcut and branch meet twice before H."""

    def __init__(self) -> None:
        self.conv = nn.Conv2d(3, 3, 1, rng=np.random.default_rng(0))
        self.fc = nn.Linear(3, 10, rng=np.random.default_rng(1))
        self.block = Mixing()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(ops.global_avg_pool2d(self.block(self.conv(x))))


class Mixing(nn.Module):
    def __init__(self) -> None:
        self.conv = nn.Conv2d(3, 3, 1, rng=np.random.default_rng(2))

    def forward(self, x: Tensor) -> Tensor:
        from tinyflow import fork
        from tinyflow.tape import mark

        residual, shortcut = fork(x, "residual", "shortcut")
        f = self.conv(residual)
        both = f + shortcut
        return ops.relu(mark(both * 2 + both, "H"))


def test_table_and_figure_show_what_was_measured():
    found = [
        Importance("layer1.0", "identity", 0.5, 0.25, -0.125, 0.5),
        Importance("layer1.1", "option A", -0.5, 0.75, 0.0625, 0.0),
        Importance("layer1.2", "identity", 0.75, 0.5, 0.25, -0.5),
    ]
    text = str(flow.table(found))
    for words in ("layer1.1  option A  -0.50", "share and cut -0.50", "50%"):
        assert words in text
    figure = flow.figure(found, "net", "shapes")
    *_, lesion = figure.axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights == [[0.5, -0.5, 0.75], [0.25, 0.75, 0.5], [-0.125, 0.0625, 0.25]]
    assert lesion.get_ylabel() == "lesion, ΔL"


def test_what_a_lesion_cannot_leave_is_refused():
    model = Parallel().to(dtype="float64")
    probe = flow.probe(model, IMAGES, LABELS)
    with pytest.raises(flow.FlowError):
        flow.importance(model, probe, LABELS)
    model = network("shufflenet_v2_cifar")
    probe = flow.probe(model, IMAGES[:2], LABELS[:2])
    with pytest.raises(flow.FlowError, match="adds its branch to a shortcut"):
        flow.importance(model, probe, LABELS[:2])


def test_a_model_that_has_changed_is_noticed():
    model = network("resnet20")
    probe = flow.probe(model, IMAGES, LABELS)
    with pytest.raises(flow.FlowError, match="or these are other labels"):
        flow.importance(model, probe, LABELS[::-1])
    model.fc.weight.data[...] *= 1.5
    with pytest.raises(flow.FlowError, match="probe it again"):
        flow.importance(model, probe, LABELS)
