"""The arguments of every operator and layer: a call that works, and what must not.

A new operator, layer or argument needs its row here, in CALLS, LAYERS or NAMES.
"""

import inspect
import math

import numpy as np

from tinyflow import Tensor, nn, ops


def ones(*shape, dtype="float32"):
    return Tensor(np.ones(shape, dtype))


def rng():
    return np.random.default_rng(0)


def images(dtype="float32"):
    values = np.arange(2 * 4 * 6 * 6) % 7 / 7 + 0.5
    return Tensor(values.reshape(2, 4, 6, 6).astype(dtype))


LRN = {"size": 3, "alpha": 0.5, "beta": 0.75, "k": 1.0}
ACTIVATIONS = {
    "leaky_relu": {"negative_slope": 0.5},
    "elu": {"alpha": 0.5},
    "gelu": {"approximate": "tanh"},
    "softplus": {"beta": 2.0, "threshold": 10.0},
}
BINARY = ("add", "sub", "mul", "div", "matmul", "maximum", "minimum")
CALLS = {
    **{
        name: lambda: {"input": images()}
        for name in (
            "abs neg exp log sqrt relu relu6 sigmoid tanh silu hardswish hardsigmoid"
        ).split()
    },
    **{name: lambda: {"input": images(), "other": images()} for name in BINARY},
    **{
        name: lambda: {"input": images(), "dim": 1, "keepdim": False}
        for name in ("sum", "mean", "amax")
    },
    **{
        name: lambda: {"input": images(), "dim": 1}
        for name in ("softmax", "log_softmax")
    },
    "where": lambda: {
        "condition": np.arange(6) > 2,
        "input": images(),
        "other": images(),
    },
    "clamp": lambda: {"input": images(), "min": 1, "max": 2},
    **{
        name: lambda options=options: {"input": images()} | options
        for name, options in ACTIVATIONS.items()
    },
    "var": lambda: {"input": images(), "dim": 1, "correction": 1, "keepdim": False},
    "squeeze": lambda: {"input": images(), "dim": 1},
    "pow": lambda: {"input": images(), "exponent": 2},
    "reshape": lambda: {"input": images(), "shape": (8, 36)},
    "flatten": lambda: {"input": images(), "start_dim": 1, "end_dim": -1},
    "permute": lambda: {"input": images(), "dims": (0, 2, 3, 1)},
    "transpose": lambda: {"input": images(), "dim0": 0, "dim1": 1},
    "pad": lambda: {"input": images(), "pad": (1, 1), "value": 0.0},
    "getitem": lambda: {"input": images(), "index": 0},
    "concat": lambda: {"tensors": [images(), images()], "dim": 0},
    "stack": lambda: {"tensors": [images(), images()], "dim": 0},
    "split": lambda: {"tensor": images(), "split_size_or_sections": 2, "dim": 1},
    "linear": lambda: {"input": ones(2, 4), "weight": ones(3, 4), "bias": ones(3)},
    "cross_entropy": lambda: {
        "input": ones(2, 3),
        "target": np.array([0, 2]),
        "reduction": "mean",
        "label_smoothing": 0.1,
    },
    "batch_norm": lambda: {
        "input": images(),
        "running_mean": np.zeros(4, "float32"),
        "running_var": np.ones(4, "float32"),
        "weight": ones(4),
        "bias": ones(4),
        "training": True,
        "momentum": 0.1,
        "eps": 1e-5,
    },
    "group_norm": lambda: {
        "input": images(),
        "num_groups": 2,
        "weight": ones(4),
        "bias": ones(4),
        "eps": 1e-5,
    },
    "layer_norm": lambda: {
        "input": images(),
        "normalized_shape": (6, 6),
        "weight": ones(6, 6),
        "bias": ones(6, 6),
        "eps": 1e-5,
    },
    **{
        name: lambda: {
            "input": images(),
            "p": 0.5,
            "training": True,
            "generator": rng(),
        }
        for name in ("dropout", "dropout2d")
    },
    "conv2d": lambda: {
        "input": images(),
        "weight": ones(4, 4, 3, 3),
        "bias": ones(4),
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
    },
    "max_pool2d": lambda: {
        "input": images(),
        "kernel_size": 2,
        "stride": 2,
        "padding": 0,
        "dilation": 1,
        "ceil_mode": False,
    },
    "avg_pool2d": lambda: {
        "input": images(),
        "kernel_size": 2,
        "stride": 2,
        "padding": 0,
        "ceil_mode": False,
        "count_include_pad": True,
        "divisor_override": 3,
    },
    **{
        name: lambda: {"input": images(), "output_size": 4}
        for name in ("adaptive_avg_pool2d", "adaptive_max_pool2d")
    },
    "global_avg_pool2d": lambda: {"input": images()},
    "local_response_norm": lambda: {"input": images()} | LRN,
}

LAYERS = {
    "Conv2d": {
        "in_channels": 4,
        "out_channels": 4,
        "kernel_size": 3,
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
        "bias": True,
        "fan": "out",
        "rng": rng(),
    },
    "Linear": {
        "in_features": 3,
        "out_features": 2,
        "bias": True,
        "std": 0.5,
        "rng": rng(),
    },
    "BatchNorm2d": {"num_features": 4, "eps": 1e-5, "momentum": 0.1, "affine": True},
    "MaxPool2d": {
        "kernel_size": 2,
        "stride": 2,
        "padding": 0,
        "dilation": 1,
        "ceil_mode": False,
    },
    "AvgPool2d": {
        "kernel_size": 2,
        "stride": 2,
        "padding": 0,
        "ceil_mode": False,
        "count_include_pad": True,
        "divisor_override": 3,
    },
    "AdaptiveAvgPool2d": {"output_size": 4},
    "AdaptiveMaxPool2d": {"output_size": 4},
    "LocalResponseNorm": LRN,
    "LeakyReLU": ACTIVATIONS["leaky_relu"],
    "ELU": ACTIVATIONS["elu"],
    "GELU": ACTIVATIONS["gelu"],
    "Softplus": ACTIVATIONS["softplus"],
    "GroupNorm": {"num_groups": 2, "num_channels": 4, "eps": 1e-5, "affine": True},
    "LayerNorm": {
        "normalized_shape": (6, 6),
        "eps": 1e-5,
        "elementwise_affine": True,
        "bias": True,
    },
    "Dropout2d": {"p": 0.5, "rng": rng()},
    "Dropout": {"p": 0.5, "rng": rng()},
    "StochasticDepth": {"p": 0.5, "rng": rng()},
    "SqueezeExcitation": {
        "channels": 4,
        "squeezed": 2,
        "activation": "silu",
        "rng": rng(),
    },
}

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
    "eps": "eps",
    "std": "eps",
}
OPTIONAL = {  # None is a value of theirs
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
        x = ones(2, 3) if name == "Linear" else images()
        return layer(x)
    return getattr(ops, name)(**(CALLS[name]() | changed))


FOREIGN = [*NO_WHOLE, *NO_TENSOR, *NO_FLAG, np.int64(1), np.array([1, 2]), 0, -1, 1e300]
