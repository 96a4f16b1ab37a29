"""The instrument against independent oracles: brute force, finite differences."""

from itertools import combinations

import numpy as np
import pytest

import models
from tinyflow import Tape, Tensor, flow, fork, mark, nn, ops
from tinyflow.flow import paths
from tinyflow.flow.blocks import find_blocks, split
from tinyflow.flow.counterfactual import branch_edges, counterfactual, first_weight
from tinyflow.flow.paths import path_gradient, residual_blocks
from tinyflow.flow.probe import norm, relative


def batch(n=4, seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, 32, 32)).astype(dtype), rng.integers(0, 10, n)


def probe(name, dtype="float64", n=4, seed=0, **how):
    model = models.build_model(name, seed=seed).to(dtype=dtype)
    return flow.probe(model, *batch(n, dtype=dtype), **how)


class Small(nn.Module):
    """A chain of L residual blocks on vectors, small enough for all 2ᴸ paths."""

    def __init__(self, blocks, width=5, seed=0):
        rng = np.random.default_rng(seed)
        self.stem = nn.Linear(12, width, rng=rng)
        self.blocks = nn.Sequential(*(Block(width, rng) for _ in range(blocks)))
        self.head = nn.Linear(width, 3, rng=rng)

    def forward(self, x):
        return self.head(self.blocks(self.stem(ops.flatten(x, 1))))


class Block(nn.Module):
    def __init__(self, width, rng):
        self.fc = nn.Linear(width, width, std=0.7, rng=rng)

    def forward(self, x):
        residual, shortcut = fork(x, "residual", "shortcut")
        return ops.relu(mark(ops.tanh(self.fc(residual)) + shortcut, "H"))


@pytest.fixture(scope="module")
def small():
    model = Small(6).to(dtype="float64")
    rng = np.random.default_rng(1)
    return flow.probe(model, rng.standard_normal((7, 3, 2, 2)), rng.integers(0, 3, 7))


# --- block terms ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg11", "plain20", "resnet20", "se_resnet20"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_terms_add_up_to_the_gradient(name, dtype):
    p = probe(name, dtype)
    terms = flow.block_terms(p.tape)
    assert max(t.closure for t in terms) <= flow.TOLERANCE[dtype]
    for t in terms:
        assert sum(t.shares.values()) == pytest.approx(1, abs=1e-5)
        assert t.flags.get("triangle", True)
        assert 0 <= t.cancellation <= 1 + 1e-6
        assert 0 < t.mask < 1


def test_blocks_are_labelled_as_what_they_are():
    kinds = [b.kind for b in find_blocks(probe("resnet20").tape)]
    assert kinds == ["identity"] * 3 + (["option A"] + ["identity"] * 2) * 2
    kinds = [b.kind for b in find_blocks(probe("resnet18", n=2).tape)]
    assert kinds == ["identity"] * 2 + ["projection", "identity"] * 3
    assert {b.kind for b in find_blocks(probe("plain20", n=2).tape)} == {"plain"}
    with pytest.raises(flow.FlowError, match="no blocks found: let each block"):
        find_blocks(Tape())


@pytest.mark.parametrize("block", ["layer1.1", "layer2.0"])
def test_shortcut_and_residual_against_finite_differences_of_each_path(block):
    """Perturb the block's input along one path only, the other held at its value."""
    p = probe("resnet20")
    model = models.build_model("resnet20").to(dtype="float64")
    stage, index = block.split(".")
    module = vars(vars(model)[stage])[index]
    x = p.tape[f"{block}.in"].value
    g_h = p.tape[f"{block}.H"].grad
    terms = split(p.tape, find_blocks(p.tape)[{"layer1.1": 1, "layer2.0": 3}[block]])
    v = np.random.default_rng(0).standard_normal(x.shape)

    def h(along_residual, along_shortcut):
        f = ops.relu(module.bn1(module.conv1(Tensor(x + along_residual * v))))
        f = module.bn2(module.conv2(f))
        return (f + module.downsample(Tensor(x + along_shortcut * v))).data

    eps = 1e-6
    for name, (a, b) in {"residual": (1, 0), "shortcut": (0, 1)}.items():
        slope = (h(a * eps, b * eps) - h(-a * eps, -b * eps)) / (2 * eps)
        expected = float((slope * g_h).sum())
        assert float((terms[name] * v).sum()) == pytest.approx(expected, rel=1e-5)


