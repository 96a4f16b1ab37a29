"""What the instrument says of every network there is adds up, in float64."""

from functools import cache

import pytest

import models
from tinyflow.flow.compare import summarise
from tinyflow.flow.settings import Settings
from tinyflow.flow.source import Source, find_source
from tinyflow.flow.subject import look

QUICK = ("resnet20", "se_resnet20", "shufflenet_v2_cifar", "squeezenet_cifar")


@cache
def source(side: int) -> Source:
    return find_source(
        Settings(image_size=side, batch_size=4, device="cpu", find=models.find)
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in QUICK else pytest.mark.slow)
        for n in models.MODELS
    ],
)
def test_the_terms_of_every_network_are_its_gradient(name: str) -> None:
    network = models.find(name)
    subject = look(source(max(32, network.smallest)), network)
    found = summarise(subject)
    assert found.blocks or found.dense
    assert found.closure_max <= 1e-12
    for block in found.blocks:
        assert sum(block.shares.values()) == pytest.approx(1, abs=1e-9), block.name
        assert block.norms["x"] > 0, block.name
