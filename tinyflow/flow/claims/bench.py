"""What the claims are measured on: networks, seeds, batches, each looked at once.

A :class:`Bench` builds (or is given) networks, probes each on a batch and keeps the
numbers, not the tapes: a :class:`Reading` per network and unit, from which every claim
draws. A unit is a seed and a batch; where the bench can draw, every seed has its own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from tinyflow import nn
from tinyflow.backend import Array, device_of
from tinyflow.flow.claims.differences import Difference, differences
from tinyflow.flow.claims.nets import network
from tinyflow.flow.claims.readings import Reading, read
from tinyflow.flow.claims.setup import QUICK, Setup
from tinyflow.flow.claims.shrink import Shrink, shrink
from tinyflow.flow.depth import ends, ratio, rms
from tinyflow.flow.paths import Spectrum, looking, spectrum
from tinyflow.flow.probe import Probe, norm, probe
from tinyflow.flow.progress import Progress, silent
from tinyflow.network import Find, no_networks
from tinyflow.retain import EDGES

T = TypeVar("T")
Draw = Callable[[int, int], tuple[Array, Array]]
Models = Mapping[str, Sequence[nn.Module]]
LOOKING, FLOW, PATHS = "looking at", "flow of", "paths of"
DIFFERENCES, SHRINKING = "differences of", "shrinking F in"
WORK = {LOOKING: 1.0, FLOW: 0.5, DIFFERENCES: 2.0, SHRINKING: 4.0}
"""Of a layer, against looking at it."""


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
class Unit:
    """One seed and one batch: which network of a name, and what to call it.

    Attributes:
        index: of the network among those of its name.
        seed: of its initial weights; of a trained one without a seed, its index.
        batch: which of the seed's batches.
        label: ``0``, or ``0.1`` where there is more than one batch.
    """

    index: int
    seed: int
    batch: int
    label: str


@dataclass
class Bench:
    """Batches, and networks to look at.

    Attributes:
        images, labels: the batch, images in any float precision.
        seeds: of the initial weights; with `trained`, how the given networks are named.
        dtype: precision of all but the shrink test and finite differences (float64).
        trained: networks to judge; None means fresh ones are built.
        setup: which networks, and sizes.
        training: whether normalisation uses the batch's statistics.
        num_classes: of the networks built here.
        find: gives the network of a name, e.g. ``models.find``.
        progress: told what is being measured.
        draw: ``draw(seed, batch)``, another batch of that size; without it every seed
            sees the same one.
        batches: how many per seed.
        curves: training losses step by step, per network and seed; empty if none.
    """

    images: Array
    labels: Array
    seeds: tuple[int, ...]
    dtype: str = "float32"
    trained: Models | Trained | None = None
    setup: Setup = QUICK
    training: bool = True
    num_classes: int = 10
    find: Find = no_networks
    progress: Progress | None = None
    draw: Draw | None = None
    batches: int = 1
    curves: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    _kept: dict[tuple[Any, ...], list[Any]] = field(init=False, default_factory=dict)

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

    @property
    def weights(self) -> str:
        """What weights the networks have, in words."""
        return "initial weights" if self.given is None else self.given.weights

    def units(self, name: str) -> list[Unit]:
        """A unit per network of that name and batch."""
        if self.given is None:
            seeds = self.seeds
        else:
            count = len(self.given.models[name])
            seeds = self.given.seeds or tuple(range(count))
        return [
            Unit(i, seed, b, f"{seed}.{b}" if self.batches > 1 else f"{seed}")
            for i, seed in enumerate(seeds)
            for b in range(self.batches)
        ]

    def model(self, name: str, index: int, dtype: str) -> nn.Module:
        """A network of its own for the caller, in `dtype`."""
        if self.given is not None:
            given = copy.deepcopy(self.given.models[name][index])
            return given.to(device_of(self.images), dtype)
        _, channels, size, _ = self.images.shape
        built = network(name, self.find).build(
            num_classes=self.num_classes,
            image_size=size,
            in_channels=channels,
            seed=self.seeds[index],
        )
        return built.to(device_of(self.images), dtype)

    def batch(self, unit: Unit, dtype: str, most: int | None) -> tuple[Array, Array]:
        """The first `most` images of a unit's batch, in `dtype`, and their labels."""
        images, labels = self.images, self.labels
        if self.draw is not None:
            images, labels = self.draw(unit.seed, unit.batch)
        return images[:most].astype(dtype), labels[:most]

    def probe(
        self,
        name: str,
        unit: Unit,
        most: int | None = None,
        dtype: str = "",
        retain: str = EDGES,
    ) -> tuple[nn.Module, Probe]:
        """A fresh look at one network, on the first `most` images."""
        dtype = dtype or self.dtype
        model = self.model(name, unit.index, dtype)
        x, labels = self.batch(unit, dtype, most)
        return model, probe(model, x, labels, training=self.training, retain=retain)

    def _each(
        self, what: str, names: Sequence[str], look: Callable[[str, Unit], T], *key: Any
    ) -> list[T]:
        """`look` at every network of these names and every unit, once, saying so."""
        for name in names:
            if (what, name, *key) not in self._kept:
                found = []
                for unit in self.units(name):
                    if self.progress is not None:
                        told = f"{what} {name}, {self.weights}, seed {unit.seed}"
                        told += f", batch {unit.batch}" if self.batches > 1 else ""
                        self.progress.begin(told, self.work(what, name))
                    found.append(look(name, unit))
                self._kept[what, name, *key] = found
        return [found for name in names for found in self._kept[what, name, *key]]

    def work(self, what: str, name: str) -> float:
        """About how long one such measurement takes, in layers looked at."""
        layers = float(re.sub(r"\D", "", name) or 20)
        if what == PATHS:
            return layers * (1 + looking(round(layers / 2), self.setup.samples))
        return layers * WORK[what]

    def readings(self, *names: str) -> list[Reading]:
        """All numbers of these networks."""

        def look(name: str, unit: Unit) -> Reading:
            return read(self.probe(name, unit)[1], name, unit.label)

        return self._each(LOOKING, names, look)

    def flows(self, *names: str) -> list[tuple[str, str, float, float]]:
        """(name, unit, growth, growth per entry) only, which is cheap."""

        def look(name: str, unit: Unit) -> tuple[str, str, float, float]:
            first, last = ends(self.probe(name, unit, retain="tensors")[1].tape)
            growth = ratio(norm(first.grad), norm(last.grad))
            return name, unit.label, growth, ratio(rms(first), rms(last))

        return self._each(FLOW, names, look)

    def spectra(self, *names: str) -> list[tuple[str, Spectrum]]:
        """(setting, path spectrum) of these networks, on `path_batch` images."""

        def look(name: str, unit: Unit) -> tuple[str, Spectrum]:
            _, p = self.probe(name, unit, self.setup.path_batch)
            samples, seed = self.setup.samples, unit.seed + self.setup.path_seed
            told = silent if self.progress is None else self.progress.within
            found = spectrum(p, veit_samples=samples, seed=seed, progress=told)
            return f"{name}/{unit.label}", found

        return self._each(PATHS, names, look)

    def differences(self, *names: str) -> list[tuple[str, Difference]]:
        """(unit, finite difference) of every block, on `exact_batch` images."""

        def look(name: str, unit: Unit) -> list[tuple[str, Difference]]:
            most = self.setup.exact_batch
            found = differences(*self.probe(name, unit, most, "float64"))
            return [(f"{name}:{d.block}/{unit.label}", d) for d in found]

        return [d for ds in self._each(DIFFERENCES, names, look) for d in ds]

    def shrunk(self, *names: str, constant: bool = False) -> list[Shrink]:
        """The shrink test of these networks, on `exact_batch` images."""

        def look(name: str, unit: Unit) -> Shrink:
            return shrink(
                partial(self.model, name, unit.index, "float64"),
                name,
                unit.label,
                *self.batch(unit, "float64", self.setup.exact_batch),
                places=self.setup.shrink_at,
                constant=constant,
                training=self.training,
            )

        return self._each(SHRINKING, names, look, constant)


@dataclass
class Asked(Bench):
    """A bench that measures nothing, but notes what it would have to.

    Attributes:
        amount: the work, by what is measured.
    """

    amount: dict[tuple[Any, ...], float] = field(init=False, default_factory=dict)

    def _each(
        self, what: str, names: Sequence[str], look: Callable[[str, Unit], T], *key: Any
    ) -> list[T]:
        """None, and noted."""
        for name in names:
            work = len(self.units(name)) * self.work(what, name)
            self.amount[what, name, *key] = work
        return []
