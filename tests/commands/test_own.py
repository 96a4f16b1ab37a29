"""A network in a file of the user's own: trained, taken apart, and every mistake."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import models
from tests import ROOT
from tinyflow import nn
from tinyflow.commands import analyze, train
from tinyflow.commands.own import own_network
from tinyflow.flow.show import figures
from tinyflow.network import Network
from tinyflow.train import TrainConfig, load_checkpoint
from tinyflow.train import train as train_network

SMALL = ("--batch-size", "2", "--device", "cpu")
TRAIN = ("--epochs", "1", "--warmup-epochs", "0", "--limit-train", "6",
         "--limit-test", "2", *SMALL)  # fmt: skip
NET = """
from tinyflow import fork, mark, nn, ops

class Block(nn.Module):
    def __init__(self, c, rng):
        self.conv = nn.Conv2d(c, c, 3, padding=1, rng=rng)
        self.norm = nn.BatchNorm2d(c)

    def forward(self, x):
        residual, shortcut = fork(x, "residual", "shortcut")
        return ops.relu(mark(self.norm(self.conv(residual)) + shortcut, "H"))

class MyNet(nn.Module):
    def __init__(self, num_classes, image_size, in_channels, rng):
        self.stem = nn.Conv2d(in_channels, 4, 3, stride=4, padding=1, rng=rng)
        self.one, self.two = Block(4, rng), Block(4, rng)
        self.pool = nn.GlobalAvgPool2d()
        self.head = nn.Linear(4, num_classes, rng=rng)

    def forward(self, x):
        return self.head(self.pool(self.two(self.one(self.stem(x)))))

def unmarked(num_classes, image_size, in_channels, rng):
    flat = in_channels * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Linear(flat, num_classes, rng=rng))
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with the file; what is put on the import path goes again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYFLOW_DATA", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(figures, "save", lambda figure, path: [])
    (tmp_path / "my_net.py").write_text(NET)
    return tmp_path


def run(command, *arguments):
    return CliRunner().invoke(command.app, list(map(str, arguments)), obj=models.ZOO)


