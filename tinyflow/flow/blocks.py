"""The gradient of a block, taken apart into the terms of Noh's equations (1) to (3).

With H(x) = F(x) + S(x) and g = ∂L/∂·, J a Jacobian and s the gate of an SE block:

    plain     g_x = J_Fᵀ g_H                                                    (1)
    residual  g_x = Sᵀ g_H  +  J_Fᵀ g_H           shortcut + residual           (2)
    SE        g_x = Sᵀ g_H  +  J_Fᵀ (s ⊙ g_H)  +  J_Fᵀ g_gate
                                    shortcut + gain + gate                      (3)

Where x is forked into branches with other names that are concatenated (Inception, Fire)
each of them is a term: g_x = Σ_b J_bᵀ g_b. A gate may stand anywhere in F (MBConv).
Where the channels of x are split and H = [x₁ | F(x₂)] (ShuffleNet-v2) the shortcut's
term is [g₁ | 0] and the residual one [0 | J_Fᵀ g₂]: they share no entry, so that their
cosine is 0 and no term can cancel the other.

Every term is an edge, or one pullback from an edge; none is estimated. H is the sum
*before* the ReLU: g_H = 1[H > 0] ⊙ g_y, so even an identity shortcut carries a product
of masks from block to block. S is the identity only where it is called so; projections
and option-A shortcuts are matrices, and labelled as what they are. Where no ReLU
follows the sum (He et al. 2016, arXiv:1603.05027) there is no mask, and g_H = g_y.

A block may fork what is made from x alone, a = A(x), instead of x: both terms of g_a
are then sent on to x by J_Aᵀ, and still add up to g_x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tinyflow.backend import Array, asnumpy
from tinyflow.flow.probe import FlowError, cosine, norm, relative, share
from tinyflow.lengths import unit_of
from tinyflow.tape import Tape
from tinyflow.tensor import Edge, Node

MARKS = (
    "let each block be a Module whose forward writes residual, shortcut = fork(x, "
    '"residual", "shortcut") and, before its last ReLU, mark(f + shortcut, "H")'
)
"""What a network has to write for its blocks to be found."""

KINDS = {
    "conv2d": "projection",
    "slice": "option A",
    "pad": "option A",
    "avg_pool2d": "average pool",
}


@dataclass(frozen=True)
class Block:
    """Where one block stands in the graph.

    Attributes:
        name: module path, e.g. ``layer3.2``.
        kind: "plain", or how its shortcut runs: "identity", "pre-activation" (identity
            but for what comes before the fork), "projection", "option A", "average
            pool" (and what follows it), "channel split" (H joins what it does not
            add), "other"; or "branches".
        x, h: its input and H, the sum or concatenation, which enters its last ReLU if
            it has one.
        out: its output, if it has a name.
        fork: what it forks: x, or the value that everything from x passes first.
        residual, shortcut: the two edges into that; None in a plain block.
        f: what the gate of an SE block acts on; without one the output of the weighted
            layers, h itself if plain.
        scale, squeeze: the two edges into f of an SE block, else None.
        inside: the places on the tape after x that lead to H, see :func:`_inside`.
        branches: the labelled edges into that of a block of branches, by label, without
            the shortcut's.
    """

    name: str
    kind: str
    x: Node
    h: Node
    out: Node | None
    fork: Node
    residual: Edge | None
    shortcut: Edge | None
    f: Node
    scale: Edge | None
    squeeze: Edge | None
    inside: frozenset[int]
    branches: dict[str, Edge] = field(default_factory=dict)

    @property
    def through(self) -> tuple[Edge, ...]:
        """The edges of a block with a shortcut that do not run along it."""
        if self.shortcut is None:
            return ()
        named = tuple(self.branches.values())
        return named if self.residual is None else (self.residual,)


@dataclass(frozen=True)
class Terms:
    """The gradient of one block, measured. Norms are L2 over the whole batch.

    Attributes:
        name, kind, shape: of the block and of x.
        norms: of ``x``, ``H``, ``y`` (output) and of each term.
        ratio: ‖g_x‖ / ‖g_H‖.
        shares: ⟨term, g_x⟩ / ‖g_x‖², which add up to 1; negative if a term works
            against the sum. A share is not an importance.
        cosines: between each pair of terms.
        cancellation: ‖g_x‖ / Σ‖term‖: 1 if all terms align, 0 if they cancel.
        mask: share of H's entries above zero, what the ReLU lets through; None where
            H is not read by a ReLU alone.
        closure: ‖g_x - Σ terms‖ / ‖g_x‖, the conservation error.
        gate: for SE, mean, min and max of s, mean of s(1 - s) and the share of squeeze
            units that are dead for the whole batch.
        flags: Noh's inequalities as booleans, see :func:`measure`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    norms: dict[str, float]
    ratio: float
    shares: dict[str, float]
    cosines: dict[str, float | None]
    cancellation: float
    mask: float | None
    closure: float
    gate: dict[str, float] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)


