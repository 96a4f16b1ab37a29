"""Every file that a command reads, corrupted in every way: one sentence each.

`COUNTS` names every loader, and how many corrupted inputs it gets here, through the
command line, made by corruptions.py. There are more for the functions alone: tests/data
has test_hostile.py and test_bad_images.py (in a process with a limit), tests/train has
test_checkpoint.py and test_resume_refused.py.
"""

from __future__ import annotations

import lzma
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import models
from tests.commands.corruptions import (
    EXECUTED,
    NET,
    Cases,
    of_cifar,
    of_config,
    of_images,
    of_json,
    of_mnist,
    of_packed,
    of_seeds,
    of_source,
    of_state,
    of_table,
    of_weights,
)
from tests.data.files import write_mnist
from tests.data.pictures import write_folder
from tests.train.small import SMALL, run, tiny
from tests.train.stopping import stopping
from tinyflow.commands.analyze import app as analyze
from tinyflow.flow.trace import COLUMNS
from tinyflow.train import train
from tinyflow.train.several import train_several

MEMORY, SECONDS = 200 * 2**20, 20
"""What one command may take."""


@dataclass(frozen=True)
class Loader:
    """A file, the command that reads it, and what is made of its good content."""

    file: str
    command: str
    cases: Callable[[bytes], Cases]


STEPS = "--epochs 1 --batch-size 8 --limit-train 16"
DATA = f"{STEPS} --model tiny"
OF_FOLDER = "--model tiny --epochs 1 --batch-size 8 --image-size 16 --workers 0"
LOADERS = {
    "CIFAR-10, plain": Loader(
        "c10/data_batch_1.bin", f"{DATA} --dataset cifar10 --data-dir c10", of_cifar
    ),
    "CIFAR-10, packed": Loader(
        "c10/test_batch.bin.xz", f"{DATA} --dataset cifar10 --data-dir c10", of_packed
    ),
    "CIFAR-100, plain": Loader(
        "c100/test.bin", f"{DATA} --dataset cifar100 --data-dir c100", of_cifar
    ),
    "MNIST images, plain": Loader(
        "mnist/train-images-idx3-ubyte",
        f"{DATA} --dataset mnist --data-dir mnist",
        of_mnist,
    ),
    "MNIST labels, plain": Loader(
        "mnist/t10k-labels-idx1-ubyte",
        f"{DATA} --dataset mnist --data-dir mnist",
        of_mnist,
    ),
    "Fashion-MNIST images, packed": Loader(
        "fashion/train-images-idx3-ubyte.gz",
        f"{DATA} --dataset fashion_mnist --data-dir fashion",
        of_packed,
    ),
    "image folder": Loader(
        "images/train/bee/000.png",
        f"{OF_FOLDER} --dataset folder --data-dir images",
        of_images,
    ),
    "picture to predict": Loader("photo.png", "predict done photo.png", of_images),
    "weights": Loader("done/last.safetensors", "evaluate done", of_weights),
    "state of a run": Loader("half/state.safetensors", "--resume half", of_state),
    "config.json": Loader("other/config.json", "--resume other", of_config),
    "evaluation.json": Loader("done/evaluation.json", "evaluate done", of_json),
    "metrics.csv": Loader("done/metrics.csv", "curves done --output c.png", of_table),
    "trace": Loader("done/trace.csv", "analyze training done", of_table),
    "network in a file": Loader("net.py", f"{STEPS} --model net.py:Net", of_source),
    "seeds.json": Loader("several/seeds.json", "--resume several", of_seeds),
}
COUNTS = {
    "CIFAR-10, plain": 22,
    "CIFAR-10, packed": 24,
    "CIFAR-100, plain": 22,
    "MNIST images, plain": 25,
    "MNIST labels, plain": 25,
    "Fashion-MNIST images, packed": 24,
    "image folder": 49,
    "picture to predict": 49,
    "weights": 28,
    "state of a run": 33,
    "config.json": 35,
    "evaluation.json": 26,
    "metrics.csv": 26,
    "trace": 26,
    "network in a file": 23,
    "seeds.json": 34,
}
"""How many corrupted inputs each loader gets."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All files, as they should be; the network `tiny` can be named."""
    root = tmp_path_factory.mktemp("good")
    rows = np.random.default_rng(0).integers(0, 10, (100, 3074), np.uint8)
    for folder in ("c10", "c100"):
        (root / folder).mkdir()
    for name, size, wide in (
        ("c10/data_batch_1.bin", 10_000, 3073),
        ("c100/train.bin", 50_000, 3074),
        ("c100/test.bin", 10_000, 3074),
    ):
        with (root / name).open("wb") as file:
            file.write(rows[:, :wide].tobytes())
            file.truncate(size * wide)
    packed = lzma.compress(bytes(10_000 * 3073), preset=0)
    (root / "c10/test_batch.bin.xz").write_bytes(packed)
    for prefix in ("train", "t10k"):
        write_mnist(root / "mnist", prefix, 20)
        write_mnist(root / "fashion", prefix, 20, ".gz")
    write_folder(root / "images", train=8, test=3)
    (root / "photo.png").write_bytes((root / "images/train/ant/000.png").read_bytes())
    (root / "net.py").write_bytes(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "tiny", models.Network("tiny", tiny, 32, 0.05))
        patch.delenv("TINYFLOW_DATA", raising=False)
        patch.chdir(root)
        config = replace(SMALL, epochs=1, limit_train=100)
        train(replace(config, output=root / "done"))
        train(replace(config, epochs=3, output=root / "half"), stopping(3))
        shutil.copytree(root / "half", root / "other")
        train_several(replace(config, output=root / "several"), 2)
        assert run("evaluate done").exit_code == 0
        lines = [",".join(COLUMNS), *("0,2.3,layer1.0,plain,x,1,,0.5",) * 2]
        (root / "done/trace.csv").write_text("\n".join(lines) + "\n")
        yield root


