"""The optional C library: never in the way, never a stranger's, never half of one."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import ROOT
from tests.kernels.native.cached import home as home
from tinyflow.kernels import engine as engines
from tinyflow.kernels.native import cache, library
from tinyflow.kernels.native.cache import NativeError

POSIX = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX users")
AS_ROOT = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0,
    reason="only root can become another user",
)
COMPILER = pytest.mark.skipif(
    not any(shutil.which(c) for c in ("cc", "gcc", "clang")), reason="no C compiler"
)


def plant(where: Path, content: bytes = b"not a library") -> Path:
    """A file that would be taken for this version's library."""
    place = where / "tinyflow"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in (where, place):
        folder.chmod(0o700)
    fresh = place / "fresh"
    fresh.write_bytes(content)
    fresh.chmod(0o600)
    return fresh.replace(place / f"{library._stem()}-{cache.checksum(fresh)}.so")


def passed_over(reason: str) -> None:
    """NumPy computes, the reason is said, and a demand for C is one sentence."""
    library.load.cache_clear()
    found, how = library.load()
    assert found is None and reason in how and how.startswith("NumPy kernels (")
    assert "\n" not in how
    engines._compiled.cache_clear()
    x = np.array([-1, 2], np.float32)
    assert engines.engine(x).relu(x).tolist() == [0, 2]
    library.load.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYFLOW_ENGINE", "native")
        with pytest.raises(NativeError, match="the C kernels") as caught:
            library.load()
        assert reason in str(caught.value) and "\n" not in str(caught.value)


# -- nothing optional stops the necessary --------------------------------------------


def test_nothing_built():
    passed_over("are not built; python -m tinyflow.native builds them")