def test_gain_and_gate_against_finite_differences_of_each_path():
    """Both edges into F: move F with s held, then the input of s with F held."""
    p = probe("se_resnet20")
    block = find_blocks(p.tape)[4]
    model = models.build_model("se_resnet20").to(dtype="float64")
    module = vars(model.layer2)["1"]
    f, g_h = block.f.value, block.h.grad
    v = np.random.default_rng(0).standard_normal(f.shape)

    def gate(f):
        z = Tensor(f.mean((2, 3), keepdims=True))
        return ops.sigmoid(module.se.fc2(ops.relu(module.se.fc1(z)))).data

    eps = 1e-6
    gain = v * gate(f)
    through_gate = f * (gate(f + eps * v) - gate(f - eps * v)) / (2 * eps)
    for edge, slope in ((block.scale, gain), (block.squeeze, through_gate)):
        expected = float((slope * g_h).sum())
        assert float((edge.grad * v).sum()) == pytest.approx(expected, rel=1e-5)
    terms = split(p.tape, block)
    assert (
        relative(
            terms["gain"] + terms["gate"] - block.residual.grad, block.residual.grad
        )
        < 1e-13
    )


def test_uses_of_x_outside_the_block_are_a_term_of_their_own():
    class Leaky(nn.Module):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.stem = nn.Linear(12, 5, rng=rng)
            self.block = Block(5, rng)

        def forward(self, x):
            x = self.stem(ops.flatten(x, 1))
            return self.block(x) + x * 0.5

    rng = np.random.default_rng(1)
    p = flow.probe(
        Leaky().to(dtype="float64"), rng.standard_normal((7, 3, 2, 2)), np.arange(7) % 5
    )
    (terms,) = flow.block_terms(p.tape)
    assert set(terms.shares) == {"shortcut", "residual", "other"}
    assert terms.closure < 1e-14


def test_a_planted_error_shows_in_the_closure():
    p = probe("resnet20")
    block = find_blocks(p.tape)[2]
    block.residual.grad = block.residual.grad * 1.01
    assert flow.measure(p.tape, block).closure > 1e-3
    assert max(p.tape.closure().values()) > 1e-3


def test_probing_leaves_the_model_as_it_was():
    model = models.build_model("vgg11_bn")
    model.eval()
    before = {k: v.copy() for k, v in model.state_dict().items()}
    first = flow.probe(model, *batch(dtype="float32"))
    again = flow.probe(model, *batch(dtype="float32"))
    assert first.loss.item() == again.loss.item()  # the same dropout masks
    assert not model.training
    assert all(np.array_equal(v, before[k]) for k, v in model.state_dict().items())


# --- dense blocks ---------------------------------------------------------------------


def test_dense_contributions_add_up_and_count_their_readers():
    for block in flow.dense_terms(probe("densenet121").tape):
        layers = len(block.sources) - 1
        assert block.closure == 0
        assert block.readers == list(range(layers + 1, 0, -1))
        assert np.allclose(np.nansum(block.shares, axis=1), 1)
        assert np.isnan(block.norms[3, :3]).all() and (block.norms[3, 3:] > 0).all()
        for r, n, m in zip(
            block.coherence, block.effective, block.readers, strict=True
        ):
            assert 0 < r <= m**0.5 + 1e-9 and 1 - 1e-9 <= n <= m + 1e-9
        assert block.state_norms[-1] == pytest.approx(
            np.sqrt(np.nansum(block.norms[:, -1] ** 2))
        )
        assert block.state_norms[0] == pytest.approx(block.totals[0])


