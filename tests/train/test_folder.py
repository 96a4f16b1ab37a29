"""Folders of runs: claimed by one, and what their maker made is all it removes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.test_atomic import BLOCKS, FAST, ROOT, start
from tinyflow.flow import FlowError
from tinyflow.flow.show import report
from tinyflow.train import ConfigError
from tinyflow.train.folder import CLAIM, RunFolder, check_output


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("way", ["new", "empty", "link", "relative", "deep", "slash"])
def test_a_folder_is_claimed_once(place: Path, way: str) -> None:
    output = place / "out"
    if way == "empty":
        output.mkdir()
    elif way == "link":
        (place / "real").mkdir()
        output.symlink_to(place / "real")
    elif way == "relative":
        output = Path("out")
    elif way == "deep":
        output = place / "a" / "b" / "out"
    elif way == "slash":
        output = Path(f"{output}/")
    before = sorted(place.rglob("*"))
    first = RunFolder(output, "x")
    first.file("config.json").write_text("mine")
    with pytest.raises(ConfigError, match="in use by another run"):
        RunFolder(output, "x")
    with (
        pytest.raises(FlowError, match="in use by another run"),
        report.folder(output, "x"),
    ):
        pass
    with pytest.raises(ConfigError, match="in use by another run"):
        check_output(output)
    assert (output / "config.json").read_text() == "mine"
    first.end()
    assert sorted(place.rglob("*")) == before


def test_a_run_that_started_in_between_is_noticed(place: Path) -> None:
    """A second run saw an empty folder, and comes to claim it when the first ended."""
    (place / "out").mkdir()
    check_output(place / "out")
    first = RunFolder(place / "out", "x")
    first.file("metrics.csv").write_text("rows")
    first.kept = True
    first.end()
    with pytest.raises(ConfigError, match="already holds files"):
        RunFolder(place / "out", "x")
    assert os.listdir(place / "out") == ["metrics.csv"]


@pytest.mark.parametrize("claimed", [True, False])
def test_what_came_after_the_first_look_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, claimed: bool
) -> None:
    """Another run's claim, or files of one that has ended."""
    (place / "out").mkdir()
    other = place / "out" / (CLAIM if claimed else "metrics.csv")

    def late(output: Path | None) -> None:
        other.mkdir()

    monkeypatch.setattr("tinyflow.train.folder.check_output", late)
    with pytest.raises(ConfigError) as caught:
        RunFolder(Path("out"), "x")
    assert str(caught.value).startswith("--output out ")
    assert ("in use by another run" in str(caught.value)) == claimed
    assert ("already holds files" in str(caught.value)) != claimed
    assert list((place / "out").iterdir()) == [other]


