"""What cannot be resumed: one sentence, and every file as it was."""

import json
import random
from dataclasses import replace

import pytest

import models
from tests.kernels.native.built import native as native
from tests.train.small import place as place
from tests.train.stopping import WHOLE, stopping, traced
from tinyflow.network import Network
from tinyflow.tensorfile import open_tensors, write_tensors
from tinyflow.train import ConfigError, resume, train
from tinyflow.train.events import Start
from tinyflow.train.resume import STATE


@pytest.fixture
def stopped(place):
    """A run that was stopped in its second epoch."""
    train(replace(WHOLE, output=place / "run"), stopping(8), traced)
    return place / "run"


def refused(run, *words, find=models.find):
    """One sentence, and every file as it was."""
    before = {p.name: p.read_bytes() for p in run.glob("*") if p.is_file()}
    with pytest.raises(ConfigError) as caught:
        resume(run, find, tracer=traced)
    said = str(caught.value)
    assert "\n" not in said and all(w in said for w in words), said
    assert {p.name: p.read_bytes() for p in run.glob("*") if p.is_file()} == before


def test_where_there_is_nothing_to_resume(place, stopped):
    refused(place / "nowhere", "is no run folder", "config.json")
    resume(stopped, models.find, tracer=traced)
    refused(stopped, "holds no state.safetensors", "finished")


def test_a_damaged_state_is_one_sentence_and_stays(stopped):
    whole = (stopped / STATE).read_bytes()
    draw = random.Random(0)
    for _ in range(12):
        (stopped / STATE).write_bytes(whole[: draw.randrange(len(whole))])
        refused(stopped, STATE)
    for content in (b"", b"\x80\x04.", b"\xff" * 8 + whole[8:], b"PK" + whole):
        (stopped / STATE).write_bytes(content)
        refused(stopped, STATE)
    (stopped / STATE).unlink()
    (stopped / STATE).mkdir()
    refused(stopped, STATE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e.pop("position"), ["does not say the position"]),
        (lambda e: e["position"].pop("rows"), ["where its run is"]),
        (lambda e: e["position"].update(step=-1), ["where its run is"]),
        (lambda e: e["position"].update(step=2.5), ["where its run is"]),
        (lambda e: e["position"].update(loss_sum="x"), ["where its run is"]),
        (lambda e: e["position"].update(epoch=3), ["epoch 3 after 1 finished"]),
        (lambda e: e["position"].update(more=1), ["where its run is"]),
        (lambda e: e["position"]["lengths"].update({"../a": 0}), ["outside the run"]),
        (
            lambda e: e["position"]["lengths"].update({"metrics.csv": 10**9}),
            ["shorter"],
        ),
        (lambda e: e["generators"].clear(), ["random numbers elsewhere"]),
        (lambda e: e["generators"]["drop.generator"].pop("state"), ["another kind"]),
        (lambda e: e["facts"]["data"].update(train=1), ["--data-dir"]),
        (lambda e: e.update(format=2), ["another version", "2"]),
    ],
)
def test_a_state_that_says_something_else(stopped, change, words):
    with open_tensors(stopped / STATE) as file:
        arrays = {name: file.read(name) for name in file.entries}
        entry = json.loads(file.metadata["tinyflow"])
    change(entry)
    write_tensors(stopped / STATE, arrays, {"tinyflow": json.dumps(entry)})
    refused(stopped, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "one_value"}, ["does not fit", "draw random numbers"]),
        ({"model": "nobody"}, ["nobody"]),
        ({"optimizer": "adam"}, ["does not fit", "Adam"]),
        ({"limit_train": 250}, ["images are not those"]),
        ({"epochs": "3"}, ["epochs", "'3'"]),
        ({"seed": True}, ["seed", "True"]),
        ({"lr": [1]}, ["lr", "[1]"]),
        ({"new": 1}, ["another version", "new"]),
        ({"batch_size": 0}, ["--batch-size"]),
    ],
)
def test_options_that_are_no_longer_those_of_the_run(stopped, change, words):
    told = json.loads((stopped / "config.json").read_text())
    (stopped / "config.json").write_text(json.dumps(told | change))
    refused(stopped, *words)


def test_options_that_cannot_be_read(stopped):
    for content in (b"", b"[]", b"{", b"\xff", b'{"a": 1, "a": 2}', b"{}"):
        (stopped / "config.json").write_bytes(content)
        refused(stopped, "config.json")


def test_a_file_that_was_shortened_by_others(stopped):
    (stopped / "trace.csv").write_text("step,loss\n")
    refused(stopped, "trace.csv is gone or shorter")


def test_a_network_whose_file_has_changed(place, stopped):
    told = json.loads((stopped / "config.json").read_text())
    told["resolved"]["model_sha256"] = "0" * 64
    (stopped / "config.json").write_text(json.dumps(told))
    make = models.MODELS["tiny"].make
    found = Network("tiny", make, file=place / "net.py", sha256="1" * 64)
    refused(stopped, "net.py has changed", find=lambda name: found)


def test_one_run_at_a_time_in_a_folder(place, stopped):
    """Whoever is at work there has it; the claim of a dead one is nobody's."""

    heard = []

    def inside(event):
        if isinstance(event, Start):
            with pytest.raises(ConfigError, match="in use by another run") as caught:
                resume(stopped, models.find)
            heard.append(caught)

    (stopped / ".unfinished").mkdir()  # a kill left it
    config = json.loads((stopped / "config.json").read_text())
    (stopped / "config.json").write_text(json.dumps(config | {"trace_every": None}))
    resume(stopped, models.find, inside)
    assert len(heard) == 1
    assert not (stopped / ".unfinished").exists()


def test_what_computes_otherwise_now_is_said(stopped):
    with open_tensors(stopped / STATE) as file:
        arrays = {name: file.read(name) for name in file.entries}
        entry = json.loads(file.metadata["tinyflow"])
    entry["facts"] |= {"numpy": "1.0", "kernels": "others"}
    write_tensors(stopped / STATE, arrays, {"tinyflow": json.dumps(entry)})
    said = []
    resume(stopped, models.find, tracer=traced, said=said.append)
    assert [s.partition(":")[0] for s in said] == ["kernels", "numpy"]
    assert all("not bit for bit" in s and "\n" not in s for s in said)
