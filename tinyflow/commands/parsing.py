"""How both command lines are read: every mistake is one sentence and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

ONCE = ("model", "checkpoint", "dataset", "data_dir", "output")


def say(program: str, sentence: str) -> None:
    """Print one sentence to stderr."""
    print(f"{program}: {sentence}", file=sys.stderr)


def fail(program: str, sentence: str, code: int) -> NoReturn:
    """Print one sentence to stderr and exit."""
    say(program, sentence)
    raise typer.Exit(code)


def named(context: Any) -> frozenset[str]:
    """The parameters that stand on the command line, as Python names."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(n for n, s in sources.items() if s and s.name == "COMMANDLINE")


def after_the_command(program: str, context: Any) -> None:
    """Refuse options that stand before a command instead of after it."""
    for name in sorted(named(context)):
        option, command = _option(name), context.invoked_subcommand
        said = f"put {option} after the command: {program} {command} {option} …"
        fail(program, said, 2)


@contextmanager
def _one_sentence(program: str) -> Iterator[None]:
    """What the parser refuses, in the words and with the exit code of all mistakes."""
    try:
        yield
    except Exception as error:
        said = getattr(error, "format_message", None)
        if said is None or isinstance(error, typer.Exit):  # not the parser's
            raise
        sentence = " ".join(str(said()).split()).rstrip(".")
        sentence = sentence[:1].lower() + sentence[1:]
        fail(program, f"{sentence}; --help lists what there is", 2)


class _Reading:
    """Reads a command line: nothing empty or lost, ``~`` as the home folder.

    Attributes:
        program: the name that stands before every sentence.
    """

    program = "tinyflow"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Fill ``ctx.params``, as the class it is mixed into does."""
        with _one_sentence(self.program):
            if not ctx.resilient_parsing:
                parser = self.make_parser(ctx)  # type: ignore[attr-defined]
                raw, _, order = parser.parse_args(list(args))
                _check_once(ctx, order)
                _check_filled(ctx, raw)
            left: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
            for name, value in ctx.params.items():
                ctx.params[name] = _expanded(ctx, name, value)
        return left

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first of `args` names."""
        with _one_sentence(self.program):
            return super().resolve_command(ctx, args)  # type: ignore[misc]


def _check_once(ctx: Any, order: Sequence[Any]) -> None:
    """Of numbers the last one counts, as usual; of what is looked at, none is lost."""
    for parameter in dict.fromkeys(order):
        times = order.count(parameter)
        if times > 1 and parameter.name in ONCE and not parameter.multiple:
            ctx.fail(f"{parameter.opts[0]} is given {times} times: give it once")


def _check_filled(ctx: Any, raw: Mapping[str, Any]) -> None:
    for name, value in raw.items():
        if value == "" or (isinstance(value, (list, tuple)) and "" in value):
            ctx.fail(f"{_option(name)} is empty: name something, or leave it out")


def _expanded(ctx: Any, name: str, value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    try:
        return value.expanduser()
    except RuntimeError:
        ctx.fail(f"{_option(name)} {value}: there is no such home folder, write it out")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def kinds(program: str) -> tuple[type[TyperCommand], type[TyperGroup]]:
    """The classes of the commands, and of the group, of one program."""
    facts = {"program": program}
    return (
        type("Command", (_Reading, TyperCommand), facts),
        type("Group", (_Reading, TyperGroup), facts),
    )
