"""Plant small errors in the source and count how many of them the tests notice.

    python -m tests.mutants flow tape --count 100 --seed 0

Each small change of :mod:`tests.mutants.changes` is tried in a copy of the tree,
against the tests that run the changed line, the quickest first. What no test notices is
printed. Changes that nobody could see, once read and judged so, stand in ``unseen.txt``
as file, line and change, and are left out.
"""

import ast
import builtins
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from importlib.machinery import SourceFileLoader
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import pytest
import typer

from tests.mutants.changes import ROOT, mutants

MEMORY = 8 << 30  # bytes that the tests may map, whatever a mutant asks for
FIRST = 40  # tests that are collected and run alone first: most mutants end there
EQUIVALENT = Path(__file__).with_name("unseen.txt")
FLOW = (
    "blocks compare counterfactual dense depth paths probe series progress settings "
    "source stats subject trace show/layout show/report show/tables"
)
TAPE = "graded names node retain seen sweep tape tensor"
TRAIN = "checkpoint config ema folder loop metrics prepare schedules step watching"
ROOMS = {  # files of the source, patterns of test files
    "flow": (
        [
            "tinyflow/lengths.py",
            *(f"tinyflow/flow/{name}.py" for name in FLOW.split()),
        ],
        "flow/test_* flow/show/* test_lengths kernels/cuda/test_lengths test_reading "
        "commands/test_[acop]* train/test_folder",
    ),
    "tape": (
        [f"tinyflow/{name}.py" for name in TAPE.split()],
        "test_* optim/test_* flow/test_flow flow/test_golden_* ops/test_numerics",
    ),
    "train": (
        [f"tinyflow/train/{name}.py" for name in TRAIN.split()],
        "train/test_* train/gpu/test_[lr]* flow/test_trace commands/test_options",
    ),
    "habits": (
        [
            *(f"tinyflow/{n}.py" for n in "display functional habits methods".split()),
            "tinyflow/flow/show/page.py",
            "tinyflow/flow/show/shown.py",
        ],
        "test_display test_functional test_habits test_methods house/test_docstrings",
    ),
    "threads": (
        ["tinyflow/kernels/plain/threads.py"],
        "kernels/plain/* kernels/test_windows test_sums",
    ),
    "claims": (["tinyflow/flow/claims/*.py"], "flow/claims/* flow/test_[sg]*"),
}


def marked(module, file):
    """The module with ``__mark__((file, line))`` before each of its statements."""
    for node in list(ast.walk(module)):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            for statement in block[:] if isinstance(block, list) else ():
                match statement:
                    case ast.ImportFrom() | ast.Expr(ast.Constant()):  # a docstring
                        continue
                mark = ast.parse(f"__mark__(({file!r}, {statement.lineno}))").body[0]
                for part in ast.walk(mark):
                    ast.copy_location(part, statement)
                block.insert(block.index(statement), mark)
    return module


class Marks:
    """A pytest plugin: which lines of some files each test runs, and for how long.

    The statements of these files are compiled with a call before each of them; whatever
    else the tests run keeps its speed, on every thread.
    """

    def __init__(self, tree, files):
        self.files = {str(tree / f): f for f in files}
        self.now, self.lines, self.seconds = set(), {}, {}

    def install(self):
        """From now on, modules are compiled with marks."""
        builtins.__mark__ = self.now.add
        compiled = SourceFileLoader.source_to_code

        def source_to_code(loader, data, path, **options):
            if path in self.files:
                data = marked(ast.parse(data), self.files[path])
            return compiled(loader, data, path, **options)

        SourceFileLoader.source_to_code = source_to_code

    def pytest_runtest_logreport(self, report):
        # What setup runs belongs to every test of the module: fixtures are shared.
        test = report.nodeid
        at = test.partition("::")[0] if report.when == "setup" else test
        self.lines.setdefault(at, set()).update(self.now)
        self.now.clear()
        self.seconds[test] = self.seconds.get(test, 0) + report.duration


