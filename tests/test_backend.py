"""Which device, why, and one sentence for everything that can go wrong with a GPU.

CUDA itself is pretended (tests/fakes/strict_cupy.py).
"""

from __future__ import annotations

import csv
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import models
from tests import ROOT
from tests.fakes.strict_array import CUDARuntimeError, Machine, OutOfMemoryError
from tinyflow import backend
from tinyflow.backend import DeviceError, asnumpy, choose_device, explain
from tinyflow.commands import analyze
from tinyflow.commands import train as cli
from tinyflow.train import load_checkpoint, loop

ARGS = "--model resnet20 --epochs 1 --batch-size 8 --limit-train 16 --limit-test 8"


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYFLOW_DATA", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def driver(monkeypatch: pytest.MonkeyPatch, version: int | None) -> None:
    """Pretend that the driver speaks this version of CUDA, or that there is none."""
    monkeypatch.setattr(backend, "_driver_version", lambda: version)


def run(app: Any, arguments: str) -> Result:
    return CliRunner().invoke(app, arguments.split(), obj=models.ZOO)


def one_sentence(result: Result, *words: str) -> None:
    """Check the exit code, and that stderr is one line with these words."""
    assert result.exit_code in (1, 2), result.output
    line, *more = result.stderr.splitlines()
    assert not more and "Traceback" not in line
    for word in words:
        assert word in line


# --- choosing ----------------------------------------------------------------------


def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)


def failing_import(message: str) -> Callable[[pytest.MonkeyPatch], None]:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise ImportError(message)

        monkeypatch.setattr(backend, "_cupy", fail)

    return plant


CUPY_SAYS = """
================================================================
Failed to import CuPy.

If you installed CuPy via wheels, make sure that the package matches with CUDA.

Original error:
  ImportError: libcublas.so.12: cannot open shared object file
================================================================
"""


@pytest.mark.parametrize(
    ("version", "plant", "words"),
    [
        (None, no_cupy, ("no NVIDIA driver",)),
        (12040, no_cupy, ("CuPy is not installed", "[cuda12]", "12.4")),
        (13000, no_cupy, ("CuPy is not installed", "[cuda13]", "13.0")),
        (12020, failing_import(CUPY_SAYS), ("libcublas.so.12", "[cuda12]")),
        (None, failing_import("no libcuda"), ("no libcuda", "[cuda12]", "[cuda13]")),
    ],
)
def test_without_a_usable_cupy(
    monkeypatch: pytest.MonkeyPatch,
    version: int | None,
    plant: Callable[[pytest.MonkeyPatch], None],
    words: tuple[str, ...],
) -> None:
    driver(monkeypatch, version)
    plant(monkeypatch)
    device, reason = choose_device("auto")
    assert device == "cpu" and "\n" not in reason
    for word in words:
        assert word in reason
    with pytest.raises(DeviceError, match="--device cuda cannot be used"):
        choose_device("cuda")
    assert choose_device("cpu") == ("cpu", "as asked")


PROBLEMS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no driver": ({"driver": 0}, ("no NVIDIA driver",)),
    "CuPy for a newer CUDA": (
        {"driver": 12040},
        ("speaks CUDA 12.4", "CuPy needs 13", "update the driver", "[cuda12]"),
    ),
    "driver too old for any CuPy": (
        {"driver": 11040, "runtime": 12090},
        ("too old", "speaks CUDA 11.4", "needs 12", "update the driver"),
    ),
    "no GPU": ({"devices": 0}, ("shows no GPU", "nvidia-smi")),
    "mismatch": (
        {"broken": CUDARuntimeError(803)},
        ("cudaErrorSystemDriverMismatch", "nvidia-smi"),
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_without_a_usable_gpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    facts, words = PROBLEMS[problem]
    driver(monkeypatch, facts.get("driver", 13000) or None)
    for name, value in facts.items():
        setattr(machine, name, value)
    assert choose_device("auto")[0] == "cpu"
    for app, rest in ((cli.app, ARGS), (analyze.app, "blocks --model resnet20")):
        one_sentence(run(app, f"{rest} --device cuda"), "--device cuda", *words)
    assert list(Path().iterdir()) == []


def test_a_hidden_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.devices = 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES=''" in choose_device("auto")[1]
    for app, rest in ((cli.app, ARGS), (analyze.app, "blocks --model plain20")):
        said = run(app, f"{rest} --device auto").stdout
        assert "device: cpu (the driver shows no GPU; CUDA_VISIBLE_DEVICES=''" in said


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError("libnvrtc.so.13 not found"), ("libnvrtc.so.13", "pip install")),
        (OutOfMemoryError(512, 0), ("no free memory", "nvidia-smi")),
        (CUDARuntimeError(2), ("no free memory", "nvidia-smi")),
    ],
)
def test_a_gpu_that_cannot_compute(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, error: Exception, words: Any
) -> None:
    """It is there, but the libraries to compile a kernel or its memory are not."""

    def ones(*args: object) -> None:
        raise error

    monkeypatch.setattr(sys.modules["cupy"], "ones", ones)
    device, reason = choose_device("auto")
    assert device == "cpu"
    for word in words:
        assert word in reason


