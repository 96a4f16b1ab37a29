"""The tests mirror the package; ``fakes`` plays a GPU, ``oracles`` are in PyTorch."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