@pytest.mark.parametrize("value", ["", ".", "cache", "../cache", "~/cache"])
def test_a_relative_cache_is_ignored(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache.folder() == tmp_path / "home" / ".cache" / "tinyflow"
    plant(tmp_path / value)
    passed_over("not built")


@POSIX
@pytest.mark.parametrize("home", ["", ".", "home"])
def test_no_home(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", home)
    if home:
        passed_over("there is no home folder")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # in no list of users
    passed_over("there is no home folder")


def test_a_file_where_the_cache_should_be(home):
    home.write_text("")
    passed_over("Not a directory")
    home.unlink()
    home.mkdir(mode=0o700)
    (home / "tinyflow").write_text("")
    passed_over("Not a directory")
    with pytest.raises(NativeError, match="cannot be built"):
        library.build()


@pytest.mark.parametrize(
    "error",
    [OSError(5, "Input/output error"), MemoryError(), RuntimeError("a\nb"), ValueError],
)
@pytest.mark.parametrize("name", ["_stem", "_processor", "_open"])
def test_whatever_fails_on_the_way(home, monkeypatch, name, error):
    def fail(*_):
        raise error

    plant(home)
    monkeypatch.setattr(library, name, fail)
    passed_over("cannot be used")


CLOSED = """
import os, sys
import numpy as np
from tinyflow.kernels.engine import engine
from tinyflow.kernels.native import library
closed = sys.argv[1]
os.environ["HOME"], os.environ["XDG_CACHE_HOME"] = closed, ""
os.setgid(65534)
os.setuid(65534)
x = np.array([-1, 2], np.float32)
assert engine(x).relu(x).tolist() == [0, 2]
print(library.load()[1])
try:
    library.build()
except library.NativeError as error:
    print(error)
"""


@AS_ROOT
def test_a_home_closed_to_the_user(tmp_path):
    if not all(folder.stat().st_mode & 1 for folder in (ROOT, *ROOT.parents)):
        pytest.skip("this checkout lies where no other user can read it")
    closed = tmp_path / "home"
    plant(closed / ".cache")
    closed.chmod(0o700)  # root's
    done = subprocess.run(
        [sys.executable, "-c", CLOSED, str(closed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    how, failed = done.stdout.splitlines()
    assert "NumPy kernels (the C kernels cannot be used: " in how
    assert "Permission denied" in how
    assert "cannot be built" in failed or "no C compiler" in failed


# -- whose it is ---------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("what", ["file", "folder", "cache"])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_what_others_can_write_to_is_not_loaded(home, what, mode):
    path = plant(home)
    place = {"file": path, "folder": path.parent, "cache": home}[what]
    place.chmod(mode)
    passed_over(f"others can write to {place}")
    if what != "file":
        with pytest.raises(NativeError, match="others can write"):
            library.build()


@POSIX
def test_a_folder_above_that_others_can_write_to(home, tmp_path):
    plant(home)
    tmp_path.chmod(0o777)
    passed_over(f"others can write to {tmp_path}")
    tmp_path.chmod(0o1777)  # as /tmp is: they cannot touch what is ours
    passed_over("python -m tinyflow.native builds them anew")


@AS_ROOT
@pytest.mark.parametrize("what", ["file", "folder", "cache", "above"])
def test_what_belongs_to_another_is_not_loaded(home, tmp_path, what):
    path = plant(home)
    at = {"file": path, "folder": path.parent, "cache": home, "above": tmp_path}[what]
    os.chown(at, 12345, 12345)
    passed_over(f"{at} belongs to user 12345")


@POSIX
@pytest.mark.parametrize("what", ["file", "folder", "cache"])
def test_links_are_followed_first(home, tmp_path, what):
    elsewhere = tmp_path / "elsewhere"
    path = plant(elsewhere)
    if what == "cache":
        home.symlink_to(elsewhere)
    else:
        home.mkdir(mode=0o700)
        (home / "tinyflow").symlink_to(elsewhere / "tinyflow")
    if what == "file":
        (home / "tinyflow").unlink()
        (home / "tinyflow").mkdir(mode=0o700)
        (home / "tinyflow" / path.name).symlink_to(path)
    elsewhere.chmod(0o777)
    passed_over(f"others can write to {elsewhere}")


# -- whether it is whole -------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "longer"])
def test_damaged_ones_are_passed_over(home, damage):
    path = plant(home, bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[5000] ^= 1
    path.write_bytes(
        {"cut": content[:5000], "empty": b"", "longer": content * 2}.get(
            damage, content
        )
    )
    passed_over(f"{path} is damaged; python -m tinyflow.native builds them anew")


def test_one_that_cannot_be_loaded_is_passed_over(home):
    path = plant(home, Path(sys.executable).read_bytes()[:100])
    passed_over("python -m tinyflow.native builds them anew")
    path.unlink()
    path.mkdir()
    passed_over("cannot be used")


@COMPILER
def test_a_damaged_one_is_built_anew(home):
    good = library.build()
    content = good.read_bytes()
    damaged = good.with_name(f"{library._stem()}-{'0' * 16}.so")
    damaged.write_bytes(content[:1000])
    assert library.load()[0] is not None  # the good one is found beside it
    half = good.with_name("half")  # a file of its own: the good one is loaded
    half.write_bytes(content[: len(content) // 2])
    half.chmod(0o600)
    half.replace(good)
    passed_over("is damaged")
    assert library.build() == good and good.read_bytes() == content
    assert os.listdir(good.parent) == [good.name]


# -- how it is built -----------------------------------------------------------------


@POSIX
@COMPILER
def test_nobody_else_can_write_to_what_is_built(home):
    before = os.umask(0)
    try:
        path = library.build()
    finally:
        os.umask(before)
    for place in (path, path.parent, home):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == [path.name]
    assert library.load()[0] is not None


@COMPILER
@pytest.mark.parametrize("command", ["env {}", "{} -g0", "'{}' -DNAME='a b'"])
def test_a_compiler_may_have_arguments(monkeypatch, command):
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))))
    monkeypatch.setenv("CC", command.format(compiler))
    library.build()
    assert library.load()[0] is not None


@POSIX
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("false", "exit status 1"),
        ("true", "exit status 0"),
        ("cat", "failed"),
        ("sh -c 'kill -9 $$'", "exit status -9"),
        ("sh -c 'echo no such luck; exit 3'", "no such luck"),
        ("sleep 1000 #", "failed"),
        ("sh -c 'sleep 1000; true'", "has not ended after"),
        ("sh -c 'echo no > $0.so; cp $0.so OUT'", "builds them anew"),
        ("none-such", "CC is 'none-such', and there is no such program"),
        ("none-such gcc", "there is no such program"),
        ("'gcc", "no command"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing(home, monkeypatch, command, reason):
    if "OUT" in command:  # one that writes something else
        command = """sh -c 'while [ "$1" != -o ]; do shift; done; echo no > "$2"' x"""
    monkeypatch.setenv("CC", command)
    monkeypatch.setattr(library, "PATIENCE", 0.5)
    with pytest.raises(NativeError, match=reason.replace("(", r"\(")):
        library.build()
    assert not home.exists() or os.listdir(home / "tinyflow") == []
    passed_over("not built")


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_build_leaves_nothing(home, number):
    building = subprocess.Popen(
        [sys.executable, "-m", "tinyflow.native"],
        cwd=ROOT,
        env={**os.environ, "CC": "sh -c 'sleep 1000; true'"},
        stderr=subprocess.PIPE,
        text=True,
    )
    place = home / "tinyflow"
    end = time.monotonic() + 60
    while not (place.exists() and os.listdir(place)) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.3)
    building.send_signal(number)
    _, said = building.communicate(timeout=60)
    assert building.returncode == 130 and said.startswith("interrupted"), said
    assert os.listdir(place) == []


@COMPILER
def test_two_can_build_at_once(home):
    both = [
        subprocess.Popen([sys.executable, "-m", "tinyflow.native"], cwd=ROOT)
        for _ in range(2)
    ]
    assert [one.wait(timeout=300) for one in both] == [0, 0]
    (name,) = os.listdir(home / "tinyflow")
    assert name.startswith(library._stem())
    assert library.load()[0] is not None
