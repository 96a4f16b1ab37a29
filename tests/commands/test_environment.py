"""Both commands, however they are started: each ends well and leaves what it should."""

import os
import pty
import subprocess
import sys

import pytest

from tests import ROOT

TRAIN = ["train.py", "--model", "resnet20", "--epochs", "1", "--warmup-epochs", "0",
         "--limit-train", "4", "--limit-test", "2", "--batch-size", "2",
         "--device", "cpu"]  # fmt: skip
BLOCKS = ["analyze.py", "blocks", "--model", "resnet20", "--batch-size", "1",
          "--dtype", "float32", "--device", "cpu"]  # fmt: skip
COMMANDS = {"train": (TRAIN, "curves.png"), "blocks": (BLOCKS, "terms-resnet20.png")}
ENVIRONMENTS = {
    "inline": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    "qt": {"MPLBACKEND": "Qt5Agg"},
    "nonsense": {"MPLBACKEND": "nonsense"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "utf8": {"PYTHONUTF8": "1"},
    "dumb": {"TERM": "dumb", "NO_COLOR": "1"},
    "no-term": {"TERM": ""},
    "narrow": {"COLUMNS": "20"},
    "zero": {"COLUMNS": "0", "LINES": "0"},
    "garbage": {"COLUMNS": "wide"},
    "warnings": {"PYTHONWARNINGS": "error"},
    "homeless": {"HOME": "/proc/nowhere", "MPLCONFIGDIR": "/proc/nowhere"},
}
FAST = {("nonsense", "blocks"), ("ascii", "blocks"), ("inline", "train")}
PAIRS = [
    pytest.param(e, c, marks=() if (e, c) in FAST else pytest.mark.slow)
    for e in ENVIRONMENTS
    for c in COMMANDS
]


def start(arguments, folder, environment=None, **how):
    """Run one of the two programs in `folder`, as a user would."""
    script, *options = arguments
    clean = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "MPLBACKEND")}
    return subprocess.run(
        [sys.executable, *how.pop("flags", ()), str(ROOT / script), *options],
        cwd=folder,
        env={**clean, **(environment or {})},
        stdin=how.pop("stdin", subprocess.DEVNULL),
        capture_output=True,
        timeout=300,
        **how,
    )


def ended_well(done, folder, picture):
    error = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, error
    assert "Traceback" not in error and "Warning" not in error
    assert error.count("\n") == 0, error
    assert (folder / picture).stat().st_size > 10_000


@pytest.mark.parametrize(("environment", "command"), PAIRS)
def test_any_environment(tmp_path, environment, command):
    arguments, picture = COMMANDS[command]
    done = start([*arguments, "--output", "out"], tmp_path, ENVIRONMENTS[environment])
    ended_well(done, tmp_path / "out", picture)
    if environment == "ascii":
        done.stdout.decode("ascii")
        assert command == "train" or b"|g_x|" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["$x^{y", "a{b}_c^d", "[red]x", "ünï→日本", "a b%s"])
def test_any_folder_name(tmp_path, command, name):
    arguments, picture = COMMANDS[command]
    done = start([*arguments, "--output", name], tmp_path, {"LC_ALL": "C.UTF-8"})
    ended_well(done, tmp_path / name, picture)


@pytest.mark.slow
def test_a_checkpoint_in_a_folder_with_any_name(tmp_path):
    name = "run $x^{y [red]"
    assert (
        start([*TRAIN, "--trace-every", "1", "--output", name], tmp_path).returncode
        == 0
    )
    arguments = [*BLOCKS[:2], *BLOCKS[4:], "--checkpoint", name, "--output", "out"]
    done = start(arguments, tmp_path)
    ended_well(done, tmp_path / "out", "terms-resnet20.png")
    assert name in " ".join(done.stdout.decode().split())
    done = start(["analyze.py", "training", name, "--output", "drawn"], tmp_path)
    ended_well(done, tmp_path / "drawn", "training.png")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_settings_of_the_users_matplotlib_do_not_count(tmp_path, command):
    (tmp_path / "matplotlibrc").write_text("text.usetex: true\nno.such: key\n")
    arguments, picture = COMMANDS[command]
    ended_well(start([*arguments, "--output", "o"], tmp_path), tmp_path / "o", picture)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_warnings_as_errors_home_and_closed_input(tmp_path, command):
    arguments, picture = COMMANDS[command]
    done = start(
        [*arguments, "--output", "~/out"],
        tmp_path,
        {"HOME": str(tmp_path)},
        flags=("-W", "error"),
        stdin=None,
        preexec_fn=lambda: os.close(0),
    )
    ended_well(done, tmp_path / "out", picture)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["0", "20", "80"])
@pytest.mark.parametrize("term", ["dumb", "xterm"])
@pytest.mark.parametrize("command", COMMANDS)
def test_on_a_terminal(tmp_path, command, term, size):
    arguments, picture = COMMANDS[command]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / arguments[0]), *arguments[1:], "--output", "out"],
        cwd=tmp_path,
        env={**os.environ, "TERM": term, "COLUMNS": size},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait() == 0, seen
    assert (tmp_path / "out" / picture).is_file()
    assert b"Traceback" not in seen
    assert term != "dumb" or b"\x1b[" not in seen
