"""Every analysis of every family; what was analysed; and what Ctrl-C keeps."""

import json
import struct

import numpy as np
import pytest
from typer.testing import CliRunner

import models
from tinyflow.commands import analyze, train
from tinyflow.flow import progress as progress_module
from tinyflow.flow import series
from tinyflow.flow.show import figures
from tinyflow.train.checkpoint import Metadata, save_checkpoint

SMALL = ("--batch-size", "2", "--dtype", "float32", "--device", "cpu")
FAMILIES = {
    "vgg11": "vgg", "vgg11_bn": "vgg", "resnet18": "residual", "plain18": "plain",
    "resnet50": "residual", "se_resnet50": "residual", "densenet121": "dense",
    "resnet20": "residual", "plain20": "plain", "se_resnet20": "residual",
}  # fmt: skip
COMMANDS = {
    "compare": (),
    "blocks": (),
    "dense": (),
    "paths": ("--veit", "0"),
    "counterfactual": ("layer1.1", "residual"),
    "importance": (),
    "claims": ("--claim", "noh1-depth", "--claim", "noh2-remains",
               "--claim", "noh5-sum", "--claim", "noh3-component"),
}  # fmt: skip
INSTEAD = {  # which command suits a family that another one does not
    ("blocks", "dense"): "analyze.py dense --model densenet121",
    ("dense", "vgg"): "analyze.py blocks --model",
    ("dense", "plain"): "analyze.py blocks --model",
    ("dense", "residual"): "analyze.py blocks --model",
    ("paths", "vgg"): "analyze.py blocks --model",
    ("paths", "plain"): "analyze.py blocks --model",
    ("paths", "dense"): "analyze.py dense --model densenet121",
    ("counterfactual", "vgg"): "analyze.py blocks --model",
    ("counterfactual", "plain"): "analyze.py blocks --model",
    ("counterfactual", "dense"): "analyze.py dense --model densenet121",
    ("importance", "vgg"): "analyze.py blocks --model",
    ("importance", "plain"): "analyze.py blocks --model",
    ("importance", "dense"): "analyze.py dense --model densenet121",
}
QUICK = {
    ("resnet20", "paths"),
    ("vgg11", "paths"),
    ("densenet121", "counterfactual"),
    ("plain20", "dense"),
    ("se_resnet20", "claims"),
    ("vgg11_bn", "blocks"),
    ("resnet20", "importance"),
    ("plain20", "importance"),
}
TRACED = ("vgg11", "vgg11_bn", "densenet121", "plain20", "resnet20", "se_resnet20")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working folder, no drawing, no lines of progress."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYFLOW_DATA", raising=False)
    monkeypatch.setattr(figures, "save", lambda figure, path: [])
    monkeypatch.setattr(progress_module, "EVERY", 3600.0)
    return tmp_path


def run(*arguments, app=analyze.app):
    return CliRunner().invoke(app, list(map(str, arguments)), obj=models.ZOO)


