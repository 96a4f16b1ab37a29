"""States in files and out of them: what leaves is C order, what comes is checked."""

import os
import stat

import numpy as np
import pytest
import safetensors.numpy

import models
import tinyflow
from tinyflow import Tensor, nn
from tinyflow.optim import SGD, Adam


def small(seed=0):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, rng=rng), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, rng=rng)
    )


def trained(model, kind=Adam, **how):
    optimizer = kind(model.named_parameters(), lr=0.1, **how)
    rng = np.random.default_rng(1)
    for _, p in model.named_parameters():
        p.grad = rng.standard_normal(p.shape).astype(np.float32)
    optimizer.step()
    return optimizer


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_states_are_c_order_copies():
    model = small()
    for state in (model.state_dict(), trained(model).state_dict()):
        assert all(a.flags.c_contiguous and a.flags.owndata for a in state.values())
    before = model.state_dict()
    before["0.weight"][:] = 7
    assert not (model.state_dict()["0.weight"] == 7).any()


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20", "tiny"])
def test_other_libraries_round_trip(name, tmp_path):
    model = small() if name == "tiny" else models.build_model(name)
    optimizer = trained(model)
    for thing in (model, optimizer):
        state = thing.state_dict()
        safetensors.numpy.save_file(state, tmp_path / "x")
        equal(safetensors.numpy.load_file(tmp_path / "x"), state)
        np.savez(
            tmp_path / "x.npz", **{k.replace("/", "|"): v for k, v in state.items()}
        )
        with np.load(tmp_path / "x.npz") as file:
            equal({k.replace("|", "/"): file[k] for k in file}, state)
        for array in state.values():
            again = np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
            np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_save_and_load(kind, tmp_path):
    model, other = small(), small(1)
    optimizer = trained(model, kind, **({"momentum": 0.9} if kind is SGD else {}))
    tinyflow.save(tmp_path / "model", model)
    tinyflow.save(str(tmp_path / "state"), optimizer)
    tinyflow.save(tmp_path / "mapping", {"x": Tensor(np.eye(2).T[:, ::-1]), "n": 3})
    other.load_state_dict(tinyflow.load(tmp_path / "model"))
    equal(other.state_dict(), model.state_dict())
    heir = trained(other, kind, **({"momentum": 0.9} if kind is SGD else {}))
    heir.load_state_dict(tinyflow.load(tmp_path / "state"))
    equal(heir.state_dict(), optimizer.state_dict())
    found = tinyflow.load(str(tmp_path / "mapping"))
    equal(found, {"x": np.eye(2)[:, ::-1], "n": np.asarray(3)})
    assert sorted(os.listdir(tmp_path)) == ["mapping", "model", "state"]


def test_a_saved_file_has_the_permissions_of_any_file(tmp_path):
    (tmp_path / "plain").write_text("")
    tinyflow.save(tmp_path / "x", small())
    modes = {stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("plain", "x")}
    assert len(modes) == 1


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    tinyflow.save(tmp_path / "x", small())
    old = (tmp_path / "x").read_bytes()
    for bad, error in (
        ({"a": np.zeros(2, complex)}, TypeError),
        ({"a": np.array(["text"])}, TypeError),
        ({1: np.zeros(2)}, TypeError),
        (5, TypeError),
        ([np.zeros(2)], TypeError),
    ):
        with pytest.raises(error):
            tinyflow.save(tmp_path / "x", bad)
    with pytest.raises(OSError):
        tinyflow.save(tmp_path / "no" / "x", small())
    with pytest.raises(TypeError, match="path of a file first"):
        tinyflow.save(small(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == old and os.listdir(tmp_path) == ["x"]


def test_errors_of_safetensors_become_the_systems(tmp_path, monkeypatch):
    def full(*args, **how):
        text = "I/O error: No space left on device (os error 28)"
        raise safetensors.SafetensorError(text)

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space left") as caught:
        tinyflow.save(tmp_path / "x", small())
    assert caught.value.errno == 28 and not os.listdir(tmp_path)


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "bad").write_bytes(b"not a file of this kind" * 9)
    with pytest.raises(ValueError, match="damaged"):
        tinyflow.load(tmp_path / "bad")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        tinyflow.load(tmp_path / "none")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        tinyflow.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe, not a file"):
        tinyflow.load(tmp_path / "pipe")


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16", ">f4"])
def test_floating_point_weights_are_converted(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    model, state = small(), small(1).state_dict()
    model.load_state_dict({k: v.astype(dtype) for k, v in state.items()})
    for name, array in model.state_dict().items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, state[name].astype(dtype).astype("f4"))


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint8", "complex64", "U3"])
@pytest.mark.parametrize("of", ["model", "optimizer"])
def test_other_weights_are_refused_in_words(dtype, of):
    thing = small() if of == "model" else trained(small())
    before = thing.state_dict()
    name = next(n for n in reversed(before) if n.endswith("weight"))
    wrong = {**before, name: np.ones(before[name].shape).astype(dtype)}
    with pytest.raises(ValueError, match=f"{name} holds"):
        thing.load_state_dict(wrong)
    equal(thing.state_dict(), before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("of", ["model", "optimizer"])
def test_weights_that_are_no_numbers_are_named(value, of):
    thing = small() if of == "model" else trained(small())
    before = thing.state_dict()
    for name in before:
        if name.startswith("steps/"):
            continue
        wrong = before[name].astype("float64")
        wrong.flat[0] = value
        with pytest.raises(ValueError, match=f"{name} holds 1 values"):
            thing.load_state_dict({**before, name: wrong})
    equal(thing.state_dict(), before)


def test_states_of_another_kind():
    model = small()
    for wrong in (None, 3, "path", [1]):
        for thing in (model, trained(small())):
            with pytest.raises(TypeError, match="takes names and arrays"):
                thing.load_state_dict(wrong)
    optimizer = trained(model)
    state = optimizer.state_dict()
    for wrong in (-1, 1.5, np.nan, np.ones(2)):
        with pytest.raises(ValueError, match=r"steps/0\.weight must be"):
            optimizer.load_state_dict({**state, "steps/0.weight": np.asarray(wrong)})
    with pytest.raises(ValueError, match="unknown"):
        model.load_state_dict({**model.state_dict(), 5: np.zeros(2)})


def test_weights_of_pytorch():
    torch = pytest.importorskip("torch")
    layer = nn.Linear(3, 2, rng=None)
    peer = torch.nn.Linear(3, 2)
    layer.load_state_dict(peer.state_dict())
    np.testing.assert_array_equal(layer.weight.data, peer.weight.detach().numpy())
