"""The two command lines with these networks: what an installation starts."""

from tinyflow.commands import analyze as analyze_command
from tinyflow.commands import train as train_command

from . import ZOO


def train() -> None:
    """``tinyflow-train``, and ``train.py``."""
    train_command.run(ZOO)


def analyze() -> None:
    """``tinyflow-analyze``, and ``analyze.py``."""
    analyze_command.run(ZOO)
