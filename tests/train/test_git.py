"""The commit of a folder, and that git is never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.train.small import SMALL
from tests.train.small import place as place
from tinyflow.network import Network
from tinyflow.train import git, train
from tinyflow.train.git import git_state

WHO = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]


def run(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *WHO, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    run(folder, "init", "-q")
    (folder / "net.py").write_text("x = 1\n")
    run(folder, "add", ".")
    run(folder, "commit", "-qm", "first")
    return folder


def test_commit_and_changes(repository: Path) -> None:
    commit = run(repository, "rev-parse", "HEAD").strip()
    assert len(commit) == 40
    assert git_state(repository) == {"commit": commit, "dirty": False}
    (repository / "runs").mkdir()
    (repository / "runs" / "new").write_text("untracked files are no change")
    assert git_state(repository / "runs") == {"commit": commit, "dirty": False}
    (repository / "net.py").write_text("x = 2\n")
    assert git_state(repository) == {"commit": commit, "dirty": True}


def test_what_the_environment_says_of_another_repository_is_not_believed(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = git_state(repository)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    assert git_state(repository) == known


def test_none_where_there_is_none(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert git_state(outside) is None
    assert git_state(tmp_path / "nowhere") is None
    run(outside, "init", "-q")
    assert git_state(outside) is None  # no commit
    monkeypatch.setenv("PATH", str(outside))
    assert git_state(repository) is None  # no git


def test_a_git_that_hangs_is_not_waited_for(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(git, "PATIENCE", 0.2)
    begun = time.monotonic()
    assert git_state(repository) is None
    assert time.monotonic() - begun < 10


def test_a_run_writes_it_down(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the folder of one's own network, else of the working folder."""

    def told(config) -> object:
        result = train(config)
        return json.loads((result.folder / "config.json").read_text())["resolved"][
            "git"
        ]

    small = replace(SMALL, epochs=1, limit_train=50, limit_test=10, warmup_epochs=0)
    own = Network("net", small.model.make, file=repository / "net.py", sha256="0")
    known = git_state(repository)
    assert known is not None
    assert told(replace(small, output=tmp_path / "a")) is None
    assert told(replace(small, model=own, output=tmp_path / "b")) == known
    monkeypatch.chdir(repository)
    assert told(replace(small, output=tmp_path / "c")) == known
