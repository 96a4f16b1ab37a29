"""Parts of the claims' bench that only some networks need, each against its meaning."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import models
from models.vgg import Features
from tests.flow.claims.test_borders import bench, reading
from tests.flow.claims.tiny import batch, tiny_bench
from tinyflow import Tape, Tensor, flow, fork, mark, nn, ops
from tinyflow.flow.blocks import find_blocks
from tinyflow.flow.claims import CLAIMS
from tinyflow.flow.claims import (
    setup as claims_setup,
)
from tinyflow.flow.claims import (
    shrink as claims_shrink,
)
from tinyflow.flow.claims import (
    sums as claims_sums,
)
from tinyflow.flow.claims.bench import LOOKING
from tinyflow.flow.claims.differences import _value, block_modules, differences
from tinyflow.flow.claims.nets import OWN, network
from tinyflow.flow.claims.readings import read, responses_of
from tinyflow.flow.claims.table import claim
from tinyflow.flow.claims.verdict import Case, subsets


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


def row_batch():
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8))
    return x, np.array([0, 1, 2, 0])


def test_a_block_of_a_row_is_the_layers_between_its_ends():
    """And the first one reads the images themselves."""
    model = Row().to(dtype="float64")
    p = flow.probe(model, *row_batch())
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


@pytest.mark.parametrize("constant", [False, True])
def test_f_is_scaled_by_powers_of_ten_and_then_put_back(constant, monkeypatch):
    """Its last weights and bias; or the weights alone, the bias at a half."""
    model, seen = Row().to(dtype="float64"), []
    last = [
        dict(model.named_parameters())[f"features.6.{n}"] for n in ("weight", "bias")
    ]
    before = [p.data.copy() for p in last]
    last[1].data[...] = before[1] = np.linspace(1, 2, 5)

    def noting(model, *batch, **how):
        seen.append([p.data.copy() for p in last])
        return flow.probe(model, *batch, **how)

    monkeypatch.setattr(claims_shrink, "probe", noting)
    how = {"places": (1.0,), "constant": constant}
    claims_shrink.shrink(lambda: model, "row", "0", *row_batch(), **how)
    for (w, b), epsilon in zip(seen[1:], (1, 0.1, 0.01, 0.001), strict=True):
        np.testing.assert_allclose(w, epsilon * before[0], rtol=1e-15)
        expected = np.full(5, 0.5) if constant else epsilon * before[1]
        np.testing.assert_allclose(b, expected, rtol=1e-15)
    for p, old in zip(last, before, strict=True):
        assert np.array_equal(p.data, old)


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


def quadir_by_torch(torch, name, p, x):
    """His nets, layer by layer as he describes them."""
    conv = torch.nn.functional.conv2d

    def layer(y, at):
        return conv(y, p[f"{at}.weight"], p[f"{at}.bias"], padding=1)

    y, widths = torch.tensor(x), []
    if name != "quadir_cnn":
        y = torch.relu(layer(y, "stem"))
    for i in range(5):
        if name == "quadir_cnn":
            y = torch.relu(layer(y, f"layer{i}.conv"))
        else:
            inner = torch.relu(layer(y, f"block{i}.conv1"))
            f = layer(inner, f"block{i}.conv2")
            y = f if name == "quadir_twin" else f + y
            y = y if name == "quadir_sum" else torch.relu(y)
        widths.append(y.shape[1])
    logits = y.flatten(1) @ p["fc.weight"].T + p["fc.bias"]
    return logits.numpy(), widths


@pytest.mark.parametrize("name", OWN)
def test_quadirs_nets_layer_by_layer(name):
    torch = pytest.importorskip("torch")
    data = {"num_classes": 4, "image_size": 6, "in_channels": 3}
    model = network(name, models.find).build(seed=3, **data).to(dtype="float64")
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6))
    p = {n: torch.tensor(q.data) for n, q in model.named_parameters()}
    expected, widths = quadir_by_torch(torch, name, p, x)
    assert widths == ([64, 32, 64, 32, 64] if name == "quadir_cnn" else [32] * 5)
    with Tape("edges") as tape:
        found = model(Tensor(x))
    np.testing.assert_allclose(found.data, expected, rtol=1e-11, atol=1e-13)
    kind = "layer" if name == "quadir_cnn" else "block"
    blocks = find_blocks(tape)
    assert [b.name for b in blocks] == [f"{kind}{i}" for i in range(5)]
    assert all(b.h.value.min() < 0 for b in blocks)  # before the ReLU
    shortcuts = {b.shortcut is not None for b in blocks}
    assert shortcuts == {name in ("quadir_resnet", "quadir_sum")}
    w = p["fc.weight"].numpy()
    z = w.ravel() * math.sqrt(3 * w.shape[1])
    assert z.std() == pytest.approx(1, abs=5 / math.sqrt(2 * z.size))
    again = network(name, models.find).build(seed=3, **data).state_dict()
    for key, array in (
        network(name, models.find).build(seed=None, **data).state_dict().items()
    ):
        assert not array.any() and array.shape == again[key].shape


def test_what_a_reading_says_of_a_residual_net():
    """Runs, responses and the path of shortcuts, from values and two other ways."""
    made = tiny_bench()
    (r,), p = made.readings("resnet20"), made.probe("resnet20", made.units("")[0])[1]
    tape = p.tape
    names = [f"layer{i}.{j}" for i in (1, 2, 3) for j in range(3)]
    x, h, y = (
        {n: tape[n + end].value.astype(float) for n in names}
        for end in (".in", ".H", "")
    )
    runs = (names[:3], names[4:6], names[7:])  # the others change shape
    assert [(run.first, run.blocks, run.relu) for run in r.runs] == [
        (run[0], len(run), True) for run in runs
    ]
    for run, found in zip(runs, r.runs, strict=True):
        rest = y[run[-1]] - x[run[0]] - sum(h[n] - x[n] for n in run)
        error = np.linalg.norm(rest) / np.linalg.norm(y[run[-1]])
        assert found.error == pytest.approx(error, rel=1e-5)
    for n, (of_x, of_f) in zip(names, r.variances, strict=True):
        assert of_x == pytest.approx(x[n].var(), rel=1e-6)
        if n not in ("layer2.0", "layer3.0"):
            assert of_f == pytest.approx((h[n] - x[n]).var(), rel=1e-5)
    # Batch normalisation leaves variance v / (v + 1e-5), nearly one, per channel.
    assert len(r.responses) == 19
    assert all(s == pytest.approx(1, abs=0.02) for s in r.responses)
    spectrum = flow.spectrum(p)
    assert r.shortcuts == pytest.approx(
        (spectrum.norms[0], spectrum.shares[0]), rel=1e-4
    )
    first = np.linalg.norm(tape["conv1.weight"].grad.ravel().astype(float))
    assert r.weight == pytest.approx(first, rel=1e-6)
    assert r.loss == pytest.approx(p.loss.item()) and r.normalised
    assert (r.setting, r.sums, r.dense) == ("resnet20/0", (), ())


def test_responses_are_those_of_3x3_convolutions():
    """Not of the 1x1 ones of a projection."""
    data = {"num_classes": 10, "image_size": 32, "in_channels": 3}
    tape = flow.probe(models.build_model("resnet18", seed=0, **data), *batch(2)).tape
    norms = [n for n in tape.nodes if n.op == "batch_norm"]
    found = responses_of(tape)
    assert (len(norms), len(found)) == (20, 16)  # the first convolution is 7x7
    values = [n.value for n in norms[1:] if "downsample" not in n.name]
    assert found == pytest.approx([v.astype(float).std() for v in values], rel=1e-6)


class Mixed(nn.Module):
    """A plain block, then a residual one."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(3, 3, 3, padding=1, rng=rng) for _ in range(3)
        )
        self.fc = nn.Linear(3, 4, rng=rng)

    def forward(self, x):
        x = mark(self.conv1(x), "a.in")
        y = ops.relu(mark(self.conv2(x), "a.H"))
        residual, shortcut = fork(mark(y, "b.in"), "residual", "shortcut")
        h = mark(self.conv3(residual) + shortcut, "b.H")
        return self.fc(ops.global_avg_pool2d(ops.relu(h)))


def test_one_residual_block_among_others_has_a_path_of_shortcuts():
    model = Mixed().to(dtype="float64")
    x = np.random.default_rng(1).standard_normal((4, 3, 6, 6))
    p = flow.probe(model, x, np.array([0, 1, 2, 3]))
    found = read(p, "mixed", "0")
    direct = p.tape.edge("b.in", "shortcut").grad
    g = p.tape["b.in"].grad
    share = (direct * g).sum() / (g * g).sum()
    assert found.shortcuts == pytest.approx((np.linalg.norm(direct), share))
    assert [t.name for t in found.terms] == ["a", "b"] and len(found.variances) == 1
    plain = read(flow.probe(Row().to(dtype="float64"), *row_batch()), "row", "0")
    assert plain.shortcuts is None and plain.runs == plain.variances == ()


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
        claims_setup.train_briefly(models.find("plain20"), *batch(2), steps=1)


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
