"""Operators, one family a file; arguments and defaults are PyTorch's."""

from typing import TYPE_CHECKING

from tinyflow import habits, sweep
from tinyflow.kernels.engine import engine
from tinyflow.ops.activation import (
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    leaky_relu,
    relu,
    relu6,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from tinyflow.ops.adaptive import adaptive_avg_pool2d, adaptive_max_pool2d
from tinyflow.ops.conv import conv2d
from tinyflow.ops.dropout import dropout, dropout2d
from tinyflow.ops.elementwise import (
    abs,
    add,
    clamp,
    div,
    exp,
    log,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    sqrt,
    sub,
    where,
)
from tinyflow.ops.linear import linear, matmul
from tinyflow.ops.loss import bce_with_logits, cross_entropy, mse_loss, nll_loss
from tinyflow.ops.norm import (
    batch_norm,
    group_norm,
    layer_norm,
    local_response_norm,
)
from tinyflow.ops.pool import avg_pool2d, global_avg_pool2d, max_pool2d
from tinyflow.ops.reduce import amax, mean, sum, var
from tinyflow.ops.shape import (
    concat,
    flatten,
    getitem,
    pad,
    permute,
    reshape,
    split,
    squeeze,
    stack,
    transpose,
)
from tinyflow.ops.shuffle import channel_shuffle
from tinyflow.ops.softmax import log_softmax, softmax

sweep.add = lambda a, b, out=None: engine(a).add(a, b, out)  # the core knows no kernel

__all__ = [
    "abs",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "add",
    "amax",
    "avg_pool2d",
    "batch_norm",
    "bce_with_logits",
    "channel_shuffle",
    "clamp",
    "concat",
    "conv2d",
    "cross_entropy",
    "div",
    "dropout",
    "dropout2d",
    "elu",
    "exp",
    "flatten",
    "gelu",
    "getitem",
    "global_avg_pool2d",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log",
    "log_softmax",
    "matmul",
    "max_pool2d",
    "maximum",
    "mean",
    "minimum",
    "mse_loss",
    "mul",
    "neg",
    "nll_loss",
    "pad",
    "permute",
    "pow",
    "relu",
    "relu6",
    "reshape",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "split",
    "sqrt",
    "squeeze",
    "stack",
    "sub",
    "sum",
    "tanh",
    "transpose",
    "var",
    "where",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = habits.answers(__name__, habits.OPS)
