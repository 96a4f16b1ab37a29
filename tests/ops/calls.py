"""A call of every operator and layer that works, with every argument given.

A new operator, layer or argument needs its row here.
"""

import numpy as np

from tinyflow import Tensor


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
    "channel_shuffle": lambda: {"input": images(), "groups": 2},
    "concat": lambda: {"tensors": [images(), images()], "dim": 0},
    "stack": lambda: {"tensors": [images(), images()], "dim": 0},
    "split": lambda: {"tensor": images(), "split_size_or_sections": 2, "dim": 1},
    "linear": lambda: {"input": ones(2, 4), "weight": ones(3, 4), "bias": ones(3)},
    "cross_entropy": lambda: {
        "input": ones(2, 3),
        "target": np.array([0, 2]),
        "weight": np.ones(3, "float32"),
        "ignore_index": 7,
        "reduction": "mean",
        "label_smoothing": 0.1,
    },
    "nll_loss": lambda: {
        "input": ones(2, 3),
        "target": np.array([0, 2]),
        "weight": np.ones(3, "float32"),
        "ignore_index": 7,
        "reduction": "mean",
    },
    "mse_loss": lambda: {
        "input": ones(2, 3),
        "target": ones(2, 3),
        "reduction": "mean",
    },
    "bce_with_logits": lambda: {
        "input": ones(2, 3),
        "target": ones(2, 3),
        "weight": ones(3),
        "reduction": "mean",
        "pos_weight": ones(2, 1),
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
    "BatchNorm2d": {
        "num_features": 4,
        "eps": 1e-5,
        "momentum": 0.1,
        "affine": True,
        "bias": True,
    },
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
    "CrossEntropyLoss": {
        "weight": np.ones(3, "float32"),
        "ignore_index": 7,
        "reduction": "mean",
        "label_smoothing": 0.1,
    },
    "NLLLoss": {
        "weight": np.ones(3, "float32"),
        "ignore_index": 7,
        "reduction": "mean",
    },
    "ChannelShuffle": {"groups": 2},
    "Flatten": {"start_dim": 1, "end_dim": -1},
    "MSELoss": {"reduction": "mean"},
    "BCEWithLogitsLoss": {
        "weight": np.ones(3, "float32"),
        "reduction": "mean",
        "pos_weight": np.ones((2, 1), "float32"),
    },
    "GroupNorm": {
        "num_groups": 2,
        "num_channels": 4,
        "eps": 1e-5,
        "affine": True,
        "bias": True,
    },
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