@contextmanager
def limited() -> Iterator[None]:
    """Where no more can be had than `MEMORY` bytes and `SECONDS`."""

    def late(*_: object) -> None:
        raise AssertionError(f"took more than {SECONDS} s")

    told = Path("/proc/self/status").read_text().partition("VmData:")[2]
    before = resource.getrlimit(resource.RLIMIT_DATA)
    most = int(told.split()[0]) * 1024 + MEMORY
    heard = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, heard)


def told(command: str) -> Result:
    """What a new process would answer: it knows no file of networks yet."""
    for known in [m for m in sys.modules if m.endswith(".py")]:
        del sys.modules[known]
    first, _, rest = command.partition(" ")
    if first == "analyze":
        return CliRunner().invoke(analyze, rest.split(), obj=models.ZOO)
    return run(command)


def wrong_with(result: Result, name: str) -> str:
    """What is not as it should be where the file of that name is refused; or ""."""
    if not isinstance(result.exception, SystemExit):
        return f"raised {result.exception!r}"
    if result.exit_code not in (1, 2):
        return f"exit code {result.exit_code}"
    lines = result.stderr.splitlines()
    whole = len(lines) == 1 and len(lines[0]) < 700
    if not whole or name not in lines[0] or "memory" in lines[0]:
        return f"said {result.stderr[:300]!r}"
    return "executed it" if Path(EXECUTED).exists() else ""


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
@pytest.mark.parametrize("name", LOADERS)
def test_each_is_refused_in_a_sentence(good: Path, name: str) -> None:
    loader = LOADERS[name]
    path = good / loader.file
    content, wrong = path.read_bytes(), {}
    cases = loader.cases(content)
    for case, bad in cases.items():
        path.write_bytes(content if isinstance(bad, int) else bad)
        if isinstance(bad, int):
            with path.open("rb+") as file:
                file.truncate(bad)
        with limited():
            problem = wrong_with(told(loader.command), path.name)
        if problem:
            wrong[case] = problem
    path.write_bytes(content)
    assert not wrong
    assert told(loader.command).exit_code == 0  # it was the file
    assert len(cases) == COUNTS[name]


def test_there_are_two_hundred() -> None:
    assert COUNTS.keys() == LOADERS.keys()
    assert sum(COUNTS.values()) >= 200
