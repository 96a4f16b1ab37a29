"""Which networks play which part in the claims, and how they are trained briefly."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

import models
from tests import ROOT
from tests.flow.claims.tiny import batch
from tinyflow.flow.claims import setup as claims_setup
from tinyflow.flow.claims.setup import QUICK, train_briefly

RESULTS = ROOT / "docs" / "results.md"


def test_of_several_that_can_play_a_part_the_first_does():
    names = ["vgg11", "plain20", "plain56", "vgg19", "resnet20", "resnet110"]
    names += ["densenet121", "densenet169", "se_resnet110", "se_resnet20", "quadir_sum"]
    part = QUICK.only(names)
    assert part.plain == ("plain20", "plain56") and part.vgg == ("vgg11", "vgg19")
    assert part.shrunk == ("plain20", "vgg11") and part.quadir == ("quadir_sum",)
    assert part.residual == part.paths == ("resnet20", "resnet110")
    assert part.deep == ("resnet110",)
    assert part.se == ("se_resnet110", "se_resnet20")
    assert part.dense == ("densenet121", "densenet169")
    assert part.four == ("vgg11", "resnet20", "se_resnet20", "densenet121")
    rest = set(names) - {"quadir_sum"}
    assert set(part.networks()) == rest and len(part.networks()) == len(rest)
    for missing in ("vgg11", "vgg19", "densenet121", "densenet169"):
        others = [n for n in names if n[:3] != missing[:3]]
        assert QUICK.only(others).four == ()


def test_four_are_put_in_order_together_or_not_at_all():
    small = QUICK.without(["plain56", "vgg11"])
    assert small.plain == ("plain20",) and small.shrunk == ("plain20", "vgg11_bn")
    assert small.four == QUICK.four and small.paths == QUICK.paths
    one = QUICK.without(["vgg19"])
    assert one.vgg == ("vgg19_bn",) and one.four == ()
    assert set(QUICK.networks()) - set(one.networks()) == {"vgg19"}


def test_the_page_of_results_says_what_was_spent():
    page = " ".join(RESULTS.read_text("utf-8").split())
    exact, paths = QUICK.exact_batch, QUICK.path_batch
    assert f"float64 on {exact} images of the batch, path spectra on {paths};" in page
    looked = sum(min(math.comb(54, k), QUICK.samples) for k in range(55))
    assert f"paths looked at: 9 blocks {2**9}, 54 blocks {looked} " in page


@pytest.fixture
def steps(monkeypatch):
    """The labels of every batch that would be trained on; loss by loss smaller."""
    given = []

    def step(model, x, labels, optimizer):
        assert x.dtype == np.float32 and len(x) == len(labels)
        given.append(labels.tolist())
        return SimpleNamespace(loss=1 / len(given))

    monkeypatch.setattr(claims_setup, "train_step", step)
    return given


def test_what_a_brief_training_is_unless_said_otherwise(steps):
    images, _ = batch(40)
    told, curve = [], []
    train_briefly(
        models.find("plain20"), images, np.arange(40), curve=curve, progress=told.append
    )
    assert len(steps) == 200 and {len(set(labels)) for labels in steps} == {32}
    assert told == pytest.approx([k / 200 for k in range(1, 201)])
    assert curve == [1 / k for k in range(1, 201)]
    of_seed = {}
    for seed in (0, 1):
        steps.clear()
        train_briefly(models.find("plain20"), images, np.arange(40), steps=3, seed=seed)
        of_seed[seed] = list(steps)
    steps.clear()
    model = train_briefly(models.find("plain20"), images, np.arange(40), steps=3)
    assert steps == of_seed[0] != of_seed[1]
    assert dict(model.named_parameters())["fc.weight"].shape[0] == 10


def test_small_sets_are_used_whole_and_each_image_once(steps):
    images, _ = batch(6)
    train_briefly(models.find("plain20"), images, np.arange(6), steps=2)
    assert [sorted(labels) for labels in steps] == [list(range(6))] * 2


@pytest.mark.parametrize("given", [None, 0.25])
def test_the_optimiser_is_the_one_that_is_said(monkeypatch, given):
    """SGD, momentum 0.9, decay 1e-4, at the network's own rate unless told."""
    seen = []

    def sgd(parameters, lr, *, momentum, weight_decay):
        seen.append((lr, momentum, weight_decay))
        raise LookupError

    monkeypatch.setattr(claims_setup, "SGD", sgd)
    with pytest.raises(LookupError):
        train_briefly(models.find("resnet20"), *batch(2), steps=1, lr=given)
    assert seen == [(0.1 if given is None else given, 0.9, 1e-4)]
