"""The notebook and the page about notebooks, run as a reader runs them."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest

from tests import ROOT

NOTEBOOK = ROOT / "examples" / "own_network.ipynb"
PAGE = (ROOT / "docs" / "notebook.md").read_text("utf-8")

pytestmark = pytest.mark.slow


def run(cell, names):
    """What a notebook would show below a cell: its last expression's value."""
    *body, last = ast.parse(cell).body
    shown = isinstance(last, ast.Expr)
    exec(
        compile(ast.Module(body if shown else [*body, last], []), "<cell>", "exec"),
        names,
    )
    return (
        eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
        if shown
        else None
    )


def test_the_page_about_notebooks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        run(snippet, names)
    said = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"epoch \d: loss (\S+)", said)]
    assert len(losses) == 5 and losses[-1] < losses[0] - 0.3
    assert float(re.search(r"right: (\S+)", said)[1]) > 0.2  # chance: 0.1
    assert "(1, 10)" in said and "[2. 4.]" in said and "[ True  True]" in said
    assert len(re.findall(r"Edge\(x -> (mul|exp)", said)) == 3


def test_the_notebook_anywhere(tmp_path, monkeypatch):
    """Cell by cell in this Python: what the network learnt, and what is shown of it."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # they would go stale
    names = {}
    shown = [
        run("".join(c["source"]), names) for c in cells if c["cell_type"] == "code"
    ]
    assert names["accuracy"] > 0.25
    assert sum(hasattr(value, "_repr_png_") for value in shown) == 2
    assert [value for value in shown if isinstance(value, bool)] == [True, True]
    for terms in names["terms"]:
        assert terms.closure == 0 and sum(terms.shares.values()) == pytest.approx(1)
    assert sum(names["spectrum"].shares) == pytest.approx(1, abs=1e-5)


def test_the_notebook_in_a_kernel(tmp_path):
    """Every cell runs in Jupyter, which shows the tables and both figures."""
    for needed in ("nbclient", "ipykernel"):
        pytest.importorskip(
            needed, reason="needs the extra: pip install -e '.[notebook]'"
        )
    program = (
        "import json, nbclient, nbformat, sys\n"
        f"book = nbformat.read({str(NOTEBOOK)!r}, 4)\n"
        "nbclient.NotebookClient(book, timeout=300, kernel_name='python3').execute()\n"
        "outputs = [o for c in book.cells for o in c.get('outputs', [])]\n"
        "print('SHOWN', json.dumps([list(o.get('data', {})) for o in outputs]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown = json.loads(done.stdout.partition("SHOWN ")[2])
    assert sum("image/png" in kinds for kinds in shown) == 2
    assert sum("text/html" in kinds for kinds in shown) == 2  # summary, edges