def forked(tree, tests, limit=None, marks=None):
    """The exit status of pytest in a child with modules loaded; None if late."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            os.chdir(tree)
            sys.path[0], sys.dont_write_bytecode = str(tree), True
            for name in [n for n in sys.modules if n.partition(".")[0] == "tests"]:
                del sys.modules[name]
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            if marks:
                marks.install()
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:warnings"]
            code = int(pytest.main([*options, *tests], [marks] if marks else []))
            if marks:
                lines = {at: sorted(found) for at, found in marks.lines.items()}
                Path("lines.json").write_text(json.dumps([lines, marks.seconds]))
        finally:
            os._exit(code)
    end = time.monotonic() + limit if limit else float("inf")
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def copy_tree(folder):
    """What git tracks or would, in a new folder below this one."""
    tree = Path(tempfile.mkdtemp(dir=folder))
    listed = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    return tree


def reaching(mutant, lines, seconds):
    """The tests that run the changed line, quickest first."""
    low, high = mutant.lines or (0, 1 << 30)
    hit = {
        at
        for at, run in lines.items()
        if any(f == mutant.file and low <= n <= high for f, n in run)
    }
    tests = [t for t in seconds if t in hit or t.partition("::")[0] in hit]
    return sorted(tests, key=seconds.__getitem__)


def attempt(job):
    """How the tests end with a mutant in place: 0 if they do not notice."""
    mutant, tests, limit = job
    path = TREE / mutant.file
    source = path.read_bytes()
    path.write_bytes(mutant.applied(source))
    code = 0
    for some in tests[:FIRST], tests[FIRST:]:
        if some and code == 0:
            code = forked(TREE, some, limit)
    path.write_bytes(source)
    return mutant, code


def start(folder):
    """A tree for this process."""
    global TREE
    TREE = copy_tree(folder)


def try_room(room, count, seed, jobs, without, folder):
    """Plant errors in one room; print what survives, and the rate."""
    patterns, names = ROOMS[room]
    files = sorted({str(p.relative_to(ROOT)) for s in patterns for p in ROOT.glob(s)})
    found = {p for n in names.split() for p in ROOT.glob(f"tests/{n}.py")}
    found = {str(p.relative_to(ROOT)) for p in found if p.stem.startswith("test_")}
    tests = [n for n in sorted(found) if not any(w in n for w in without.split())]
    tree = copy_tree(folder)
    if code := forked(tree, tests, None, Marks(tree, files)):
        sys.exit(f"the tests of {room} fail as they are ({code}): {' '.join(tests)}")
    lines, seconds = json.loads((tree / "lines.json").read_text())
    known = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    draw = random.Random(seed)
    places = [place for file in files for place in mutants(file)]
    places = draw.sample(places, min(count, len(places)))
    drawn = [m for m in map(draw.choice, places) if m.key not in known]
    work = []
    for mutant in drawn:
        reached = reaching(mutant, lines, seconds)
        work.append((mutant, reached, 20 + 3 * sum(seconds[t] for t in reached)))
    noticed = 0
    with get_context("fork").Pool(jobs, start, (folder,)) as pool:
        for mutant, code in pool.imap_unordered(attempt, work):
            noticed += code != 0
            if not code:  # None: the tests did not end, which is noticed as well
                late = "too long: " if code is None else ""
                print(f"{late}line {mutant.line}: {mutant.key}", flush=True)
    share = noticed / max(len(work), 1)
    print(f"{room}: {noticed} of {len(work)} noticed ({share:.1%})", flush=True)


def main(
    rooms: Annotated[list[str], typer.Argument(help=f"Of {', '.join(ROOMS)}.")],
    count: Annotated[int, typer.Option(help="Mutants per room.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    without: Annotated[
        str, typer.Option(help="Words of test files left out: 'golden flow'")
    ] = "",
) -> None:
    """Plant small errors and count how many of them the tests notice."""
    if unknown := [room for room in rooms if room not in ROOMS]:
        print(f"no room {', '.join(unknown)}: there are {', '.join(ROOMS)}")
        raise typer.Exit(2)
    os.environ["OMP_NUM_THREADS"] = os.environ["TINYFLOW_NUM_THREADS"] = "1"
    for module in ("matplotlib.figure", "hypothesis", "typer.testing", "torch"):
        with suppress(ImportError):  # loaded once, shared by all children
            import_module(module)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for room in rooms:
            try_room(room, count, seed, jobs, without, Path(folder).resolve())


if __name__ == "__main__":
    typer.run(main)
