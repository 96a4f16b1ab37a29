"""Convolution on a GPU: the engines, the table that chooses, cuDNN's plans."""

import sys
from collections.abc import Callable

import numpy as np
import pytest

from tests.fakes.host_cudnn import HostCudnn, NotSupported
from tests.fakes.host_gpu import (
    ENGINES,
    HostGpu,
    convolving,
    draw,
    here,
    host_engine,
    near,
    rounding,
    there,
)
from tinyflow.kernels.cuda.conv import Convolutions
from tinyflow.kernels.cuda.cudnn import (
    CANDIDATES,
    Cudnn,
    NotCapturable,
    Problem,
    Unsupported,
)
from tinyflow.kernels.cuda.layout import from_nhwc, to_nhwc, to_rows
from tinyflow.kernels.cuda.plain import Plain
from tinyflow.kernels.cuda.product import product
from tinyflow.kernels.cuda.settings import Settings, configure, configured, settings
from tinyflow.kernels.engine import PLAIN
from tinyflow.kernels.geometry import Conv

CONVOLUTIONS = {  # (x, w, stride, padding, dilation, groups)
    "3x3": ((2, 5, 7, 6), (4, 5, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "stride 2": ((2, 4, 8, 7), (6, 4, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1),
    "1x1": ((3, 8, 4, 4), (5, 8, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "1x1 stride 2": ((2, 4, 5, 5), (3, 4, 1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
    "1x7": ((2, 3, 5, 9), (4, 3, 1, 7), (1, 1), (0, 0, 3, 3), (1, 1), 1),
    "7x7 stem": ((2, 3, 16, 16), (4, 3, 7, 7), (2, 2), (3, 3, 3, 3), (1, 1), 1),
    "dilation": ((2, 3, 9, 9), (4, 3, 3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 1),
    "groups": ((2, 6, 5, 5), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2),
    "depthwise": ((2, 4, 6, 6), (4, 1, 3, 3), (2, 1), (1, 1, 1, 1), (1, 1), 4),
    "one-sided": ((1, 2, 5, 5), (3, 2, 2, 2), (1, 1), (0, 1, 1, 0), (1, 1), 1),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("name", ENGINES)
def test_convolution_and_gradients(name: str, case: str) -> None:
    x_shape, w_shape, *how = CONVOLUTIONS[case]
    x, w = draw(x_shape, w_shape)
    y = PLAIN.conv2d(x.astype("f8"), w.astype("f8"), Conv(*how))
    (g,) = draw(y.shape)
    error = rounding(name, 2e-6)
    with convolving(name) as run:
        a, b, c = (there(name, v) for v in (x, w, g))
        found = run.conv2d(a, b, Conv(*how))
        assert to_rows(found).base is not None or found.size < 2  # a view: NHWC
        near(here(found), y, error)
        wide = [v.astype("f8") for v in (g, w, x)]
        near(
            here(run.conv2d_input_grad(c, b, x_shape, Conv(*how))),
            PLAIN.conv2d_input_grad(wide[0], wide[1], x_shape, Conv(*how)),
            error,
        )
        near(
            here(run.conv2d_weight_grad(c, a, w_shape, Conv(*how))),
            PLAIN.conv2d_weight_grad(wide[0], wide[2], w_shape, Conv(*how)),
            error,
        )


@pytest.mark.parametrize("name", ENGINES)
def test_empty_batches(name: str) -> None:
    how = Conv((1, 1), (1, 1, 1, 1), (1, 1), 1)
    x, w = np.zeros((0, 3, 4, 4), "f4"), np.ones((5, 3, 3, 3), "f4")
    with convolving(name) as run:
        a, b = there(name, x), there(name, w)
        y = run.conv2d(a, b, how)
        assert y.shape == (0, 5, 4, 4)
        assert run.conv2d_input_grad(y, b, x.shape, how).shape == x.shape
        assert not here(run.conv2d_weight_grad(y, a, w.shape, how)).any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 70, 5), (65, 16, 64), (130, 33, 2)])
def test_product_of_any_order(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b = draw((m, k), (k, n))
    with host_engine():
        for left in (a, np.asfortranarray(a), a[::-1]):
            for right in (b, np.asfortranarray(b)):
                if min(left.strides) > 0:
                    near(product(left, right), left.astype("f8") @ right, 2e-6)
        assert not product(a[:, :0], b[:0]).any()
        with pytest.raises(ValueError, match="do not fit"):
            product(a, b.T if k != n else b[:0])
        with pytest.raises(TypeError, match="float32 or bfloat16"):
            product(a, b.astype("f8"))


# --- the table: choice, refusal, plans -----------------------------------------------


def problem(**changes: object) -> Problem:
    base = Problem(
        *("forward", (2, 4, 5, 5), (3, 4, 3, 3), (2, 3, 5, 5)),
        *((1, 1), (1, 1, 1, 1), (1, 1), 1, "float32"),
    )
    return base._replace(**changes)


def test_a_refused_problem_goes_to_plain_with_one_warning() -> None:
    gpu = HostGpu()
    refusing = HostCudnn(gpu, lambda kind, *dims: kind == "forward")
    x, w = draw((2, 4, 5, 5), (3, 4, 3, 3))
    how = Conv((1, 1), (1, 1, 1, 1), (1, 1), 1)
    with host_engine(gpu, refusing) as run:
        with pytest.warns(RuntimeWarning, match="cudnn does not take forward of x"):
            first = run.conv2d(x, w, how)
        again = run.conv2d(x, w, how)  # no second warning: they are errors here
        np.testing.assert_array_equal(first, again)
        near(first, PLAIN.conv2d(x, w, how), 2e-6)
        run.conv2d_input_grad(first, w, x.shape, how)
        with pytest.warns(RuntimeWarning, match="no engine"):
            run.conv2d(x[:1], w, how)  # another problem is another warning
    assert [g.ran for g in refusing.graphs] == [[], [None], []]


def test_order_of_engines_and_absent_ones() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu)
    table = Convolutions([Cudnn(cudnn, gpu), Plain(gpu)])
    x, w = draw((2, 4, 5, 5), (3, 4, 1, 1))
    how = Conv((1, 1), (0, 0, 0, 0), (1, 1), 1)
    with configured(convolutions=("plain",)):
        table.forward(x, w, how)
    assert not cudnn.graphs
    table.forward(x, w, how)
    assert len(cudnn.graphs) == 1
    alone = Convolutions([Plain(gpu)], {"cudnn": "cuDNN cannot be used"})
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        alone.forward(x, w, how)
    alone.forward(x, w, how)  # said once


def test_a_plan_is_made_once_for_each_key() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu)
    run = Cudnn(cudnn, gpu)
    x, w = (to_nhwc(v) for v in draw((2, 4, 5, 5), (3, 4, 3, 3)))
    for how in (
        Settings(),
        Settings(),
        Settings("tf32"),
        Settings(deterministic=True),
        Settings(deterministic=True, autotune=True),  # never tuned
        Settings(autotune=True),
        Settings(convolutions=("plain",)),  # another setting, the same plan
    ):
        y = run.run(problem(), x, w, how)
        near(
            from_nhwc(y),
            PLAIN.conv2d(from_nhwc(x), from_nhwc(w), Conv(*problem()[4:8])),
            1e-6,
        )
    assert len(run.plans) == len(cudnn.graphs) == 4
    notes = cudnn.numerical_note
    strict = [
        notes.TENSOR_CORE,
        notes.DOWN_CONVERT_INPUTS,
        notes.REDUCED_PRECISION_REDUCTION,
    ]
    assert [g.refused for g in cudnn.graphs] == [
        strict,
        [],
        [*strict, notes.NONDETERMINISTIC],
        strict,
    ]
    assert run.refused_notes(Settings("bfloat16")) == strict[2:]
    # Filters come after the plans are proposed and before they are checked.
    assert cudnn.graphs[0].calls == [
        "validate",
        "build_operation_graph",
        "create_execution_plans",
        "deselect_numeric_notes",
        "deselect_workspace_greater_than",
        "check_support",
        "build_plans",
    ]
    gpu.stream_number = 8  # another stream has a handle of its own
    run.run(problem(), x, w, Settings())
    assert set(cudnn.handles) == {7, 8}


def test_tuning_keeps_the_fastest_that_builds() -> None:
    gpu = HostGpu()
    gpu.times = [3.0, 2.0]  # of the proposals 0 and 2; 1 cannot be built
    cudnn = HostCudnn(gpu)
    run = Cudnn(cudnn, gpu)
    x, w = (to_nhwc(v) for v in draw((2, 4, 5, 5), (3, 4, 3, 3)))
    run.run(problem(), x, w, Settings(autotune=True))
    (plan,) = run.plans.values()
    assert (plan.choice, plan.workspace) == (2, 66)
    assert cudnn.graphs[0].ran[-1] == 2


def test_tuning_times_as_many_as_it_should_of_those_that_build() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu)
    # As with strict float32: what is excluded stands first, and long.
    cudnn.proposals, cudnn.unbuilt = 40, {*range(27)}
    gpu.times = [float(20 - i) for i in range(12)]
    run = Cudnn(cudnn, gpu)
    x, w = (to_nhwc(v) for v in draw((2, 4, 5, 5), (3, 4, 3, 3)))
    run.run(problem(), x, w, Settings(autotune=True))
    (plan,) = run.plans.values()
    assert plan.choice == 27 + CANDIDATES - 1
    assert len(gpu.times) == 12 - CANDIDATES


def test_what_fails_while_timed_is_passed_over() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu)
    gpu.times = [1.0, 2.0]
    trial = gpu.replayed

    def replayed(run: Callable[[np.ndarray], None], workspace: int) -> float:
        ms = trial(run, workspace)
        if ms == 1.0:
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
        return ms

    gpu.replayed = replayed  # type: ignore[method-assign]
    run = Cudnn(cudnn, gpu)
    x, w = (to_nhwc(v) for v in draw((2, 4, 5, 5), (3, 4, 3, 3)))
    run.run(problem(), x, w, Settings(autotune=True))
    (plan,) = run.plans.values()
    assert plan.choice == 2


@pytest.mark.parametrize("tuned", [False, True])
def test_a_gpu_that_failed_is_not_a_refusal(tuned: bool) -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu, lambda *problem: True)
    gpu.broken = RuntimeError("cudaErrorIllegalAddress")  # so CuPy's error is
    x, w = (to_nhwc(v) for v in draw((2, 4, 5, 5), (3, 4, 3, 3)))
    with pytest.raises(RuntimeError, match="IllegalAddress"):
        Cudnn(cudnn, gpu).run(problem(), x, w, Settings(autotune=tuned))
    gpu.broken = None
    with pytest.raises(Unsupported, match="no engine"):
        Cudnn(cudnn, gpu).run(problem(), x, w, Settings(autotune=tuned))


def test_nor_is_one_that_failed_while_plans_are_built() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu)
    cudnn.unbuilt = {0, 1, 2}  # all there are
    gpu.broken = RuntimeError("cudaErrorIllegalAddress")
    x, w = (to_nhwc(v) for v in draw((2, 4, 5, 5), (3, 4, 3, 3)))
    with pytest.raises(RuntimeError, match="IllegalAddress"):
        Cudnn(cudnn, gpu).run(problem(), x, w, Settings(autotune=True))
    gpu.broken = None
    with pytest.raises(Unsupported, match="not that one"):
        Cudnn(cudnn, gpu).run(problem(), x, w, Settings(autotune=True))


def test_no_plan_is_made_during_a_capture() -> None:
    gpu = HostGpu()
    run = Cudnn(HostCudnn(gpu), gpu)
    x, w = (to_nhwc(v) for v in draw((2, 4, 5, 5), (3, 4, 3, 3)))
    gpu.deferred = []
    with pytest.raises(NotCapturable, match="no plan yet for forward"):
        run.run(problem(), x, w, Settings())
    gpu.deferred = None
    run.run(problem(), x, w, Settings())
    gpu.deferred = []
    run.run(problem(), x, w, Settings())
    assert len(gpu.deferred) == 1


def test_a_broken_driver_is_not_a_refusal() -> None:
    gpu = HostGpu()
    cudnn = HostCudnn(gpu)

    def fail(*args: object) -> bool:
        raise KeyError("a bug")

    cudnn.refuses = fail
    with pytest.raises(KeyError):
        Cudnn(cudnn, gpu).run(problem(), *draw((2, 5, 5, 4), (3, 3, 3, 4)), Settings())
    assert issubclass(NotSupported, Exception)


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="float32, tf32, bfloat16"):
        Settings("float16")
    with pytest.raises(ValueError, match="the last one plain"):
        Settings(convolutions=("cudnn",))
    before = settings()
    with configured(precision="tf32", autotune=True):
        assert settings().tunes and settings().precision == "tf32"
        assert not configure(deterministic=True).tunes
    assert settings() is before