def has_blocks(tape: Tape) -> bool:
    """Whether :func:`find_blocks` would find any."""
    return any(
        name.endswith(".H") and f"{name[:-2]}.in" in tape.names for name in tape.names
    )


def has_forks(tape: Tape) -> bool:
    """Whether any block has a shortcut beside its residual branch."""
    return has_blocks(tape) and any(b.through for b in find_blocks(tape))


def find_blocks(tape: Tape) -> list[Block]:
    """Every block on the tape, first one first.

    A block is a module that marks its sum, before a last ReLU, ``mark(h, "H")``; its
    input is ``<path>.in``, its fork the edges "residual" and "shortcut". All networks
    in ``models/`` do so; so can yours.
    """
    found = []
    for name, h in tape.names.items():
        path, _, last = name.rpartition(".")
        if last == "H" and f"{path}.in" in tape.names and h.index >= 0:
            found.append(_block(tape, path, h))
    if not found:
        raise FlowError(f"no blocks found: {MARKS}")
    return found


def _block(tape: Tape, path: str, h: Node) -> Block:
    x = tape[f"{path}.in"]
    inside = _inside(x, h)
    fork = _fork(tape, x, h, inside)
    residual = _labelled(tape, fork, "residual", inside)
    shortcut = _labelled(tape, fork, "shortcut", inside)
    kind, f = "plain", h
    if shortcut is not None:
        kind = _kind(tape, x, h, fork, shortcut, residual)
        # H reads the residual branch in the slot that the shortcut does not use.
        along = fork, tape.nodes[shortcut.index]
        side = next(e for e in h.edges if e.producer not in along)
        f = side.producer
    scale = squeeze = None
    gates = _gates(tape, inside, x)
    if len(gates) == 1:  # of several the residual branch is left whole
        scale, f = gates[0], gates[0].producer
        squeeze = tape.edge(f, "squeeze")
    branches = _branches(tape, fork, inside) if residual is scale is None else {}
    if branches and shortcut is None:
        kind = "branches"
    out = tape.names.get(path)
    edges = residual, shortcut, f, scale, squeeze
    return Block(path, kind, x, h, out, fork, *edges, inside, branches)


def _kind(
    tape: Tape, x: Node, h: Node, fork: Node, shortcut: Edge, residual: Edge | None
) -> str:
    """How the shortcut runs, see :class:`Block`."""
    reader = tape.nodes[shortcut.index]
    if h.op == "concat":  # nothing is added, and S moves what it passes on
        if residual is None or reader not in [e.producer for e in h.edges]:
            return "other"
        halves = reader, tape.nodes[residual.index]
        cut = all(
            half.op == "slice" and half.shape[2:] == x.shape[2:] for half in halves
        )
        whole = cut and sum(half.shape[1] for half in halves) == x.shape[1]
        return "channel split" if whole and fork is x else "other"
    if reader is h:
        return "identity" if fork is x else "pre-activation"
    return KINDS.get(reader.op, "other") if h.op == "add" else "other"


def _inside(x: Node, h: Node) -> frozenset[int]:
    """The places after x on the tape that lead to h: a block, and no more.

    What else reads x or a value in the block, as an auxiliary classifier, is not of it,
    whether it stands before h on the tape or behind.
    """
    found, ahead = {h.index}, [h]
    while ahead:
        for edge in ahead.pop().edges:
            node = edge.producer
            if node.index > max(x.index, -1) and node.index not in found:
                found.add(node.index)
                ahead.append(node)
    return frozenset(found)


def _gates(tape: Tape, inside: frozenset[int], x: Node) -> list[Edge]:
    """The edges labelled "scale" between x and h."""
    edges = (edge for i in sorted(inside) for edge in tape.nodes[i].edges)
    return [e for e in edges if e.label == "scale" and e.producer.index > x.index]


def _branches(tape: Tape, fork: Node, inside: frozenset[int]) -> dict[str, Edge]:
    """The edges by label into what is forked, if each of them in the block has its own.

    Without the shortcut's.
    """
    edges = [e for e in tape.edges(fork) if e.index in inside]
    found = {edge.label: edge for edge in edges if edge.label}
    if len(found) != len(edges) or len(edges) < 2:
        return {}
    found.pop("shortcut", None)
    return found


def _fork(tape: Tape, x: Node, h: Node, inside: frozenset[int]) -> Node:
    """What the block that ends in `h` forks: all from `x` to there has one reader."""
    start = x
    while x is not h:
        within = [e for e in tape.edges(x) if e.index in inside]
        if len(within) != 1:
            return x
        x = tape.nodes[within[0].index]
    return start


def _labelled(tape: Tape, x: Node, label: str, inside: frozenset[int]) -> Edge | None:
    """The edge into `x` with `label` that belongs to the block."""
    edges = [e for e in tape.edges(x, label) if e.index in inside]
    return edges[0] if edges else None


