"""The C kernels as a fixture: built once, or the test is skipped."""

import os
import shutil

import pytest

from tinyflow.kernels.native import library
from tinyflow.kernels.native.engine import NativeEngine
from tinyflow.kernels.table import Engine

COMPILER = any(
    shutil.which(c) for c in (os.environ.get("CC", ""), "cc", "gcc", "clang")
)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The engine of a library built from these sources."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TINYFLOW_ENGINE", "native")
        patch.setenv("TINYFLOW_NUM_THREADS", "2")
        library.build()
        found, how = library.load()
        library.load.cache_clear()
    assert found is not None and how.startswith("C kernels, ")
    return NativeEngine(found)
