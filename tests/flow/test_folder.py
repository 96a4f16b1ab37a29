"""An analysis of images in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import models
from tests.data.pictures import load_small, write_folder
from tests.train.small import tiny
from tinyflow.data import Dataset
from tinyflow.flow.settings import Settings
from tinyflow.flow.source import find_source
from tinyflow.network import Network
from tinyflow.train import TrainConfig, train


def test_it_sees_the_images_as_the_checkpoint_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "images")
    network = Network("tiny", tiny, 32, 0.05)
    config = TrainConfig(
        network,
        dataset="folder",
        data_dir=tmp_path / "images",
        **{"image_size": 16, "epochs": 1, "batch_size": 6},
    )
    run = train(config).folder
    assert run is not None
    settings = Settings(checkpoint=run, batch_size=4, find=lambda name: network)
    source = find_source(settings)
    assert isinstance(source.data, Dataset) and source.data.name == "folder"
    want = load_small(tmp_path / "images").in_memory()
    assert (source.data.images == want.images).all()
    assert source.batch()[0].shape == (4, 3, 16, 16)
    bare = Settings(dataset="folder", data_dir=tmp_path / "images", find=models.find)
    assert find_source(bare).data.image_size == 224
