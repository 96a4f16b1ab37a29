"""Layers: modules that call the operators, one family a file."""

from typing import TYPE_CHECKING

from tinyflow import habits
from tinyflow.module import Module, Rng
from tinyflow.nn.activation import (
    ELU,
    GELU,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from tinyflow.nn.container import Identity, ModuleList, Sequential
from tinyflow.nn.dropout import Dropout, Dropout2d, StochasticDepth
from tinyflow.nn.gate import SqueezeExcitation
from tinyflow.nn.initial import normal, ones, zeros
from tinyflow.nn.linear import ChannelShuffle, Conv2d, Flatten, Linear
from tinyflow.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss, NLLLoss
from tinyflow.nn.norm import BatchNorm2d, GroupNorm, LayerNorm, LocalResponseNorm
from tinyflow.nn.pooling import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    GlobalAvgPool2d,
    MaxPool2d,
)

__all__ = [
    "ELU",
    "GELU",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm2d",
    "ChannelShuffle",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "GlobalAvgPool2d",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Identity",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LocalResponseNorm",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "NLLLoss",
    "ReLU",
    "ReLU6",
    "Rng",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "SqueezeExcitation",
    "StochasticDepth",
    "Tanh",
    "normal",
    "ones",
    "zeros",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = habits.answers(__name__, habits.NN)
