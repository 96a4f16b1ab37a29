"""Analyses of many networks: over depths and seeds, and of the papers' claims."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import models
from models.cifar_resnet import DEPTHS
from tinyflow.backend import asarray, choose_device
from tinyflow.flow.claims import Claim, claims
from tinyflow.flow.claims_setup import FULL, QUICK, train_briefly
from tinyflow.flow.depth import DepthPoint, depth_sweep
from tinyflow.flow.probe import FlowError
from tinyflow.flow.subject import MODES, Settings, as_flow_error, load_data, one_batch
from tinyflow.train.checkpoint import load_checkpoint
from tinyflow.train.config import DTYPE

BRIEF = ("plain20", "resnet20", "se_resnet20")
"""Networks trained on the spot, to judge claims after training."""


def sweep(settings: Settings, depths: str, seeds: int) -> list[DepthPoint]:
    """Plain and residual networks of every depth, ``20,56``, with so many seeds.

    Raises:
        FlowError: options that cannot be used, in one sentence.
    """
    if settings.model or settings.checkpoint is not None:
        raise FlowError(
            "depth builds its own plain and residual nets: leave --model and "
            "--checkpoint out"
        )
    if seeds < 1:
        raise FlowError(f"--seeds must be 1 or more, not {seeds}")
    chosen = [int(d) if d.strip().isdigit() else 0 for d in depths.split(",")]
    if not set(chosen) <= set(DEPTHS):
        known = ", ".join(map(str, DEPTHS))
        raise FlowError(f"--depths {depths!r}: give some of {known}, with commas")
    with as_flow_error():
        data = load_data(settings, settings.dataset or "shapes")
        images, labels = one_batch(settings, data)
        images = asarray(images, choose_device(settings.device)[0])
        return depth_sweep(
            sorted(set(chosen)),
            seeds=range(settings.seed, settings.seed + seeds),
            images=images,
            labels=labels,
            dtype=settings.dtype,
            training=settings.mode == "train",
            num_classes=data.num_classes,
        )


def judged(
    settings: Settings, only: list[str] | None, seeds: int, full: bool, steps: int = 0
) -> list[Claim]:
    """The claims at initial weights and, with a checkpoint, for its network too.

    With `steps` above 0, also for `BRIEF` networks trained for so many steps, per seed.

    Raises:
        FlowError: options that cannot be used, in one sentence.
    """
    if seeds < 1:
        raise FlowError(f"--seeds must be 1 or more, not {seeds}")
    if steps < 0:
        raise FlowError(f"--train-steps must be 0 or more, not {steps}")
    setup = FULL if full else QUICK
    with as_flow_error():
        if settings.model:
            setup = setup.only([models.full_name(name) for name in settings.model])
        trained = None
        if settings.checkpoint is not None:
            model, told = load_checkpoint(settings.checkpoint)
            trained = {told.model: [model.to(dtype=settings.dtype)]}
        data = load_data(settings, settings.dataset or "shapes")
        images, labels = one_batch(settings, data)
        images = asarray(images, choose_device(settings.device)[0])
        chosen = range(settings.seed, settings.seed + seeds)
        for name in BRIEF if steps else ():
            say(f"training {name} for {steps} steps with {seeds} seeds")
            nets = [train_briefly(name, data, steps=steps, seed=s) for s in chosen]
            brief = [net.to(dtype=settings.dtype) for net in nets]
            trained = {**(trained or {}), name: brief}
        return claims(
            images,
            labels,
            seeds=chosen,
            dtype=settings.dtype,
            trained=trained,
            setup=setup,
            training=settings.mode == "train",
            only=only,
            num_classes=data.num_classes,
            progress=say,
        )


def say(line: str) -> None:
    """Show on a terminal that something is going on."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr)


def described(run: Path) -> tuple[str, str]:
    """The network of a run, and its conditions, from config.json if it can be read."""
    precision = f"{MODES['train']} · {DTYPE}"
    try:
        text = (run / "config.json").read_text(encoding="utf-8")
        config: dict[str, Any] = json.loads(text)
        name = models.full_name(config["model"])
        dataset, seed, size = (config[k] for k in ("dataset", "seed", "batch_size"))
    except (OSError, ValueError, KeyError, TypeError):
        return run.name, f"training run {run} · {precision}"
    return name, f"{dataset} · {precision} · seed {seed} · batch of {size} · {run}"
