"""What the instrument should measure and write, computed from a PyTorch network."""

import itertools
import math
from statistics import median

import numpy as np
import torch

import models
from models import build_model
from tests.oracles.torch_nets import Case, angle, inner, same, size
from tinyflow.flow.settings import Settings
from tinyflow.flow.source import find_source
from tinyflow.train.checkpoint import Metadata, load_checkpoint, save_checkpoint

BATCH = 4


def terms_of(block):
    """The gradient of a block's input by the ways it came, and that gradient."""
    x, h = block["x"], block["h"]
    if "shortcut" not in block:
        (f,) = torch.autograd.grad(h, x, h.g, retain_graph=True)
        return {"F": f}
    terms = {"shortcut": block["shortcut"].g, "residual": block["residual"].g}
    if "scale" in block:
        del terms["residual"]
        for name, use in (("gain", "scale"), ("gate", "squeeze")):
            (terms[name],) = torch.autograd.grad(
                block["f"], block["residual"], block[use].g, retain_graph=True
            )
    return terms


def expected_terms(oracle):
    """Per block, every field of ``flow.Terms`` but its closure."""
    return [_expected(block) for block in oracle.blocks if block["x"].g is not None]


def _expected(block):
    terms, g = terms_of(block), block["x"].g
    norms = {"x": size(g), "H": size(block["h"].g), "y": size(block["y"].g)}
    norms |= {name: size(t) for name, t in terms.items()}
    gate, flags = {}, {}
    if "s" in block:
        s, z = block["s"].detach(), block["z"].detach()
        dead = [bool((z[:, c] == 0).all()) for c in range(z.shape[1])]
        gate = {
            "mean": float(s.mean()),
            "min": float(s.min()),
            "max": float(s.max()),
            "slope": float((s - s * s).mean()),
            "dead": sum(dead) / len(dead),
        }
    if "shortcut" in terms:
        shortcut = terms["shortcut"]
        flags["noh2"] = size(g) >= size(shortcut) * (1 - 1e-6)
        flags["triangle"] = True
        if "gate" in terms:
            both = size(shortcut + terms["gate"])
            flags["noh3"] = both >= size(shortcut) * (1 - 1e-6)
    return {
        "name": block["name"],
        "kind": block["kind"],
        "shape": tuple(g.shape),
        "norms": norms,
        "ratio": size(g) / size(block["h"].g),
        "shares": {name: inner(t, g) / inner(g, g) for name, t in terms.items()},
        "cosines": {
            f"{a},{b}": angle(terms[a], terms[b])
            for a, b in itertools.combinations(terms, 2)
        },
        "cancellation": size(g) / sum(size(t) for t in terms.values()),
        "mask": float((block["h"].detach() > 0).double().mean()),
        "gate": gate,
        "flags": flags,
    }


def slope(x, y):
    """Of the least-squares line through points."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    return float(
        (((x - x.mean()) * (y - y.mean())).sum()) / ((x - x.mean()) ** 2).sum()
    )


def expected_dense(oracle, again):
    """Per dense block, every field of ``flow.DenseBlock`` but its closure.

    `again` runs the network anew with other options, for the norms of the state.
    """
    found = []
    for i, block in enumerate(oracle.dense):
        maps, readers = block["maps"], block["readers"]
        name = f"features.denseblock{i + 1}"
        blank = [[math.nan] * len(readers) for _ in maps]
        norms, shares = blank, [list(row) for row in blank]
        rows = {key: [] for key in ("totals", "rms", "readers", "coherence")}
        rows["effective"] = []
        for j, x in enumerate(maps):
            parts = []
            for c, (_, uses) in enumerate(readers):
                if j < len(uses):
                    parts.append(uses[j].g)
                    norms[j][c] = size(parts[-1])
                    shares[j][c] = inner(parts[-1], x.g) / inner(x.g, x.g)
            squares = [size(part) ** 2 for part in parts]
            rows["totals"].append(size(x.g))
            rows["rms"].append(float((x.g**2).mean().sqrt()))
            rows["readers"].append(len(parts))
            rows["coherence"].append(size(sum(parts)) / sum(squares) ** 0.5)
            # 1 / Σ p², p the share of each contribution in Σ‖c‖²
            p = [square / sum(squares) for square in squares]
            rows["effective"].append(1 / sum(q * q for q in p))
        state = []
        for layer in range(len(maps)):
            later = again(first_reader=(i, layer))
            grads = torch.autograd.grad(
                later.loss, later.dense[i]["maps"][: layer + 1], retain_graph=True
            )
            state.append(sum(size(g) ** 2 for g in grads) ** 0.5)
        made = list(zip(rows["readers"], rows["rms"], strict=True))[1:]
        logs = np.log(np.array(made))
        found.append(
            {
                "name": name,
                "consumers": [reader for reader, _ in readers],
                "norms": norms,
                "shares": shares,
                **rows,
                "exponent": slope(*logs.T) if len(made) > 2 else math.nan,
                "state_norms": state,
            }
        )
    return found


# --- what should be written ---


def case_of(name, state, folder, training=True):
    """Network, batch and the options that make analyze.py look at them."""
    batch = find_source(Settings(batch_size=BATCH)).batch()
    model, options = build_model(name), ("--model", name)
    if state == "trained":
        Case.of(name, model, *batch).train(np.random.default_rng(0))
        path = folder / f"{name}.safetensors"
        told = Metadata(name, 10, 32, 3, "shapes", 0, 3, 0.5)
        save_checkpoint(path, model, told)
        model, options = load_checkpoint(path, models.find)[0], ("--checkpoint", path)
    if not training:
        options = (*options, "--mode", "eval")
    model.to(dtype="float64")
    return Case.of(name, model, *batch, training=training), options


def strict(value):
    """Tuples as lists, what is not finite as None, as JSON has it."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    bad = isinstance(value, float) and not math.isfinite(value)
    return None if bad else value


