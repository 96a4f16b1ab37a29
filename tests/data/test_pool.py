"""Processes that decode: what they answer, how they end, whatever ends first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests import ROOT
from tests.data.pictures import write_folder
from tinyflow.data import DataError, Loader, load_folder
from tinyflow.data import pool as module
from tinyflow.data.picture import Job, picture
from tinyflow.data.pool import Pool

pytestmark = pytest.mark.skipif(not module.POSSIBLE, reason="needs POSIX")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images"))


def jobs_of(folder: Path, size: int = 16) -> list[Job]:
    paths = sorted(p for p in (folder / "train").rglob("*") if p.is_file())
    return [
        Job.of(path, size, 18, 3)._replace(seed=5, epoch=i % 3 - 1, number=i)
        for i, path in enumerate(paths)
    ]


@contextmanager
def started(workers: int, ahead: int = 8, size: int = 16) -> Iterator[Pool]:
    pool = Pool(workers, ahead, (3, size, size))
    try:
        yield pool
    finally:
        pool.close()


def gone(pids: list[int], seconds: float = 10) -> bool:
    """Whether none of these is there any more, sooner or later."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # one that nobody asks after is as good as gone


@pytest.mark.parametrize("ahead", [1, 5, 100])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_job_is_answered_in_its_turn(
    folder: Path, workers: int, ahead: int
) -> None:
    jobs = jobs_of(folder)
    want = [picture(job) for job in jobs]
    with started(workers, ahead) as pool:
        assert pool.slots == max(2 * workers, ahead)
        for _ in range(2):
            found = [image.copy() for image in pool.run(jobs)]  # type: ignore[union-attr]
            assert len(found) == len(want) == 18
            for one, other in zip(found, want, strict=True):
                np.testing.assert_array_equal(one, other)
        assert list(pool.run([])) == []


def test_no_more_is_asked_for_than_there_is_room(folder: Path) -> None:
    jobs, asked = jobs_of(folder) * 5, 0

    def counted() -> Iterator[Job]:
        nonlocal asked
        for job in jobs:
            asked += 1
            yield job

    with started(2, 6) as pool:
        for taken, _ in enumerate(pool.run(counted())):
            assert asked <= taken + 6
    assert asked == 90


def test_memory_is_bounded_too() -> None:
    slots = {}
    for size in (1, 500, 2000):
        with started(1, 10_000, size) as pool:
            slots[size] = pool.slots
            assert pool.slot >= 3 * size * size and pool.slot >= module.TEXT
    assert slots == {1: 2048, 500: 2**28 // 750_000, 2000: 2**28 // 12_000_000}


def test_what_cannot_be_decoded_is_told_where_it_stands(
    folder: Path, tmp_path: Path
) -> None:
    jobs = jobs_of(folder)
    for i, name in ((2, "bad\n\x01.png"), (7, "bäd" * 60 + ".jpg"), (8, b"b\xff\xfe")):
        path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), os.fsencode(name))))
        path.write_bytes(b"no image" if i != 8 else b"")
        jobs[i] = Job.of(path, 16, 18, 3)
    jobs[11] = Job.of(tmp_path / ("n" * 5_000), 16, 18, 3)
    jobs[12] = jobs[12]._replace(file="zz")
    with started(3) as pool:
        found = list(pool.run(jobs))
    bad = {i: said for i, said in enumerate(found) if isinstance(said, str)}
    assert list(bad) == [2, 7, 8, 11, 12]
    assert "no image that can be read" in bad[2] and "bäd.jpg is no image" in bad[7]
    assert r"b\udcff\udcfe is no image" in bad[8] and "File name too long" in bad[11]
    assert "ValueError" in bad[12]


def test_a_name_longer_than_any_system_has(tmp_path: Path) -> None:
    with started(1) as pool, pytest.raises(DataError, match="nnn… is no name of"):
        next(pool.run([Job.of(Path("/" + "n" * 20_000), 16, 18, 3)]))


def test_a_worker_that_is_killed_is_one_sentence(folder: Path) -> None:
    jobs = jobs_of(folder) * 40
    with started(2) as pool:
        made = pool.run(jobs)
        next(made)
        os.kill(pool.processes[0].pid, signal.SIGKILL)
        os.kill(pool.processes[1].pid, signal.SIGSTOP)  # leaves its work undone
        begun = time.monotonic()
        with pytest.raises(DataError, match="was ended by signal 9, perhaps for want"):
            for _ in made:
                pass
        assert time.monotonic() - begun < 10


