"""Checkpoints: what they claim, what they hold, and what is said of either."""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import models
from tests.data.test_hostile import bounded
from tests.train.small import tiny
from tinyflow.train import CheckpointError, load_checkpoint
from tinyflow.train.checkpoint import FORMAT, KEY, Metadata, save_checkpoint

CLASSES = tuple(f"class {i}" for i in range(10))
SEEN = (CLASSES, (0.25, 0.5, 0.75), (0.5, 0.25, 1.0))
BEFORE = {"classes": None, "mean": None, "std": None}  # as earlier versions wrote
METADATA = Metadata("tiny", 10, 32, 3, "shapes", 0, 1, 0.5, *SEEN)
Parts = tuple[dict[str, Any], bytes]


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A good checkpoint of a small network."""
    entry = models.Network("tiny", tiny, 32, 0.05)
    monkeypatch.setitem(models.MODELS, "tiny", entry)
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, models.build_model("tiny"), METADATA)
    return path


def parts(path: Path) -> Parts:
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def put(path: Path, header: Any, rest: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)


def claim(path: Path, **changed: Any) -> None:
    """Change what a checkpoint says of itself; None takes a key away."""
    header, rest = parts(path)
    told = json.loads(header["__metadata__"][KEY]) | changed
    told = {key: value for key, value in told.items() if value is not None}
    header["__metadata__"][KEY] = json.dumps(told)
    put(path, header, rest)


def refused(path: Path, memory: int = 20_000_000) -> str:
    with bounded(memory, 10), pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, models.find)
    sentence = str(caught.value)
    assert path.name in sentence and "\n" not in sentence and len(sentence) < 600
    return sentence


# --- what it says ------------------------------------------------------------------


def test_it_says_its_format_and_what_is_unknown_is_ignored(path: Path) -> None:
    header, _ = parts(path)
    assert json.loads(header["__metadata__"][KEY])["format"] == FORMAT == 1
    claim(path, optimizer="adam", later={"x": [1]}, augment=True)
    header, rest = parts(path)
    header["__metadata__"]["other"] = "text"
    put(path, header, rest)
    assert load_checkpoint(path, models.find)[1] == METADATA
    claim(path, format=None)  # as tinyflow wrote it before it counted
    assert load_checkpoint(path, models.find)[1] == METADATA


def test_a_newer_format_says_update(path: Path) -> None:
    claim(path, format=3, model=None)
    assert "written by a newer tinyflow (format 3" in (said := refused(path))
    assert "update" in said
    for wrong in ("1", 0, True, 1.0, [1]):
        claim(path, format=wrong)
        assert "does not say its format" in refused(path)


@pytest.mark.parametrize("key", [*Metadata.__dataclass_fields__][:-3])
def test_a_missing_key_is_named(path: Path, key: str) -> None:
    claim(path, **{key: None})
    assert f"does not say its {key}" in refused(path)


def test_files_of_before_do_not_say_their_classes(path: Path) -> None:
    claim(path, **BEFORE)
    told = load_checkpoint(path, models.find)[1]
    assert told == Metadata("tiny", 10, 32, 3, "shapes", 0, 1, 0.5)
    assert (told.classes, told.mean, told.std) == (None, None, None)


LISTS: list[tuple[str, Any]] = [
    ("classes", [*CLASSES[1:]]),
    ("classes", [*CLASSES, "one"]),
    ("classes", [*CLASSES[1:], ""]),
    ("classes", [*CLASSES[1:], "a\nb"]),
    ("classes", [*CLASSES[1:], "x" * 256]),
    ("classes", [*CLASSES[1:], 3]),
    ("classes", "abcdefghij"),
    ("classes", {}),
    ("mean", [0.5, 0.5]),
    ("mean", [0.5, 0.5, "0.5"]),
    ("mean", [0.5, 0.5, True]),
    ("mean", [0.5, 0.5, 10**400]),
    ("mean", 0.5),
    ("std", [0.5, 0.5, 0]),
    ("std", [0.5, 0.5, -0.5]),
    ("std", [0.5, 0.5, 1e300]),
    ("std", []),
]


@pytest.mark.parametrize(("key", "value"), LISTS, ids=lambda v: str(v)[-12:])
def test_lists_that_are_none(path: Path, key: str, value: Any) -> None:
    claim(path, **{key: value})
    assert f"does not say a usable {key}" in refused(path)


def test_lists_at_their_bounds(path: Path) -> None:
    edge = ["x" * 255, *CLASSES[1:]]
    claim(path, classes=edge, mean=[-1, 0, 1e6], std=[1e-6, 1, 1e6])
    told = load_checkpoint(path, models.find)[1]
    assert told.classes == tuple(edge)
    assert (told.mean, told.std) == ((-1, 0, 1e6), (1e-6, 1, 1e6))


WRONG = [True, -1, 1.5, "3", [3], {}, 2**63 + 0.0, 10**400]


@pytest.mark.parametrize("value", [*WRONG, 0, 2**63], ids=lambda v: repr(v)[:12])
@pytest.mark.parametrize("key", ["num_classes", "image_size", "in_channels", "epoch"])
def test_numbers_that_are_none(path: Path, key: str, value: Any) -> None:
    claim(path, **{key: value})
    assert f"does not say a usable {key}" in refused(path)


@pytest.mark.parametrize("value", [True, -1, 1.5, "0", [0]], ids=repr)
def test_seeds_that_are_none(path: Path, value: Any) -> None:
    claim(path, seed=value)
    assert "does not say a usable seed" in refused(path)
    claim(path, seed=2**80)  # NumPy takes it, so train.py does
    assert load_checkpoint(path, models.find)[1].seed == 2**80


@pytest.mark.parametrize("value", [True, -0.1, 1.1, 1e999, "0.5", [], 10**400], ids=str)
def test_accuracies_that_are_none(path: Path, value: Any) -> None:
    claim(path, test_accuracy=value)
    assert "test_accuracy" in (said := refused(path)) or "Infinity" in said
    claim(path, test_accuracy=1)
    assert load_checkpoint(path, models.find)[1].test_accuracy == 1.0


@pytest.mark.parametrize(
    "value", ["", "a" * 10**6, "a\nb", 3, ["resnet"], {}], ids=type
)
@pytest.mark.parametrize("key", ["model", "dataset"])
def test_names_that_are_none(path: Path, key: str, value: Any) -> None:
    claim(path, **{key: value})
    assert f"does not say a usable {key}" in refused(path)


def test_an_unknown_network_is_named(path: Path) -> None:
    claim(path, model="resnt20")
    assert "resnet20" in refused(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_classes": 10**7},
        {"num_classes": 2**62},
        {"in_channels": 10**7},
        {"in_channels": 2**62},
        {"image_size": 10**6},
        {"image_size": 2**62},
        {"model": "vgg19"},
        {"model": "resnet152", "num_classes": 10**6},
        {"model": "densenet264", "in_channels": 10**5},
        {"model": "vgg11", "image_size": 10**6},
        {"model": "se_resnet20", "num_classes": 10**9},
    ],
    ids=str,
)
def test_claims_take_no_more_memory_than_the_file(
    path: Path, changed: dict[str, Any]
) -> None:
    claim(path, **(BEFORE | changed))
    assert "does not fit" in (said := refused(path))
    assert re.search(
        "more weights than the file holds|the file has shape|an integer of at most",
        said,
    )


def test_a_shape_that_differs_a_little_is_named(path: Path) -> None:
    for changed in ({"num_classes": 7}, {"num_classes": 12}):
        claim(path, **(BEFORE | changed))
        assert "fc.weight: the file has shape (10, 512)" in refused(path)


def test_what_is_built_to_be_loaded_drops_what_it_dropped(path: Path) -> None:
    loaded, built = (
        load_checkpoint(path, models.find)[0],
        models.build_model("tiny", seed=0),
    )
    for name, array in built.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], array)
    ours, theirs = (net.drop.generator.random(5) for net in (loaded, built))
    np.testing.assert_array_equal(ours, theirs)


# --- what it holds -----------------------------------------------------------------


def store(path: Path, name: str, array: Any) -> None:
    """Put another array into the checkpoint, as other frameworks would."""
    header, _ = parts(path)
    tensors = dict(safetensors.numpy.load_file(path)) | {name: array}
    safetensors.numpy.save_file(tensors, path, metadata=header["__metadata__"])


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_other_floats_are_converted(path: Path, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    weight = (
        load_checkpoint(path, models.find)[0].state_dict()["fc.weight"].astype(kind)
    )
    store(path, "fc.weight", np.ascontiguousarray(weight))
    found = load_checkpoint(path, models.find)[0].state_dict()["fc.weight"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, weight.astype(np.float32))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "complex64"])
def test_other_dtypes_are_refused_in_words(path: Path, dtype: str) -> None:
    store(path, "fc.weight", np.ones((10, 512), dtype))
    assert re.search(f"fc.weight (holds|must be) .*{dtype}", refused(path))


def test_float8_is_refused_in_words(path: Path) -> None:
    header, rest = parts(path)
    begin, end = header["fc.bias"]["data_offsets"]
    header["fc.bias"] |= {"dtype": "F8_E4M3", "shape": [end - begin]}
    put(path, header, rest)
    assert re.search("fc.bias.* (F8_E4M3|has shape)", refused(path))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "", "X" * 10_000, 7, None])
def test_dtypes_that_cannot_be_are_refused(path: Path, dtype: Any) -> None:
    header, rest = parts(path)
    header["fc.bias"]["dtype"] = dtype
    put(path, header, rest)
    assert "damaged" in refused(path)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "NaN or infinite"),
        (np.inf, "NaN or inf"),
        (1e39, "too large for float32"),
    ],
)
@pytest.mark.parametrize("name", ["fc.weight", "bn.running_var"])
def test_weights_that_are_no_numbers_are_named(
    path: Path, name: str, value: float, words: str
) -> None:
    array = safetensors.numpy.load_file(path)[name].astype(np.float64)
    array.reshape(-1)[:2] = value
    store(path, name, array)
    assert re.search(f"{name} holds 2 values .*{words}", refused(path))


def test_foreign_and_missing_weights_are_named(path: Path) -> None:
    store(path, "extra.weight", np.zeros(3, np.float32))
    assert "extra.weight" in refused(path)
    header, _ = parts(path)
    tensors = safetensors.numpy.load_file(path)
    del tensors["extra.weight"], tensors["fc.bias"]
    safetensors.numpy.save_file(tensors, path, metadata=header["__metadata__"])
    assert "fc.bias" in refused(path)


def test_weights_that_do_not_fit_are_not_read(path: Path) -> None:
    store(path, "extra", np.zeros(10_000_000, np.float32))
    refused(path, memory=10_000_000)


def bad(path: Path, name: str, **changed: Any) -> None:
    header, rest = parts(path)
    header[name] |= changed
    put(path, header, rest)


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": [10**12]},
        {"shape": [2**64, 2**64]},
        {"shape": [-10]},
        {"shape": ["10"]},
        {"shape": 10},
        {"shape": [10.0]},
        {"shape": [True] * 10},
        {"shape": [1] * 5000},
        {"shape": None},
        {"shape": [0, 10]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 10**15]},
        {"data_offsets": [-8, 32]},
        {"data_offsets": [32, 0]},
        {"data_offsets": "ab"},
        {"data_offsets": [8, 48]},
        {"dtype": "F64"},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_headers_that_lie(path: Path, changed: dict[str, Any]) -> None:
    bad(path, "fc.bias", **changed)
    assert "damaged" in refused(path)


@pytest.mark.parametrize("entry", [None, 3, [], "x", {}], ids=str)
def test_entries_that_are_none(path: Path, entry: Any) -> None:
    header, rest = parts(path)
    put(path, header | {"fc.bias": entry}, rest)
    assert "damaged" in refused(path)


@pytest.mark.parametrize(
    "metadata", [3, [], "x", {"a": 3}, {KEY: None}, {KEY: {}}], ids=str
)
def test_metadata_that_are_no_texts(path: Path, metadata: Any) -> None:
    header, rest = parts(path)
    put(path, header | {"__metadata__": metadata}, rest)
    assert re.search("damaged|does not say which network", refused(path))


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "3", "null", "[" * 10**5, '{"a": NaN}']
)
def test_metadata_that_are_no_json(path: Path, text: str) -> None:
    header, rest = parts(path)
    header["__metadata__"][KEY] = text
    put(path, header, rest)
    assert f"what {path} says of its network" in refused(path)


def test_metadata_of_100_megabytes(path: Path) -> None:
    header, rest = parts(path)
    header["__metadata__"]["long"] = "x" * 100_000_000
    put(path, header, rest)
    assert "too large" in refused(path)


def test_reading_takes_little_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    told = Metadata("resnet18", 10, 32, 3, "shapes", 0, 1, 0.5)
    save_checkpoint(path, models.build_model("resnet18"), told)
    tracemalloc.start()
    try:
        load_checkpoint(path, models.find)
        assert tracemalloc.get_traced_memory()[1] < 3 * path.stat().st_size
    finally:
        tracemalloc.stop()