def against_rest(block):
    """Cosine between the shortcut's gradient and everything else."""
    if "shortcut" not in block:
        return None
    shortcut = block["shortcut"].g
    return angle(shortcut, block["x"].g - shortcut)


def expected_model(case, state, path):
    """What summary.json should say of a network, closures left out."""
    oracle = case.oracle()
    trained = f"epoch 3 of {path}, seed 0"
    weights = "initial weights" if state == "initial" else trained
    if case.name == "densenet8":
        dense = expected_dense(oracle, case.oracle)
        states = [d["state_norms"] for d in dense]
        first, last = states[0][0], states[-1][0]
        ratios, shares, cosines = [s[0] / s[-1] for s in states], {}, []
        profile = [
            (f"{d['name']}.x{j}", s)
            for d in dense
            for j, s in enumerate(d["state_norms"])
        ]
        blocks = [_dense(d) for d in dense]
    else:
        terms = expected_terms(oracle)
        first, last = terms[0]["norms"]["x"], terms[-1]["norms"]["x"]
        ratios = [t["ratio"] for t in terms]
        shares = {
            name: float(np.median([t["shares"][name] for t in terms]))
            for name in ("F", "shortcut", "residual", "gain", "gate")
            if name in terms[0]["shares"]
        }
        cosines = [c for c in map(against_rest, oracle.blocks) if c is not None]
        profile = [(t["name"], t["norms"]["x"]) for t in terms]
        blocks = [_block(t) for t in terms]
    return {
        "name": case.name,
        "weights": weights,
        "dataset": "shapes",
        "parameters": sum(p.numel() for p in oracle.p.values() if p.requires_grad),
        "loss": oracle.loss.item(),
        "gradient_first_block": first,
        "gradient_last_block": last,
        "median_block_ratio": median(ratios),
        "median_shares": shares,
        "mean_cosine_shortcut_rest": float(np.mean(cosines)) if cosines else None,
        "blocks": strict(blocks),
        "profile": [{"name": name, "norm": norm} for name, norm in profile],
    }


def _block(t):
    return {
        "name": t["name"],
        "kind": t["kind"],
        "shape": t["shape"],
        **{f"norm_{at}": t["norms"][at] for at in "xHy"},
        "ratio": t["ratio"],
        "terms": {
            name: {"norm": t["norms"][name], "share": share}
            for name, share in t["shares"].items()
        },
        **{key: t[key] for key in ("cosines", "cancellation", "mask", "gate", "flags")},
    }


def sent_in(d):
    return [
        {
            "source": f"x{j}",
            "consumer": r,
            "norm": norm,
            "share": d["shares"][j][c],
        }
        for j, row in enumerate(d["norms"])
        for c, (r, norm) in enumerate(zip(d["consumers"], row, strict=True))
        if not math.isnan(norm)
    ]


def _dense(d):
    numbers = "totals rms readers coherence effective exponent state_norms".split()
    return {
        "name": d["name"],
        "kind": "dense",
        "sources": [f"x{j}" for j in range(len(d["totals"]))],
        "consumers": d["consumers"],
        "terms": sent_in(d),
        **{key: d[key] for key in numbers},
    }


def cells(rows):
    """Rows as a CSV file shows them."""
    return [{k: "" if v is None else v for k, v in row.items()} for row in rows]


def close(found, expected):
    """Compare rows of text with rows of values; closures are left out."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, cells(expected), strict=True):
        ours = {k: v for k, v in ours.items() if k != "closure"}
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            if isinstance(value, float):
                same(float(ours[key]), value, at=key)
            else:
                assert ours[key] == str(value), key
