"""Slices of the channels of a wider buffer, on a GPU: read and written as they lie."""

import numpy as np
import pytest

from models.densenet import DenseBlock
from tests.fakes.host_cudnn import HostCudnn
from tests.fakes.host_gpu import (
    ENGINES,
    HostGpu,
    HostRecorder,
    convolving,
    draw,
    here,
    host_engine,
    near,
    there,
)
from tests.kernels.cuda.test_conv import CONVOLUTIONS, problem
from tests.kernels.cuda.test_engine import assert_near
from tinyflow import Tape, Tensor
from tinyflow.kernels.cuda.layout import from_nhwc
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.kernels.geometry import Conv
from tinyflow.kernels.table import Engine


def between(name: str, x: np.ndarray, before: int, after: int) -> np.ndarray:
    """The same numbers as a slice of the channels of a wider buffer."""
    n, c, h, w = x.shape
    wide = np.full((n, h, w, before + c + after), np.nan, "f4")
    wide[..., before : before + c] = x.transpose(0, 2, 3, 1)
    return from_nhwc(there(name, wide)[..., before : before + c])


def gradients(
    run: Engine, x: np.ndarray, w: np.ndarray, g: np.ndarray, how: tuple
) -> list[np.ndarray]:
    """The convolution and its two gradients, on the host."""
    return [
        here(run.conv2d(x, w, how)),
        here(run.conv2d_input_grad(g, w, x.shape, how)),
        here(run.conv2d_weight_grad(g, x, w.shape, how)),
    ]


@pytest.mark.parametrize("before", [0, 4, 5, 8])
@pytest.mark.parametrize("case", ["3x3", "1x1", "1x1 stride 2", "groups"])
@pytest.mark.parametrize("name", ENGINES)
def test_slices_of_channels(name: str, case: str, before: int) -> None:
    """As they lie or, where a pixel begins at no multiple of 16 bytes, copied."""
    x_shape, w_shape, *how = CONVOLUTIONS[case]
    x, w = draw(x_shape, w_shape)
    (g,) = draw(PLAIN.conv2d(x, w, Conv(*how)).shape)
    with convolving(name) as run:
        wanted = gradients(run, *(there(name, v) for v in (x, w, g)), Conv(*how))
        for after in (1, 3, 8):
            slices = [between(name, v, before, after) for v in (x, g)]
            slices.insert(1, there(name, w))
            found = gradients(run, *slices, Conv(*how))
            for a, b in zip(found, wanted, strict=True):
                if name.startswith("host"):
                    np.testing.assert_array_equal(a, b)
                near(a, b, 1e-4)  # cuDNN may choose Winograd


def aside(*tensors: np.ndarray) -> list[np.ndarray]:
    """Each as a slice of 12 more channels that begins at a multiple of 16 bytes."""
    return [between("host", v, 4, 8) for v in tensors]


def test_cudnn_reads_slices_of_channels_where_they_lie() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu)
    x, w = draw((2, 4, 5, 6), (8, 4, 3, 3))
    (g,) = draw((2, 8, 5, 6))
    a, b = aside(x, g)
    how = Conv((1, 1), (1, 1, 1, 1), (1, 1), 1)
    with host_engine(gpu, cudnn) as run:
        gradients(run, a, w, b, how)
        gradients(run, x, w, g, how)  # these have plans of their own
        gradients(run, a, w, b, how)  # and these have theirs by now
    wide = {"x": [5 * 6 * 16, 1, 6 * 16, 16], "g": [5 * 6 * 20, 1, 6 * 20, 20]}
    nodes = [graph.node for graph in cudnn.graphs]
    assert [(kind, p.stride, q.stride) for kind, p, q, _ in nodes[:3]] == [
        ("forward", wide["x"], [36, 1, 12, 4]),
        ("input_grad", wide["g"], [36, 1, 12, 4]),
        ("weight_grad", wide["x"], wide["g"]),
    ]
    assert [graph.ran for graph in cudnn.graphs] == [[None] * 2] * 3 + [[None]] * 3
    where = [graph.packs[0] for graph in cudnn.graphs[:3]]
    assert [pack[node[1]] for pack, node in zip(where, nodes, strict=False)] == [
        gpu.address(v) for v in (a, b, a)
    ]
    assert "gaps (12, 12)" in str(problem(gaps=(12, 12)))
    assert "gaps" not in str(problem())


