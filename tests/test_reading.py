"""Tables and texts: read as far as they are whole, refused where they are damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import models
from tests.train.small import tiny
from tinyflow import reading
from tinyflow.commands import analyze
from tinyflow.flow import FlowError
from tinyflow.flow import trace as traces
from tinyflow.flow.series import described
from tinyflow.flow.trace import COLUMNS, Row, TraceWriter, read_trace
from tinyflow.reading import Unreadable, number, read_object, whole
from tinyflow.train import EpochRow
from tinyflow.train.metrics import MetricsFiles, Times, read_metrics

HEAD = ",".join(COLUMNS)


def lines(steps: int = 3) -> list[str]:
    return [
        f"{step},2.3,layer1.0,identity,{term}"
        for step in range(steps)
        for term in ("x,1,,", "shortcut,0.8,0.75,1", "residual,0.5,0.25,0")
    ]


def write(folder: Path, *rows: str, head: str = HEAD, end: str = "\n") -> Path:
    text = end.join((head, *rows)) + end
    (folder / "trace.csv").write_bytes(text.encode())
    return folder


def steps(folder: Path) -> list[int]:
    return sorted({row.step for row in read_trace(folder)})


def test_a_trace_is_read_however_its_lines_end(tmp_path: Path) -> None:
    want = read_trace(write(tmp_path, *lines()))
    assert len(want) == 9
    assert want[1] == Row(0, 2.3, "layer1.0", "identity", "shortcut", 0.8, 0.75, 1.0)
    assert read_trace(write(tmp_path, *lines(), end="\r\n")) == want
    assert read_trace(write(tmp_path, *lines(), head="\ufeff" + HEAD)) == want
    quoted = [line.replace("layer1.0", '"layer1.0"') for line in lines()]
    assert read_trace(write(tmp_path, *quoted)) == want


def test_a_step_that_was_being_written_is_left_out(tmp_path: Path) -> None:
    """Wherever a kill cuts the file, what is read is whole steps."""
    content = (write(tmp_path, *lines()) / "trace.csv").read_bytes()
    for size in range(len(content)):
        (tmp_path / "trace.csv").write_bytes(content[:size])
        try:
            found = read_trace(tmp_path)
        except FlowError as error:
            assert "trace.csv" in str(error) and "\n" not in str(error)
            assert size < content.index(b"\n1,")
            continue
        # A first step that is alone has nothing it could be compared with.
        assert len(found) % 3 == 0 or found[-1].step == 0
        assert all(row.norm in (1.0, 0.8, 0.5) for row in found)


NUMBERS = ["nan", "inf", "1e999", "1_0", "١", "0x1", " 1", "1 ", "", "--1", "1,0", "1e"]


@pytest.mark.parametrize("text", [*NUMBERS, "9" * 400])
def test_what_is_no_number(tmp_path: Path, text: str) -> None:
    for parse in (number, whole):
        with pytest.raises(ValueError):
            parse(text)
    for column in (0, 1, 5):
        row = lines(1)[0].split(",")
        row[column] = text
        with pytest.raises(FlowError, match=r"trace\.csv is damaged"):
            read_trace(write(tmp_path, ",".join(row)))


@pytest.mark.parametrize("text", ["1", "-1.5", "+2", ".5", "3.", "1e-5", "2.5E+10"])
def test_what_is_a_number(text: str) -> None:
    assert number(text) == float(text)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["0,2.3,layer1.0,identity,x,1,"], "line 2: 7 entries, not 8"),
        (["0,2.3,layer1.0,identity,x,1,,,"], "line 2: 9 entries, not 8"),
        ([*lines(1), "", *lines(1)], "line 5: 0 entries"),
        ([*lines(1), HEAD, *lines(1)], "damaged in row 4"),
        (["0,2.3,a\0b,identity,x,1,,"], "line 2: it holds bytes that are no text"),
        (["0,2.3,a\x1b[31mb,identity,x,1,,"], "line 2: it holds bytes"),
        (["0,2.3," + "a" * 20_000 + ",identity,x,1,,"], "line 2: it is longer than"),
        ([*lines(1), '0,"2.3,layer1.0,identity,x,1,,'], "damaged near line 5"),
        ([*lines(1), '0,"2.3"a,layer1.0,identity,x,1,,'], "damaged near line 5"),
        (['0,"2.3', *["a" * 9_000] * 20], "damaged near line"),
    ],
)
def test_damaged_rows_are_named(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(FlowError) as caught:
        read_trace(write(tmp_path, *rows))
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        "",
        HEAD.upper(),
        HEAD + ",more",
        ",".join(reversed(COLUMNS)),
        HEAD[:-1],
        "a" * 99,
    ],
)
def test_other_heads(tmp_path: Path, head: str) -> None:
    with pytest.raises(FlowError, match="does not begin with step,loss"):
        read_trace(write(tmp_path, *lines(), head=head))


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    content = (write(tmp_path, *lines()) / "trace.csv").read_bytes()
    (tmp_path / "trace.csv").write_bytes(content.replace(b"1,2.3", b"1,2.\xff", 1))
    with pytest.raises(FlowError, match="line 5: it is no UTF-8"):
        read_trace(tmp_path)


def test_a_file_too_long_to_be_read(tmp_path: Path) -> None:
    os.truncate(write(tmp_path, *lines()) / "trace.csv", traces.MOST + 1)  # a hole
    with pytest.raises(FlowError, match="bytes, more than"):
        read_trace(tmp_path)
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(Unreadable, match="more than"):
        read_object(tmp_path / "config.json")


def test_a_step_is_written_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(0, 2.3, "block", "kind", "x", 1.0, None, None)
    written = TraceWriter(tmp_path)

    def rows(count: int, fail: bool) -> Callable[..., object]:
        def found(step: int, *rest: object) -> object:
            yield from [replace(row, step=step)] * count
            if fail:
                raise KeyboardInterrupt

        return found

    monkeypatch.setattr(written, "_rows", rows(500, False))
    written(0, 2.3, None)  # type: ignore[arg-type]
    monkeypatch.setattr(written, "_rows", rows(500, True))
    with pytest.raises(KeyboardInterrupt):
        written(1, 2.3, None)  # type: ignore[arg-type]
    assert len(read_trace(tmp_path)) == 500
    with pytest.raises(FileExistsError):  # another's file is not written over
        TraceWriter(tmp_path)


def test_a_table_of_epochs(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    row = EpochRow(1, 2.0, 0.2, 2.1, 0.3, 2.2, 0.3, 0.1, 1.0)
    table = MetricsFiles(path, tmp_path / "times.csv")
    for epoch in (1, 2):
        with table.adding(replace(row, epoch=epoch), Times(epoch, 10.0, 1.0, 1.0)):
            pass
    content = path.read_bytes()
    assert [found.epoch for found in read_metrics(path)] == [1, 2]
    path.write_bytes(content[:-3])
    assert [found.epoch for found in read_metrics(path)] == [1]
    path.write_bytes(content.replace(b"2.1", b"2,1"))
    with pytest.raises(Unreadable, match="damaged near line 2"):
        read_metrics(path)


CONFIG = b'{"model": "tiny", "dataset": "shapes", "seed": 3, "batch_size": 4}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON"),
        (b"null", "is no JSON object"),
        (b"[]", "is no JSON object"),
        (b'{"model": "tiny"}', "names no dataset"),
        (CONFIG.replace(b"3", b'"3"'), "names no seed"),
        (CONFIG.replace(b"3", b"true"), "names no seed"),
        (CONFIG.replace(b'"tiny"', b'["tiny"]'), "names no model"),
        (CONFIG.replace(b"tiny", b"\xff"), "is no UTF-8 text"),
        (b"[" * 200_000, "nested too deeply"),
        (CONFIG[:-9], "is no JSON"),
    ],
)
def test_a_damaged_config_is_said_and_the_trace_is_drawn(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    words: str,
) -> None:
    monkeypatch.setitem(models.MODELS, "tiny", models.Network("tiny", tiny, 32, 0.05))
    (tmp_path / "config.json").write_bytes(CONFIG)
    assert described(tmp_path)[0] == "tiny" and "seed 3" in described(tmp_path)[1]
    assert capsys.readouterr().err == ""
    (tmp_path / "config.json").write_bytes(content)
    assert described(tmp_path)[0] == tmp_path.name
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize("what", ["folder", "pipe", "empty", "cut"])
def test_the_command_answers_in_a_sentence(tmp_path: Path, what: str) -> None:
    path = write(tmp_path, *lines()) / "trace.csv"
    content = path.read_bytes()
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"" if what == "empty" else content[:30])
    out = tmp_path / "out"
    arguments = ["training", str(tmp_path), "--output", str(out)]
    result = CliRunner().invoke(analyze.app, arguments, obj=models.ZOO)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "trace.csv" in result.stderr and not out.exists()


def test_what_is_read_is_opened_in_one_place() -> None:
    """Whoever opens a user's file goes through ``tinyflow.reading``."""
    package = Path(reading.__file__).parent
    allowed = {"reading.py", "atomic.py", "tensorfile.py"}
    allowed |= {
        "library.py",
        "cache.py",
        "cores.py",
        "source.py",
        "transfer.py",  # what it has fetched itself
    }  # the system's and our own
    words = (
        ".read_text(",
        ".read_bytes(",
        "np.load",
        "safe_open",
        '.open("r',
        "open()",
    )
    for path in package.rglob("*.py"):
        if path.name not in allowed:
            found = [word for word in words if word in path.read_text("utf-8")]
            assert not found, f"{path} reads by itself: {found}"
