"""What the claims are measured on: networks, seeds, one batch, each looked at once.

A :class:`Bench` builds (or is given) networks, probes each on the same batch and keeps
the numbers, not the tapes: a :class:`Reading` per network and seed, from which every
claim draws.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from models import build_model
from tinyflow import nn
from tinyflow.backend import Array, device_of
from tinyflow.flow.blocks import Terms, find_blocks, measure
from tinyflow.flow.claims_setup import QUICK, Setup
from tinyflow.flow.claims_shrink import Shrink, shrink
from tinyflow.flow.claims_sums import LayerSum, layer_sum
from tinyflow.flow.claims_verdict import Case, Claim, Condition, judge, summary
from tinyflow.flow.counterfactual import first_weight
from tinyflow.flow.dense import DenseBlock, dense_terms
from tinyflow.flow.depth import ends, ratio, rms
from tinyflow.flow.paths import Spectrum, path_gradient, residual_blocks, spectrum
from tinyflow.flow.probe import TOLERANCE, Probe, dot, norm, probe
from tinyflow.flow.progress import Progress, silent

T = TypeVar("T")
Models = Mapping[str, Sequence[nn.Module]]
LOOKING, PATHS, SHRINKING = "looking at", "paths of", "shrinking F in"
PATH_WORK, SHRINK_WORK = 1.0, 4.0  # of a layer, against looking at it


@dataclass(frozen=True)
class Trained:
    """Networks that are given, not built.

    Attributes:
        models: by name.
        seeds: theirs, in the order of the networks of each name; their places if empty.
        weights: what weights they have, in words.
    """

    models: Models
    seeds: tuple[int, ...] = ()
    weights: str = "trained weights"


@dataclass(frozen=True)
class Reading:
    """The numbers of one network with one seed on the bench's batch.

    Attributes:
        model, seed: which; of a trained network, its place in the list given.
        loss: of the batch.
        weight: ‖∂L/∂W‖ of the first layer.
        first, last, first_rms, last_rms: gradient at the two ends, see
            :func:`tinyflow.flow.depth.ends`; L2 norm, and per √(number of entries).
        normalised: whether the network has batch normalisation.
        terms: of its blocks; empty in a DenseNet.
        dense: its dense blocks, if any.
        sums: of the maps of the first dense block, see :class:`LayerSum`.
        variances: (Var x, Var F) per residual block.
        shortcuts: ‖c₀‖, the gradient along the path of shortcuts alone, and its signed
            share ⟨c₀, g⟩ / ‖g‖²; None without shortcuts.
        closure: largest conservation error.
    """

    model: str
    seed: int
    loss: float
    weight: float
    first: float
    last: float
    first_rms: float
    last_rms: float
    normalised: bool
    terms: tuple[Terms, ...] = ()
    dense: tuple[DenseBlock, ...] = ()
    sums: tuple[LayerSum, ...] = ()
    variances: tuple[tuple[float, float], ...] = ()
    shortcuts: tuple[float, float] | None = None
    closure: float = 0.0

    @property
    def setting(self) -> str:
        """Model and seed in a word."""
        return f"{self.model}/{self.seed}"

    @property
    def growth(self) -> float:
        """By what factor ‖g‖ grew from the last map to the first block."""
        return ratio(self.first, self.last)

    @property
    def growth_rms(self) -> float:
        """The same per √(number of entries)."""
        return ratio(self.first_rms, self.last_rms)


@dataclass
class Bench:
    """One batch, and networks to look at.

    Attributes:
        images, labels: the batch, images in any float precision.
        seeds: of the initial weights; with `trained`, how the given networks are named.
        dtype: precision of all but the shrink test.
        trained: networks to judge; None means fresh ones are built.
        setup: which networks, and sizes.
        training: whether normalisation uses the batch's statistics.
        num_classes: of the networks built here.
        progress: told what is being measured.
    """

    images: Array
    labels: Array
    seeds: tuple[int, ...]
    dtype: str = "float32"
    trained: Models | Trained | None = None
    setup: Setup = QUICK
    training: bool = True
    num_classes: int = 10
    progress: Progress | None = None
    _readings: dict[str, list[Reading]] = field(init=False, default_factory=dict)
    _spectra: dict[str, list[Spectrum]] = field(init=False, default_factory=dict)
    _shrunk: dict[tuple[str, bool], list[Shrink]] = field(
        init=False, default_factory=dict
    )

    @property
    def given(self) -> Trained | None:
        """The trained networks, whose seeds and weights may be unknown."""
        if self.trained is None or isinstance(self.trained, Trained):
            return self.trained
        return Trained(self.trained)

    @property
    def mode(self) -> str:
        """Either "init" or "trained"."""
        return "init" if self.trained is None else "trained"

    def count(self, name: str) -> int:
        """How many networks of that name there are."""
        return len(self.seeds if self.given is None else self.given.models[name])

    def model(self, name: str, index: int, dtype: str) -> nn.Module:
        """A network of its own for the caller, in `dtype`."""
        if self.given is not None:
            given = copy.deepcopy(self.given.models[name][index])
            return given.to(device_of(self.images), dtype)
        _, channels, size, _ = self.images.shape
        built = build_model(
            name,
            num_classes=self.num_classes,
            image_size=size,
            in_channels=channels,
            seed=self.seeds[index],
        )
        return built.to(device_of(self.images), dtype)

    def seed(self, index: int) -> int:
        """The seed of the network at `index`; its place if that is all one knows."""
        seeds = self.seeds if self.given is None else self.given.seeds
        return seeds[index] if seeds else index

    @property
    def weights(self) -> str:
        """What weights the networks have, in words."""
        return "initial weights" if self.given is None else self.given.weights

    def each(self, what: str, name: str, measure: Callable[[int], T]) -> list[T]:
        """Measure every network of that name, saying what is measured."""
        found = []
        for i in range(self.count(name)):
            if self.progress is not None:
                told = f"{what} {name}, {self.weights}, seed {self.seed(i)}"
                self.progress.begin(told, self.work(what, name))
            found.append(measure(i))
        return found

    def work(self, what: str, name: str) -> float:
        """About how long one such measurement takes, in layers looked at."""
        layers = float(re.sub(r"\D", "", name) or 20)
        if what == PATHS:
            return layers * (1 + self.setup.samples) * PATH_WORK
        return layers * (SHRINK_WORK if what == SHRINKING else 1)

    def probe(self, name: str, index: int, batch: int | None = None) -> Probe:
        """A fresh look at one network, on the first `batch` images."""
        model = self.model(name, index, self.dtype)
        x = self.images[:batch].astype(self.dtype)
        return probe(model, x, self.labels[:batch], training=self.training)

    def readings(self, *names: str) -> list[Reading]:
        """All networks of these names, each measured once."""

        def measure(name: str, i: int) -> Reading:
            return read(self.probe(name, i), name, self.seed(i))

        for name in names:
            if name not in self._readings:
                found = self.each(LOOKING, name, partial(measure, name))
                self._readings[name] = found
        return [reading for name in names for reading in self._readings[name]]

    def spectra(self, name: str) -> list[Spectrum]:
        """The path spectrum of each network of that name, on `path_batch` images."""

        def measure(i: int) -> Spectrum:
            return spectrum(
                self.probe(name, i, self.setup.path_batch),
                veit_samples=self.setup.samples,
                seed=self.seed(i),
                progress=silent if self.progress is None else self.progress.within,
            )

        if name not in self._spectra:
            self._spectra[name] = self.each(PATHS, name, measure)
        return self._spectra[name]

    def shrunk(self, *names: str, constant: bool = False) -> list[Shrink]:
        """The shrink test of these networks, see :func:`shrink`."""
        n = self.setup.shrink_batch

        def measure(name: str, i: int) -> Shrink:
            return shrink(
                partial(self.model, name, i, "float64"),
                name,
                self.seed(i),
                self.images[:n].astype("float64"),
                self.labels[:n],
                at=self.setup.shrink_at,
                constant=constant,
                training=self.training,
            )

        for name in names:
            if (name, constant) not in self._shrunk:
                found = self.each(SHRINKING, name, partial(measure, name))
                self._shrunk[name, constant] = found
        return [found for name in names for found in self._shrunk[name, constant]]

    def settle(
        self,
        identity: str,
        source: str,
        statement: str,
        quantity: str,
        cases: Sequence[Case],
        closures: Sequence[float],
        *,
        conditions: Sequence[Condition] = (),
        features: Mapping[str, str] | None = None,
        note: str = "",
        dtype: str = "",
        batch: int | None = None,
    ) -> Claim | None:
        """A claim from its cases by :func:`judge`; None if there are no cases."""
        if not cases:
            return None
        judged = judge(cases, conditions, features or {})
        settings = [case.setting.rpartition("/") for case in cases]
        names = dict.fromkeys(model.partition(":")[0] for model, _, _ in settings)
        seeds = dict.fromkeys(seed for _, _, seed in settings)
        precision = dtype or self.dtype
        worst = max(closures, default=0.0)
        return Claim(
            id=identity,
            source=source,
            statement=statement,
            quantity=quantity,
            measured=summary(cases),
            verdict=judged.verdict,
            decided_by=judged.why + (f"; {note}" if note else ""),
            settings={
                "models": list(names),
                "seeds": list(seeds),
                "mode": self.mode,
                "weights": self.weights,
                "statistics": "batch" if self.training else "running",
                "dtype": precision,
                "batch": len(self.labels[:batch]),
            },
            closure_max=worst,
            conserved=worst <= TOLERANCE.get(precision, 1e-5),
        )


@dataclass
class Asked(Bench):
    """A bench that measures nothing, but notes what it would have to.

    Attributes:
        amount: the work, by what is measured.
    """

    amount: dict[tuple[str, ...], float] = field(init=False, default_factory=dict)

    def _note(self, what: str, name: str, how: str = "") -> None:
        self.amount[what, name, how] = self.count(name) * self.work(what, name)

    def readings(self, *names: str) -> list[Reading]:
        """None, and noted."""
        for name in names:
            self._note(LOOKING, name)
        return []

    def spectra(self, name: str) -> list[Spectrum]:
        """None, and noted."""
        self._note(PATHS, name)
        return []

    def shrunk(self, *names: str, constant: bool = False) -> list[Shrink]:
        """None, and noted."""
        for name in names:
            self._note(SHRINKING, name, str(constant))
        return []


def read(p: Probe, name: str, seed: int) -> Reading:
    """All numbers of one probe; afterwards the tape can go."""
    tape = p.tape
    first, last = ends(tape)
    terms: list[Terms] = []
    dense: list[DenseBlock] = []
    sums: list[LayerSum] = []
    variances, shortcuts = [], None
    if any(path.endswith(".x0") for path in tape.names):
        dense = dense_terms(tape)
        sums = [layer_sum(tape, dense[0], j) for j in (0, len(dense[0].sources) // 2)]
    else:
        blocks = find_blocks(tape)
        terms = [measure(tape, b) for b in blocks]
        if any(b.residual is not None for b in blocks):
            forks = residual_blocks(p)
            bare, g = path_gradient(p, forks, set()), forks[0].x.grad
            shortcuts = norm(bare), dot(bare, g) / (norm(g) ** 2 or 1.0)
            variances = [(_variance(b.x.value), _variance(b.f.value)) for b in forks]
    return Reading(
        model=name,
        seed=seed,
        loss=p.loss.item(),
        weight=norm(first_weight(p).grad),
        first=norm(first.grad),
        last=norm(last.grad),
        first_rms=rms(first),
        last_rms=rms(last),
        normalised=any(node.op == "batch_norm" for node in tape.nodes),
        terms=tuple(terms),
        dense=tuple(dense),
        sums=tuple(sums),
        variances=tuple(variances),
        shortcuts=shortcuts,
        closure=max(
            [t.closure for t in terms]
            + [d.closure for d in dense]
            + [s.closure for s in sums]
        ),
    )


def _variance(value: Array | None) -> float:
    """Over all entries, in float64; NaN for None."""
    return math.nan if value is None else float(value.var(dtype="float64"))
