"""What users of other libraries write, and what to write here instead.

Habits that carry over work. One that cannot, because it rests on something this
library does not do (write to arrays, record without a tape, draw from a hidden
generator), is met by an AttributeError that names the way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

_NO_WRITES = "nothing writes to an array the tape has seen: build a new tensor"
_DTYPE = "Tensor(x.data.astype(dtype)), or of a whole model model.to(dtype=dtype)"

TENSOR: Mapping[str, str] = {
    "astype": _DTYPE,
    "clip": "x.clamp(min, max)",
    "clone": "Tensor(x.data.copy())",
    "copy": "Tensor(x.data.copy())",
    "cpu": "x.numpy()",
    "cuda": "model.to('cuda'), and Tensor(backend.asarray(array, 'cuda'))",
    "dim": "x.ndim",
    "double": _DTYPE,
    "fill_": _NO_WRITES,
    "float": _DTYPE,
    "grad_fn": "x.node, and its edges",
    "half": "a GPU trains in bfloat16 with train.py --precision",
    "max": "x.amax(dim), and x.argmax(dim) for where",
    "min": "-(-x).amax(dim)",
    "register_hook": "record on a Tape(retain='edges'), then ask tape.edges(x)",
    "requires_grad_": "x.requires_grad = True",
    "retain_grad": "a Tape(retain='edges') keeps every gradient",
    "std": "x.var(dim).sqrt()",
    "t": "x.T",
    "to": "model.to('cuda'), and Tensor(backend.asarray(array, 'cuda'))",
    "type": _DTYPE,
    "unsqueeze": "x[:, None]",
    "view": "x.reshape(shape)",
}

MODULE: Mapping[str, str] = {
    "add_module": "self.name = module",
    "append": "keep layers in a list, self.layers = [...]",
    "apply": "for path, module in model.named_modules()",
    "cpu": "model.to('cpu')",
    "cuda": "model.to('cuda')",
    "double": "model.to(dtype='float64')",
    "float": "model.to(dtype='float32')",
    "half": "a GPU trains in bfloat16 with train.py --precision",
    "fit": "write the loop, or use train.py",
    "load": "model.load_state_dict(tinyflow.load(path))",
    "modules": "model.named_modules()",
    "register_buffer": "self.name = array",
    "register_forward_hook": "a Tape(retain='tensors') keeps tape[path].value",
    "register_parameter": "self.name = Tensor(array, requires_grad=True)",
    "requires_grad_": "for p in model.parameters(): p.requires_grad = False",
    "save": "tinyflow.save(path, model)",
}

_OUT = "left out on purpose, docs/operators.md says why; "

NN: Mapping[str, str] = {
    "BCELoss": "nn.BCEWithLogitsLoss() of the logits",
    "BatchNorm1d": "nn.BatchNorm2d, which takes (N, C), too",
    "Conv1d": "nn.Conv2d with a kernel (1, k), on x[:, :, None]",
    "Conv3d": _OUT + "images have two axes here",
    "ConvTranspose2d": _OUT + "it is the gradient of ops.conv2d",
    "Embedding": _OUT + "one-hot rows @ weight",
    "GRU": _OUT + "a loop over nn.Linear, ops.sigmoid and ops.tanh",
    "HuberLoss": "ops.where(d.abs() < 1, d * d / 2, d.abs() - 0.5), d = y - target",
    "InstanceNorm2d": "nn.GroupNorm(channels, channels)",
    "KLDivLoss": "(p * (p.log() - y)).sum(), y being logarithms",
    "L1Loss": "(y - target).abs().mean()",
    "LSTM": _OUT + "a loop over nn.Linear, ops.sigmoid and ops.tanh",
    "LogSoftmax": "x.log_softmax(dim) in forward",
    "Mish": "x * ops.tanh(ops.softplus(x))",
    "MultiheadAttention": _OUT + "softmax(q @ k.transpose(-2, -1) * scale, -1) @ v",
    "PReLU": "ops.where(x > 0, x, a * x), a being a parameter",
    "RNN": _OUT + "a loop over nn.Linear and ops.tanh",
    "Upsample": _OUT + "nothing here makes images larger",
    "ZeroPad2d": "ops.pad(x, pad)",
    "ModuleDict": "keep them in a dictionary, self.layers = {...}",
    "Parameter": "Tensor(array, requires_grad=True)",
    "Softmax": "x.softmax(dim) in forward",
    "functional": "tinyflow.ops",
    "init": "nn.normal(rng, shape, std), nn.zeros(n), nn.ones(n)",
}

DATA: Mapping[str, str] = {
    "DataLoader": "data.Loader(dataset, batch_size)",
    "TensorDataset": "data.Dataset(name, images, labels, classes, mean, std)",
}

OPTIM: Mapping[str, str] = {
    "lr_scheduler": "assign optimizer.lr before a step: lr * schedule(step) of "
    "tinyflow.train.schedules",
}

TINYFLOW: Mapping[str, str] = {
    "Module": "tinyflow.nn.Module",
    "cat": "ops.concat(tensors, dim)",
    "cuda": "model.to('cuda'); backend.choose_device('auto') says what there is",
    "float32": "numpy.float32",
    "from_numpy": "Tensor(array)",
    "inference_mode": "without a `with Tape()` nothing is recorded",
    "manual_seed": "give every layer the same rng = numpy.random.default_rng(seed)",
    "no_grad": "without a `with Tape()` nothing is recorded",
    "randn": "Tensor(rng.standard_normal(shape, 'float32'))",
    "zeros": "Tensor(numpy.zeros(shape, 'float32'))",
}


OPS: Mapping[str, str] = {
    "amin": "-ops.amax(-x, dim)",
    "argmax": "x.argmax(dim)",
    "clip": "ops.clamp(x, min, max)",
    "conv1d": "ops.conv2d on x[:, :, None]",
    "conv3d": _OUT + "images have two axes here",
    "conv_transpose2d": _OUT + "it is the gradient of ops.conv2d",
    "einsum": _OUT + "ops.matmul of permuted and reshaped tensors",
    "embedding": _OUT + "one-hot rows @ weight",
    "gather": _OUT + "ops.where, or one-hot rows @ x",
    "interpolate": _OUT + "nothing here makes images larger",
    "instance_norm": "ops.group_norm(x, channels)",
    "l1_loss": "ops.abs(y - target).mean()",
    "scaled_dot_product_attention": _OUT + "ops.softmax(q @ k.transpose(-2, -1) * "
    "scale, -1) @ v",
    "std": "ops.sqrt(ops.var(x, dim))",
    "unsqueeze": "x[:, None]",
    "binary_cross_entropy_with_logits": "ops.bce_with_logits(x, target)",
    "cat": "ops.concat(tensors, dim)",
    "max": "ops.amax(x, dim)",
}


def unknown(
    who: str, name: str, instead: Mapping[str, str], of: Any = None
) -> AttributeError:
    """The error for an attribute that is not there: what to write, if that is known.

    Args:
        who: its owner in a sentence, e.g. "a Tensor".
        name: of the attribute.
        instead: one of the tables above.
        of: the owner itself, from whose names Python suggests one that is near.
    """
    text = f"{who} has no {name!r}"
    if name in instead:
        return AttributeError(f"{text}: {instead[name]}")
    if instead is TENSOR and name.endswith("_") and not name.startswith("_"):
        return AttributeError(f"{text}: {_NO_WRITES}")
    return AttributeError(text, name=name, obj=of)


def answers(
    module: str, instead: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a Python module that has ``__all__``.

    Tab completion then offers what is public, not what the module imports.
    """

    def missing(name: str) -> Any:
        raise unknown(module, name, instead)

    def public() -> list[str]:
        return sorted(sys.modules[module].__all__)

    return missing, public
