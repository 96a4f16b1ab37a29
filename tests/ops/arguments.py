"""The arguments of every operator and layer: what kind each is, what it must refuse.

A new argument needs its row in NAMES, and its call in :mod:`tests.ops.calls`.
"""

import inspect
import math

import numpy as np

from tests.ops.calls import BINARY, CALLS, LAYERS, images, ones
from tinyflow import Tensor, nn, ops

NAN, INF, HUGE = math.nan, math.inf, 10**400
ARRAY = np.ones((2, 4, 6, 6), "float32")
NOTHING = ["a", object(), [], {}, [[1], [1, 2, 3]], b"ab", {1, 2}, 1j, lambda: 1]
NO_NUMBER = [*NOTHING, None, True, np.True_, NAN, np.array([1.0, 2.0]), ones(2)]
NO_WHOLE = [*NO_NUMBER, 1.5, 1.0, np.float32(1), INF, HUGE, np.array(1.0)]
NO_TENSOR = [*NOTHING, 1, 1.5, True, ARRAY, np.float32(1), [1.0, 2.0], HUGE]
NO_FLAG = [*NOTHING, None, 1, 0, 1.5, NAN, np.array([1, 2]), ones(1)]

# name: what must be refused. Whatever else is tried may work, or is refused as well.
KINDS = {
    "tensor": [*NO_TENSOR, None],
    "optional tensor": NO_TENSOR,
    "operand": [*NOTHING, None, HUGE, np.array(["a"]), np.array([None]), [1.0]],
    "exponent": NO_NUMBER,
    "whole": [*NO_WHOLE, 0, -1],
    "divisor": [n for n in NO_WHOLE if n is not None] + [0],
    "pair": [*NO_WHOLE, 0, -1, (1, 0), (1, 1, 1), (1, 1.0), "ab", (1, True), (HUGE, 1)],
    "output size": [*NO_WHOLE, 0, -1, (1, 0), (1, 1, 1), (None,), (1.0, None)],
    "stride": [*NO_WHOLE, 0, -1, (1, 0), (1, 1, 1), (1, None)],
    "padding": [
        *NO_WHOLE,
        10**9,
        2**40,
        -1,
        (1, -1),
        (1, 1, 1),
        "full",
        ((1, 1),),
        (1, 0.5),
    ],
    "dim": [*NO_WHOLE, 9, -9, (1.0,)],
    "dims": [*NO_WHOLE, 9, (0, 0, 1, 2), (0, 1), (0, 1, 2, 9)],
    "shape": [*NO_WHOLE, 0, -2, (5, 5), (-1, -1), (-1, 5), (8, 36, 2)],
    "last axes": [*NO_WHOLE, 0, -1, (), (5, 5), (6, 6.0), (3, 2, 4, 6, 6)],
    "widths": [*NO_WHOLE, 1, -1, (1,), (1, -1), (1, 1.0), (1,) * 10, (True, True)],
    "value": [n for n in NO_NUMBER if n is not NAN],
    "sizes": [*NO_WHOLE, 0, -1, (1, 1), (5, -1), (2, 2.0)],
    "index": [*NOTHING, NAN, 1.0, True, 9, (0, 9), (0,) * 5, slice(0, 1.5)],
    "tensors": [*NOTHING, None, 1, ARRAY, ones(2), [ones(2), ARRAY], [ones(2), None]],
    "labels": [*NOTHING, None, 1, 1.5, [0.0, 1.0], [True, False], [0, 3], [-1, 0], [0]],
    "label": [n for n in NO_WHOLE if n is not None],
    "like input": [*NOTHING, None, 1, 1.5, True, ones(3, 2), np.ones((2, 3))],
    "factor": [*NOTHING, 1.5, True, ones(5), ones(1, 1, 3), np.ones(3), [1.0] * 3],
    "smoothing": [*NO_NUMBER, INF, -0.1, 1.1, HUGE],
    "finite": [*NO_NUMBER, INF, -INF, HUGE],
    "positive": [*NO_NUMBER, INF, 0, -1.0, HUGE],
    "limit": [x for x in NO_NUMBER if x is not None] + [HUGE],
    "condition": [*NOTHING, None, 1, 1.5, ARRAY, ones(2), [True] * 5, [[True], 1]],
    "eps": [*NO_NUMBER, INF, -1e-5, HUGE],
    "flag": NO_FLAG,
    "word": [*NO_NUMBER, "x", 1],
    "statistics": [*NO_TENSOR, ones(4), np.zeros(4, int), np.zeros(3), [0.0] * 4],
    "generator": [*NOTHING, 0, np.random.RandomState(0), np.random.default_rng],
}

# Spellings of the value in CALLS or LAYERS that must work like it.
LIKE = {
    "whole": [np.int64, np.int32, np.uint8, np.array],
    "pair": [np.int64, np.array, lambda n: [n, n], lambda n: (np.int8(n), n)],
    "dim": [np.int64, np.array],
    "dims": [list, np.array, lambda dims: tuple(map(np.int32, dims))],
    "smoothing": [np.float64, np.float32, np.array],
    "exponent": [np.int64, np.float64, np.array],
    "flag": [np.bool_],
    "label": [np.int64, np.array],
    "factor": [np.asarray, lambda w: Tensor(np.asarray(w))],
    "like input": [np.asarray],
    "labels": [list, Tensor, lambda t: t.astype("uint8"), tuple],
    "value": [np.float64, int, np.array],
    "tensors": [tuple, iter, lambda ts: (t for t in ts)],
    "index": [np.int64, np.array, lambda n: (n,)],
    "statistics": [lambda r: r.astype("float64"), lambda r: np.repeat(r, 2)[::2]],
}
SIDES = [lambda n: ((n, n), (n, n)), lambda n: np.full((2, 2), n)]
LIKE |= {
    "divisor": LIKE["whole"],
    "stride": LIKE["pair"],
    "output size": LIKE["pair"],
    "padding": LIKE["pair"],
    "shape": LIKE["dims"],
    "widths": LIKE["dims"],
    "last axes": LIKE["dims"],
    "sizes": [*LIKE["whole"], lambda n: [n, n], lambda n: np.array([n, n])],
    "eps": LIKE["smoothing"],
    "finite": LIKE["smoothing"],
    "positive": LIKE["smoothing"],
    "limit": LIKE["smoothing"],
    "condition": [list, Tensor],
}

