"""A cache of one's own, with nothing in it."""

import pytest

from tinyflow.kernels import engine as engines
from tinyflow.kernels.native import library


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache of one's own, and nothing remembered."""
    for name in ("TINYFLOW_ENGINE", "TINYFLOW_NUM_THREADS", "CC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.load.cache_clear()
    engines._compiled.cache_clear()
    yield tmp_path / "cache"
    library.load.cache_clear()
    engines._compiled.cache_clear()
