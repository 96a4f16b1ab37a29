"""Every example in a docstring is run, and prints what it says."""

import doctest
import importlib

import pytest

from tests import ROOT

FILES = [
    path.relative_to(ROOT)
    for package in ("tinyflow", "models")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_examples_in_docstrings(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some save
    name = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


def test_the_parts_a_newcomer_meets_first_have_one():
    first = {"tensor", "tape", "module", "functional", "state", "testing"}
    assert {f"tinyflow/{name}.py" for name in first} <= set(map(str, FILES))
