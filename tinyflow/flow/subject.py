"""A network on the one batch, every edge kept, and the words that say what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tinyflow import Tape, Tensor, nn
from tinyflow.backend import asarray
from tinyflow.flow.probe import FlowError, Probe, probe
from tinyflow.flow.settings import as_flow_error
from tinyflow.flow.source import Source
from tinyflow.network import Network, count_parameters
from tinyflow.state import in_mode

Watch = Callable[[Callable[[], float]], None]
"""Given a function that says which part of the work, 0 to 1, is done."""


@dataclass(frozen=True)
class Subject:
    """A probe, and the words that say what it looked at.

    Attributes:
        network: which.
        source: where its images and weights come from.
        parameters: trainable numbers.
        probe: the recorded batch.
        model: what was probed.
    """

    network: Network
    source: Source
    parameters: int
    probe: Probe
    model: nn.Module

    @property
    def name(self) -> str:
        """The name of the network."""
        return self.network.name

    @property
    def said(self) -> str:
        """Weights and conditions in words, for titles."""
        return f"{self.source.weights} · {self.source.conditions()}"


def look(source: Source, network: Network, watch: Watch = lambda poll: None) -> Subject:
    """Build one network, or take the trained one, and keep every edge of the batch.

    Args:
        source: see :func:`tinyflow.flow.source.find_source`.
        network: of a checkpoint its own.
        watch: told how to see how far it is.

    Raises:
        FlowError: anything that cannot be used, in one sentence.
    """
    settings, data = source.settings, source.data
    with as_flow_error(), network.blamed():
        model = source.model or network.build(
            num_classes=data.num_classes,
            image_size=data.image_size,
            in_channels=data.in_channels,
            seed=settings.seed,
        )
        images, labels = source.batch()
        total = count_nodes(model, images.shape[1:])
        model.to(source.device, settings.dtype)
        seen = probe(
            model,
            asarray(images, source.device),
            labels,
            training=settings.mode == "train",
            watch=lambda tape: watch(lambda: part_done(tape, total)),
        )
    logits = seen.logits.shape
    if logits != (wanted := (len(images), data.num_classes)):
        raise FlowError(f"the output of {network.name} is {logits}, not {wanted}")
    if not np.isfinite(seen.loss.item()):
        raise FlowError(
            f"the loss of {network.name} is {seen.loss.item()} "
            f"({source.weights}): there is no gradient to take apart"
        )
    return Subject(network, source, count_parameters(model), seen, model)


def count_nodes(model: nn.Module, shape: tuple[int, ...]) -> int:
    """How many operators a network runs, found on a batch of no images.

    0 if it cannot take such a batch: it says so when it is run, or can take others.
    """
    parameter = model.parameters()[0].data
    empty = np.zeros((0, *shape), parameter.dtype)
    try:
        with in_mode(model, False), Tape() as tape:
            model(Tensor(empty))
    except Exception:
        return 0
    return len(tape.nodes)


def part_done(tape: Tape, total: int) -> float:
    """Which part of forward and backward is done; backward takes twice as long."""
    nodes = tape.nodes
    back = sum(node.grad is not None for node in list(nodes))
    return (len(nodes) + 2 * back) / (3 * max(total, len(nodes), 1))
