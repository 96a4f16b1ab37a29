"""What is published is whole: the source distribution, and the wheel made from it."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

import pytest

from tests import ROOT

NOT_PUBLISHED = {".gitignore"}


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


@pytest.mark.slow
def test_the_source_distribution_holds_every_file(sdist, published):
    missing = {name for name in published if not (sdist / name).exists()}
    assert missing == NOT_PUBLISHED & published


@pytest.mark.slow
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
        *("-m", "pytest", "tests/kernels/cuda/test_source.py", "tests/test_tape.py"),
        cwd=sdist,
    )
    assert some.returncode == 0, some.stdout


@pytest.mark.slow
def test_the_wheel_holds_the_package_whole(wheel, published):
    """And plants no other: the networks are tinyflow.models."""
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {n for n in published if n.startswith("tinyflow/")}
    ours |= {f"tinyflow/{n}" for n in published if n.startswith("models/")}
    assert {"tinyflow/py.typed", "tinyflow/models/vgg.py"} <= ours <= names
    others = {n for n in names - ours if ".dist-info/" not in n}
    assert others == set()  # no tests, no benchmarks


def test_every_folder_with_modules_is_installed():
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = [p.parent.relative_to(ROOT) for p in (ROOT / "tinyflow").rglob("*.py")]
    packages = {".".join(folder.parts) for folder in found}
    assert table["package-dir"] == {"tinyflow.models": "models"}
    assert set(table["packages"]) == packages | {"tinyflow.models"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["wheel", "editable"])
def test_commands_and_networks_are_installed(how, wheel, sdist, tmp_path):
    """In a fresh environment, started where a user's own modules have every name."""
    venv.create(tmp_path / "venv", symlinks=True)
    bin_ = tmp_path / "venv" / "bin"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    known = [p for p in sys.path if p.endswith("-packages")]  # NumPy and the like
    (site / "known.pth").write_text("\n".join(known))
    what = [wheel] if how == "wheel" else ["--no-build-isolation", "-e", sdist]
    pip = (sys.executable, "-m", "pip", "--python", bin_ / "python", "install", "-q")
    done = run(*pip, "--no-deps", "--ignore-installed", *what, cwd=tmp_path)
    if done.returncode:
        pytest.skip(f"pip cannot install here: {done.stderr.strip()[-200:]}")
    tops = {p.name for p in site.iterdir() if p.suffix not in (".pth", ".dist-info")}
    if how == "wheel":
        assert tops == {"tinyflow"}
    here = tmp_path / "here"
    for name in ("models.py", "models/__init__.py", "train.py", "nn.py"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("raise RuntimeError('of the user')")
    (here / "my_net.py").write_text(OWN)
    small = "--batch-size 2 --device cpu".split()
    steps = "--epochs 1 --warmup-epochs 0 --limit-train 4 --limit-test 2".split()
    for start, said in (
        ([bin_ / "tinyflow-train", "--list-models"], "se_resnet50"),
        ([bin_ / "tinyflow-train", "--model", "resnet20", *steps, *small], "epoch 1"),
        (
            [bin_ / "tinyflow-train", "--model", "my_net.py:MyNet", *steps, *small],
            "runs/MyNet-shapes-1",
        ),
        (
            [bin_ / "tinyflow-analyze", "blocks", "--model", "resnet20", *small],
            "closure",
        ),
        (
            [bin_ / "python", "-c", "import tinyflow.models as m; print(m.__name__)"],
            "tinyflow.models",
        ),
    ):
        ended = run(*start, cwd=here, PYTHONPATH="")
        assert ended.returncode == 0, ended.stderr
        assert said in ended.stdout


OWN = """
from tinyflow import nn

def MyNet(num_classes, image_size, in_channels, rng):
    flat = in_channels * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(flat, num_classes, rng=rng))
"""


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
