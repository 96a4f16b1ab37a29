"""Is a large share an important branch? Three measures of every block, side by side.

*share*: what the residual branch of a block contributes to the gradient at its input,
signed; what no other branch does is 1 minus the shortcut's.
*cut*: how far the first layer's gradient moves if the branch sends nothing back, with
forward values as they were: ‖g' - g‖ / ‖g‖.
*lesion*: how far the loss of the batch moves if the branch computes nothing, H = S(x),
without training anew (Veit et al. 2016, arXiv:1605.06431, section 4.1).

The first looks at one block, the second at what all paths make of it, the third at the
value of the loss instead of its slope. They are compared by ranks: Spearman's ρ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tinyflow import nn
from tinyflow.backend import Array, asnumpy
from tinyflow.flow.blocks import Block, measure
from tinyflow.flow.counterfactual import counterfactual, first_weight, held
from tinyflow.flow.paths import residual_blocks
from tinyflow.flow.probe import FlowError, Probe, recorded, relative, untouched
from tinyflow.flow.stats import rank_correlation
from tinyflow.tape import Tape
from tinyflow.tensor import Pullback, Tensor


@dataclass(frozen=True)
class Importance:
    """The residual branch of one block.

    Attributes:
        block, kind: which, and how its shortcut runs.
        share: Σ ⟨term, g_x⟩ / ‖g_x‖² over its terms.
        cut: ‖g' - g‖ / ‖g‖ at the first layer without it, backward only.
        loss: L' - L without it, forward, in nats.
        correct: how many more images of the batch, as a share, are then right.
    """

    block: str
    kind: str
    share: float
    cut: float
    loss: float
    correct: float


class Agreement(NamedTuple):
    """Spearman's ρ between two of the measures over the blocks; NaN where one is flat.

    The lesion is taken by its size, |L' - L|, the share by its own.
    """

    share_cut: float
    share_loss: float
    cut_loss: float

    @property
    def said(self) -> str:
        """In words, for a table or a caption."""
        return (
            f"Order of the blocks, Spearman's ρ: share and cut {self.share_cut:z.2f}, "
            f"share and |lesion| {self.share_loss:z.2f}, cut and |lesion| "
            f"{self.cut_loss:z.2f}."
        )


class _Lesion(Tape):
    """Records as any tape, but one sum has the value of one of its inputs."""

    def __init__(self, place: int, slot: int) -> None:
        super().__init__()
        self.place, self.slot = place, slot

    def record(
        self, op: str, data: Array, inputs: Sequence[Any], pullback: Pullback
    ) -> Tensor:
        """See :meth:`Tape.record`."""
        needed = (
            x.requires_grad or x.node in self._watched
            for x in inputs
            if isinstance(x, Tensor)
        )
        if len(self.nodes) == self.place and any(needed):  # else no place is taken
            data = inputs[self.slot].data
        return super().record(op, data, inputs, pullback)


def importance(model: nn.Module, probe: Probe, labels: ArrayLike) -> list[Importance]:
    """Measure every block with a shortcut whose H is a sum, first one first.

    Args:
        model: the one that was probed, unchanged since.
        probe: of it; batch or running statistics as there.
        labels: (N,), those of the batch.

    Raises:
        FlowError: there are no such blocks, or the model computes another loss than
            the probe did.
    """
    label = np.asarray(labels)
    blocks = [b for b in residual_blocks(probe) if b.h.op == "add"]
    if not blocks:
        raise FlowError(
            "no block of this network adds its branch to a shortcut: there is nothing "
            "that a lesion would leave"
        )
    goal = first_weight(probe)
    g, before = held(goal), probe.loss.item()
    right = _right(probe.logits, label)
    if (again := _run(model, probe, label, Tape()))[0] != before:
        raise FlowError(
            f"the model's loss is {again[0]:.6g}, the probe's {before:.6g}: probe it "
            "again, it has changed since, or these are other labels"
        )
    found = []
    for block in blocks:
        terms = measure(probe.tape, block)
        through = [v for k, v in terms.shares.items() if k not in ("shortcut", "other")]
        changed = counterfactual(probe, list(block.through), 0.0, goal)
        lesion = _Lesion(block.h.index, _shortcut_slot(probe.tape, block))
        loss, correct = _run(model, probe, label, lesion)
        found.append(
            Importance(
                block=block.name,
                kind=block.kind,
                share=sum(through),
                cut=relative(changed - g, g),
                loss=loss - before,
                correct=correct - right,
            )
        )
    return found


def agreement(found: Sequence[Importance]) -> Agreement:
    """How far the measures put the blocks in the same order."""
    share, cut = [i.share for i in found], [i.cut for i in found]
    loss = [abs(i.loss) for i in found]
    pairs = (share, cut), (share, loss), (cut, loss)
    return Agreement(*(rank_correlation(a, b)[0] for a, b in pairs))


def _run(
    model: nn.Module, probe: Probe, labels: np.ndarray, tape: Tape
) -> tuple[float, float]:
    """Loss and share of right answers, recorded as the probe was."""
    x = Tensor(probe.images.data, name="images")
    with untouched(model, probe.training):
        loss, logits = recorded(model, x, labels, tape)
    return loss.item(), _right(logits, labels)


def _right(logits: Tensor, labels: np.ndarray) -> float:
    return float((asnumpy(logits.data).argmax(1) == labels).mean())


def _shortcut_slot(tape: Tape, block: Block) -> int:
    """Which input of the sum H comes along the shortcut."""
    assert block.shortcut is not None
    reached = {block.shortcut.index}
    if block.h.index in reached:
        return block.shortcut.slot
    for i in sorted(block.inside):
        if any(e.producer.index in reached for e in tape.nodes[i].edges):
            reached.add(i)
    slots = [e.slot for e in block.h.edges if e.producer.index in reached]
    if len(slots) != 1:
        raise FlowError(
            f"block {block.name!r}: shortcut and branch meet before their sum, so that "
            "a lesion cannot leave one of them"
        )
    return slots[0]
