"""Analyses of many networks: over depths and seeds, and of the papers' claims."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinyflow.backend import Array, asarray
from tinyflow.data import Loader
from tinyflow.flow.claims import Claim, check_names, iter_claims
from tinyflow.flow.claims.bench import Draw, Trained
from tinyflow.flow.claims.nets import network
from tinyflow.flow.claims.setup import FULL, QUICK, Setup, train_briefly
from tinyflow.flow.depth import DEPTHS, DepthPoint, iter_depths
from tinyflow.flow.probe import FlowError
from tinyflow.flow.progress import Progress
from tinyflow.flow.settings import MODES, Settings, as_flow_error
from tinyflow.flow.source import Source, too_small
from tinyflow.reading import Unreadable
from tinyflow.train.config import DTYPE
from tinyflow.train.record import CONFIG
from tinyflow.train.trained import read_config

BRIEF = ("plain20", "resnet20", "se_resnet20", "quadir_resnet", "quadir_cnn")
"""Networks trained on the spot, to judge claims after training."""


def check_sweep(settings: Settings, depths: str, seeds: int) -> list[int]:
    """The depths that ``20,56`` names, sorted.

    Raises:
        FlowError: options that cannot be used, in one sentence.
    """
    if settings.model or settings.checkpoint is not None:
        raise FlowError(
            "depth builds its own plain and residual nets: leave --model and "
            "--checkpoint out"
        )
    _check_seeds(seeds)
    words = [word.strip() for word in depths.split(",")]
    chosen = {int(w) for w in words if re.fullmatch("[0-9]{1,4}", w)}
    if len(chosen) < len(set(words)) or not chosen <= set(DEPTHS):
        known = ", ".join(map(str, DEPTHS))
        raise FlowError(f"--depths {depths!r}: give some of {known}, with commas")
    return sorted(chosen)


def _check_seeds(seeds: int) -> None:
    if seeds < 1:
        raise FlowError(f"--seeds must be 1 or more, not {seeds}")


def sweep(
    source: Source, depths: list[int], seeds: int, progress: Progress
) -> Iterator[DepthPoint]:
    """Plain and residual networks of every depth, with so many seeds, one by one."""
    s = source.settings
    images, labels = source.batch()
    progress.plan(2 * seeds * sum(depths))
    with as_flow_error():
        yield from iter_depths(
            depths,
            find=s.find,
            seeds=range(s.seed, s.seed + seeds),
            images=asarray(images, source.device),
            labels=labels,
            dtype=s.dtype,
            training=s.mode == "train",
            num_classes=source.data.num_classes,
            progress=lambda name, depth: progress.begin(name, depth),
        )


def check_claims(
    settings: Settings, only: list[str] | None, seeds: int, batches: int, steps: int
) -> list[str]:
    """The claims to judge, each once.

    Raises:
        FlowError: options that cannot be used, in one sentence.
    """
    _check_seeds(seeds)
    if steps < 0:
        raise FlowError(f"--train-steps must be 0 or more, not {steps}")
    if batches < 1:
        raise FlowError(f"--batches must be 1 or more, not {batches}")
    if steps and settings.checkpoint is not None:
        raise FlowError(
            "--train-steps trains networks of its own and --checkpoint brings one: "
            "leave out one of the two"
        )
    return check_names(only)


def chosen_setup(source: Source, full: bool) -> tuple[Setup, str]:
    """The networks that the claims are judged on, and a sentence on those left out.

    Raises:
        FlowError: one is of the user's own, of which the papers say nothing.
    """
    setup = FULL if full else QUICK
    chosen, _ = source.fitting(())
    for one in chosen:
        if one.file is not None:
            raise FlowError(
                f"the claims are about the papers' networks, not about {one.name}: use "
                "analyze.py blocks or paths"
            )
    if source.settings.model:
        return setup.only([one.name for one in chosen]), ""
    small = too_small(
        (network(name, source.settings.find) for name in setup.networks()), source.data
    )
    return setup.without(small), source.left_out(small) if small else ""


def judged(
    source: Source,
    setup: Setup,
    wanted: list[str],
    seeds: int,
    batches: int,
    steps: int,
    progress: Progress,
) -> Iterator[Claim]:
    """The claims at initial weights and, with a checkpoint, for its network too.

    Every seed has `batches` batches of its own.
    With `steps` above 0, also for `BRIEF` networks trained for so many steps, per seed.
    """
    s, told = source.settings, source.told
    chosen = range(s.seed, s.seed + seeds)
    trained: Trained | None = None
    images, labels = source.batch()
    with as_flow_error():
        curves: dict[str, list[list[float]]] = {}
        if source.model is not None and told is not None:
            model = source.model.to(dtype=s.dtype)
            trained = Trained({told.model: [model]}, (told.seed,), source.weights)
        elif steps:
            brief: dict[str, list[Any]] = {name: [] for name in BRIEF}
            curves = {name: [[] for _ in chosen] for name in BRIEF}
            progress.plan(len(BRIEF) * seeds)
            for name in BRIEF:
                for seed, curve in zip(chosen, curves[name], strict=True):
                    progress.begin(f"training {name}, seed {seed}")
                    net = train_briefly(
                        network(name, s.find),
                        source.data,
                        steps=steps,
                        seed=seed,
                        curve=curve,
                        progress=progress.within,
                    )
                    brief[name].append(net.to(dtype=s.dtype))
            trained = Trained(brief, tuple(chosen), f"after {steps} steps of training")
        yield from iter_claims(
            asarray(images, source.device),
            labels,
            seeds=chosen,
            dtype=s.dtype,
            trained=trained,
            setup=setup,
            training=s.mode == "train",
            only=wanted,
            num_classes=source.data.num_classes,
            progress=progress,
            draw=drawing(source),
            batches=batches,
            curves=curves,
            find=s.find,
        )


def drawing(source: Source) -> Draw:
    """Batches of the images by seed and number, for the claims."""
    s = source.settings

    def draw(seed: int, batch: int) -> tuple[Array, Array]:
        loader = Loader(source.data, s.batch_size, seed=seed, dtype=s.dtype)
        images, labels = next(loader.epoch(batch))
        return asarray(images, source.device), labels

    return draw


def described(run: Path) -> tuple[str, str, dict[str, Any]]:
    """The network of a run, its conditions, and both as facts, from config.json.

    One that is damaged is said to be on stderr, and left out.
    """
    facts: dict[str, Any] = {"run": str(run), "weights": "along training"}
    facts |= {"normalisation": MODES["train"], "dtype": DTYPE}
    plain = run.name, f"training run {run} · {MODES['train']} · {DTYPE}", facts
    wanted = {"model": str, "dataset": str, "seed": int, "batch_size": int}
    try:
        if not (config := read_config(run)):
            return plain
        for key, kind in wanted.items():
            if type(config.get(key)) is not kind:
                raise Unreadable(f"{run / CONFIG} names no {key}")
    except ValueError as error:
        print(f"{error}; so the figure does not say what was trained", file=sys.stderr)
        return plain
    dataset, seed, size = (config[k] for k in ("dataset", "seed", "batch_size"))
    resolved = config.get("resolved")
    resolved = resolved if isinstance(resolved, dict) else {}
    classes, name = resolved.get("num_classes"), config["model"]
    if isinstance(full := resolved.get("model"), str):
        name = full
    facts |= {"model": name, "dataset": dataset, "classes": classes, "seed": seed}
    facts |= {"batch_size": size, "epochs": config.get("epochs")}
    of = f", {classes} classes" if classes else ""
    said = f"{dataset}{of} · {MODES['train']} · {DTYPE} · seed {seed} · batch of {size}"
    return name, f"{said} · {run}", facts
