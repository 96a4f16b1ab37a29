"""Options of both commands that are wrong, contradictory or without effect.

Each is answered with one sentence, exit code 2 and nothing written.
"""

import os

import pytest
from typer.testing import CliRunner

import models
from tinyflow.commands import analyze, train
from tinyflow.flow.claims import CLAIMS
from tinyflow.train import TrainConfig

RUN = ("--model", "resnet20", "--limit-train", "8", "--limit-test", "4")
STEP = (*RUN, "--schedule", "step", "--milestones")
CYCLE = (*RUN, "--schedule", "onecycle")
TRAIN = [
    ((), "name a network with --model"),
    (("--model", ""), "--model is empty"),
    (("--model", "résnet20"), "unknown model 'résnet20'"),
    (("--model", "resnet20", "--model", "vgg"), "--model is given 2 times"),
    ((*RUN, "--output", "a", "--output", "b"), "--output is given 2 times"),
    ((*RUN, "--output", ""), "--output is empty"),
    ((*RUN, "--data-dir", ""), "--data-dir is empty"),
    ((*RUN, "--dataset", ""), "--dataset is empty"),
    ((*RUN, "--dataset", "Shapes"), "--dataset 'Shapes' is unknown; choose"),
    ((*RUN, "--optimizer", "adam", "--momentum", "0.5"), "of sgd and rmsprop, and"),
    ((*RUN, "--optimizer", "adamw", "--momentum", "0.9"), "--momentum is of sgd"),
    (("--model", "vgg", "--momentum", "0.8"), "adamw has its own"),
    ((*RUN, "--recipe", "he2014"), "--recipe 'he2014' is unknown; choose simonyan2014"),
    ((*RUN, "--recipe", "he2015", "--optimizer", "adam"), "give one with --lr for"),
    (
        (*RUN, "--recipe", "huang2017", "--epochs", "4", "--milestones", "5"),
        "not all reached",
    ),
    ((*RUN, "--warmup-constant"), "--warmup-constant needs --warmup-start"),
    ((*CYCLE, "--warmup-constant"), "--warmup-constant is not for onecycle"),
    (("recipes", "he2015"), "unexpected extra argument"),
    ((*RUN, "--nesterov", "--momentum", "0"), "--nesterov needs a --momentum above 0"),
    ((*RUN, "--optimizer", "adam", "--nesterov"), "--nesterov is of sgd, and adam"),
    ((*RUN, "--optimizer", "adam", "--no-decay-norms"), "--decay-norms is of --weight"),
    ((*RUN, "--data-dir", "."), "--data-dir is not for shapes"),
    ((*RUN, "--num-classes", "10"), "--num-classes is of --list-models"),
    ((*RUN, "--filter", "vgg*"), "--filter is of --list-models"),
    (("--list-models", "--model", "vgg"), "leave --model out"),
    (("--list-models", "--filter", ""), "--filter is empty"),
    (("--list-models", "--lr", "1", "--epochs", "2"), "leave --epochs, --lr out"),
    (("--list-models", "--num-classes", "-3"), "--num-classes must be 1 or more"),
    ((*RUN, "--epochs", "2.5"), "valid integer"),
    ((*RUN, "--epochs", "-1"), "--epochs must be 1 or more"),
    ((*RUN, "--epochs", "∞"), "--epochs"),
    ((*RUN, "--batch-size", "-8"), "--batch-size must be 1 or more"),
    ((*RUN, "--batch-size", "1e3"), "--batch-size"),
    ((*RUN, "--lr", "inf"), "--lr must be a finite number"),
    ((*RUN, "--lr", "nan"), "--lr must be a finite number"),
    ((*RUN, "--lr", "1,5"), "--lr"),
    ((*RUN, "--momentum", "-0.1"), "--momentum must be a finite number"),
    ((*RUN, "--weight-decay", "inf"), "--weight-decay must be a finite number"),
    ((*RUN, "--label-smoothing", "1"), "--label-smoothing must be"),
    ((*RUN, "--warmup-epochs", "nan"), "--warmup-epochs must be a finite number"),
    ((*RUN, "--epochs", "1", "--warmup-epochs", "1"), "leaves nothing of --epochs 1"),
    ((*RUN, "--clip-grad", "nan"), "--clip-grad must be a finite number"),
    ((*RUN, "--seed", "-1"), "--seed must be 0 or more"),
    ((*RUN, "--device", "gpu"), "--device 'gpu' is unknown; choose auto, cpu, cuda"),
    ((*RUN, "--precision", "float16"), "--precision 'float16' is unknown"),
    ((*RUN, "--device", "cpu", "--precision", "tf32"), "--precision tf32 needs a GPU"),
    ((*RUN, "--schedule", "poly"), "--schedule 'poly' is unknown"),
    ((*RUN, "--milestones", "0.5"), "--milestones is of --schedule step"),
    ((*STEP, "0.5;1"), "--milestones '0.5;1' must be numbers with commas"),
    ((*STEP, "0.5,"), "--milestones '0.5,' must be numbers with commas"),
    ((*STEP, "0.5,2"), "--milestones 0.5,2 must rise: all below 1, parts of the run"),
    ((*STEP, "2,1"), "--milestones 2,1 must rise"),
    ((*STEP, "0.5,0.5"), "--milestones 0.5,0.5 must rise"),
    ((*STEP, "nan"), "--milestones must be a finite number, above 0"),
    ((*STEP, "-1,2"), "--milestones must be a finite number, above 0"),
    ((*STEP, "82,123"), "are not all reached in --epochs 4"),
    ((*RUN, "--gamma", "0.5"), "--gamma is of --schedule step or exponential or plat"),
    ((*STEP, "0.5", "--gamma", "1"), "--gamma must be a finite number, above 0 and"),
    ((*RUN, "--schedule", "exponential"), "exponential needs --decay-epochs"),
    ((*RUN, "--decay-epochs", "2"), "--decay-epochs is of --schedule exponential"),
    ((*RUN, "--decay-epochs", "0"), "--decay-epochs must be a finite number, above 0"),
    ((*RUN, "--patience", "3"), "--patience is of --schedule plateau"),
    ((*RUN, "--patience", "-3"), "--patience must be a finite number"),
    ((*RUN, "--min-lr", "-1"), "--min-lr must be a finite number, 0 or more"),
    ((*RUN, "--lr", "0.1", "--min-lr", "0.1"), "--min-lr 0.1 must be below --lr, 0.1"),
    ((*STEP, "0.5", "--min-lr", "0.001"), "--min-lr is of --schedule cosine or plat"),
    ((*CYCLE, "--warmup-epochs", "1"), "--warmup-epochs is not for onecycle"),
    ((*CYCLE, "--warmup-start", "0.1"), "--warmup-start is not for onecycle"),
    ((*RUN, "--warmup-start", "1"), "--warmup-start must be a finite number, 0 or"),
    ((*RUN, "--warmup-start", "0.1", "--warmup-epochs", "0"), "of --warmup-epochs"),
    ((*RUN, "--slow-until", "80"), "--slow-until must be a finite number, above 0 and"),
    ((*RUN, "--trace-every", "0"), "--trace-every must be 1 or more"),
    ((*RUN, "--limit-train", "0"), "--limit-train must be 1 or more"),
    ((*RUN, "--batch-size", "9"), "choose at most 8"),
    ((*RUN, "--no-such-option"), "no such option"),
    ((*RUN, "left", "over"), "no such command"),
    ((*RUN, "--dataset", "mnist", "--augment", "--data-dir", "."), "mirrors images"),
    ((*RUN, "--dataset", "cifar10"), "--data-dir or the environment variable"),
    ((*RUN, "--output", "~no-such-user/x"), "there is no such home folder"),
]
ANALYZE = [
    (("--model", ""), "--model is empty"),
    (("--dataset", ""), "--dataset is empty"),
    (("--seed", "1.5"), "--seed"),
    (("--seed", "nan"), "--seed"),
    (("--batch-size", "-1"), "--batch-size must be 1 or more"),
    (("--batch-size", str(10**30)), "choose at most"),
    (("--dtype", "float16"), "--dtype 'float16' is unknown"),
    (("--device", ""), "--device is empty"),
    (("--data-dir", "."), "leave --data-dir out"),
    (("--dataset", "shapes", "--data-dir", "."), "leave --data-dir out"),
    (("--dataset", "mnist"), "--data-dir or the environment variable"),
    (("--checkpoint", "no"), "no checkpoint no"),
    (("--checkpoint", "a", "--checkpoint", "b"), "--checkpoint is given 2 times"),
    (("--checkpoint", "no", "--model", "vgg"), "names its own network"),
    (("block",), "did you mean"),
    (("blokcs", "--model", "vgg"), "no such command"),
    (("--output", "x", "blocks"), "put --output after the command"),
    (("--model", "vgg", "depth"), "put --model after the command"),
    (("blocks", "extra"), "unexpected extra argument"),
    (("blocks", "--veit", "3"), "no such option"),
    (("paths", "--veit", "-1"), "--veit must be 0 or more"),
    (("paths", "--veit", "many"), "--veit"),
    (("counterfactual",), "missing argument"),
    (("counterfactual", "layer1.0"), "missing argument"),
    (("counterfactual", "layer1.0", "Residual"), "unknown branch 'Residual'"),
    (("counterfactual", "layer1.0", ""), "--branch is empty"),
    (("counterfactual", "a", "residual", "--factor", "inf"), "--factor must be"),
    (("depth", "--depths", ""), "--depths is empty"),
    (("depth", "--depths", "20,"), "--depths '20,'"),
    (("depth", "--depths", "²"), "--depths '²'"),
    (("depth", "--depths", "20;32"), "--depths '20;32'"),
    (("depth", "--depths", "-20"), "--depths"),
    (("depth", "--depths", "20,21"), "20, 32, 44, 56, 110"),
    (("depth", "--seeds", "-2"), "--seeds must be 1 or more"),
    (("depth", "--checkpoint", "x"), "leave --model and --checkpoint out"),
    (("claims", "--claim", ""), "--claim is empty"),
    (("claims", "--claim", "noh2-remain"), "noh2-remains"),
    (("claims", "--seeds", "0"), "--seeds must be 1 or more"),
    (("claims", "--train-steps", "-1"), "--train-steps must be 0 or more"),
    (("claims", "--train-steps", "5", "--checkpoint", "x"), "leave out one of the two"),
    (("training",), "missing argument"),
    (("training", "nowhere"), "trace.csv"),
    (("training", "nowhere", "--seed", "1"), "no such option"),
]


