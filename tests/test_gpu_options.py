"""What surrounds the GPU's engine, on a CPU: options, batches, the benchmark."""

import dataclasses
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import models
from benchmarks import gpu, gpu_peers
from tests.gpu_host import gpu_or_skip
from tinyflow import nn
from tinyflow.backend import choose_device
from tinyflow.commands import train
from tinyflow.data import Dataset, Loader, normalize
from tinyflow.kernels.cuda import launch
from tinyflow.kernels.cuda.settings import PRECISIONS, configured, settings
from tinyflow.train import config as train_config
from tinyflow.train import prepare
from tinyflow.train.config import ConfigError, TrainConfig
from tinyflow.train.gpu import prefetch
from tinyflow.train.precision import activations, choose
from tinyflow.train.step import evaluate, served

# --- options -------------------------------------------------------------------------


def test_precisions_are_those_of_the_engine() -> None:
    assert train_config.PRECISIONS == PRECISIONS
    with pytest.raises(ConfigError, match="choose float32, tf32, bfloat16"):
        TrainConfig(models.find("resnet20"), precision="float16").validate()


def test_a_cpu_has_float32_only() -> None:
    assert activations("float32", "cpu") is np.float32
    for precision in PRECISIONS[1:]:
        with pytest.raises(ConfigError, match=f"{precision} needs a GPU; on a CPU"):
            activations(precision, "cpu")
    arguments = "--model resnet20 --device cpu --precision bfloat16".split()
    result = CliRunner().invoke(train.app, arguments, obj=models.ZOO)
    assert result.exit_code == 2
    assert "--precision bfloat16 needs a GPU" in result.stderr


def test_a_gpu_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert activations("tf32", "cuda") is np.float32
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert activations("bfloat16", "cuda") is ml_dtypes.bfloat16
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ConfigError, match="pip install ml_dtypes"):
        activations("bfloat16", "cuda")


def test_deterministic_runs_do_not_tune() -> None:
    with configured():
        choose("tf32", deterministic=True)
        assert settings().deterministic and not settings().autotune
        choose("float32", deterministic=False)
        assert settings().tunes and not settings().deterministic


