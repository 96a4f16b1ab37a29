"""Whether decoding keeps the network busy: images/s of training with it and without.

    python -m benchmarks.decoding
    python -m benchmarks.decoding --device cuda --workers 15 --batch 128 --images 2048

Makes a folder of JPEG files of ImageNet's usual size and trains on it. A round is an
epoch on the files ("with"), one of as many steps on a batch that lies ready
("without"), and one in which the files are decoded and nothing is trained ("alone");
rounds take turns in both directions. The table gives medians, and the ratio with /
without: at 1 the network never waits. Where workers and network share all cores it
cannot be 1, and is about alone / (alone + without): each takes the time of the other.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

import models
from tinyflow.data.folder import default_workers
from tinyflow.train import TrainConfig
from tinyflow.train.prepare import Prepared, prepare
from tinyflow.train.step import served

WIDTH, HEIGHT = 500, 375
WAYS = ("with", "without", "alone")


def write_images(root: Path, count: int) -> None:
    """Two classes of JPEG files, of soft patches and some noise, half of them each."""
    rng = np.random.default_rng(0)
    size, softly = (WIDTH, HEIGHT), Image.Resampling.BICUBIC
    for i in range(count + 2):
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        patches = np.asarray(Image.fromarray(small).resize(size, softly), np.int16)
        noisy = patches + rng.integers(-12, 13, patches.shape)
        place = root / ("train" if i < count else "val") / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{i:05}.jpg", quality=90)


def rounds_of(
    ways: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """What each way measures, in turns: forwards, backwards, and so on."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name in list(ways) if turn % 2 == 0 else list(ways)[::-1]:
            found[name].append(ways[name]())
    return found


def row_of(found: Mapping[str, list[float]]) -> dict[str, float]:
    """Medians of images/s, and what decoding costs: with / without."""
    row = {name: statistics.median(rates) for name, rates in found.items()}
    row["ratio"] = row["with"] / row["without"]
    row["shared"] = row["alone"] / (row["alone"] + row["without"])
    return row


def train(ready: Prepared, batches: Iterable[tuple[Any, Any]]) -> int:
    """Steps on batches; how many images these had."""
    images, launched = 0, None
    for pictures, labels in batches:
        answer = ready.stepper.launch(pictures, labels)
        if launched is not None:  # a GPU has work while the next batch is fetched
            launched()
        if answer is None:
            ready.stepper.eager(pictures, labels)
        launched = answer
        images += len(labels)
    if launched is not None:
        launched()
    return images


def measure(ready: Prepared, rounds: int) -> dict[str, float]:
    """The table's row."""
    epoch = iter(range(1000))

    def rate(work: Callable[[], int]) -> Callable[[], float]:
        def timed() -> float:
            begun = time.perf_counter()
            images = work()
            return images / (time.perf_counter() - begun)

        return timed

    def on_files() -> int:
        with served(ready.train.epoch(next(epoch))) as batches:
            return train(ready, batches)

    def decoded() -> int:
        with served(ready.train.epoch(next(epoch))) as batches:
            return sum(len(labels) for _, labels in batches)

    with ready.stepper.running():
        with served(ready.train.epoch(0)) as batches:
            held = next(batches)
        on_files()  # warms up: a GPU records its steps, workers start
        ways = {
            "with": rate(on_files),
            "without": rate(lambda: train(ready, repeat(held, len(ready.train)))),
            "alone": rate(decoded),
        }
        return row_of(rounds_of(ways, rounds))


def main(
    model: Annotated[str, typer.Option(help="Network.")] = "resnet50",
    batch: Annotated[int, typer.Option(help="Images per step.", min=1)] = 32,
    size: Annotated[int, typer.Option(help="Pixels of an image.", min=1)] = 224,
    images: Annotated[int, typer.Option(help="Files.", min=2)] = 256,
    workers: Annotated[
        int | None, typer.Option(help="Processes; default: all.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        str, typer.Option(help="float32, tf32, bfloat16.")
    ] = "float32",
    rounds: Annotated[int, typer.Option(help="Of each.", min=1)] = 3,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the row here.")
    ] = None,
) -> None:
    """Train with and without decoding."""
    workers = default_workers() if workers is None else workers
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), images - images % batch or images)
        config = TrainConfig(
            models.find(model),
            dataset="folder",
            data_dir=Path(folder),
            image_size=size,
            workers=workers,
            batch_size=batch,
            augment=True,
            device=device,
            precision=precision,
        )
        ready = prepare(config)
        row = measure(ready, rounds)
    facts = {
        "model": model,
        "batch": batch,
        "size": size,
        "workers": workers,
        "device": ready.device,
        "kernels": ready.kernels,
        "precision": precision,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(
        "".join(f"{name:>10}" for name in (*WAYS, "ratio")), " images/s, with/without"
    )
    rates = "".join(f"{row[name]:>10.1f}" for name in WAYS)
    print(f"{rates}{row['ratio']:>10.2f}  ({row['shared']:.2f} if cores are shared)")
    if output is not None:
        output.write_text(json.dumps({**facts, **row}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