def split(tape: Tape, block: Block) -> dict[str, Array]:
    """The terms of ∂L/∂x of one block, by name; their sum is the gradient.

    "F" in a plain block; "shortcut" and "residual"; with squeeze-and-excitation "gain"
    and "gate" in place of "F" or "residual"; the labels of a block of branches; "other"
    for uses of x outside the block.
    """
    terms: dict[str, Array] = {}
    parts = [(name, edge, block.fork) for name, edge in block.branches.items()]
    if block.shortcut is not None:
        parts.insert(0, ("shortcut", block.shortcut, block.fork))
    if block.scale is not None and block.squeeze is not None:
        parts.append(("gain", block.scale, block.f))
        parts.append(("gate", block.squeeze, block.f))
    elif block.shortcut is not None and block.residual is not None:
        parts.append(("residual", block.residual, block.fork))
    elif not parts:
        terms["F"] = tape.pullback(block.h, block.h.grad, to=block.x)
    for name, edge, node in parts:
        g = _message(edge)
        terms[name] = g if node is block.x else tape.pullback(node, g, to=block.x)
    for edge in tape.edges(block.x):
        if edge.index not in block.inside and edge.grad is not None:
            before = terms.get("other")
            terms["other"] = edge.grad if before is None else before + edge.grad
    return terms


def _message(edge: Edge) -> Array:
    if edge.grad is None:
        raise FlowError(f"{edge} holds no gradient: analyse a Tape(retain='edges')")
    return edge.grad


def measure(tape: Tape, block: Block) -> Terms:
    """All numbers of one block; see :class:`Terms`.

    Flags: ``noh2`` ‖g_x‖ ≥ ‖shortcut‖ (what Noh infers from (2)); ``noh3`` ‖shortcut +
    gate‖ ≥ ‖shortcut‖ (from (3)); ``triangle`` ‖g_x‖ ≥ |‖shortcut‖ - ‖rest‖|, which
    must hold for any sum and checks the instrument.
    """
    g = block.x.grad
    if g is None:
        raise FlowError(f"{block.name}: no gradient reached its input")
    terms = split(tape, block)
    total = None
    for term in terms.values():
        total = term if total is None else total + term
    assert total is not None
    norms = {"x": norm(g), "H": norm(block.h.grad)}
    if block.out is not None and block.out.grad is not None:
        norms["y"] = norm(block.out.grad)
    norms |= {name: norm(t) for name, t in terms.items()}
    size = norms["x"]
    unit = unit_of(norms.values())
    parts = sum(norms[name] / unit for name in terms)
    names = list(terms)
    flags = {}
    if "shortcut" in terms:
        shortcut = norms["shortcut"]
        slack = 1 - 1e-6
        flags["noh2"] = size >= shortcut * slack
        rest = norm(total - terms["shortcut"])
        flags["triangle"] = size >= abs(shortcut - rest) * slack - 1e-6 * parts * unit
        if "gate" in terms:
            sum_ = norm(terms["shortcut"] + terms["gate"])
            flags["noh3"] = sum_ >= shortcut * slack
    return Terms(
        name=block.name,
        kind=block.kind,
        shape=block.x.shape,
        norms=norms,
        ratio=size / norms["H"] if norms["H"] else 0.0,
        shares={n: share(t, g, size) for n, t in terms.items()},
        cosines={
            f"{a},{b}": cosine(terms[a], terms[b])
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        },
        cancellation=size / unit / parts if parts else 0.0,
        mask=_mask(tape, block.h),
        closure=relative(g - total, g),
        gate=_gate(tape, block),
        flags=flags,
    )


def _mask(tape: Tape, h: Node) -> float | None:
    readers = {tape.nodes[e.index].op for e in tape.edges(h)}
    if h.value is None or readers != {"relu"}:
        return None
    return float((h.value > 0).mean())


def _gate(tape: Tape, block: Block) -> dict[str, float]:
    if block.scale is None:
        return {}
    gate = tape.nodes[block.scale.index].edges[1].producer
    if gate.value is None:
        return {}
    s = asnumpy(gate.value)
    # s = σ(conv(φ(…))), and φ is a ReLU, whose units may be dead, or another.
    squeezed = gate.edges[0].producer.edges[0].producer
    dead = 0.0
    if squeezed.op == "relu" and squeezed.value is not None:
        dead = float((asnumpy(squeezed.value).max(axis=(0, 2, 3)) <= 0).mean())
    return {
        "mean": float(s.mean()),
        "min": float(s.min()),
        "max": float(s.max()),
        "slope": float((s * (1 - s)).mean()),
        "dead": dead,
    }


def block_terms(tape: Tape) -> list[Terms]:
    """:func:`measure` for every block, first one first."""
    return list(iter_terms(tape))


def iter_terms(tape: Tape) -> Iterator[Terms]:
    """:func:`block_terms`, one at a time.

    A block that reads the images themselves has terms only where these are watched: in
    training, which needs no gradient of an image, it is left out.
    """
    for block in find_blocks(tape):
        if tape.edges(block.x):  # somebody asked for the gradient at its input
            yield measure(tape, block)