def test_only_what_the_run_made_is_removed(place: Path) -> None:
    folder = RunFolder(place / "out", "x")
    folder.file("metrics.csv").write_text("ours")
    (place / "out" / "notes.txt").write_text("the user's")
    (place / "out" / "curves.png").write_text("the user's")
    with pytest.raises(FileExistsError, match="it is not this run's") as caught:
        folder.file("curves.png")
    assert caught.value.errno == errno.EEXIST
    assert caught.value.filename == str(place / "out" / "curves.png")
    folder.end()
    assert sorted(os.listdir(place / "out")) == ["curves.png", "notes.txt"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_was_removed_is_nobodys(place: Path, replaced: bool) -> None:
    folder = RunFolder(place / "out", "x")
    folder.file("metrics.csv").write_text("ours")
    shutil.rmtree(place / "out")
    if replaced:
        other = RunFolder(place / "out", "x")
        other.file("metrics.csv").write_text("the other's")
    with pytest.raises(FileNotFoundError, match="removed"):
        folder.check()
    with pytest.raises(FileNotFoundError):
        folder.publish("summary.json")
    folder.end()
    if replaced:
        assert (place / "out" / "metrics.csv").read_text() == "the other's"
        assert (place / "out" / CLAIM).is_dir()
        other.end()
    assert os.listdir(place) == []


def test_a_program_that_goes_elsewhere_writes_where_it_began(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "elsewhere").mkdir()
    folder = RunFolder(Path("out"), "x")
    monkeypatch.chdir(place / "elsewhere")
    folder.file("a").write_text("")
    folder.kept = True
    folder.end()
    assert os.listdir(place / "out") == ["a"]
    assert os.listdir(place / "elsewhere") == []


def test_the_end_of_the_program_is_the_end_of_a_run(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Callable[[], None]] = []
    at = SimpleNamespace(register=asked.append, unregister=asked.remove)
    monkeypatch.setattr("tinyflow.train.folder.atexit", at)
    folder = RunFolder(place / "out", "x")
    folder.file("a").write_text("")
    (end,) = asked
    end()
    assert asked == [] and list(place.iterdir()) == []


def test_a_fork_does_not_end_its_parents_run(place: Path) -> None:
    folder = RunFolder(place / "out", "x")
    if (child := os.fork()) == 0:
        folder.end()
        os._exit(0)
    os.waitpid(child, 0)
    folder.check()
    folder.end()


def test_a_parent_that_others_remove_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Path.mkdir, [3]

    def mkdir(path: Path, *args: object, **how: object) -> None:
        if path.name == "x-1" and left[0]:
            left[0] -= 1
            path.parent.rmdir()
        real(path, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    folder = RunFolder(None, "x")
    assert folder.path == Path("runs/x-1")
    folder.end()
    assert os.listdir(place) == []


@pytest.mark.parametrize("output", ["a" * 300, "a\0b", "nowhere", "file/below", "file"])
def test_places_that_cannot_be_used(place: Path, output: str) -> None:
    (place / "nowhere").symlink_to(place / "gone")
    (place / "file").touch()
    before = sorted(os.listdir(place))
    for refuse in (check_output, lambda path: RunFolder(path, "x")):
        with pytest.raises(ConfigError) as caught:
            refuse(Path(output))
        assert str(caught.value).count("\n") == 0
    assert sorted(os.listdir(place)) == before


def test_an_analysis_appears_whole(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "out").mkdir()
    real, moved = os.rename, []

    def rename(old: Path, new: Path) -> None:
        if len(moved) == 2:
            raise OSError(errno.EIO, "Input/output error", str(new))
        real(old, new)
        moved.append(new.name)

    def write() -> None:
        with report.folder(place / "out", "x") as folder:
            folder.json("summary.json", {"a": 1})
            for name in ("z.csv", "b.csv", "c.csv"):
                folder.csv(name, [{"a": 1}])

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(report.WriteError, match="Input/output"):
        write()
    assert moved == ["b.csv", "c.csv"] and os.listdir(place / "out") == []
    moved[:] = []
    monkeypatch.setattr(os, "rename", lambda a, b: (real(a, b), moved.append(b.name)))
    write()
    assert moved[-1] == "summary.json"
    assert sorted(os.listdir(place / "out")) == [
        "b.csv",
        "c.csv",
        "summary.json",
        "z.csv",
    ]


def claim_often(folder: str) -> None:
    """Run by two processes at once: claim, and leave a folder as one must find it."""
    won = 0
    for turn in range(200):
        output = Path(folder) / f"{turn}" / "out"
        try:
            mine = RunFolder(output, "x")
        except ConfigError:
            continue
        for name in ("config.json", "metrics.csv"):
            with mine.file(name).open("x") as file:
                file.write(f"{os.getpid()}")
        mine.kept = True
        mine.end()
        won += 1
    print(won)


def test_of_two_runs_started_together_one_has_the_folder(place: Path) -> None:
    code = (
        f"from tests.train.test_folder import claim_often; claim_often({str(place)!r})"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    won = [int(run.communicate(timeout=120)[0]) for run in runs]
    assert sum(won) == 200
    for turn in range(200):
        files = sorted((place / f"{turn}" / "out").iterdir())
        assert [f.name for f in files] == ["config.json", "metrics.csv"]
        assert len({f.read_text() for f in files}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "analyze.py"])
@pytest.mark.parametrize("empty", [True, False])
def test_of_two_commands_started_together_one_is_refused(
    place: Path, script: str, empty: bool
) -> None:
    if empty:
        (place / "out").mkdir()
    what = FAST if script == "train.py" else BLOCKS
    runs = [start(script, *what, "--output", "out", cwd=place) for _ in range(2)]
    ends = [(*run.communicate(timeout=300), run.returncode) for run in runs]
    (_, said, bad), (_, _, good) = sorted(ends, key=lambda end: -end[2])
    assert (bad, good) == (2, 0) and said.count("\n") == 1 and "--output out" in said
    assert not (place / "out" / CLAIM).exists()
    last = "last.safetensors" if script == "train.py" else "summary.json"
    assert (place / "out" / last).is_file()
