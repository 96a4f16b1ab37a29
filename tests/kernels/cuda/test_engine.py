"""The GPU's engine: on the host with its real kernels (``host_gpu``), and on a GPU."""

import numpy as np
import pytest

import models
from tests.fakes.host_cudnn import HostCudnn
from tests.fakes.host_gpu import (
    ENGINES,
    HostGpu,
    convolving,
    draw,
    here,
    host_engine,
    near,
    order_or_skip,
    rounding,
    there,
)
from tests.ops.test_table import ROWS, RUNNING, Row, orders, values_and_gradients
from tinyflow import Tape, Tensor, ops
from tinyflow.kernels import engine as engines
from tinyflow.kernels.cuda.layout import to_nhwc
from tinyflow.kernels.cuda.settings import configured
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.optim import SGD


@pytest.mark.parametrize("row", ROWS, ids=[f"{r.operator}({r.options})" for r in ROWS])
@pytest.mark.parametrize("name", ENGINES)
def test_every_operator(name: str, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 and several memory orders against NumPy in float64."""
    if row.operator.startswith("dropout"):
        pytest.skip("its mask is another one: see test_dropout")
    with forced(PLAIN):
        shape = row.function(*map(Tensor, row.inputs)).shape
        (u,) = draw(shape)  # one that leaves something of batch norm's gradient
        wanted = values_and_gradients(row.function, row.inputs, u.astype("f8"))
    choices = [list(orders(x)) for x in row.inputs]
    turns = range(max(map(len, choices))) if name.startswith("host") else [0]
    with convolving(name):
        for key, array in RUNNING.items():
            monkeypatch.setitem(RUNNING, key, there(name, array))
        for turn in turns:
            inputs = [c[(turn + i) % len(c)] for i, c in enumerate(choices)]
            inputs = [there(name, x.astype("f4", order="K")) for x in inputs]
            found = values_and_gradients(row.function, inputs, there(name, u))
            for a, b in zip(found, wanted, strict=True):
                assert a.dtype == np.float32
                near(here(a), b, rounding(name, 1e-5))


def test_dropout() -> None:
    with host_engine() as run:
        (x,) = draw((64, 3, 5, 7))
        tensor = Tensor(np.abs(x) + 1, requires_grad=True)
        with Tape() as tape:
            y = ops.dropout(tensor, 0.25, generator=np.random.default_rng(3))
        tape.backward(y, np.ones(y.shape, "f4"))
        kept = y.data != 0
        assert kept.mean() == pytest.approx(0.75, abs=0.03)
        near(y.data, tensor.data * kept / 0.75, 1e-6)
        near(tensor.grad, kept / 0.75, 1e-6)  # the same mask
        again = ops.dropout(tensor, 0.25, generator=np.random.default_rng(3))
        np.testing.assert_array_equal(again.data, y.data)
        other = ops.dropout(tensor, 0.25, generator=np.random.default_rng(4))
        assert (other.data != y.data).any()
        run.advance(x)
        later = ops.dropout(tensor, 0.25, generator=np.random.default_rng(3))
        assert (later.data != y.data).any()


def test_which_engine_takes_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        def __init__(self, dtype: str) -> None:
            self.dtype = np.dtype(dtype)

    marker = engines.Engine()
    monkeypatch.setattr(engines, "_cuda", lambda: marker)
    assert engines.engine(Device("f4")) is marker
    assert engines.engine(Device("f8")) is PLAIN
    assert engines.engine(np.zeros(1)) is PLAIN


def test_bfloat16_needs_an_engine_for_it() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = Tensor(np.zeros((1, 2, 3, 3), ml_dtypes.bfloat16))
    w = Tensor(np.zeros((1, 2, 1, 1), "f4"), requires_grad=True)
    with pytest.raises(TypeError, match="bfloat16 and float32"):
        ops.conv2d(x, w)
    with host_engine():
        assert ops.conv2d(x, w).dtype.name == "bfloat16"


# --- whole networks ------------------------------------------------------------------


def train_once(
    name: str,
    device: str = "cpu",
    dtype: object = np.float32,
    retain: str = "leaves",
) -> dict[str, np.ndarray]:
    """Loss, gradients, parameters after one step, and running statistics."""
    model = models.build_model(name)
    model.to(device)
    if name.startswith("vgg"):
        model.classifier.eval()
    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, 3, 32, 32), dtype=np.float32).astype(dtype)
    labels = rng.integers(0, 10, 8)
    if device == "cuda":
        import cupy

        images, labels = cupy.asarray(images), cupy.asarray(labels)
    rule = SGD(model.parameters(), lr=0.01, weight_decay=1e-3)
    with Tape(retain, fuse=retain == "leaves") as tape:
        loss = ops.cross_entropy(model(Tensor(images)), labels, label_smoothing=0.1)
    tape.backward(loss, release=retain == "leaves")
    found = {"loss": loss.data}
    found |= {f"grad {n}": p.grad for n, p in model.named_parameters()}
    if retain == "edges":
        assert max(tape.closure().values()) == 0
    rule.step()
    found |= model.state_dict()
    return {name: here(array).astype("f8") for name, array in found.items()}


def assert_near(found: dict, wanted: dict, error: float) -> None:
    """Every array by itself."""
    assert found.keys() == wanted.keys()
    total = 0.0
    for name, array in wanted.items():
        size = np.linalg.norm(array) + 1e-3
        total = max(total, float(np.linalg.norm(found[name] - array) / size))
    assert total < error


def gradient_error(found: dict, wanted: dict) -> float:
    """Of all gradients as one vector, which a single small one does not decide."""
    pairs = [(found[n], wanted[n]) for n in wanted if n.startswith("grad ")]
    off, size = (
        np.sqrt(sum((v**2).sum() for v in vectors))
        for vectors in ([a - b for a, b in pairs], [b for _, b in pairs])
    )
    return float(off / size)


@pytest.mark.parametrize("with_cudnn", [False, True])
@pytest.mark.parametrize("name", ["resnet20", "se_resnet20"])
def test_a_network_as_on_the_cpu(name: str, with_cudnn: bool) -> None:
    with forced(PLAIN):
        wanted = train_once(name)
    gpu = HostGpu()
    with host_engine(gpu, HostCudnn(gpu) if with_cudnn else None, False):
        assert_near(train_once(name), wanted, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "densenet121", "resnet50"])
def test_the_larger_networks_too(name: str) -> None:
    with forced(PLAIN):
        wanted = train_once(name)
    with host_engine(own_products=False):
        found = train_once(name)
    # Over maps of one pixel, normalisation of a batch of 8 amplifies rounding: only the
    # loss is comparable to the last digits.
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)


@pytest.mark.parametrize("retain", ["statistics", "tensors", "edges"])
def test_retention_changes_no_value(retain: str) -> None:
    with host_engine(own_products=False):
        fused, unfused = train_once("resnet20"), train_once("resnet20", retain=retain)
    assert_near(unfused, fused, 1e-3)


def test_everything_stays_channels_last_and_float32() -> None:
    with host_engine(own_products=False):
        model = models.build_model("resnet20").to("cpu")
        for p in model.parameters():
            if p.ndim == 4:
                assert to_nhwc(p.data).base is not None
        x = Tensor(draw((4, 3, 32, 32))[0])
        with Tape("edges") as tape:
            loss = ops.cross_entropy(model(x), np.arange(4))
        tape.backward(loss)
        for node in tape.nodes:
            assert node.dtype == np.float32 and node.grad.dtype == np.float32
            if node.value.ndim == 4 and node.op != "slice":
                assert np.shares_memory(to_nhwc(node.value), node.value), node.name


def test_mixed_precision_is_no_further_off_than_pytorch() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    torch = pytest.importorskip("torch")
    from benchmarks.peers import Peer

    rng = np.random.default_rng(0)
    images = rng.standard_normal((8, 3, 32, 32), dtype=np.float32)
    labels = rng.integers(0, 10, 8)
    peer = Peer(models.build_model("resnet20"))
    gradients = []
    for amp in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            logits = peer(torch.from_numpy(images)).float()
        loss = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(labels), label_smoothing=0.1
        )
        gradients.append(
            [g.numpy() for g in torch.autograd.grad(loss, peer.parameters)]
        )
    with host_engine():
        found = train_once("resnet20", dtype=bfloat16)
    ours = [v for k, v in found.items() if k.startswith("grad ")]
    exact, theirs = gradients

    def error(some: list[np.ndarray]) -> float:
        pairs = zip(some, exact, strict=True)
        return float(
            np.median([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs])
        )

    assert error(ours) < 1.2 * error(theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet20", "se_resnet20", "vgg11", "densenet121"])
@pytest.mark.parametrize("first", ["plain", "cudnn"])
def test_gpu_network_as_on_the_cpu(name: str, first: str) -> None:
    with configured(convolutions=order_or_skip(first)):
        found, wanted = train_once(name, "cuda"), train_once(name)
    # One sum that rounds to the other side of a ReLU is 0.002 of a small network's
    # gradient, and more of a small tensor's.
    assert_near(found, wanted, 0.2 if "dense" in name else 1e-2)
    assert gradient_error(found, wanted) < (0.05 if "dense" in name else 1e-2)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("retain", ["statistics", "tensors", "edges"])
def test_gpu_retention_changes_no_value(retain: str) -> None:
    fused = train_once("resnet20", "cuda")
    assert_near(train_once("resnet20", "cuda", retain=retain), fused, 1e-2)


@pytest.mark.gpu
def test_gpu_deterministic_runs_are_the_same_bits() -> None:
    with configured(deterministic=True):
        first, second = (train_once("resnet20", "cuda") for _ in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "loss", "error"), [("tf32", 1e-3, 0.15), ("bfloat16", 1e-2, 0.4)]
)
def test_gpu_precisions(precision: str, loss: float, error: float) -> None:
    """About three times what rounding to that precision does on a CPU."""
    wanted = train_once("resnet20")
    dtype = np.float32
    if precision == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    with configured(precision=precision):
        found = train_once("resnet20", "cuda", dtype)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=loss)
    assert gradient_error(found, wanted) < error