@pytest.mark.parametrize(
    ("command", "program", "arguments", "words"),
    [(train, "train.py", *row) for row in TRAIN]
    + [(analyze, "analyze.py", *row) for row in ANALYZE],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else None,
)
def test_one_sentence_and_nothing_written(
    tmp_path, monkeypatch, command, program, arguments, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TINYFLOW_DATA", raising=False)
    result = CliRunner().invoke(command.app, list(arguments), obj=models.ZOO)
    assert result.exit_code == 2, result.output
    assert words in result.stderr.lower() or words in result.stderr
    assert result.stderr.startswith(f"{program}: ")
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_what_only_a_gpu_knows_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "train", lambda *args: 1 / 0)  # far enough
    for option in ("--deterministic", "--no-capture"):
        result = CliRunner().invoke(
            train.app, [*RUN, "--device", "cpu", option], obj=models.ZOO
        )
        assert f"{option.replace('no-', '')} changes nothing" in result.stderr
    result = CliRunner().invoke(train.app, [*RUN, "--device", "cpu"], obj=models.ZOO)
    assert result.stderr == ""


@pytest.mark.parametrize("command", ["", *"compare blocks dense paths".split(),
                                     "counterfactual", "importance", "claims",
                                     "depth"])  # fmt: skip
def test_help_shows_every_default(command):
    words = [command] if command else []
    help_text = (
        CliRunner().invoke(analyze.app, [*words, "--help"], obj=models.ZOO).stdout
    )
    said = " ".join(help_text.split())
    for default in ("16", "0", "float64", "train", "auto", "shapes"):
        assert f"[default: {default}]" in said
    assert "[default: runs/analysis-…]" in said and "[env var: TINYFLOW_DATA]" in said