def test_the_frontend_accepts_our_graphs() -> None:
    cudnn = pytest.importorskip("cudnn")
    assert "tests" not in (sys.modules["cudnn"].__file__ or "")
    gpu = HostGpu()
    run = Cudnn(cudnn, gpu)
    run._handle = lambda: None  # type: ignore[method-assign]
    for kind, shape in (
        ("forward", [2, 3, 5, 5]),
        ("input_grad", [2, 4, 5, 5]),
        ("weight_grad", [3, 4, 3, 3]),
    ):
        for dtype in ("float32", "bfloat16"):
            case = problem(kind=kind, dtype=dtype, gaps=(12, 20))
            graph, (first, second, result) = run._graph(case)
            graph.validate()
            wide = 4 + 12 if kind != "input_grad" else 3 + 12
            assert list(first.get_stride()) == [25 * wide, 1, 5 * wide, wide]
            wide = 3 + 20 if kind == "weight_grad" else 4
            assert list(second.get_stride())[3] == wide
            assert list(result.get_dim()) == shape
            _, c, h, w = shape
            assert list(result.get_stride()) == [h * w * c, 1, w * c, c]
    run.refused_notes(Settings(deterministic=True))
    assert cudnn.heur_mode.A and cudnn.heur_mode.FALLBACK
