"""One stage of ``benchmarks/first.py`` in its own process.

    python -m benchmarks.first_stages parity FOLDER 80

The last number is how many seconds it has. Errors are relative in the 2-norm:
|ours - theirs| / |theirs|.
"""

from __future__ import annotations

import csv
import faulthandler
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gpu, gpu_peers
from benchmarks.first import Facts, sentence
from benchmarks.first_tests import tests
from benchmarks.rounded import Rounded

BATCH, SIZE = 128, 32
PARITY_BATCH = 16
PRECISIONS = ("tf32", "bfloat16", "float32")
PARITY = {
    "tf32": ("resnet20", "resnet50", "se_resnet50", "vgg19", "densenet121"),
    "bfloat16": ("resnet20", "resnet50", "densenet121"),
    "float32": ("resnet20", "resnet50", "densenet121"),
}
BITS = {"tf32": 10, "bfloat16": 7}
"""Of the mantissas that the products take."""

RACERS = ("tinyflow", "torch", "torch-graph")
SHORTEST = 12.0
"""Seconds below which a setting of the race is not begun."""

Found = dict[str, Any]


# --- what is there -------------------------------------------------------------------


def checks(facts: Facts, end: float, *_: str) -> None:
    """Versions, every kernel compiled, how fast memory is copied."""
    facts.of("versions", versions)
    facts.of("cuDNN", cudnn)
    facts.of("kernels", kernels)
    facts.of("a copy of 1 GiB", copies)


def versions() -> Found:
    """Of card, driver, CUDA and libraries."""
    import cupy

    runtime = cupy.cuda.runtime
    card = runtime.getDeviceProperties(0)
    return {
        "card": card["name"].decode(),
        "memory_gib": round(card["totalGlobalMem"] / 2**30, 1),
        "driver": driver(),
        "driver_cuda": runtime.driverGetVersion(),
        "runtime_cuda": runtime.runtimeGetVersion(),
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "cupy": cupy.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }


def driver() -> str:
    """Its version, as its own tool says it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return sentence(error)
    return done.stdout.strip() or done.stderr.strip()


def cudnn() -> Found:
    """Whether convolutions will run on it, and a handle of it."""
    from tinyflow.kernels.cuda.engine import cuda_engine

    if absent := cuda_engine().convolutions.absent.get("cudnn"):
        return {"error": absent}
    import cudnn as frontend

    frontend.create_handle()
    return gpu_peers.cudnn_versions()


def kernels() -> Found:
    """Every variant of every unit, compiled; the kernel with most local memory."""
    from tinyflow.kernels.cuda import source
    from tinyflow.kernels.cuda.module import compile_with_cupy

    local = {
        f"{name} of {variant}": compile_with_cupy(variant)
        .get_function(name)
        .local_size_bytes
        for variant in source.variants()
        for name in source.kernels(variant.unit)
    }
    worst = max(local, key=lambda name: local[name])
    return {"compiled": len(local), "most_local_bytes": local[worst], "in": worst}


def copies() -> Found:
    """Bytes read and written per second by a copy on the device."""
    import cupy

    size, times = 1 << 30, 10
    here, there = cupy.zeros(size, "u1"), cupy.empty(size, "u1")

    def copy() -> None:
        there.data.copy_from_device_async(here.data, size)

    wait = cupy.cuda.runtime.deviceSynchronize
    copy()
    seconds = gpu_peers.seconds_of(copy, wait, times)
    return {"gb_per_s": round(2 * size * times / seconds / 1e9)}


# --- a step against the CPU's, a captured one against an eager one -------------------


def parity(facts: Facts, end: float, *_: str) -> None:
    """Several networks and precisions, the cheap ones first."""
    for precision, networks in PARITY.items():
        for network in networks:
            if time.monotonic() > end:
                facts.put(f"{network} {precision}", error="the time is up")
                continue
            facts.of(f"{network} {precision}", against_cpu, network, precision)
            facts.of(f"{network} {precision}, captured", captured, network, precision)


def gradients(model: Any, images: Any, labels: Any) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of an eager step, on the host."""
    from tinyflow import Tape, Tensor, ops
    from tinyflow.backend import asnumpy

    with Tape(fuse=True) as tape:
        loss = ops.cross_entropy(model(Tensor(images)), labels)
    tape.backward(loss, release=True)
    found = {n: asnumpy(p.grad) for n, p in model.named_parameters()}
    return float(loss.data), found


