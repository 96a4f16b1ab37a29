"""The tests marked gpu are found, and where there is no GPU say so, whatever else."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tinyflow.backend import choose_device


@pytest.mark.slow
def test_without_a_gpu_each_is_skipped_and_says_why(tmp_path: Path) -> None:
    """Also where there is no compiler: a GPU's tests need none."""
    device, reason = choose_device("auto")
    if device == "cuda":
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, *"-m pytest -m gpu -rs -p no:cacheprovider".split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": str(tmp_path), "COLUMNS": "1000"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reasons = re.findall(r"SKIPPED \[(\d+)\] .*?: (.*)", done.stdout)
    # Files that need PyTorch are passed over whole where it is missing.
    reasons = [(int(n), why) for n, why in reasons if "could not import" not in why]
    assert {why for _, why in reasons} == {reason}
    assert sum(n for n, _ in reasons) > 450
    assert " passed" not in done.stdout and " failed" not in done.stdout
