"""Training: options, the loop, what a run leaves behind."""

from tinyflow.train.checkpoint import CheckpointError, Metadata, load_checkpoint
from tinyflow.train.checks import ConfigError
from tinyflow.train.config import TrainConfig
from tinyflow.train.loop import Result, TrainError
from tinyflow.train.metrics import EpochRow
from tinyflow.train.notebook import live_report
from tinyflow.train.run import resume, train
from tinyflow.train.step import evaluate, train_step

__all__ = [
    "CheckpointError",
    "ConfigError",
    "EpochRow",
    "Metadata",
    "Result",
    "TrainConfig",
    "TrainError",
    "evaluate",
    "live_report",
    "load_checkpoint",
    "resume",
    "train",
    "train_step",
]


def __dir__() -> list[str]:
    return __all__
