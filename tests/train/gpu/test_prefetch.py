"""Batches on the device: the loader's, never overwritten too early, and closed."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import models
from tests.data.pictures import load_small, write_folder
from tests.fakes.host_gpu import gpu_or_skip
from tinyflow.data import Dataset, Loader, normalize
from tinyflow.kernels.cuda import launch
from tinyflow.train.gpu import prefetch
from tinyflow.train.step import evaluate, served


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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_has_cropped_its_images_itself(
    device: list[dict[str, Any]], tmp_path: Path, workers: int
) -> None:
    data = load_small(write_folder(tmp_path), workers=workers)
    loader = Loader(data, 4, seed=5, augment=True)
    batches = prefetch.DeviceLoader(loader)
    for k in (0, 1):
        for (x, t), (y, u) in zip(batches.epoch(k), loader.epoch(k), strict=True):
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(t, u)
    assert {(how["pad"], how["mirror"]) for how in device} == {(0, False)}


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
