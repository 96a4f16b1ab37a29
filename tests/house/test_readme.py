"""What the README says can be done as it is written."""

import code
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

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


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    for target, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        if target.startswith("http"):
            continue
        other = page.parent / target if target else page
        assert other.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)", other.read_text("utf-8"), re.M)
            anchors = [re.sub(r"[^\w -]", "", h).lower() for h in headings]
            assert heading in [a.replace(" ", "-") for a in anchors], heading


def test_every_page_and_example_is_named():
    for page in (*PAGES[1:], ROOT / "examples"):
        assert f"({page.relative_to(ROOT)}" in README, page


def test_the_snippet_about_recipes_is_a_run_with_one(monkeypatch):
    text = (ROOT / "docs/training.md").read_text("utf-8")
    snippet = re.search(r"```python\n(.*?)```", text, re.S)[1]
    asked = []
    monkeypatch.setattr("tinyflow.train.train", asked.append)
    exec(snippet, {})
    assert (asked[0].recipe, asked[0].epochs, asked[0].lr) == ("he2015", 3, 0.1)
    asked[0].validate()


def test_every_python_command_can_be_found():
    """Either the environment is activated, or its Python is called."""
    assert "source\n.venv/bin/activate" in README or ".venv/bin/activate" in README
    for command in re.findall(
        r"`((?:pip|pytest|train\.py|analyze\.py) [^`]*)`", README
    ):
        raise AssertionError(f"{command}: say which Python runs it")


HOUR = README.split("## Your first hour")[1].split("\n## ")[0]


def interrupted(command: list[str], where, environment) -> str:
    """Run it, and press Ctrl-C after the first epoch; what it said."""
    said = ""
    with subprocess.Popen(
        command,
        cwd=where,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        for line in running.stdout:
            said += line
            if line.startswith("epoch 1/3  train loss"):
                running.send_signal(signal.SIGINT)
    assert running.returncode == 128 + signal.SIGINT, said
    return said


@pytest.mark.slow
def test_the_first_hour_is_as_it_is_told(tmp_path):
    """Every command, in order, and every picture; Ctrl-C where it says so."""
    for program in ("train.py", "analyze.py"):
        shutil.copy(ROOT / program, tmp_path)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    environment.pop("TINYFLOW_DATA", None)
    blocks = re.findall(r"```\n(.*?)```", HOUR, re.S)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) == 8
    said = []
    for command in commands:
        program, *words = command.split()
        assert program == "python"
        if "--trace-every" in words:
            assert shutil.which("cc") or "native" in said[0]
            said.append(interrupted([sys.executable, *words], tmp_path, environment))
            assert "--resume runs/resnet20-shapes-1" in said[-1]
            continue
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        said.append(done.stdout + done.stderr)
        built = words == ["-m", "tinyflow.native"]
        assert done.returncode == 0 or (built and not shutil.which("cc")), said[-1]
    pictures = re.findall(r"`(runs/\S+\.png)`", HOUR)
    assert len(pictures) == 5
    for picture in pictures:
        with Image.open(tmp_path / picture) as opened:
            assert min(opened.size) > 500
    right = float(re.search(r"test accuracy ([\d.]+) %", said[2])[1])
    assert 60 < right < 72, said[2]  # "about two thirds"
    told = json.loads((tmp_path / "runs/resnet20-shapes-1/evaluation.json").read_text())
    names = [row["name"] for row in told["classes"]]
    frames = told["confusion"][names.index("frame")]
    assert names[int(np.argmax(frames))] == "ring", said[3]


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