NAMES = {  # of arguments: their kind
    **dict.fromkeys(["input", "tensor"], "tensor"),
    **dict.fromkeys(["in_channels", "out_channels", "groups"], "whole"),
    **dict.fromkeys(["in_features", "out_features", "num_features"], "whole"),
    **dict.fromkeys(["channels", "squeezed"], "whole"),
    **dict.fromkeys(["kernel_size", "dilation"], "pair"),
    **dict.fromkeys(["dim", "start_dim", "end_dim", "dim0", "dim1"], "dim"),
    **dict.fromkeys(["p", "label_smoothing", "momentum"], "smoothing"),
    **dict.fromkeys(["running_mean", "running_var"], "statistics"),
    **dict.fromkeys(["training", "keepdim", "ceil_mode", "affine"], "flag"),
    "elementwise_affine": "flag",
    **dict.fromkeys(["fan", "reduction", "activation", "approximate"], "word"),
    **dict.fromkeys(["negative_slope", "threshold"], "finite"),
    **dict.fromkeys(["min", "max"], "limit"),
    "condition": "condition",
    **dict.fromkeys(["generator", "rng"], "generator"),
    "weight": "tensor",
    "bias": "optional tensor",
    "count_include_pad": "flag",
    "other": "operand",
    "exponent": "exponent",
    "divisor_override": "divisor",
    "normalized_shape": "last axes",
    "correction": "eps",
    **dict.fromkeys(["size", "num_groups", "num_channels"], "whole"),
    "output_size": "output size",
    **dict.fromkeys(["alpha", "k"], "eps"),
    "stride": "stride",
    "padding": "padding",
    "dims": "dims",
    "shape": "shape",
    "pad": "widths",
    "value": "value",
    "split_size_or_sections": "sizes",
    "index": "index",
    "tensors": "tensors",
    "target": "labels",
    "ignore_index": "label",
    "pos_weight": "factor",
    "eps": "eps",
    "std": "eps",
}
LOSSES = ("mse_loss", "nll_loss", "cross_entropy", "bce_with_logits")
LOSSES += ("CrossEntropyLoss", "NLLLoss", "BCEWithLogitsLoss")
OPTIONAL = {  # None is a value of theirs
    *((name, "weight") for name in LOSSES),
    *((name, "pos_weight") for name in LOSSES),
    ("clamp", "min"),
    ("clamp", "max"),
    ("max_pool2d", "stride"),
    ("avg_pool2d", "stride"),
    ("MaxPool2d", "stride"),
    ("AvgPool2d", "stride"),
    ("AvgPool2d", "divisor_override"),
    ("batch_norm", "weight"),
    ("group_norm", "weight"),
    ("layer_norm", "weight"),
    ("var", "dim"),
    ("squeeze", "dim"),
    ("Dropout2d", "rng"),
    ("sum", "dim"),
    ("mean", "dim"),
    ("amax", "dim"),
    ("Linear", "std"),
    ("Conv2d", "rng"),
    ("Linear", "rng"),
    ("Dropout", "rng"),
    ("StochasticDepth", "rng"),
    ("SqueezeExcitation", "rng"),
}
# Whose empty list means something.
MAY_BE_EMPTY = {"sum", "mean", "amax", "var", "squeeze", "pad"}


def kind_of(name, argument):
    if name in LOSSES and argument == "weight":
        return "factor"
    if name in ("mse_loss", "bce_with_logits") and argument == "target":
        return "like input"
    if name in (*BINARY, "where") and argument != "condition":
        return "operand"
    if argument == "beta":
        return "positive" if name.lower() == "softplus" else "eps"
    if argument == "alpha" and name.lower() == "elu":
        return "finite"
    if name in LAYERS and argument == "bias":
        return "flag"
    return NAMES[argument]


def arguments_of(function):
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.kind is not p.VAR_POSITIONAL]


OPERATORS = [(n, a) for n in ops.__all__ for a in arguments_of(getattr(ops, n))]
PARTS = [(n, a) for n in LAYERS for a in arguments_of(getattr(nn, n))]


def call(name, **changed):
    if name in LAYERS:
        layer = getattr(nn, name)(**(LAYERS[name] | changed))
        if name.endswith("Loss"):
            of_classes = name in ("CrossEntropyLoss", "NLLLoss")
            return layer(ones(2, 3), np.array([0, 2]) if of_classes else ones(2, 3))
        return layer(ones(2, 3) if name == "Linear" else images())
    return getattr(ops, name)(**(CALLS[name]() | changed))


FOREIGN = [*NO_WHOLE, *NO_TENSOR, *NO_FLAG, np.int64(1), np.array([1, 2]), 0, -1, 1e300]
