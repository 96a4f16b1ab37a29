"""Which engine the environment asks for: named in any case, or one sentence."""

import os
import subprocess
import sys

import pytest

from tests import ROOT
from tests.kernels.native.cached import home as home
from tinyflow.backend import SettingError
from tinyflow.kernels.native import library


@pytest.mark.parametrize(
    ("value", "wish"),
    [("", "auto"), ("  ", "auto"), ("NumPy", "numpy"), (" native\n", "native")],
)
def test_the_engine_is_named_in_any_case(monkeypatch, value, wish):
    monkeypatch.setenv("TINYFLOW_ENGINE", value)
    assert library.settings()[0] == wish


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TINYFLOW_ENGINE", "fast"),
        ("TINYFLOW_ENGINE", "nat ive"),
        ("TINYFLOW_NUM_THREADS", "abc"),
        ("TINYFLOW_NUM_THREADS", "²"),
        ("TINYFLOW_NUM_THREADS", "0"),
    ],
)
@pytest.mark.parametrize("engine", ["numpy", "auto", None])
def test_nonsense_is_one_sentence(monkeypatch, name, value, engine):
    if engine is not None:
        monkeypatch.setenv("TINYFLOW_ENGINE", engine)
    monkeypatch.setenv(name, value)
    library.cores.wanted.cache_clear()
    try:
        with pytest.raises(SettingError, match=f"{name} is '{value}'") as caught:
            library.load()
    finally:
        library.cores.wanted.cache_clear()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "command",
    [
        ["train.py", "--model", "resnet20", "--limit-train", "8", "--limit-test", "8"],
        ["analyze.py", "compare", "--model", "resnet20"],
        ["-m", "tinyflow.native"],
    ],
)
@pytest.mark.parametrize(
    "setting", [("TINYFLOW_NUM_THREADS", "2.5"), ("TINYFLOW_ENGINE", "fast")]
)
def test_commands_refuse_nonsense_in_one_line(tmp_path, command, setting):
    name, value = setting
    done = subprocess.run(
        [sys.executable, *(str(ROOT / c) if ".py" in c else c for c in command)],
        cwd=tmp_path,
        env={**os.environ, name: value, "PYTHONPATH": str(ROOT), "CC": "true"},
        capture_output=True,
        text=True,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1
    assert f"{name} is '{value}'" in lines[0]
    assert os.listdir(tmp_path) == []