def test_workers_that_cannot_begin_are_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    with started(2) as pool, pytest.raises(DataError, match="ended with exit code 1"):
        next(pool.run(jobs_of(folder)))
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(DataError, match=r"cannot be had \(No such file or directory\)"):
        Pool(2, 8, (3, 8, 8))
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(DataError, match="use 0 workers"):
        Pool(2, 8, (3, 8, 8))


def test_memory_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", none, raising=False)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    with pytest.raises(DataError, match=r"1 processes .* share.*\(No space left"):
        Pool(1, 8, (3, 8, 8))
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_memory_without_linux(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    jobs = jobs_of(folder)
    with started(2) as pool:
        found = [image.copy() for image in pool.run(jobs)]  # type: ignore[union-attr]
    for one, job in zip(found, jobs, strict=True):
        np.testing.assert_array_equal(one, picture(job))


def test_nothing_is_left_of_a_closed_pool(folder: Path) -> None:
    files = len(os.listdir("/proc/self/fd"))
    with started(3) as pool:
        pids = [process.pid for process in pool.processes]
        next(pool.run(jobs_of(folder)))
        assert all(alive(pid) for pid in pids)
    assert gone(pids, 2)
    pool.close()  # again
    del pool
    assert len(os.listdir("/proc/self/fd")) == files
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_folder(folder, image_size=16, workers=2)
        for _ in Loader(data, 4).epoch(0):
            pass
        pids = [p.pid for p in data._idle[0].processes]
        assert all(alive(pid) for pid in pids)
        del data, _
    assert gone(pids, 2)


def test_workers_import_no_engine(folder: Path) -> None:
    with started(1) as pool:
        next(pool.run(jobs_of(folder)))
        maps = Path(f"/proc/{pool.processes[0].pid}/maps").read_text()
    assert "_imaging" in maps  # Pillow
    code = (
        "import runpy, sys; sys.argv = ['', '[]'] + ['0'] * 4\n"
        "worker = runpy.run_path(sys.path.pop(), run_name='worker')\n"
        "worker['_without_the_engine'](worker['Path'](worker['__file__']).parents[1])\n"
        "import tinyflow.data.picture\n"
        "print([n for n in sys.modules if n.startswith('tinyflow')])"
    )
    script = ROOT / "tinyflow/data/worker.py"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(script)!r})\n{code}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found = done.stdout
    assert "tinyflow.data.decode" in found
    for part in ("tinyflow.ops", "tinyflow.tensor", "tinyflow.data.loader"):
        assert part not in found


# A program without a guard, as people write it: nothing must import it again.
PROGRAM = """
import json, sys, time
from tinyflow.data import Loader, load_folder
data = load_folder(sys.argv[1], image_size=16, workers=3)
loader = Loader(data, 2, augment=True)
batches = loader.epoch(0)
first = next(batches)
pool = next(o for o in __import__("gc").get_objects() if type(o).__name__ == "Pool")
print(json.dumps([p.pid for p in pool.processes]), flush=True)
sys.stdin.readline()
HOW
"""


@contextmanager
def program(folder: Path, how: str) -> Iterator[tuple[subprocess.Popen, list[int]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("HOW", how), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        pids = json.loads(process.stdout.readline())
        assert len(pids) == 3 and all(alive(pid) for pid in pids)
        process.stdin.write("\n")
        process.stdin.flush()
        yield process, pids
    finally:
        process.kill()
        process.communicate()


WAITS: dict[str, Callable[[subprocess.Popen], None]] = {
    "killed": lambda p: p.kill(),
    "terminated": lambda p: p.terminate(),
    "Ctrl-C": lambda p: os.killpg(p.pid, signal.SIGINT),  # as a terminal sends it
}


@pytest.mark.parametrize("how", WAITS)
def test_workers_end_with_whoever_asked(folder: Path, how: str) -> None:
    with program(folder, "time.sleep(60)") as (process, pids):
        WAITS[how](process)
        assert process.wait(10) != 0
        assert gone(pids, 5)
        _, err = process.communicate()
        # Of the program's own Ctrl-C, and of nobody else's.
        assert err.count("Traceback") == (how == "Ctrl-C"), err


@pytest.mark.parametrize("how", ["pass", "batches.close()", "raise SystemExit(3)"])
def test_a_program_that_ends_by_itself_says_nothing(folder: Path, how: str) -> None:
    with program(folder, how) as (process, pids):
        assert process.wait(10) == (3 if "3" in how else 0)
        assert gone(pids, 5)
        assert process.communicate()[1] == ""


def test_ctrl_c_of_a_worker_does_nothing(folder: Path) -> None:
    jobs = jobs_of(folder)
    with started(2) as pool:
        made = pool.run(jobs)
        next(made)  # they have begun
        for process in pool.processes:
            os.kill(process.pid, signal.SIGINT)
        assert len(list(made)) == len(jobs) - 1