def test_help_names_every_claim_and_branch():
    said = CliRunner().invoke(analyze.app, ["claims", "--help"], obj=models.ZOO).stdout
    assert set(CLAIMS) <= set(said.split())
    said = (
        CliRunner()
        .invoke(analyze.app, ["counterfactual", "--help"], obj=models.ZOO)
        .stdout
    )
    assert "residual, shortcut, scale, squeeze" in " ".join(said.split())
    said = CliRunner().invoke(train.app, ["--help"], obj=models.ZOO).stdout
    assert "[default: 4; ImageNet's networks: 2]" in " ".join(said.split())


@pytest.mark.parametrize(
    ("lr", "advice"),
    [
        (1e9, 0.1),
        (2, 0.1),
        (1, 0.1),
        (0.9, 0.09),
        (0.1, 0.01),
        (1e-3, 1e-4),
        (None, 0.01),
    ],
)
def test_a_lower_rate_is_one_to_try(lr, advice):
    assert TrainConfig(models.find("resnet20"), lr=lr).lower_rate == pytest.approx(
        advice
    )


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    arguments = ("--model", "resnet20", "--dataset", "mnist", "--data-dir", "~/d")
    result = CliRunner().invoke(train.app, arguments, obj=models.ZOO)
    assert result.exit_code == 1 and f"{tmp_path}/d" in result.stderr
    monkeypatch.setenv("TINYFLOW_DATA", "~/d")
    result = CliRunner().invoke(analyze.app, ["--dataset", "mnist"], obj=models.ZOO)
    assert result.exit_code == 2 and f"{tmp_path}/d" in result.stderr
    result = CliRunner().invoke(analyze.app, ["training", "~/run"], obj=models.ZOO)
    assert f"{tmp_path}/run" in result.stderr