def test_state_norm_is_the_norm_of_a_pullback_to_the_whole_state():
    p = probe("densenet121")
    block = flow.dense_terms(p.tape)[0]
    # ∂L/∂[x_0, x_1, x_2] counting readers after layer 2: their edges to later layers.
    total = 0.0
    for j in range(3):
        edges = p.tape.edges(f"{block.name}.x{j}")[2 - j :]
        total += norm(sum(e.grad for e in edges)) ** 2
    assert block.state_norms[2] == pytest.approx(np.sqrt(total))


# --- paths ----------------------------------------------------------------------------


def test_spectrum_equals_brute_force_over_all_paths(small):
    blocks = residual_blocks(small)
    exact = flow.spectrum(small)
    steps = {b.residual: (1, 0) for b in blocks}
    parts = small.tape.graded_pullback(small.loss, to=blocks[0].x, grade=steps.get)
    for k in range(7):
        brute = sum(
            path_gradient(small, blocks, set(crossed))
            for crossed in combinations(range(6), k)
        )
        assert relative(parts[(k, 0)] - brute, brute) < 1e-12
        assert exact.norms[k] == pytest.approx(norm(brute), rel=1e-12)
    assert exact.closure < 1e-14
    assert sum(exact.shares) == pytest.approx(1)
    assert exact.paths == [1, 6, 15, 20, 15, 6, 1]


def test_veits_estimate_is_exact_where_all_paths_are_sampled(small):
    blocks = residual_blocks(small)
    found = flow.spectrum(small, veit_samples=3)
    only = norm(path_gradient(small, blocks, set(range(6))))
    assert found.veit[6] == pytest.approx(only)
    assert found.veit[0] == pytest.approx(found.norms[0])
    assert len(found.veit) == 7


def brute(small, k):
    """Every path of length k of the small network, one by one."""
    blocks = residual_blocks(small)
    return [
        path_gradient(small, blocks, set(crossed))
        for crossed in combinations(range(len(blocks)), k)
    ]


def test_all_paths_are_looked_at_where_there_are_few(small):
    found = flow.spectrum(small, veit_samples=1)
    for k in range(7):
        each = brute(small, k)
        sizes = sorted(map(norm, each))
        assert sorted(found.singles[k]) == pytest.approx(sizes)
        assert found.veit[k] == pytest.approx(len(each) * np.mean(sizes))
        squares = sum(norm(c) ** 2 for c in each)
        expected = norm(sum(each)) / np.sqrt(squares)
        assert found.coherence[k] == pytest.approx(expected)
        assert found.coherence_range[k] == (found.coherence[k],) * 2
    again = flow.spectrum(small, veit_samples=2, seed=9)  # nothing is left to choose
    assert (again.veit, again.coherence) == (found.veit, found.coherence)


def test_sampled_paths_and_random_signs_agree_with_all_of_them(small, monkeypatch):
    every = flow.spectrum(small, veit_samples=1)
    monkeypatch.setattr(paths, "ENUMERATED", 63)
    monkeypatch.setattr(paths, "SIGNS", 64)
    sampled = flow.spectrum(small, veit_samples=6, seed=1)
    assert [len(s) for s in sampled.singles] == [1, 6, 6, 6, 6, 6, 1]
    assert sampled.singles[1] == pytest.approx(every.singles[1])  # all six of them
    for k in range(7):
        low, high = sampled.coherence_range[k]
        assert low - 1e-9 <= every.coherence[k] * (1 + 1e-12) <= high + 1e-2
        assert set(np.round(sampled.singles[k], 12)) <= set(
            np.round(every.singles[k], 12)
        )


def test_at_initial_weights_paths_are_orthogonal():
    """Their sum is as long as the root of the summed squares; norms do not add up."""
    found = flow.spectrum(probe("resnet20", "float32", n=2), veit_samples=1)
    assert max(abs(c - 1) for c in found.coherence) < 0.1
    for k in range(1, 9):
        overstated = found.veit[k] / found.norms[k]
        assert overstated == pytest.approx(np.sqrt(found.paths[k]), rel=0.5)