def relative(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Found:
    """The error of all arrays as one vector, the median one, and the worst."""
    from tinyflow.lengths import l2_norm

    off = {n: l2_norm(found[n] - wanted[n]) for n in wanted}
    size = {n: l2_norm(wanted[n]) for n in wanted}
    each = {n: off[n] / (size[n] + 1e-12) for n in wanted}
    worst = max(each, key=lambda n: math.inf if math.isnan(each[n]) else each[n])
    together = math.hypot(*off.values()) / (math.hypot(*size.values()) + 1e-12)
    facts = {
        "all": float(f"{together:.2g}"),
        "median": float(f"{np.median([*each.values()]):.2g}"),
        "worst": float(f"{each[worst]:.2g}"),
        "of": worst,
    }
    return facts if math.isfinite(together) else facts | {"error": "is not finite"}


@contextmanager
def refusals() -> Iterator[Found]:
    """How many problems cuDNN refuses meanwhile, and why, when the block is over."""
    from tinyflow.kernels.cuda.engine import cuda_engine

    table = cuda_engine().convolutions
    table.refusals.clear()
    found: Found = {}
    yield found
    why = Counter(str(reason)[:100] for reason in table.refusals.values())
    found |= {"refused": len(table.refusals), "because": dict(why.most_common(2))}


def against_cpu(network: str, precision: str) -> Found:
    """Loss and gradients of an untuned step, and the CPU's in float32.

    What they are expected to differ by is what rounding the operands of the CPU's
    products does: see ``benchmarks/rounded.py``.
    """
    from tinyflow.kernels.cuda.settings import configured
    from tinyflow.kernels.engine import forced

    images, labels = gpu_peers.batch_there(PARITY_BATCH, SIZE, precision)
    host = np.ascontiguousarray(images.astype("float32").get())
    with configured(precision=precision), refusals() as refused:
        model = gpu_peers.network_of(network, SIZE, "cuda")
        loss, found = gradients(model, images, labels)
    model = gpu_peers.network_of(network, SIZE, "cpu")
    right, wanted = gradients(model, host, labels.get())
    facts = {"loss": loss, "cpu": right} | relative(found, wanted)
    if precision in BITS:
        model = gpu_peers.network_of(network, SIZE, "cpu")
        with forced(Rounded(BITS[precision])):
            _, coarse = gradients(model, host, labels.get())
        facts["expected"] = relative(coarse, wanted)["all"]
    return facts | refused


def captured(network: str, precision: str) -> Found:
    """Parameters after two replayed steps, and after as many eager ones.

    What two eager runs differ by says how much of it is the order of sums.
    """
    import cupy

    from tinyflow.kernels.cuda.graph import Recorder
    from tinyflow.kernels.cuda.settings import configured
    from tinyflow.optim import SGD
    from tinyflow.train.gpu.capture import WARM_UP, CapturedStep
    from tinyflow.train.step import train_step

    images, labels = gpu_peers.batch_there(PARITY_BATCH, SIZE, precision)
    said: list[str] = []

    def run(capture: bool) -> tuple[Found, int]:
        model = gpu_peers.network_of(network, SIZE, "cuda")
        optimizer = SGD(model.named_parameters(), gpu_peers.LR, gpu_peers.MOMENTUM)
        step = CapturedStep(model, optimizer, Recorder(), say=said.append)
        for _ in range(WARM_UP + 2):
            if capture:
                step(images, labels)
            else:
                train_step(model, images, labels, optimizer)
        cupy.cuda.runtime.deviceSynchronize()
        return {n: p.data.get() for n, p in model.named_parameters()}, step.replayed

    with configured(precision=precision):
        (eager, _), (again, _), (found, replayed) = map(run, (False, False, True))
    facts = {"replayed": replayed, "eager_again": relative(again, eager)["all"]}
    return facts | relative(found, eager) | ({"error": said[0]} if said else {})


# --- against PyTorch, and a whole run ------------------------------------------------


def speed(facts: Facts, end: float, *_: str) -> None:
    """All networks in tf32, which share the time, then other precisions while it lasts.

    What is known of every answer of a peer stands in ``speed.json``.
    """
    rows: list[gpu.Row] = []
    file = facts.path.with_name("speed.json")

    def keep(found: Sequence[gpu.Row]) -> None:
        gpu.write([*rows, *found], file)

    for i, setting in enumerate(gpu.settings(gpu.SMALL, PRECISIONS, (BATCH,))):
        left = end - time.monotonic()
        if left < SHORTEST:
            facts.put(str(setting), error="the time is up")
            continue
        new = gpu.measure(
            setting,
            RACERS,
            5,
            seconds=left / max(1, len(gpu.SMALL) - i),
            keep=keep,
        )
        rows.extend(new)
        facts.put(str(setting), **compared(new))


def compared(rows: Sequence[gpu.Row]) -> Found:
    """What a setting's rows say, by peer."""
    ratio = gpu.ratio(rows)
    found: Found = {"ratio": ratio and round(ratio, 3)}
    for name in ("ms", "memory_mib", "first_step_s"):
        values = {row.peer: getattr(row, name) for row in rows}
        found[name] = {peer: v and round(v, 2) for peer, v in values.items()}
    errors = {row.peer: row.error for row in rows if row.error is not None}
    return found | ({"error": errors} if errors else {})


def train(facts: Facts, end: float, *_: str) -> None:
    """``train.py`` on CIFAR-10 where it is, else on drawn images."""
    dataset = "cifar10" if os.environ.get("TINYFLOW_DATA") else "shapes"
    options = f"--model resnet20 --dataset {dataset} --epochs 3 --batch-size {BATCH}"
    options += " --augment --device cuda --precision tf32"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *options.split()]
        command += ["--output", f"{folder}/run"]
        try:
            done = subprocess.run(command, timeout=max(1.0, end - time.monotonic()))
            ended = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = "the time is up"
        file, rows = Path(folder, "run", "metrics.csv"), []
        if file.exists():
            with file.open() as lines:
                rows = list(csv.DictReader(lines))
    for row in rows:
        names = ("seconds", "images_per_second", "train_loss", "test_accuracy")
        shown = {name: row[name] for name in names if name in row}
        facts.put(f"epoch {row['epoch']}", **shown)
    facts.put(f"train.py {options}", ended=ended)


RUN: dict[str, Callable[..., None]] = {
    "checks": checks,
    "tests": tests,
    "parity": parity,
    "speed": speed,
    "train": train,
}


def main(stage: str, folder: str, seconds: str, *rest: str) -> None:
    """Run a stage; an error of its own is a line too."""
    end, facts = time.monotonic() + float(seconds), Facts(Path(folder), stage)
    faulthandler.enable()
    faulthandler.dump_traceback_later(float(seconds) + 3)  # where it hangs
    try:
        RUN[stage](facts, end, *rest)
    except Exception as error:
        facts.put("the stage failed", error=sentence(error))
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
