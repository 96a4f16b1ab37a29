"""Parts of the claims' bench that only some networks need, each against its meaning."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from models.vgg import Features
from tests.claims_tiny import batch, tiny_bench
from tests.test_claims_borders import bench, reading
from tinyflow import Tape, Tensor, flow, nn
from tinyflow.flow import claims_setup, claims_sums
from tinyflow.flow.blocks import find_blocks
from tinyflow.flow.claims import CLAIMS
from tinyflow.flow.claims_bench import LOOKING
from tinyflow.flow.claims_differences import _value, block_modules, differences
from tinyflow.flow.claims_nets import build
from tinyflow.flow.claims_table import claim
from tinyflow.flow.claims_verdict import Case, subsets


class Row(nn.Module):
    """Three convolutions in a row, as VGG's, the second normalised."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.features = Features(
            nn.Conv2d(3, 4, 3, padding=1, rng=rng),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1, rng=rng),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 5, 3, padding=1, rng=rng),
            nn.ReLU(),
        )
        self.flatten, self.fc = nn.Flatten(), nn.Linear(80, 3, rng=rng)

    def forward(self, x):
        return self.fc(self.flatten(self.features(x)))


def test_a_block_of_a_row_is_the_layers_between_its_ends():
    """And the first one reads the images themselves."""
    model = Row().to(dtype="float64")
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8))
    p = flow.probe(model, x, np.array([0, 1, 2, 0]))
    found = differences(model, p)
    assert [d.block for d in found] == [f"features.block{i}" for i in range(3)]
    assert {d.kind for d in found} == {"plain"}
    assert all(d.error < 1e-8 and math.isnan(d.printed) for d in found)
    kinds = [
        [type(m).__name__ for m in block_modules(model, p, b)]
        for b in find_blocks(p.tape)
    ]
    assert kinds == [
        ["Conv2d", "ReLU"],
        ["Conv2d", "BatchNorm2d", "ReLU"],
        ["Conv2d", "ReLU"],
    ]
    # A gradient that is wrong by one in a thousand is seen, in its block.
    x = find_blocks(p.tape)[1].x
    x.grad = x.grad * 1.001
    assert [round(d.error, 5) for d in differences(model, p)] == [0, 0.001, 0]


def test_flows_are_the_growths_of_the_readings():
    """From every gradient, looked at once more without edges."""
    made = tiny_bench()
    names = ("plain20", "resnet20")
    for (name, unit, growth, per_entry), r in zip(
        made.flows(*names), made.readings(*names), strict=True
    ):
        assert (name, unit) == (r.model, r.unit)
        p = made.probe(name, made.units(name)[0])[1].tape
        block = find_blocks(p)[0].x
        maps = [n for n in p.nodes if len(n.shape) == 4][-1]
        sizes = [np.linalg.norm(n.grad.ravel().astype(float)) for n in (block, maps)]
        assert growth == pytest.approx(sizes[0] / sizes[1], rel=1e-5)
        counts = math.sqrt(math.prod(maps.shape) / math.prod(block.shape))
        assert per_entry == pytest.approx(growth * counts, rel=1e-5)
        assert (r.growth, r.growth_rms) == pytest.approx((growth, per_entry), rel=1e-5)


def test_quadirs_plain_net_is_five_convolutions_and_a_layer():
    torch = pytest.importorskip("torch")
    data = {"num_classes": 4, "image_size": 6, "in_channels": 3}
    model = build("quadir_cnn", seed=3, **data).to(dtype="float64")
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6))
    y = torch.tensor(x)
    for i in range(5):
        w, b = (
            torch.tensor(dict(model.named_parameters())[f"layer{i}.conv.{n}"].data)
            for n in ("weight", "bias")
        )
        y = torch.relu(torch.nn.functional.conv2d(y, w, b, padding=1))
        assert y.shape[1] == (64, 32, 64, 32, 64)[i]
    w, b = (
        torch.tensor(dict(model.named_parameters())[f"fc.{n}"].data)
        for n in ("weight", "bias")
    )
    with Tape("edges") as tape:
        found = model(Tensor(x))
    expected = y.flatten(1) @ w.T + b
    np.testing.assert_allclose(found.data, expected.numpy(), rtol=1e-12)
    assert [b.name for b in find_blocks(tape)] == [f"layer{i}" for i in range(5)]
    assert all(b.h.value.min() < 0 for b in find_blocks(tape))  # before the ReLU


def test_where_a_number_is_missing_it_is_said():
    with Tape("leaves") as tape:
        Tensor(np.ones((2, 3)), requires_grad=True) * 2.0
    with pytest.raises(flow.FlowError, match=r"mul holds no value: analyse a Tape"):
        _value(tape["mul"])
    maps = {"b.x0": SimpleNamespace(name="b.x0", grad=None, index=0)}
    block = SimpleNamespace(name="b", sources="a")
    with pytest.raises(flow.FlowError, match=r"b\.x0: no gradient reached it"):
        claims_sums.layer_sum(maps, block, 0)


def test_a_training_that_fails_names_its_network(monkeypatch):
    def step(*args):
        raise FloatingPointError("the loss became nan")

    monkeypatch.setattr(claims_setup, "train_step", step)
    with pytest.raises(FloatingPointError, match=r"^plain20: the loss became nan$"):
        claims_setup.train_briefly("plain20", *batch(2), steps=1)


def test_two_claims_of_one_name_are_refused():
    before = dict(CLAIMS)
    register = claim("noh1-limit", source="", statement="", quantity="")
    with pytest.raises(ValueError, match="a claim 'noh1-limit' already"):
        register(lambda bench: None)
    assert before == CLAIMS


@pytest.mark.parametrize(("values", "count"), [(1, 0), (2, 2), (6, 62), (7, 0)])
def test_every_choice_among_six_values_is_tried_and_none_among_more(values, count):
    cases = [Case("n/0", True, {}, {"stage": f"s{i % values}"}) for i in range(14)]
    found = subsets(cases, "stage", "the stage")
    assert len(found) == count == len({c.text for c in found})
    if values == 6:
        assert found[-1].text == "the stage is s1 or s2 or s3 or s4 or s5"
        assert found[-1].test({"stage": "s5"}) and not found[-1].test({"stage": "s0"})
        assert not found[-1].test({})


def test_without_a_partner_or_a_shortcut_there_is_no_case():
    gated, plain = reading(model="se_other"), reading(shortcuts=None)
    made = bench({(LOOKING, "net"): [plain, reading(shortcuts=(1.0, 0.5))]})
    assert [row["cases"] for row in CLAIMS["quadir-full"](made).measured] == [1]
    made = bench({(LOOKING, "se_net"): gated, (LOOKING, "net"): plain})
    made.setup = claims_setup.Setup(se=("se_other", "se_net"), residual=("net",))
    (row,) = CLAIMS["noh3-first-layer"](made).measured
    assert row["cases"] == 1
