"""What surrounds the GPU's engine, on a CPU: options, batches, the benchmark."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import models
from tests.fakes.host_gpu import gpu_or_skip
from tinyflow import nn
from tinyflow.commands import train
from tinyflow.kernels.cuda.settings import PRECISIONS, configured, settings
from tinyflow.train import config as train_config
from tinyflow.train import prepare
from tinyflow.train.checks import ConfigError
from tinyflow.train.config import TrainConfig
from tinyflow.train.precision import activations, choose

# --- options -------------------------------------------------------------------------


def test_precisions_are_those_of_the_engine() -> None:
    assert train_config.PRECISIONS == PRECISIONS
    with pytest.raises(ConfigError, match="choose float32, tf32, bfloat16"):
        TrainConfig(models.find("resnet20"), precision="float16").validate()


def test_a_cpu_has_float32_only() -> None:
    assert activations("float32", "cpu") is np.float32
    for precision in PRECISIONS[1:]:
        with pytest.raises(ConfigError, match=f"{precision} needs a GPU; on a CPU"):
            activations(precision, "cpu")
    arguments = "--model resnet20 --device cpu --precision bfloat16".split()
    result = CliRunner().invoke(train.app, arguments, obj=models.ZOO)
    assert result.exit_code == 2
    assert "--precision bfloat16 needs a GPU" in result.stderr


def test_a_gpu_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert activations("tf32", "cuda") is np.float32
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert activations("bfloat16", "cuda") is ml_dtypes.bfloat16
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ConfigError, match="pip install ml_dtypes"):
        activations("bfloat16", "cuda")


def test_deterministic_runs_do_not_tune() -> None:
    with configured():
        choose("tf32", deterministic=True)
        assert settings().deterministic and not settings().autotune
        choose("float32", deterministic=False)
        assert settings().tunes and not settings().deterministic


# --- batches -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "most", "size"),
    [(10_000, 512, 500), (10_001, 512, 501), (50, 256, 50), (512, 512, 512), (3, 1, 1)],
)
def test_batches_are_even(images: int, most: int, size: int) -> None:
    """None is larger, and there are no more than there must be."""
    assert prepare._evenly(images, most) == size
    assert size <= most and -(-images // size) == -(-images // most)


def test_a_gpu_is_tested_in_larger_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(
        models.find("resnet20"), batch_size=16, limit_train=64, limit_test=100
    )
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(prepare.precision, "choose", lambda *how: None)
    monkeypatch.setattr(
        prepare, "_on_gpu", lambda c, m, o, loaders, dtype: (loaders, None)
    )
    for device, size in (("cpu", 16), ("cuda", 50)):
        chosen = (device, "pretended")
        monkeypatch.setattr(prepare, "choose_device", lambda name, c=chosen: c)
        ready = prepare.prepare(config)
        assert (ready.train.batch_size, ready.test.batch_size) == (16, size)


@pytest.mark.parametrize(
    "option",
    [{"rand_augment": 1}, {"cutout": 1}, {"mixup": 1}, {"normalize": "pixel"}],
    ids=str,
)
def test_what_a_gpu_does_not_do_to_images_is_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]
) -> None:
    monkeypatch.setattr(prepare, "choose_device", lambda name: ("cuda", "pretended"))
    monkeypatch.setattr(prepare, "images_of", None)
    config = TrainConfig(models.find("resnet20"), **option)
    with pytest.raises(ConfigError, match="work on a CPU only: leave them out"):
        prepare.prepare(config)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gpu_training_leaves_a_run(tmp_path: Path, precision: str) -> None:
    gpu_or_skip()
    line = (
        f"--model resnet20 --epochs 2 --batch-size 32 --limit-train 200 --augment "
        f"--limit-test 50 --device cuda --precision {precision} --output {tmp_path}/run"
    )
    result = CliRunner().invoke(train.app, line.split(), obj=models.ZOO)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts["resolved"]["precision"] == precision