def test_what_cudnn_cannot_read_as_it_lies_is_copied() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu)
    x, w = draw((2, 4, 5, 6), (8, 4, 1, 1))
    how = Conv((1, 1), (0, 0, 0, 0), (1, 1), 1)
    flat = np.zeros(1 + x.size, "f4")
    shifted = flat[1:].reshape(2, 5, 6, 4)
    shifted[...] = x.transpose(0, 2, 3, 1)
    odd = [
        between("host", x, 5, 7),  # begins at no multiple of 16 bytes
        between("host", x, 4, 5),  # its second pixel does not
        from_nhwc(shifted),  # without gaps, but the same
        between("host", x, 4, 8)[:, ::-1],  # channels run backwards
        between("host", np.concatenate([x, x], 3), 4, 8)[..., :6],  # uneven pixels
    ]
    with host_engine(gpu, cudnn) as run:
        for v in odd:
            near(run.conv2d(v, w, how), PLAIN.conv2d(v, w, how), 1e-6)
        slices = between("host", w, 4, 8)
        near(run.conv2d(x, slices, how), PLAIN.conv2d(x, w, how), 1e-6)
    (graph,) = cudnn.graphs  # one plan, of a problem without gaps
    assert len(graph.ran) == 6
    for pack in graph.packs:
        assert all(address % 16 == 0 for address in pack.values())


def test_slices_that_cudnn_refuses_are_copied_with_one_warning() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu, lambda kind, x, w, step, *rest: step[3] != x[1])
    x, w = draw((2, 4, 5, 5), (3, 4, 3, 3))
    how = Conv((1, 1), (1, 1, 1, 1), (1, 1), 1)
    (a,) = aside(x)
    with host_engine(gpu, cudnn) as run:
        with pytest.warns(RuntimeWarning, match=r"gaps \(12, 0\): .*gets a copy"):
            first = run.conv2d(a, w, how)
        np.testing.assert_array_equal(run.conv2d(a, w, how), first)  # no warning
        np.testing.assert_array_equal(run.conv2d(x, w, how), first)
    assert [graph.ran for graph in cudnn.graphs] == [[], [None] * 3]


# --- dense blocks: slices of one buffer ---------------------------------------------


def test_a_sum_lies_as_its_first_term_does() -> None:
    wide, b = draw((2, 3, 4, 20), (2, 8, 3, 4))
    a = from_nhwc(wide)[:, 4:12]
    with host_engine() as run:
        for x, y, step in ((a, b, 20), (b, a, 8), (a[:, :1], b[:, :1], 20)):
            found = run.add(x, y)
            np.testing.assert_array_equal(found, x + y)
            assert found.strides[3] == 4 * step
        rows = run.add(wide[0, 0, :, 4:12], wide[1, 0, :, 4:12])
        np.testing.assert_array_equal(rows, wide[0, 0, :, 4:12] + wide[1, 0, :, 4:12])


def test_statistics_are_written_where_they_are_kept() -> None:
    gpu = HostGpu()
    (x,) = draw((4, 8, 3, 3))
    with host_engine(gpu) as run:
        wanted = run.moments(x)
        mean, var = np.zeros((2, 20), "f4")
        recorder = HostRecorder(gpu)  # while it records the host has no values to write
        x, into = run.store(x), (mean[4:12], var[4:12])
        graph, _ = recorder.record(lambda: run.moments_into(x, *into))
        assert not mean.any() and not var.any()
        recorder.launch(graph)
        for found, right in zip((mean, var), wanted, strict=True):
            np.testing.assert_array_equal(found[4:12], right)
            assert np.count_nonzero(found) == 8
        spread = np.zeros((8, 2), "f4")  # no vector that a kernel writes
        run.moments_into(x, spread[:, 0], spread[:, 1])
        np.testing.assert_array_equal(spread.T, wanted)


def dense_block() -> dict[str, np.ndarray]:
    """The gradients of a block of four layers and of its input."""
    block = DenseBlock(16, 4, np.random.default_rng(0))
    x, u = map(from_nhwc, draw((4, 6, 6, 16), (4, 6, 6, 16 + 4 * 32)))
    image = Tensor(x, requires_grad=True)
    with Tape(fuse=True) as tape:
        maps = block(image).read()
    tape.backward(maps, u)
    found = {n: p.grad for n, p in block.named_parameters()}
    return found | {"image": image.grad}


def test_a_dense_block_convolves_slices_and_needs_few_plans() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu)
    with forced(PLAIN):
        wanted = dense_block()
    with host_engine(gpu, cudnn):
        assert_near(dense_block(), wanted, 1e-3)
    spatial = [
        graph for graph in cudnn.graphs if graph.node[3]["pre_padding"] == [1, 1]
    ]
    # One plan each way for all four layers; their gradients lie in pixels of 144.
    steps = {
        (graph.node[0], graph.node[1].stride[3], graph.node[2].stride[3])
        for graph in spatial
    }
    assert steps == {
        ("forward", 128, 128),
        ("input_grad", 144, 128),
        ("weight_grad", 128, 144),
    }
    assert [graph.ran for graph in spatial] == [[None] * 4] * 3
