"""What the claims count, against numbers worked out by hand."""

import pytest

import models
from models import count_macs, count_parameters
from tinyflow.flow.claims import CLAIMS
from tinyflow.flow.claims import counts as claims_counts
from tinyflow.flow.claims.bench import Bench
from tinyflow.flow.claims.counts import additions, counts
from tinyflow.flow.claims.nets import OWN, network
from tinyflow.flow.claims.setup import QUICK

DATA = {"num_classes": 10, "in_channels": 3, "seed": None}


def layer(cin, cout):
    return 9 * cin * cout + cout


@pytest.mark.parametrize("size", [28, 32])
def test_quadirs_networks_have_the_parameters_of_his_figures(size):
    cnn = layer(3, 64) + 2 * layer(64, 32) + 2 * layer(32, 64)
    block = layer(32, 64) + layer(64, 32)
    expected = {
        "quadir_cnn": cnn + 64 * size**2 * 10 + 10,
        "quadir_resnet": layer(3, 32) + 5 * block + 32 * size**2 * 10 + 10,
    }
    expected["quadir_sum"] = expected["quadir_twin"] = expected["quadir_resnet"]
    assert set(expected) == set(OWN)
    for name, parameters in expected.items():
        model = network(name, models.find).build(image_size=size, **DATA)
        assert count_parameters(model) == parameters
    if size == 32:
        assert expected["quadir_cnn"] == 731_082
        assert expected["quadir_resnet"] == 513_386


def test_multiply_adds_against_published_ones():
    assert counts(models.find, "resnet50")[2] / 1e9 == pytest.approx(4.089, abs=5e-4)
    assert counts(models.find, "densenet201")[2] / 1e9 == pytest.approx(4.291, abs=5e-4)
    twin = network("quadir_twin", models.find).build(image_size=32, **DATA)
    convolutions = (3 * 32 + 5 * 2 * 32 * 64) * 9 * 1024
    assert count_macs(twin, 32) == convolutions + 32 * 1024 * 10


def test_additions_are_the_entries_of_all_sums():
    added = additions(models.find, "resnet20", 32)
    assert added == 3 * (16 * 32**2 + 32 * 16**2 + 64 * 8**2)
    assert additions(models.find, "quadir_resnet", 32) == 5 * 32 * 32**2
    assert additions(models.find, "plain20", 32) == 0


def test_counted_claims_name_no_seed_and_are_not_repeated_after_training():
    bench = Bench(None, [], (0,), find=models.find, setup=QUICK)
    after = Bench(None, [], (0,), find=models.find, trained={}, setup=QUICK)
    claim = CLAIMS["noh-parameters"](bench)
    assert claim.settings["seeds"] == [] and claim.settings["batch"] is None
    assert claim.interval == "counted, not sampled: no interval"
    assert "se_resnet50 26,059,514" in claim.decided_by
    assert claim.verdict == "holds only in 75% of cases"
    for name in ("noh-parameters", "noh-flops", "quadir-free", "zhao-depthwise"):
        assert CLAIMS[name](after) is None


def test_zhaos_numbers():
    claim = CLAIMS["zhao-depthwise"](Bench(None, [], (0,), find=models.find))
    counted = {row["setting"]: row["multiply_adds"] for row in claim.measured}
    assert counted == {"depthwise": 10_275, "regular": 86_400}
    assert claim.verdict == "holds"


def test_published_errors_differ_as_noh_says():
    """3.5 points for ResNet-34 and 1.51 for SE-ResNet-50, from his conclusions."""
    errors = claims_counts.ERRORS
    assert errors["plain34"] - errors["resnet34"] == pytest.approx(3.51)
    assert errors["resnet50"] - errors["se_resnet50"] == pytest.approx(1.51)