def summary(folder):
    return json.loads((folder / "summary.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("family", "command"),
    [
        pytest.param(f, c, marks=() if (f, c) in QUICK else pytest.mark.slow)
        for f in FAMILIES
        for c in COMMANDS
    ],
)
def test_every_analysis_of_every_family(place, family, command):
    dtype = ("--dtype", "float64")  # two images at 1x1 pixels strain float32
    arguments = (command, *COMMANDS[command], "--model", family, *SMALL, *dtype)
    result = run(*arguments, "--output", "out")
    instead = INSTEAD.get((command, FAMILIES[family]))
    if instead is not None:
        assert result.exit_code == 2 and instead in result.stderr
        assert result.stderr.count("\n") == 1 and not (place / "out").exists()
        return
    assert result.exit_code == 0, result.output
    found = summary(place / "out")
    assert found["conserved"] and found["settings"]["model"] == [family]
    assert found["settings"]["dataset"] == found["data"]["dataset"] == "shapes"
    assert family in result.stdout


@pytest.mark.parametrize(
    "model",
    [pytest.param(m, marks=() if m == "vgg11" else pytest.mark.slow) for m in TRACED],
)
def test_every_family_can_be_traced_and_drawn(place, model):
    options = ("--epochs", "1", "--warmup-epochs", "0", "--limit-train", "6",
               "--limit-test", "2", "--batch-size", "2", "--device", "cpu")  # fmt: skip
    arguments = ("--model", model, "--trace-every", "2", "--output", "run", *options)
    result = run(*arguments, app=train.app)
    assert result.exit_code == 0, result.output
    result = run("training", "run", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "2 traced steps, 0 to 2" in result.stdout
    assert "shapes, 10 classes" in " ".join(result.stdout.split())
    found = summary(place / "out")
    assert found["data"]["model"] == model and found["data"]["seed"] == 0
    assert found["conserved"]


def test_a_network_with_nothing_to_trace_says_so(place, monkeypatch):
    from tests.train.small import tiny

    monkeypatch.setitem(models.MODELS, "tiny", models.Network("tiny", tiny, 32, 0.05))
    result = run("--model", "tiny", "--trace-every", "1", app=train.app)
    assert result.exit_code == 1 and "leave --trace-every out" in result.stderr
    assert result.stderr.count("\n") == 1 and not any(place.rglob("*.csv"))


def write_mnist(folder, n=40):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix in ("train", "t10k"):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8).tobytes()
        head = struct.pack(">4I", 0x803, n, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + pixels)
        head = struct.pack(">2I", 0x801, n)
        labels = rng.integers(0, 10, n, dtype=np.uint8).tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels)
    return folder


@pytest.fixture
def digits(place):
    """A run on MNIST, by a config.json that says where its files are."""
    data = write_mnist(place / "data")
    (place / "run").mkdir()
    model = models.build_model("resnet20", image_size=28, in_channels=1, seed=5)
    told = Metadata("resnet20", 10, 28, 1, "mnist", 5, 3, 0.5)
    save_checkpoint(place / "run" / "last.safetensors", model, told)
    config = {"dataset": "mnist", "data_dir": str(data)}
    (place / "run" / "config.json").write_text(json.dumps(config))
    return place / "run"


