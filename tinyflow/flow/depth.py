"""How the gradient's size changes from the last block to the first, against depth.

``depth_sweep([20, 56], find=models.find, seeds=[0, 1], images=x, labels=y)`` builds the
plain net and the ResNet of each depth, looks at one batch, and says by what factor the
gradient grew on its way from the last map before the classifier to the input of the
first block: above 1 it grew (explodes, if it does so with depth), below 1 it shrank
(vanishes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tinyflow import nn
from tinyflow.backend import Array, device_of
from tinyflow.flow.blocks import block_terms, find_blocks
from tinyflow.flow.counterfactual import first_weight
from tinyflow.flow.probe import FlowError, norm, probe
from tinyflow.network import Find
from tinyflow.tape import Tape
from tinyflow.tensor import Node

DEPTHS = (20, 32, 44, 56, 110)  # of He et al.'s networks for CIFAR


@dataclass(frozen=True)
class DepthPoint:
    """One network on one batch.

    Attributes:
        kind, depth, seed: "plain" or "resnet"; weighted layers; of the initial weights.
        weight: ‖∂L/∂W‖ of the first layer.
        first, last: ‖∂L/∂x‖ at the input of the first block, and at the last map before
            the classifier.
        growth: first / last; infinite where nothing reached the last map.
        loss: of the batch.
        closure: largest conservation error of a block.
    """

    kind: str
    depth: int
    seed: int
    weight: float
    first: float
    last: float
    growth: float
    loss: float
    closure: float


def ends(tape: Tape) -> tuple[Node, Node]:
    """The input of the first block, and the last map before the classifier.

    The first block's input is the first value that a block reads and a layer made (the
    images do not count); in a DenseNet it is x₀ of the first dense block. The last map
    is the last value with four axes.
    """
    dense = [node for name, node in tape.names.items() if name.endswith(".x0")]
    inputs = dense or [b.x for b in find_blocks(tape) if b.x.index >= 0]
    maps = [node for node in tape.nodes if len(node.shape) == 4]
    if not inputs or not maps:
        raise FlowError("no block reads a value that a layer made")
    return inputs[0], maps[-1]


def rms(node: Node) -> float:
    """‖∂L/∂node‖ per √(number of entries): comparable between maps of any size."""
    return norm(node.grad) / math.sqrt(math.prod(node.shape) or 1)


def ratio(a: float, b: float) -> float:
    """The quotient a / b, infinite where b is zero."""
    return a / b if b else math.inf


def measure_depth(
    model: nn.Module,
    kind: str,
    depth: int,
    seed: int,
    images: Array,
    labels: Array,
    training: bool = True,
) -> DepthPoint:
    """One point of the sweep, from a model that is already built."""
    p = probe(model, images, labels, training=training)
    first, last = (norm(node.grad) for node in ends(p.tape))
    return DepthPoint(
        kind=kind,
        depth=depth,
        seed=seed,
        weight=norm(first_weight(p).grad),
        first=first,
        last=last,
        growth=ratio(first, last),
        loss=p.loss.item(),
        closure=max(t.closure for t in block_terms(p.tape)),
    )


def iter_depths(
    depths: Iterable[int],
    kinds: Sequence[str] = ("plain", "resnet"),
    *,
    find: Find,
    seeds: Iterable[int],
    images: Array,
    labels: Array,
    dtype: str = "float32",
    training: bool = True,
    num_classes: int = 10,
    progress: Callable[[str, int], None] = lambda name, depth: None,
) -> Iterator[DepthPoint]:
    """Every kind at every depth with every seed, at initialisation, one by one.

    Args:
        depths: weighted layers, some of `DEPTHS`.
        kinds: "plain", "resnet", "se_resnet".
        find: gives the network of a name, e.g. ``models.find``.
        seeds: of the initial weights.
        images, labels: one normalised batch (N, C, S, S) and N class indices.
        dtype: "float32" or "float64".
        training: batch statistics, or running ones (which a fresh net has not yet).
        num_classes: outputs of the classifier.
        progress: called before each network with its name and depth.

    Yields:
        A point per (kind, depth, seed), in that order.
    """
    x = images.astype(dtype)
    seeds, depths = list(seeds), list(depths)
    for kind in kinds:
        for depth in depths:
            for seed in seeds:
                progress(f"{kind}{depth}, seed {seed}", depth)
                model = (
                    find(f"{kind}{depth}")
                    .build(
                        num_classes=num_classes,
                        image_size=images.shape[2],
                        in_channels=images.shape[1],
                        seed=seed,
                    )
                    .to(device_of(x), dtype)
                )
                yield measure_depth(model, kind, depth, seed, x, labels, training)


def depth_sweep(
    depths: Iterable[int], kinds: Sequence[str] = ("plain", "resnet"), **options: Any
) -> list[DepthPoint]:
    """All points of :func:`iter_depths`, which says what it takes."""
    return list(iter_depths(depths, kinds, **options))
