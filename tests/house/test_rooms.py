"""The house as docs/architecture.md draws it: arrows, sizes, and tests beside it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

FILES = sorted((ROOT / "tinyflow").rglob("*.py"))
LONGEST = 400  # lines a file


def name_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


NAMES = {name_of(path) for path in FILES}


def imported(path: Path) -> set[str]:
    """What a file imports of the package, in functions too, but not for types alone."""
    found, ahead = set(), [ast.parse(path.read_text())]
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in NAMES else node.module)
        ahead += ast.iter_child_nodes(node)
    return found - {name_of(path)}


IMPORTS = {name_of(path): imported(path) for path in FILES}


def users_of(*rooms: str) -> set[str]:
    """The files that import something in one of these rooms."""
    return {
        name
        for name, found in IMPORTS.items()
        if any(f == r or f.startswith(f"{r}.") for f in found for r in rooms)
    }


def within(room: str) -> set[str]:
    return {n for n in NAMES if n == room or n.startswith(f"{room}.")}


def test_there_is_no_circle() -> None:
    graph = {name: found & NAMES for name, found in IMPORTS.items()}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("tinyflow.backend") < order.index("tinyflow.tape")
    graph["tinyflow.backend"] = {"tinyflow.tape"}
    with pytest.raises(CycleError):
        list(TopologicalSorter(graph).static_order())


def test_the_houses_of_kernels_import_nothing_of_each_other() -> None:
    houses = {f"tinyflow.kernels.{h}" for h in ("plain", "native", "cuda")}
    for house in houses:
        for other in houses - {house}:
            assert not within(house) & users_of(other), (house, other)
    inside = set().union(*map(within, houses))
    assert not inside & users_of("tinyflow.kernels.engine")
    assert not within("tinyflow.kernels.plain") & users_of("tinyflow.kernels.table")


CORE = (
    "backend sums lengths display node arrays tensor retain sweep graded names",
    "seen tape",
)


def test_arrows_point_one_way() -> None:
    """Each room is used only by those to its right."""
    rooms = [
        *" ".join(CORE).split(),
        "waiting",
        "ops",
        "methods",
        "module",
        "nn",
        "optim",
    ]
    for i, room in enumerate(rooms):
        for later in rooms[i + 1 :]:
            left, right = f"tinyflow.{room}", f"tinyflow.{later}"
            assert not within(left) & users_of(right), (room, later)
    below = set().union(*(within(f"tinyflow.{room}") for room in rooms))
    above = [f"tinyflow.{r}" for r in ("train", "flow", "data", "commands")]
    assert not below & users_of(*above)
    assert not within("tinyflow.train") & users_of("tinyflow.flow", "tinyflow.commands")
    core = {f"tinyflow.{room}" for room in " ".join(CORE).split()}
    assert not core & users_of("tinyflow.kernels")  # what it adds with is handed in


def test_only_the_backend_imports_cupy() -> None:
    assert users_of("cupy") == {"tinyflow.backend"}


ALL = [p for d in ("benchmarks", "models", "tests") for p in (ROOT / d).rglob("*.py")]


@pytest.mark.parametrize("path", [*FILES, *sorted(ALL)], ids=name_of)
def test_no_file_is_longer_than_two_screens_allow(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


NO_ROOMS = {"benchmarks", "fakes", "house", "models", "mutants", "oracles"}


def test_tests_mirror_the_package() -> None:
    """A folder of tests for each room, and none for what is no room."""
    tests = {
        str(path.parent.relative_to(ROOT / "tests"))
        for path in (ROOT / "tests").rglob("*.py")
    }
    rooms = {str(path.parent.relative_to(ROOT / "tinyflow")) for path in FILES}
    found = {t for t in tests if t.partition("/")[0] not in NO_ROOMS}
    assert found == rooms