def good(command, *arguments):
    result = run(command, *arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(command, *arguments, code=2):
    """The sentence; no file has been written."""
    before = sorted(Path.cwd().rglob("*"))
    result = run(command, *arguments)
    assert result.exit_code == code, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert sorted(Path.cwd().rglob("*")) == before
    return result.stderr


def summary(folder):
    return json.loads((Path(folder) / "summary.json").read_text("utf-8"))


@pytest.fixture
def trained(place):
    options = ("--model", "my_net.py:MyNet", "--trace-every", "1", "--seed", "3")
    good(train, *options, *TRAIN)
    return place / "runs" / "MyNet-shapes-1"


def test_all_that_comes_after_training_works(place, trained, monkeypatch):
    config = json.loads((trained / "config.json").read_text())
    assert config["model"] == f"{place / 'my_net.py'}:MyNet"
    resolved = config["resolved"]
    assert (resolved["model"], resolved["parameters"]) == ("MyNet", 474)
    assert (resolved["optimizer"], resolved["lr"]) == ("adamw", Network.adam_lr)
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    run_ = ("--checkpoint", trained, *SMALL)
    good(analyze, "compare", *run_, "--output", "out")
    found = summary("out")
    (facts,) = found["networks"]
    assert facts == {
        "model": "MyNet",
        "parameters": 474,
        "file": str(place / "my_net.py"),
    }
    assert found["settings"]["model"] == ["MyNet"] and found["data"]["seed"] == 3
    blocks = found["models"]["MyNet"]["blocks"]
    assert [(b["name"], b["kind"]) for b in blocks] == [
        ("one", "identity"),
        ("two", "identity"),
    ]
    for block in blocks:
        shares = [block["terms"][n]["share"] for n in ("shortcut", "residual")]
        assert sum(shares) == pytest.approx(1, abs=1e-9)
    good(analyze, "paths", *run_, "--output", "paths")
    lengths = summary("paths")["models"]["MyNet"]["lengths"]
    assert [row["paths"] for row in lengths] == [1, 2, 1]
    said = good(analyze, "training", trained, "--output", "trace").stdout
    assert said.startswith("MyNet · shapes, 10 classes")
    cut = ("counterfactual", "one", "shortcut", "--factor", "1")
    good(analyze, *cut, *run_, "--output", "cut")
    assert summary("cut")["models"]["MyNet"]["change"] < 1e-12


def test_the_weights_that_are_looked_at_are_those_that_were_trained(place, trained):
    model, told = load_checkpoint(trained, own_network)
    assert told.model == "my_net.py:MyNet"
    fresh = own_network("my_net.py:MyNet").build(seed=3)
    before, after = fresh.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    assert not np.array_equal(before["head.weight"], after["head.weight"])


def test_networks_of_ones_own_and_of_the_zoo_side_by_side(place):
    names = ("--model", "./my_net.py:MyNet", "--model", "resnet20")
    again = ("--model", place / "my_net.py:MyNet", "--dtype", "float32")
    good(analyze, "blocks", *names, *again, *SMALL, "--output", "out")
    assert list(summary("out")["models"]) == ["MyNet", "resnet20"]  # the file ran once
    (place / "other.py").write_text(NET)
    said = refused(analyze, *names, "--model", "other.py:MyNet", *SMALL)
    assert "have one name" in said and "other.py:MyNet" in said


def test_two_files_are_not_given_the_same_helpers(place):
    for folder, name in (("old", "Old"), ("new", "New")):
        (place / folder).mkdir()
        (place / folder / "helpers_of_nets.py").write_text(NET)
        text = f"from helpers_of_nets import MyNet\nclass {name}(MyNet): pass\n"
        (place / folder / "net.py").write_text(text)
    both = ("--model", "old/net.py:Old", "--model", "new/net.py:New")
    said = refused(analyze, *both, *SMALL)
    assert "new/net.py has a helpers_of_nets.py beside it" in said
    assert "one at a time" in said


def test_a_file_that_has_moved_or_changed(place, trained, capsys):
    (place / "sub").mkdir()
    (place / "my_net.py").rename(place / "sub" / "my_net.py")
    of = ("blocks", "--checkpoint", trained, *SMALL)
    del sys.modules[str(place / "my_net.py")]  # as in a process of its own
    said = refused(analyze, *of)
    assert "my_net.py does not exist" in said
    assert "if it has moved, name it with --model PATH/my_net.py:MyNet" in said
    moved = ("--model", "sub/my_net.py:MyNet")
    good(analyze, *of, *moved, "--output", "out")
    assert summary("out")["data"]["weights"].startswith("epoch 1 of")
    assert (
        "is of 'my_net.py:MyNet': leave --model out, which names my_net.py:unmarked"
        in refused(analyze, *of, "--model", "sub/my_net.py:unmarked")
    )
    (place / "my_net.py").write_text(NET + "# more\n")
    said = good(analyze, *of, "--output", "changed").stderr
    assert "my_net.py has changed since" in said and said.count("\n") == 1
    (place / "my_net.py").write_text(NET.replace("self.two = ", "self.three = "))
    del sys.modules[str(place / "my_net.py")]
    assert run(analyze, *of).exit_code == 2
    (place / "my_net.py").write_text(NET.replace("Linear(4", "Linear(5"))
    del sys.modules[str(place / "my_net.py")]
    result = run(analyze, *of)
    assert result.exit_code == 2 and "head.weight" in result.stderr
    assert "does not fit 'my_net.py:MyNet'" in result.stderr


def test_weights_alone_choose_no_file_that_is_run(place, trained):
    (place / "alone").mkdir()
    (trained / "last.safetensors").rename(place / "alone" / "x.safetensors")
    del sys.modules[str(place / "my_net.py")]
    (place / "my_net.py").write_text("raise AssertionError('was run')")
    said = refused(analyze, "--checkpoint", "alone/x.safetensors", *SMALL)
    assert "is of 'my_net.py:MyNet': it is in a file of somebody's own" in said
    assert "name it with --model PATH/my_net.py:MyNet" in said


def test_no_model_beside_a_checkpoint_of_the_zoo(place):
    result = train_network(
        TrainConfig(models.find("resnet20"), epochs=1, warmup_epochs=0, batch_size=2,
                    limit_train=2, limit_test=2)
    )  # fmt: skip
    said = refused(analyze, "--checkpoint", result.folder, "--model", "my_net.py:MyNet")
    assert "is of 'resnet20': leave --model out, which names my_net.py:MyNet" in said


RETURNS = "def MyNet(num_classes, image_size, in_channels, rng):\n    return "
HEAD = "from tinyflow import nn, ops\n"
MODULE = """
class MyNet(nn.Module):
    def __init__(self, num_classes, image_size, in_channels, rng):
        self.fc = nn.Linear(in_channels * image_size**2, num_classes, rng=rng)

    def forward(self, x):
"""
MISTAKES = {
    "absent": ("no.py:MyNet", NET, "no.py does not exist"),
    "no name": ("my_net.py", NET, "write the file and the class or function in it"),
    "no file": ("my_net:MyNet", NET, "write the file and the class or function in it"),
    "folder": ("f.py:MyNet", NET, "f.py is a folder, not a file"),
    "typing error": ("my_net.py:MyNte", NET, "defines no MyNte; it has MyNet"),
    "empty": ("my_net.py:MyNet", "", "defines no MyNet; nor anything else to call"),
    "number": ("my_net.py:MyNet", "MyNet = 3", "MyNet in /.*my_net.py is a int"),
    "keywords": (
        "my_net.py:MyNet",
        "def MyNet(classes, rng): pass",
        "my_net.py:MyNet must take num_classes, image_size, in_channels, rng as "
        r"keywords \(missing a required argument: 'classes'\)",
    ),
    "no module": ("my_net.py:MyNet", f"{RETURNS}3", "my_net.py:MyNet gave a int"),
    "no parameters": (
        "my_net.py:MyNet",
        f"{HEAD}{RETURNS}nn.ReLU()",
        "has no parameters",
    ),
    "syntax": (
        "my_net.py:MyNet",
        "x = 1\nclass MyNet(:\n",
        r"cannot be run: SyntaxError: invalid syntax \(my_net.py, line 2\)",
    ),
    "raises": (
        "my_net.py:MyNet",
        "\n1 / 0\n",
        r"ZeroDivisionError: division by zero \(my_net.py, line 2\)",
    ),
    "ends": ("my_net.py:MyNet", "import sys\nsys.exit('bye')", "SystemExit: bye"),
    "no text": ("my_net.py:MyNet", "# \x00\n", "cannot be run: "),
    "cannot be built": (
        "my_net.py:MyNet",
        f"{RETURNS}rng.no_such()",
        r"has no attribute 'no_such' \(my_net.py, line 2\)",
    ),
    "cannot be called": (
        "my_net.py:MyNet",
        f"{HEAD}{MODULE}        return self.nothing(x)",
        r"AttributeError: .*'nothing' \(my_net.py, line 8\)",
    ),
    "fails in evaluation": (
        "my_net.py:MyNet",
        f"{HEAD}{MODULE}        assert self.training, 'a\\nb'\n"
        "        return self.fc(ops.flatten(x, 1))",
        r"AssertionError: a b \(my_net.py, line 8\)",
    ),
    "shape": (
        "my_net.py:MyNet",
        f"{HEAD}{MODULE}        return ops.flatten(x, 1)",
        r"output .*is \(2, 3072\), not \(2, 10\)",
    ),
    "no tensor": (
        "my_net.py:MyNet",
        f"{HEAD}{MODULE}        return [x]",
        r"is a list, not a Tensor|must be a Tensor",
    ),
}


@pytest.mark.parametrize("command", [train, analyze])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_one_sentence(place, mistake, command):
    reference, text, words = MISTAKES[mistake]
    (place / "my_net.py").write_text(text)
    (place / "f.py").mkdir()
    mode = ("--mode", "eval") if command is analyze and "eval" in mistake else ()
    options = TRAIN if command is train else (*SMALL, *mode)
    said = refused(command, "--model", reference, *options)
    assert re.search(words, said), said


def test_what_is_interrupted_is_no_mistake(place):
    (place / "my_net.py").write_text("raise KeyboardInterrupt")
    result = run(train, "--model", "my_net.py:MyNet", *TRAIN)
    assert result.exit_code == 130 and "interrupted" in result.stderr


def test_what_is_not_marked_is_not_found(place):
    own = ("--model", "my_net.py:unmarked", *SMALL)
    for command in ("compare", "blocks", "dense", "paths"):
        said = refused(analyze, command, *own)
        assert "unmarked has no blocks to be found: let each block be" in said
        assert 'fork(x, "residual", "shortcut")' in said and "mark(" in said
    options = ("--model", "my_net.py:unmarked", "--trace-every", "1", *TRAIN)
    said = refused(train, *options, code=1)
    assert "leave --trace-every out, or let each block be a Module" in said
    good(train, "--model", "my_net.py:unmarked", *TRAIN)


def test_the_claims_are_not_about_it(place, trained):
    for chosen in (("--model", "my_net.py:MyNet"), ("--checkpoint", trained)):
        said = refused(analyze, "claims", *chosen, *SMALL)
        assert "about the papers' networks, not about MyNet" in said
    said = refused(analyze, "depth", "--model", "my_net.py:MyNet")
    assert "leave --model" in said


def test_a_network_in_a_notebook_needs_no_file(place):
    def make(num_classes, image_size, in_channels, rng):
        flat = in_channels * image_size**2
        fc = nn.Linear(flat, num_classes, rng=rng)
        return nn.Sequential(flatten=nn.Flatten(), fc=fc)

    mine = Network("mine", make, adam_lr=0.003)
    config = TrainConfig(mine, epochs=1, warmup_epochs=0, batch_size=4, limit_train=8)
    assert (config.optimizer_name, config.learning_rate) == ("adamw", 0.003)
    result = train_network(config)
    assert result.folder == Path("runs/mine-shapes-1")
    model, told = load_checkpoint(result.folder, lambda name: {"mine": mine}[name])
    assert told.model == "mine" and model.fc.weight.shape == (10, 3072)
    with pytest.raises(ValueError, match=r"write models\.find\(name\) or Network"):
        TrainConfig("resnet20").validate()


def test_a_file_may_draw_as_it_likes(place):
    """What is built to be loaded takes its weights from the file, however drawn."""
    (place / "my_net.py").write_text(
        "from tinyflow import nn\n"
        "def MyNet(num_classes, image_size, in_channels, rng):\n"
        "    fc = nn.Linear(3 * 32 * 32, num_classes, rng=rng)\n"
        "    fc.bias.data[...] = rng.standard_normal(10) + rng.standard_normal()\n"
        "    fc.bias.data[0] = rng.normal()\n"
        "    return nn.Sequential(nn.Flatten(), fc)\n"
    )
    good(train, "--model", "my_net.py:MyNet", *TRAIN)
    own = own_network("my_net.py:MyNet")
    model, _ = load_checkpoint("runs/MyNet-shapes-1", lambda name: own)
    assert len(set(model.parameters()[1].data.tolist())) == 10


# --- whose modules are whose ---------------------------------------------------------


def test_nothing_inside_the_package_imports_a_zoo():
    for file in (ROOT / "tinyflow").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            else:
                continue
            for name in names:
                assert "models" not in name.split("."), (file, name)


@pytest.mark.parametrize("kind", ["models.py", "models/__init__.py"])
def test_a_module_models_of_the_users_breaks_nothing(place, kind):
    """One that cannot be imported where it is not meant, and can where it is."""
    hostile = place / "here" / kind
    hostile.parent.mkdir(parents=True)
    hostile.write_text("raise RuntimeError('of the user')")
    (place / "net").mkdir()
    (place / "net" / "my_net.py").write_text("from models import MyNet\n")
    (place / "net" / "models.py").write_text(NET)
    for script, options in (
        ("train.py", ("--model", "../net/my_net.py:MyNet", *TRAIN)),
        ("analyze.py", ("blocks", "--checkpoint", "runs/MyNet-shapes-1", *SMALL)),
        ("train.py", ("--model", "resnet20", *TRAIN)),
    ):
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *options],
            cwd=place / "here",
            env={**os.environ, "PYTHONPATH": os.fspath(place / "here")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr
