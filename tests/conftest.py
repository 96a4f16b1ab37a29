"""Settings every test shares; HYPOTHESIS_PROFILE=thorough searches longer."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import tinyflow
from tests import ROOT
from tests.fakes.host_gpu import gpu_or_skip
from tests.fakes.strict_array import Machine
from tests.fakes.strict_cupy import install
from tinyflow.kernels.cuda.engine import cuda_engine
from tinyflow.kernels.cuda.settings import CONVOLUTIONS, configured
from tinyflow.kernels.engine import PLAIN, forced
from tinyflow.kernels.plain import threads, update

settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough",
    parent=settings.get_profile("ci"),
    derandomize=False,
    max_examples=1000,
)
# The folder models/ is tinyflow.models, as train.py and an installation have it.
tinyflow.__path__.append(str(ROOT))
# What nohup or a shell without job control starts ignores signals, and its children do.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(autouse=True)
def gpu_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test marked gpu: skipped where there is none, untouched by the one before.

    What cuDNN refused is forgotten, so that each test that meets it hears the warning,
    which is an error. Where its frontend is missing, tests of cuDNN are skipped, and
    the others run on the plain engine.
    """
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    gpu_or_skip()
    table = cuda_engine().convolutions
    table.refusals.clear()
    with configured(convolutions=("plain",) if table.absent else CONVOLUTIONS):
        yield


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A pretended GPU behind ``import cupy``, and plain kernels on both sides."""
    with forced(PLAIN):
        yield install(monkeypatch)


@pytest.fixture(scope="module")
def three() -> Iterator[None]:
    """Three threads, which anything is worth."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "count", lambda: 3)
        patch.setattr(threads, "WORTH", 1)
        patch.setattr(threads, "PRODUCTS", 1)
        patch.setattr(threads, "FEW", 0)
        patch.setattr(update, "LONG", 5)
        patch.setattr(threads, "BLOCK", 7)
        yield