# --- batches -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "most", "size"),
    [(10_000, 512, 500), (10_001, 512, 501), (50, 256, 50), (512, 512, 512), (3, 1, 1)],
)
def test_batches_are_even(images: int, most: int, size: int) -> None:
    """None is larger, and there are no more than there must be."""
    assert prepare._evenly(images, most) == size
    assert size <= most and -(-images // size) == -(-images // most)


def test_a_gpu_is_tested_in_larger_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(
        models.find("resnet20"), batch_size=16, limit_train=64, limit_test=100
    )
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(prepare.precision, "choose", lambda *how: None)
    monkeypatch.setattr(
        prepare, "_on_gpu", lambda c, m, o, *loaders: (loaders[:2], None)
    )
    for device, size in (("cpu", 16), ("cuda", 50)):
        chosen = (device, "pretended")
        monkeypatch.setattr(prepare, "choose_device", lambda name, c=chosen: c)
        ready = prepare.prepare(config)
        assert (ready.train.batch_size, ready.test.batch_size) == (16, size)


class FakeStream:
    waits = 0
    """Of the host."""

    def wait_event(self, event: Any) -> None:
        assert event.recorded  # waiting for one that never was waits for nothing

    def synchronize(self) -> None:
        FakeStream.waits += 1


class FakeEvent:
    def __init__(self, disable_timing: bool = False) -> None:
        self.recorded = 0

    def record(self, stream: Any) -> None:
        self.recorded += 1

    def synchronize(self) -> None:
        pass


class Settable(np.ndarray):
    """A device array: ``set`` copies from the host."""

    def set(self, host: np.ndarray, stream: Any = None) -> None:
        assert isinstance(stream, FakeStream)
        self[...] = host


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """CuPy's part in fetching batches, and the augmentations asked for."""
    asked: list[dict[str, Any]] = []
    cuda = SimpleNamespace(
        Stream=lambda non_blocking: FakeStream(),
        Event=FakeEvent,
        get_current_stream=FakeStream,
        runtime=SimpleNamespace(deviceSynchronize=lambda: None),
    )
    fake = SimpleNamespace(
        **{n: getattr(np, n) for n in ("asarray", "arange", "full")},
        empty=lambda shape, dtype: np.empty(shape, dtype).view(Settable),
        cuda=cuda,
    )
    monkeypatch.setattr(prefetch, "_cupy", lambda: fake)
    pinned = SimpleNamespace(empty_pinned=np.empty)
    monkeypatch.setitem(sys.modules, "cupyx", pinned)

    def augment(images: Any, index: Any, table: Any, out: Any, **how: Any) -> Any:
        asked.append(how)
        chosen = np.asarray(images)[index].transpose(0, 2, 3, 1)
        for c in range(out.shape[3]):
            out[..., c] = table[c][chosen[..., c]]
        return out

    monkeypatch.setattr(launch, "augment", augment)
    yield asked


def pictures(n: int) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(
        images=rng.integers(0, 256, (n, 3, 6, 6), np.uint8),
        labels=rng.integers(0, 10, n),
        classes=tuple("0123456789"),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        name="random",
    )


def test_device_batches_are_the_loaders(device: list[dict[str, Any]]) -> None:
    loader = Loader(pictures(23), 4, seed=3)
    batches = prefetch.DeviceLoader(loader)
    assert len(batches) == len(loader) == 6 and batches.dataset is loader.dataset
    for k in (0, 1):  # the second epoch uses the same memory again
        found = list(batches.epoch(k))
        for (x, t), (y, u) in zip(found, loader.epoch(k), strict=True):
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(t, u)
            assert x.transpose(0, 2, 3, 1).flags.c_contiguous
    assert all(how["pad"] == 0 and not how["mirror"] for how in device)
    late = [t for _, t in batches.epoch(1, start=4)]
    np.testing.assert_array_equal(
        np.concatenate(late), np.concatenate([u for _, u in list(loader.epoch(1))[4:]])
    )


def test_a_batch_is_never_copied_to_memory_that_is_given_away(
    device: list[dict[str, Any]],
) -> None:
    """Also where an epoch is left: then the host waits for what is on its way."""
    batches = prefetch.DeviceLoader(Loader(pictures(23), 4)).epoch(0)
    next(batches)
    before = FakeStream.waits
    batches.close()
    assert FakeStream.waits == before + 1


@pytest.mark.parametrize("loop", ["train", "test"])
def test_an_epoch_that_fails_is_closed_and_none_is_touched_as_garbage(
    device: list[dict[str, Any]], loop: str
) -> None:
    """As garbage its stream may be destroyed first: CuPy's ends the process then."""
    loader = prefetch.DeviceLoader(Loader(pictures(23), 4))
    before = FakeStream.waits
    epoch = loader.epoch(0)
    next(epoch)
    cycle: list[Any] = [epoch]
    cycle.append(cycle)
    del epoch, cycle
    gc.collect()
    assert FakeStream.waits == before

    def fail(*args: object) -> None:
        raise RuntimeError("the GPU failed")

    with pytest.raises(RuntimeError, match="the GPU failed"):
        if loop == "test":
            model = models.build_model("resnet20")
            model.forward = fail  # type: ignore[method-assign]
            evaluate(model, loader)
        else:
            with served(loader.epoch(0)) as batches:
                fail(next(batches))
    assert FakeStream.waits == before + 1


def test_augmentation_is_keyed_by_seed_epoch_and_batch(
    device: list[dict[str, Any]],
) -> None:
    loader = Loader(pictures(9), 4, seed=5, augment=True)
    list(prefetch.DeviceLoader(loader).epoch(7))
    keys = [(how["seed"], how["stream"], int(how["step"][0])) for how in device]
    assert keys == [(5, 7, 0), (5, 7, 1), (5, 7, 2)]
    assert {(how["pad"], how["mirror"]) for how in device} == {(4, True)}


def test_raw_batches_are_not_augmented() -> None:
    data = pictures(10)
    loader = Loader(data, 4, seed=1, augment=True)
    plain = Loader(data, 4, seed=1)
    for (index, images, labels), (y, u) in zip(
        loader.raw(2), plain.epoch(2), strict=True
    ):
        assert 0 <= index < 3 and images.dtype == np.uint8
        np.testing.assert_array_equal(normalize(images, data.mean, data.std), y)
        np.testing.assert_array_equal(labels, u)


@pytest.mark.gpu
def test_gpu_batches_are_the_loaders() -> None:
    gpu_or_skip()
    loader = Loader(pictures(23), 4, seed=3)
    for (x, t), (y, u) in zip(
        prefetch.DeviceLoader(loader).epoch(0), loader.epoch(0), strict=True
    ):
        np.testing.assert_array_equal(x.get(), y)
        np.testing.assert_array_equal(t.get(), u)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gpu_training_leaves_a_run(tmp_path: Path, precision: str) -> None:
    gpu_or_skip()
    line = (
        f"--model resnet20 --epochs 2 --batch-size 32 --limit-train 200 --augment "
        f"--limit-test 50 --device cuda --precision {precision} --output {tmp_path}/run"
    )
    result = CliRunner().invoke(train.app, line.split(), obj=models.ZOO)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts["resolved"]["precision"] == precision


# --- the benchmark -------------------------------------------------------------------


class Canned:
    """A peer that answers from a table."""

    closed: ClassVar[list[str]] = []
    order: ClassVar[list[str]] = []

    def __init__(self, peer: str, setting: gpu.Setting) -> None:
        self.peer, self.asked = peer, 0

    def ask(self, line: str, seconds: float) -> dict[str, Any]:
        if line == "warm up":
            if self.peer == "torch-compile":
                return {"error": "RuntimeError: cannot be compiled"}
            return {"versions": {self.peer: "1.0"}, "first_s": 4.5}
        if line == "memory":
            return {"mib": 100.0}
        self.asked += 1
        Canned.order.append(self.peer)
        times = {"tinyflow": 2.0, "tinyflow-eager": 5.0, "torch": 6.0}
        if self.peer == "torch-graph" and self.asked == 2:
            return {"error": "ended with exit code -9"}
        return {"ms": times.get(self.peer, 3.0) + 0.1 * (self.asked == 1)}

    def close(self) -> None:
        Canned.closed.append(self.peer)


def test_peers_take_turns_and_one_may_fail(tmp_path: Path) -> None:
    Canned.closed, Canned.order = [], []
    setting = gpu.Setting("resnet20", 128, 32, "tf32")
    rows = gpu.measure(setting, gpu_peers.PEERS, 3, Canned)
    assert Canned.closed == list(gpu_peers.PEERS)
    assert Canned.order[:4] == ["tinyflow", "tinyflow-eager", "torch", "torch-graph"]
    assert Canned.order[4:8] == Canned.order[3::-1]  # turned around each time
    by_peer = {row.peer: row for row in rows}
    assert by_peer["tinyflow"].ms == 2.0
    assert by_peer["torch-graph"].error == "ended with exit code -9"
    assert by_peer["torch-compile"].ms is None
    # A peer that failed later keeps the rounds it finished.
    assert gpu.ratio(rows) == pytest.approx(3.1 / 2.0)
    text = gpu.line(rows)
    assert text.split()[:4] == ["resnet20", "128", "32", "tf32"]
    assert "2.00 (100)" in text and text.endswith("1.55")
    assert len(gpu.heading(gpu_peers.PEERS)) == len(text)
    gpu.write(rows, tmp_path / "new" / "gpu.json")
    facts = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert facts["versions"]["tinyflow"] == "1.0" and len(facts["rows"]) == 5
    first = facts["rows"][0]
    assert first["images_per_second"] == pytest.approx(64000)
    assert first["rounds_ms"] == [2.1, 2.0, 2.0] and first["first_step_s"] == 4.5


def test_without_a_captured_time_there_is_no_ratio() -> None:
    setting = gpu.Setting("resnet20", 128, 32, "tf32")
    rows = gpu.measure(setting, ["torch"], 1, Canned)
    assert gpu.ratio(rows) is None and gpu.line(rows).endswith("-")


def test_the_grid() -> None:
    grid = list(gpu.settings(gpu.SMALL, PRECISIONS, tuple(gpu.SIZES)))
    assert len(grid) == len(set(grid)) == 3 * (6 * 2 + 4)
    assert gpu.Setting("resnet50", 64, 224, "bfloat16") in grid
    assert not [s for s in grid if s.size == 224 and s.network == "resnet20"]
    quick = list(gpu.settings(("resnet20",), ("tf32",), (128,)))
    assert [dataclasses.astuple(s) for s in quick] == [("resnet20", 128, 32, "tf32")]


@pytest.mark.parametrize(
    ("options", "networks", "batches"),
    [
        ({}, set(gpu.SMALL), {128, 512, 64}),
        ({"quick": True}, {"resnet20", "resnet50"}, {128}),
        ({"batch": [64]}, set(gpu.LARGE), {64}),
        ({"quick": True, "batch": [512]}, {"resnet20", "resnet50"}, {512}),
    ],
)
def test_the_options_choose_what_is_measured(
    options: dict[str, Any],
    networks: set[str],
    batches: set[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    asked: list[gpu.Setting] = []

    def measure(setting: gpu.Setting, *_: object, **__: object) -> list[gpu.Row]:
        asked.append(setting)
        return [gpu.Row(setting, "torch")]

    monkeypatch.setattr(gpu, "choose_device", lambda name: ("cuda", "pretended"))
    monkeypatch.setattr(gpu, "measure", measure)
    gpu.main(**options, rounds=1, json_file=tmp_path / "gpu.json")
    assert {s.network for s in asked} == networks
    assert {s.batch for s in asked} == batches


def test_an_unknown_batch_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "choose_device", lambda name: ("cuda", "pretended"))
    with pytest.raises(typer.Exit) as ended:
        gpu.main(batch=[127])
    assert ended.value.exit_code == 2
    said = "benchmarks.gpu: unknown 127; choose from 128, 512, 64\n"
    assert capsys.readouterr().err == said


def run(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parent.parent
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        **how,
    )


def test_without_a_gpu_it_says_so() -> None:
    if choose_device("auto")[0] == "cuda":
        pytest.skip("there is a GPU")
    done = run("benchmarks.gpu", "--quick")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("benchmarks.gpu: --device cuda cannot be used")
    assert len(done.stderr.splitlines()) == 1


def test_a_peer_that_cannot_start_answers_with_the_reason() -> None:
    if choose_device("auto")[0] == "cuda":
        pytest.skip("there is a GPU")
    done = run(
        "benchmarks.gpu_peers",
        "tinyflow",
        "resnet20",
        "2",
        "32",
        "tf32",
        input="warm up\n",
    )
    assert done.returncode == 0
    assert "error" in json.loads(done.stdout)


def test_a_dead_process_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    peer = gpu.start_peer("torch", gpu.Setting("resnet20", 2, 32, "tf32"))
    assert "exit code 1" in peer.ask("warm up")["error"]
    peer.close()