@pytest.mark.parametrize(
    "command",
    [
        ("blocks",),
        ("paths", "--veit", "0"),
        ("importance",),
        ("counterfactual", "layer1.1", "residual"),
        ("claims", "--claim", "noh2-remains"),
        pytest.param(("compare",), marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_brings_data_classes_epoch_and_seed(place, digits, command):
    result = run(*command, "--checkpoint", "run", *SMALL, "--output", "out")
    assert result.exit_code == 0, result.output
    found = summary(place / "out")
    assert found["settings"]["dataset"] == "mnist"
    assert found["settings"]["model"] == ["resnet20"]
    data = found["data"]
    assert (data["dataset"], data["classes"], data["image_size"]) == ("mnist", 10, 28)
    assert (data["epoch"], data["seed"], data["batch_seed"]) == (3, 5, 0)
    assert data["pixel_mean"] == [0.1307] and data["normalisation"]
    said = " ".join(result.stdout.split())
    for words in ("mnist, 10 classes", "epoch 3 of run, seed 5", "batch statistics"):
        assert words in said
    if command[0] == "claims":
        rows = {row["mode"]: row for row in found["claims"]}
        assert rows["trained"]["seeds"] == "5"
        assert "epoch 3 of run" in rows["trained"]["weights"]


def test_a_checkpoint_whose_data_are_gone_is_one_sentence(place, digits):
    (place / "data").rename(place / "moved")
    result = run("blocks", "--checkpoint", "run", *SMALL)
    assert result.exit_code == 2 and "--data-dir" in result.stderr
    assert "which is not there" in result.stderr and result.stderr.count("\n") == 1
    (digits / "config.json").write_text("[")
    result = run("blocks", "--checkpoint", "run", *SMALL)
    assert result.exit_code == 2 and "TINYFLOW_DATA" in result.stderr
    arguments = ("blocks", "--checkpoint", "run", "--data-dir", "moved", *SMALL)
    assert run(*arguments).exit_code == 0


def test_what_other_data_a_network_was_trained_on_is_said(place):
    model = models.build_model("resnet20")
    told = Metadata("resnet20", 10, 32, 3, "cifar10", 0, 1, 0.5)
    save_checkpoint(place / "x.safetensors", model, told)
    arguments = ("blocks", "--checkpoint", "x.safetensors", "--dataset", "shapes")
    result = run(*arguments, *SMALL, "--output", "out")
    assert result.exit_code == 0, result.output
    assert "trained on cifar10" in " ".join(result.stdout.split())
    assert summary(place / "out")["data"]["trained_on"] == "cifar10"


def test_what_small_images_cannot_feed_is_left_out_and_said(place, digits, monkeypatch):
    monkeypatch.setattr(analyze, "FOUR", ("vgg", "densenet", "resnet20"))
    data = ("--dataset", "mnist", "--data-dir", "data", *SMALL)
    result = run(*data, "--output", "out")
    assert result.exit_code == 0, result.output
    assert "left out: vgg19, densenet121" in result.stdout
    assert "vgg19" in summary(place / "out")["left_out"][0]
    result = run("claims", "--claim", "noh1-limit", *data, "--output", "claims")
    assert result.exit_code == 0, result.output
    assert "left out" in result.stdout and "vgg19" in result.stdout
    for arguments in (("--model", "vgg", *data), ("dense", *data)):
        result = run(*arguments)
        assert result.exit_code == 2 and "se_resnet" in result.stderr


def test_claims_that_no_network_belongs_to_are_said(place):
    only = ("--claim", "noh2-remains", "--model")
    result = run("claims", *only, "vgg11", *SMALL)
    assert result.exit_code == 2 and "leave --model out" in result.stderr
    arguments = ("--claim", "noh5-sum", *only, "resnet20", *SMALL)
    result = run("claims", *arguments, "--output", "out")
    assert result.exit_code == 0 and "not judged" in result.stdout
    assert "noh5-sum" in summary(place / "out")["left_out"][0]


def stopping(found, after):
    """`found`, with Ctrl-C once so many of it are there."""
    for i, one in enumerate(found):
        if i == after:
            raise KeyboardInterrupt
        yield one


@pytest.mark.parametrize(
    ("place_of", "name", "arguments", "key"),
    [
        (series, "iter_claims", ("claims", "--claim", "quadir-relu", "--claim",
                                 "noh2-remains", "--model", "resnet20"), "claims"),
        (series, "iter_depths", ("depth", "--depths", "20"), "points"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("after", [0, 1])
def test_what_was_finished_survives_an_interrupt(
    place, monkeypatch, place_of, name, arguments, key, after
):
    whole = getattr(place_of, name)
    monkeypatch.setattr(
        place_of, name, lambda *args, **how: stopping(whole(*args, **how), after)
    )
    result = run(*arguments, *SMALL, "--output", "out")
    assert result.exit_code == 130
    if not after:
        assert "nothing was written" in result.stderr and not (place / "out").exists()
        return
    assert "what was finished is kept in out" in result.stderr
    found = summary(place / "out")
    assert found["interrupted"] is True and len(found[key]) == 1
    assert list((place / "out").glob("*.csv"))


def test_networks_that_were_finished_survive_an_interrupt(place, monkeypatch):
    from tinyflow.commands import analysis

    honest = analysis.look

    def look(source, network, watch):
        if network.name != "resnet20":
            raise KeyboardInterrupt
        return honest(source, network, watch)

    monkeypatch.setattr(analysis, "look", look)
    names = ("--model", "resnet20", "--model", "plain20")
    for command in (("compare",), ("blocks",), ("paths", "--veit", "0")):
        folder = f"out-{command[0]}"
        result = run(*command, *names, *SMALL, "--output", folder)
        assert result.exit_code == 130, result.output
        found = summary(place / folder)
        assert found["interrupted"] is True and list(found["models"]) == ["resnet20"]
        assert found["settings"]["model"] == ["resnet20"]


def test_weights_that_are_not_finite_are_named(place):
    model = models.build_model("resnet20")
    dict(model.named_parameters())["fc.bias"].data[:] = np.nan
    told = Metadata("resnet20", 10, 32, 3, "shapes", 0, 1, 0.5)
    save_checkpoint(place / "x.safetensors", model, told)
    result = run("blocks", "--checkpoint", "x.safetensors", *SMALL)
    assert result.exit_code == 2 and "nan" in result.stderr.lower()
