"""Averages of weights: PyTorch's, swapped in and out, saved and moved."""

from __future__ import annotations

import signal

import numpy as np
import pytest

import tinyflow
from tests.fakes.host_gpu import gpu_or_skip
from tinyflow import nn
from tinyflow.train.ema import EMA


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.conv = nn.Conv2d(3, 4, 3, rng=rng)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 2, rng=rng)
        self.seen = np.zeros(1, np.int64)  # a buffer that is not averaged


def drift(model: nn.Module, step: int) -> None:
    """Other weights, as of another step."""
    rng = np.random.default_rng(step)
    for _, p in model.named_parameters():
        p.data[...] += rng.normal(size=p.shape)
        p.node.version += 1
    for name, b in model.named_buffers():
        b[...] = step if name == "seen" else rng.random(b.shape)


@pytest.mark.parametrize("warm_up", [False, True])
def test_averages_are_those_of_pytorch(warm_up: bool) -> None:
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    ours = Net().to(dtype="float64")
    names = [name for name in ours.state_dict() if name != "seen"]

    theirs = torch.nn.Module()

    def copy() -> None:
        for name in names:
            value = torch.tensor(ours.state_dict()[name])
            theirs.register_buffer(name.replace(".", "_"), value)

    copy()
    if warm_up:  # n counts the copy that it makes first, too
        rule = {
            "avg_fn": lambda s, w, n: (
                s + (1 - min(0.9, int(n) / (9 + int(n)))) * (w - s)
            ),
        }
    else:
        rule = {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}
    oracle = AveragedModel(theirs, use_buffers=True, **rule)
    oracle.update_parameters(theirs)
    ema = EMA(ours, 0.9, warm_up)
    for step in range(100):
        drift(ours, step)
        copy()
        ema.update()
        oracle.update_parameters(theirs)
        for name in names:
            expected = oracle.module.get_buffer(name.replace(".", "_")).numpy()
            np.testing.assert_allclose(ema.averages[name], expected, 1e-12, 1e-13)
    assert ema.updates == 100 and ema.averages["seen"] == [99]


def test_warm_up_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False, rng=None)  # 0
    ema = EMA(model, 0.15, warm_up=True)
    model.weight.data[...] = 1
    found = []
    for _ in range(3):
        ema.update()
        found.append(1 - ema.averages["weight"].item())
    assert found == pytest.approx([0.1, 0.1 * 0.15, 0.1 * 0.15**2], rel=1e-5)


class Planned(Exception):
    pass


@pytest.mark.parametrize("ends", [None, Planned, KeyboardInterrupt])
def test_swapped_in_and_back_bit_for_bit(ends: type[BaseException] | None) -> None:
    model = Net()
    arrays = {name: p.data for name, p in model.named_parameters()}
    ema = EMA(model, 0.5)
    drift(model, 1)
    ema.update()
    before, versions = model.state_dict(), [p.node.version for p in model.parameters()]
    averages = ema.state_dict()
    caught = None
    try:
        with ema.swapped():
            for name, array in model.state_dict().items():
                np.testing.assert_array_equal(array, averages[f"average/{name}"])
                assert name == "seen" or not np.array_equal(array, before[name])
            assert all(
                p.node.version > v
                for p, v in zip(model.parameters(), versions, strict=True)
            )
            if ends is KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
            elif ends:
                raise ends
    except (Planned, KeyboardInterrupt) as error:
        caught = type(error)
    assert caught is ends
    for name, array in model.state_dict().items():
        assert array.tobytes() == before[name].tobytes(), name
    for name, p in model.named_parameters():
        assert p.data is arrays[name]  # a captured step has its address
    assert p.node.version == versions[-1] + 2
    for key, array in ema.state_dict().items():
        np.testing.assert_array_equal(array, averages[key])


def test_weights_that_are_not_finite_come_back_too() -> None:
    model = Net()
    ema = EMA(model)
    model.fc.bias.data[0] = np.nan
    with ema.swapped():
        assert np.isfinite(model.fc.bias.data).all()
    assert np.isnan(model.fc.bias.data[0])


def test_saved_loaded_and_moved_it_goes_on(tmp_path) -> None:
    straight, stopped = Net(), Net()
    one, two = EMA(straight, 0.9, True), EMA(stopped, 0.9, True)
    for step in range(3):
        for model, ema in ((straight, one), (stopped, two)):
            drift(model, step)
            ema.update()
    tinyflow.save(tmp_path / "ema.safetensors", two)
    heir = Net(seed=7)
    heir.load_state_dict(stopped.state_dict())
    three = EMA(heir, 0.9, True)
    three.load_state_dict(tinyflow.load(tmp_path / "ema.safetensors"))
    for step in range(3, 6):
        for model, ema in ((straight, one), (heir, three)):
            drift(model, step)
            ema.update()
    for key, array in one.state_dict().items():
        assert array.tobytes() == three.state_dict()[key].tobytes(), key
    heir.to(dtype="float64")
    three.update()
    assert three.averages["fc.weight"].dtype == np.float64


def test_what_does_not_fit_is_refused() -> None:
    model = Net()
    ema = EMA(model)
    state = ema.state_dict()
    for wrong, words in (
        ({k: v for k, v in state.items() if k != "updates"}, "missing or unknown"),
        ({**state, "average/x": np.ones(1)}, "missing or unknown"),
        ({**state, "updates": np.array(-1)}, "updates must be 0 or more"),
        ({**state, "average/fc.bias": np.ones(3)}, "has shape"),
        ({**state, "average/fc.bias": np.float32([1, np.nan])}, "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=words):
            ema.load_state_dict(wrong)
    for key, array in ema.state_dict().items():
        np.testing.assert_array_equal(array, state[key])
    model.more = nn.Linear(1, 1, rng=None)
    for use in (ema.update, ema.swapped().__enter__):
        with pytest.raises(ValueError, match=r"'more.bias', 'more.weight'. are new"):
            use()
    for decay in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="decay"):
            EMA(model, decay)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    gpu_or_skip()
    models = Net(), Net().to("cuda")
    averages = [EMA(model, 0.9) for model in models]
    for _ in range(3):
        for model, ema in zip(models, averages, strict=True):
            for p in model.parameters():
                p.data *= 2
            ema.update()
    for name, array in averages[0].state_dict().items():
        on_gpu = tinyflow.backend.asnumpy(averages[1].state_dict()[name])
        np.testing.assert_allclose(array, on_gpu, rtol=1e-6)
