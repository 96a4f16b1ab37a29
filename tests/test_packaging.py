"""What is published is whole: the source distribution, and the wheel made from it."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_PUBLISHED = {".gitignore"}

pytestmark = pytest.mark.slow


def run(*command, cwd, **environment):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def backend(folder, what, out):
    """Have setuptools build a distribution of a folder, as build and pip do."""
    made = run(
        sys.executable,
        "-c",
        f"from setuptools import build_meta as b; b.build_{what}({str(out)!r})",
        cwd=folder,
    )
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="module")
def published():
    """The names of the files that belong to the project."""
    listed = run("git", "ls-files", cwd=ROOT)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout: nothing says what belongs to the project")
    return {n for n in listed.stdout.splitlines() if (ROOT / n).exists()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory, published):
    """The source distribution of those files, unpacked."""
    setuptools = pytest.importorskip("setuptools", "77", reason="needs setuptools 77")
    assert setuptools
    work = tmp_path_factory.mktemp("sdist")
    for name in published:
        copy = work / "copy" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
        copy.chmod((ROOT / name).stat().st_mode)
    backend(work / "copy", "sdist", work)
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(work, filter="data")
    return work / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, sdist):
    """The wheel of what was unpacked."""
    work = tmp_path_factory.mktemp("wheel")
    backend(sdist, "wheel", work)
    (found,) = work.glob("*.whl")
    return found


def test_the_source_distribution_holds_every_file(sdist, published):
    missing = {name for name in published if not (sdist / name).exists()}
    assert missing == NOT_PUBLISHED & published


def test_the_tests_are_found_in_the_source_distribution(sdist):
    """And import all they need from it: the sources for the emulated GPU too."""
    listed = run(
        sys.executable,
        *("-m", "pytest", "--collect-only", "-m", "slow or not slow"),
        cwd=sdist,
    )
    assert listed.returncode == 0, listed.stdout
    some = run(
        sys.executable,
        *("-m", "pytest", "tests/test_cuda_source.py", "tests/test_tape.py"),
        cwd=sdist,
    )
    assert some.returncode == 0, some.stdout


def test_the_wheel_holds_both_packages_whole(wheel, published):
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {n for n in published if n.startswith(("tinyflow/", "models/"))}
    assert ours <= names
    assert {"tinyflow/py.typed", "models/py.typed"} <= names
    others = {n for n in names - ours if ".dist-info/" not in n}
    assert others == set()  # no tests, no benchmarks


def test_both_commands_start_from_the_wheel(wheel, tmp_path):
    installed = tmp_path / "installed"
    done = run(
        *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"),
        *(installed, wheel),
        cwd=tmp_path,
    )
    if done.returncode:
        pytest.skip(f"pip cannot install here: {done.stderr.strip()[-200:]}")
    for command, arguments, said in (
        ("train", ["--list-models"], "se_resnet50"),
        ("analyze", ["compare", "--model", "resnet20"], "closure"),
    ):
        for number, start in enumerate(
            (
                [installed / "bin" / f"tinyflow-{command}"],
                ["-m", f"tinyflow.commands.{command}"],
            )
        ):
            elsewhere = tmp_path / f"{command}-{number}"
            elsewhere.mkdir()
            ended = run(
                sys.executable,
                *(*start, *arguments),
                cwd=elsewhere,
                PYTHONPATH=str(installed),
                PYTHONSAFEPATH="1",
            )
            assert ended.returncode == 0, ended.stderr
            assert said in ended.stdout


def test_every_dependency_has_a_lowest_version_that_is_tested():
    found = run(sys.executable, ".ci/lowest.py", cwd=ROOT).stdout.split()
    names = [pin.partition("==")[0] for pin in found]
    assert {"numpy", "matplotlib", "typer"} <= set(names)
    assert all(re.fullmatch(r"[\w-]+==\d[\w.]*", pin) for pin in found), found
    assert ".ci/lowest.py" in (ROOT / ".ci/run").read_text()


def test_nvidias_packages_are_bounded_above():
    """A new major version of theirs is another interface."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in ("cuda12", "cuda13"):
        pins = extras["optional-dependencies"][name]
        theirs = [p for p in pins if p.startswith(("cupy", "nvidia"))]
        assert len(theirs) == 3 and all(",<" in p for p in theirs), theirs
