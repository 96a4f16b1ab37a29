"""Which commit the files of a folder are of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

PATIENCE = 5.0
"""Seconds that git is waited for."""

OTHERS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that a hook of git sets, which then mean a repository of their own."""


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit that a folder's repository is at, and whether tracked files differ.

    Returns:
        ``{"commit": "1a2b…", "dirty": False}``, or None: the folder lies in no
        repository, there is no commit yet, no git, or it takes too long.
    """
    commit = _asked(folder, "rev-parse", "--verify", "HEAD")
    changed = _asked(folder, "status", "--porcelain", "--untracked-files=no")
    if not commit or changed is None:
        return None
    return {"commit": commit.strip(), "dirty": bool(changed.strip())}


def _asked(folder: Path, *words: str) -> str | None:
    # A repository may name programs for git to run; nothing here needs one.
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *words]
    own = {k: v for k, v in os.environ.items() if k not in OTHERS}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            env=own | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
            start_new_session=True,  # Ctrl-C is for us
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