def test_gates_are_counted_apart_and_sum_to_the_lengths():
    found = flow.spectrum(probe("se_resnet20"))
    assert found.closure < 1e-13
    for k, share in zip(found.lengths, found.shares, strict=True):
        parts = [s for (i, m), s in found.gates.items() if i == k]
        assert sum(parts) == pytest.approx(share, abs=1e-12)
        assert all(m <= i for i, m in found.gates)


def test_spectrum_of_resnet110_closes():
    found = flow.spectrum(probe("resnet110", "float32", n=2))
    assert found.blocks == 54 and len(found.shares) == 55
    assert found.closure < flow.TOLERANCE["float32"]


def test_plain_networks_have_no_paths_to_count():
    with pytest.raises(flow.FlowError, match="no residual blocks"):
        flow.spectrum(probe("plain20", n=2))


# --- counterfactuals ------------------------------------------------------------------


def test_cutting_a_branch_removes_exactly_what_went_through_it():
    p = probe("resnet20")
    goal = first_weight(p)
    assert goal.name == "conv1.weight"
    edges = branch_edges(p, "layer2.1", "residual")
    cut = counterfactual(p, edges)
    through = p.tape.pullback(p.loss, to=goal, through=edges)
    assert relative(cut + through - goal.grad, goal.grad) < 1e-13
    half = counterfactual(p, edges, 0.5)
    assert relative(half - (cut + 0.5 * through), goal.grad) < 1e-13
    found = flow.measure_branch(p, "layer2.1", "residual")
    assert found.change == pytest.approx(norm(through) / norm(goal.grad))
    same = flow.measure_branch(p, "layer2.1", "residual", factor=1.0)
    assert same.change == 0 and same.norm_ratio == 1


def test_unknown_blocks_and_branches_are_one_sentence():
    p = probe("resnet20", n=2)
    with pytest.raises(flow.FlowError, match=r"no block 'layer9'; there are 9, among"):
        flow.measure_branch(p, "layer9", "residual")
    with pytest.raises(flow.FlowError, match="unknown branch"):
        flow.measure_branch(p, "layer1.0", "trunk")
    with pytest.raises(flow.FlowError, match="has no squeeze"):
        flow.measure_branch(p, "layer1.0", "squeeze")


# --- against PyTorch's own nodes ------------------------------------------------------


def test_edges_equal_pytorch_node_hooks_on_a_whole_resnet50():
    torch = pytest.importorskip("torch")
    from benchmarks.peers import Peer

    model = models.build_model("resnet50", seed=3).to(dtype="float64")
    images, labels = batch(4)
    p = flow.probe(model, images, labels)
    peer = Peer(model)
    sent = []  # (gradients into F(x) + x: through the branch, through the shortcut)

    def watch(node):
        node.register_hook(lambda inputs, outputs: sent.append((node, inputs)))

    t = torch.tensor(images, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(peer.resnet50(t), torch.tensor(labels))
    stack, seen = [loss.grad_fn], set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name().startswith(("AddBackward", "ConvolutionBackward")):
            watch(node)
        stack += [n for n, _ in node.next_functions if n is not None]
    loss.backward()
    theirs = {"add": [], "conv": []}
    for node, inputs in sent:
        kind = "add" if node.name().startswith("Add") else "conv"
        theirs[kind].append([None if i is None else i.numpy() for i in inputs])
    blocks = find_blocks(p.tape)
    assert len(theirs["add"]) == len(blocks) == 16
    for block, (branch, shortcut) in zip(reversed(blocks), theirs["add"], strict=True):
        ours = [e.grad for e in block.h.edges]
        assert relative(ours[0] - branch, branch) < 1e-9, block.name
        assert relative(ours[1] - shortcut, shortcut) < 1e-9, block.name
    # Every convolution's message to its input, as an unordered collection of norms.
    edges = [n.edges[0] for n in p.tape.nodes if n.op == "conv2d" and n.need[0]]
    ours = sorted(norm(e.grad) for e in edges)
    norms = sorted(float(np.linalg.norm(i[0])) for i in theirs["conv"])
    assert len(ours) == 53
    assert np.allclose(ours, norms, rtol=1e-9)