def test_with_a_gpu(machine: Machine) -> None:
    assert choose_device("auto") == ("cuda", "a GPU is available")
    assert choose_device("cuda") == ("cuda", "as asked")
    with pytest.raises(DeviceError, match="unknown device 'gpu'"):
        choose_device("gpu")


def test_the_driver_is_asked_without_cupy() -> None:
    """Whatever this machine has: an answer, no error, and CuPy not imported."""
    code = (
        "import sys; from tinyflow import backend; v = backend._driver_version();"
        "assert v is None or v > 10000; assert 'cupy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- training on it ----------------------------------------------------------------


def write_mnist(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for prefix, n in (("train", 16), ("t10k", 8)):
        for kind, head, shape in (
            ("images-idx3", struct.pack(">4I", 0x803, n, 28, 28), (n, 28, 28)),
            ("labels-idx1", struct.pack(">2I", 0x801, n), (n,)),
        ):
            high = 256 if len(shape) == 3 else 10
            content = rng.integers(0, high, shape, np.uint8).tobytes()
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(head + content)


def write_cifar10(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("data_batch_1", "test_batch"):
        rows = rng.integers(0, 256, (10_000, 3073), np.uint8)
        rows[:, 0] %= 10
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def metrics(folder: Path) -> dict[str, float]:
    with (folder / "metrics.csv").open() as file:
        row = list(csv.DictReader(file))[-1]
    return {k: float(row[k]) for k in ("train_loss", "test_loss", "grad_norm")}


@pytest.mark.parametrize(
    "options",
    [
        "--trace-every 1 --lr 0.001",  # sums in another order: no amplifying
        "--augment --optimizer adamw --clip-grad 0.5 --label-smoothing 0.1",
        "--dataset mnist --data-dir . --optimizer adam",
        "--dataset cifar10 --data-dir . --augment",
    ],
)
def test_training(machine: Machine, place: Path, options: str) -> None:
    """Two steps on the device leave what two steps on the CPU leave."""
    if "mnist" in options:
        write_mnist(place)
    if "cifar10" in options:
        write_cifar10(place)
    for device in ("cpu", "cuda"):
        arguments = f"{ARGS} {options} --device {device} --output {device}"
        result = run(cli.app, arguments)
        assert result.exit_code == 0, result.output
        assert f"device: {device} (as asked)" in result.stdout
    assert metrics(place / "cuda") == pytest.approx(metrics(place / "cpu"), rel=1e-3)
    config = json.loads((place / "cuda" / "config.json").read_text())
    assert config["resolved"]["device"] == "cuda"
    assert config["resolved"]["cupy"] == "14.2.0"
    ours, theirs = (load_checkpoint(place / d, models.find)[0] for d in ("cuda", "cpu"))
    for key, array in theirs.state_dict().items():
        there = ours.state_dict()[key]
        assert isinstance(there, np.ndarray)
        np.testing.assert_allclose(there, array, rtol=1e-2, atol=1e-3)
    moved = ours.to("cuda").state_dict()
    for key, array in theirs.state_dict().items():
        np.testing.assert_allclose(asnumpy(moved[key]), array, rtol=1e-2, atol=1e-3)
    if "trace" in options:
        traces = [(place / d / "trace.csv").read_text() for d in ("cpu", "cuda")]
        assert traces[0].count("\n") == traces[1].count("\n") > 80


@pytest.mark.parametrize(
    "arguments",
    [
        "blocks --model se_resnet20",
        pytest.param("paths --model resnet20 --veit 1", marks=pytest.mark.slow),
        "counterfactual layer1.0 residual --model resnet20 --dtype float32",
        "depth --depths 20",
        "claims --claim noh2-equation --model resnet20",
    ],
)
def test_analysing(machine: Machine, place: Path, arguments: str) -> None:
    """On the device, with the numbers of the CPU."""
    found: list[Any] = []
    for device in ("cpu", "cuda"):
        machine.uploads = 0
        more = f"--batch-size 4 --device {device} --output {device}"
        result = run(analyze.app, f"{arguments} {more}")
        assert result.exit_code == 0, result.output
        assert f"device: {device} (as asked)" in result.stdout
        assert (machine.uploads > 0) == (device == "cuda")
        found.append(json.loads((place / device / "summary.json").read_text()))
    alike(found[0], found[1])


def alike(one: Any, other: Any, name: str = "") -> None:
    """Check that two reports say the same, but for where, how fast and rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if "closure" not in key and key not in ("device", "seconds"):
                alike(value, other[key], key)
    elif isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            alike(a, b, name)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6, nan_ok=True), name
    else:  # below a millionth there is rounding only, in sentences too
        tiny = r"-?[\d.]+e-(0[7-9]|[1-9]\d)"
        plain = [re.sub(tiny, "0", str(x)) for x in (one, other)]
        assert plain[0] == plain[1], name


# --- and when it fails -------------------------------------------------------------


@pytest.mark.parametrize("when", ["during the first epoch", "after an epoch"])
def test_out_of_memory_keeps_what_there_is(
    machine: Machine, place: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    whole = run(cli.app, f"{ARGS} --device cuda --output whole")
    assert whole.exit_code == 0
    real, epochs = loop.Loop._epoch, []

    def epoch(*args: Any) -> Any:
        epochs.append(args)
        if len(epochs) == (1 if when == "during the first epoch" else 2):
            machine.memory = 1000
        return real(*args)

    monkeypatch.setattr(loop.Loop, "_epoch", epoch)
    schedule = "--schedule constant --warmup-epochs 0"
    arguments = f"{ARGS} --device cuda --output out {schedule}"
    result = run(cli.app, arguments.replace("--epochs 1", "--epochs 3"))
    words = ["the GPU's memory is full", "bytes", "--batch-size 8"]
    if when == "during the first epoch":
        one_sentence(result, *words, "nothing was kept")
        assert not (place / "out").exists()
        return
    one_sentence(result, *words, "the run up to epoch 1 is kept in out")
    machine.memory = None
    model, told = load_checkpoint(place / "out", models.find)
    assert told.epoch == 1
    assert all(np.isfinite(a).all() for a in model.state_dict().values())
    files = {p.name for p in (place / "out").iterdir()}
    assert files >= {"metrics.csv", "curves.png", "last.safetensors"}


def test_the_batch_that_would_fit_is_found(
    machine: Machine, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the CPU, by trying: what is said trains, and twice as much does not."""
    real = loop.Loop._epoch

    def epoch(self: loop.Loop) -> Any:
        machine.largest = 400_000  # bytes of an array
        return real(self)

    monkeypatch.setattr(loop.Loop, "_epoch", epoch)
    arguments = f"{ARGS} --device cuda --output out --limit-test 2"
    result = run(cli.app, arguments)
    words = "a batch of 2 fits: use --batch-size 2; no epoch was finished"
    one_sentence(result, "the GPU's memory is full", "--batch-size 8:", words)
    half = run(cli.app, arguments.replace("--batch-size 8", "--batch-size 4"))
    one_sentence(half, "the GPU's memory is full", "--batch-size 4:", words)
    arguments = arguments.replace("--limit-train 16", "--limit-train 6")
    good = run(cli.app, arguments.replace("--batch-size 8", "--batch-size 2"))
    assert good.exit_code == 0, good.output


def test_out_of_memory_before_the_first_step(machine: Machine, place: Path) -> None:
    machine.memory = 40
    one_sentence(run(cli.app, f"{ARGS} --device cuda"), "the GPU's memory is full")
    machine.memory = 40
    result = run(analyze.app, "blocks --model resnet20 --device cuda --output out")
    one_sentence(result, "the GPU's memory is full", "--batch-size")
    assert not any(p.suffix == ".csv" for p in place.rglob("*"))


def test_a_gpu_that_breaks(
    machine: Machine, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the error comes late, at the next wait: the epoch before is kept."""
    real = loop.Loop._epoch

    def epoch(self: loop.Loop) -> Any:
        if self.position.epoch == 2:
            machine.broken = CUDARuntimeError(700)
        return real(self)

    monkeypatch.setattr(loop.Loop, "_epoch", epoch)
    result = run(cli.app, f"{ARGS} --device cuda --output out".replace("1 ", "2 ", 1))
    one_sentence(result, "the GPU failed", "cudaErrorIllegalAddress", "epoch 1 is kept")
    assert load_checkpoint(place / "out", models.find)[1].epoch == 1


def test_what_is_explained() -> None:
    for error in (
        MemoryError(),
        MemoryError("Unable to allocate 9 GiB"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ):
        assert "--batch-size" in str(explain(error))
    assert "the GPU failed" in str(explain(CUDARuntimeError(700)))
    for other in (ValueError("a mistake"), RuntimeError("another"), KeyError("c")):
        assert explain(other) is None
