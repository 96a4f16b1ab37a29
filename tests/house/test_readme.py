"""What the README says can be done as it is written."""

import code
import os
import re
import subprocess
import sys

import pytest

from tests import ROOT

README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_can_be_pasted_into_a_prompt(snippet, capsys, monkeypatch):
    """Line by line, as Python 3.11's prompt reads it; prints what its comments say."""
    errors = []
    console = code.InteractiveConsole()
    monkeypatch.setattr(console, "write", errors.append)
    more = False
    for line in snippet.splitlines():
        more = console.push(line)
    assert not more and not errors, "".join(errors)
    said = capsys.readouterr().out.split("\n")
    labels = re.search(r"edge\.label, edge\.norm\)  # (.*)", snippet)[1].split(", ")
    assert [line.split()[0] for line in said[:2]] == labels
    assert said[2:] == ["True", ""]


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
    assert "(examples)" in README


def test_every_python_command_can_be_found():
    """Either the environment is activated, or its Python is called."""
    assert "source\n.venv/bin/activate" in README or ".venv/bin/activate" in README
    for command in re.findall(
        r"`((?:pip|pytest|train\.py|analyze\.py) [^`]*)`", README
    ):
        raise AssertionError(f"{command}: say which Python runs it")


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")))
def test_examples_run(example, tmp_path):
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "closure" in done.stdout and "-0.00" not in done.stdout
