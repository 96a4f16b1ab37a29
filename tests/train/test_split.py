"""Images that are held out, runs by iterations, and averages: what is said of them."""

from dataclasses import replace

import numpy as np
import pytest

import models
from tests.train.small import SMALL
from tests.train.small import place as place
from tinyflow.data import Loader, load_dataset
from tinyflow.optim import SGD
from tinyflow.train import ConfigError, load_checkpoint, train, train_step
from tinyflow.train.events import Start, Step
from tinyflow.train.prepare import prepare
from tinyflow.train.step import evaluate


def test_held_out_images_are_trained_on_by_nobody():
    every = load_dataset("shapes", split="train", limit=300)
    for seed, held in ((0, 1), (0, 40), (5, 40)):
        ready = prepare(replace(SMALL, val_split=held, seed=seed))
        parts = [batches.dataset for batches in (ready.train, ready.val)]
        assert [len(part) for part in parts] == [300 - held, held]
        found = np.concatenate([part.images for part in parts]).reshape(300, -1)
        assert sorted(map(bytes, found)) == sorted(map(bytes, every.images))
        if held == 40:
            assert len(set(parts[1].labels)) > 5  # not the last so many of one class
    same = [
        prepare(replace(SMALL, val_split=40, seed=seed)).val.dataset for seed in (0, 5)
    ]
    assert (same[0].images == same[1].images).all()
    for held in (300, 301):
        with pytest.raises(ConfigError, match="leaves nothing of the 300 training"):
            prepare(replace(SMALL, val_split=held))


def test_validation_is_an_evaluation_of_the_images_held_out(place):
    result = train(replace(SMALL, val_split=37, output=place / "out"))
    held = prepare(replace(SMALL, val_split=37)).val.dataset
    model = load_checkpoint(place / "out", models.find)[0]
    loss, accuracy = evaluate(model, Loader(held, 10, shuffle=False))
    assert result.last.val_loss == pytest.approx(loss, rel=1e-6)
    assert result.last.val_accuracy == accuracy
    assert not (place / "out" / "state.safetensors").exists()


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (6, 1), (7, 2), (12, 2)])
def test_a_run_of_so_many_steps(place, steps, epochs):
    seen = []
    config = replace(SMALL, iterations=steps, epochs=99, warmup_epochs=0)
    result = train(replace(config, output=place / "out"), seen.append)
    done = [event for event in seen if isinstance(event, Step)]
    assert len(done) == steps and len(result.rows) == epochs
    (start,) = (event for event in seen if isinstance(event, Start))
    assert (start.total, start.epochs, start.steps) == (steps, epochs, 6)
    # The last row is of the steps that there were, and of their last rate.
    cut = steps - 6 * (epochs - 1)
    assert done[-1].step == cut
    assert result.last.train_loss == pytest.approx(done[-1].loss)
    end = (1 + np.cos(np.pi * (steps - 1) / steps)) / 2
    assert result.last.lr == pytest.approx(0.05 * end)


def test_milestones_count_what_the_run_counts():
    config = replace(SMALL, schedule="step", warmup_epochs=0)
    for by, given, reached in (
        ({"iterations": 10}, (3, 8), (3, 8)),
        ({"iterations": 10}, (0.5, 0.75), (5, 8)),
        ({"epochs": 3}, (1, 2.5), (6, 15)),
    ):
        schedule = prepare(replace(config, milestones=given, **by)).schedule
        total = by.get("iterations", 18)
        rates = [schedule(step) for step in range(total)]
        assert rates == pytest.approx(
            [0.1 ** sum(step >= m for m in reached) for step in range(total)]
        )
    late = replace(config, iterations=8, milestones=(3, 8))
    with pytest.raises(ConfigError, match="reached in --iterations 8"):
        late.validate()
    with pytest.raises(ConfigError, match=r"are 6 steps, .* of --iterations 6"):
        prepare(replace(SMALL, iterations=6, warmup_epochs=1))


def test_averages_are_what_is_tested_and_saved(place):
    """Beside a loop of its own, the averages by their formula."""
    config = replace(SMALL, ema=0.8, warmup_epochs=0, schedule="constant")
    result = train(replace(config, output=place / "out"))
    ready = prepare(config)
    rule = SGD(ready.model.named_parameters(), 0.05, 0.9, weight_decay=5e-4)
    mean = {n: a.astype("float64") for n, a in ready.model.state_dict().items()}
    for epoch in (0, 1):
        for images, labels in ready.train.epoch(epoch):
            train_step(ready.model, images, labels, rule)
            for name, array in ready.model.state_dict().items():
                mean[name] = 0.8 * mean[name] + 0.2 * array
    model = load_checkpoint(place / "out", models.find)[0]
    for name, array in model.state_dict().items():
        np.testing.assert_allclose(array, mean[name], rtol=1e-4, atol=1e-6)
    last = ready.model.state_dict()["fc.weight"]
    assert np.abs(last - mean["fc.weight"]).max() > 1e-3
    loss, accuracy = evaluate(model, ready.test)
    assert result.last.test_loss == pytest.approx(loss, rel=1e-6)
    assert result.last.test_accuracy == accuracy
