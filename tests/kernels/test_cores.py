"""How many threads work: what is asked for, within what there is."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tinyflow.backend import SettingError
from tinyflow.kernels import cores


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        ("3", None, 3),
        (" 3 ", "2", 3),
        ("003", None, 3),
        ("999", None, 8),
        ("9" * 18, None, 8),
        ("", "2", 2),
        ("  ", None, 8),
        (None, None, 8),
        (None, "4,2", 4),
        (None, " 4 , 2", 4),
        (None, "999", 8),
        *(
            (None, wrong, 8)
            for wrong in ("abc", "-1", "0", "2.5", "²", ",", "9" * 5000)
        ),
        *((w, "2", None) for w in ("abc", "-1", "0", "2.5", "1e1", "+2", "1_0", "2,1")),
        *((w, None, None) for w in ("²", "٣", "２", "000", "3 4", "9" * 5000, "0x2")),
    ],
)
def test_the_number_of_threads_can_be_set(monkeypatch, ours, theirs, found):
    monkeypatch.setattr(cores, "available", lambda: 8)
    for name, value in ((cores.VARIABLE, ours), ("OMP_NUM_THREADS", theirs)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    cores.wanted.cache_clear()
    try:
        if found is not None:
            assert cores.wanted() == found
        else:
            with pytest.raises(SettingError, match="whole number") as caught:
                cores.wanted()
            assert len(str(caught.value)) < 160
    finally:
        cores.wanted.cache_clear()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"group": "0::/a/b\n", "a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"group": "0::/a/b\n", "a/b/cpu.max": "max 100000", "cpu.max": "4 2"}, 2),
        ({"group": "0::/elsewhere\n", "cpu.max": "300000 100000\n"}, 3),
        ({"group": "0::/\n", "cpu.max": "max 100000\n"}, np.inf),
        (
            {
                "group": "9:memory:/a\n4:cpu,cpuacct:/a\n",
                "cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n",
                "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "group": "4:cpu:/\n",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "9",
            },
            np.inf,
        ),
        ({"group": "torn\n0::/\n", "cpu.max": "nonsense"}, np.inf),
        ({}, np.inf),
    ],
)
def test_a_quota_of_time_counts_as_cores(tmp_path, files, found):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.quota(str(tmp_path / "group"), str(tmp_path)) == found


def test_there_are_never_more_threads_than_cores():
    code = "from tinyflow.kernels import cores; print(cores.wanted())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TINYFLOW_NUM_THREADS": "999"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == cores.available()
