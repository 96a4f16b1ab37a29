"""What can be changed in a source file: one expression or statement at a time.

A comparison turned round, a number moved by one, two arguments or two operands swapped,
a branch turned over, a statement left out, another thing returned.
"""

import ast
from dataclasses import dataclass

from tests import ROOT

COMPARED = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
CALCULATED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "reversed": "iter"}
BARE = (ast.stmt, ast.Slice, ast.Constant)  # need no brackets
LEFT_OUT = (ast.JoinedStr, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mutant:
    """Bytes start … stop of a file become `new`; `lines` is None if run on import."""

    file: str
    start: int
    stop: int
    old: str
    new: str
    line: int
    text: str
    lines: tuple[int, int] | None

    @property
    def key(self):
        """How ``unseen.txt`` names it: on one line, whatever it spans."""
        change = f"{self.file} | {self.text} | {self.old} -> {self.new}"
        return " ".join(change.split())

    def applied(self, source):
        """The file's bytes with the change."""
        return source[: self.start] + self.new.encode() + source[self.stop :]


def changes(node):
    """Everything that `node` may be changed into, as nodes."""
    match node:
        case ast.Compare(left, [op], right):
            return [ast.Compare(left, [kind()], right) for kind in COMPARED[type(op)]]
        case ast.BinOp(left, ast.BitOr(), right):  # of dicts: who overwrites whom
            return [ast.BinOp(right, ast.BitOr(), left)]
        case ast.BinOp(left, op, right) if type(op) in CALCULATED:
            return [ast.BinOp(left, CALCULATED[type(op)](), right)]
        case ast.Constant(bool(value)):
            return [ast.Constant(not value)]
        case ast.Constant(int(value) | float(value)):
            tried = dict.fromkeys((value + 1, value * 2, 0, value - 1))
            return [ast.Constant(new) for new in tried if new != value]
        case ast.BoolOp(op, values):
            return [
                ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            ]
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            return [operand]
        case ast.IfExp(test, body, orelse):
            return [ast.IfExp(test, orelse, body)]
        case ast.Call(ast.Name(name), args, keywords) if name in NAMES:
            return [ast.Call(ast.Name(NAMES[name]), args, keywords)]
        case ast.Call(func, [a, b, *rest], keywords):
            starred = isinstance(a, ast.Starred) or isinstance(b, ast.Starred)
            same = starred or ast.dump(a) == ast.dump(b)
            return [] if same else [ast.Call(func, [b, a, *rest], keywords)]
        case ast.Slice(lower, upper, step) if isinstance(lower or upper, ast.expr):
            one = ast.Constant(1)
            low = lower and ast.Slice(ast.BinOp(lower, ast.Add(), one), upper, step)
            high = upper and ast.Slice(lower, ast.BinOp(upper, ast.Sub(), one), step)
            return [new for new in (low, high) if new]
        case ast.Return(value) if value is not None:
            return [ast.Return(ast.Constant(None)), ast.Return(ast.Constant(0))]
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise():
            return [ast.Pass()]
        case ast.Continue() | ast.Break():
            return [ast.Pass()]
    return []


def mutants(file):
    """All mutants of a file, those of one place together."""
    source = (ROOT / file).read_bytes()
    texts = source.splitlines(keepends=True)
    starts = [sum(map(len, texts[:n])) for n in range(len(texts) + 1)]
    found = []

    def visit(node, lines):
        strict = isinstance(node, ast.keyword) and node.arg == "strict"
        if (
            isinstance(node, LEFT_OUT)
            or strict
            or "TYPE_CHECKING" in ast.dump(node)[:60]
        ):
            return
        if isinstance(node, ast.stmt) and lines is not None:
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno
            lines = node.lineno, max(node.lineno, last)
        if new := [n for n in changes(node) if ast.dump(n) != ast.dump(node)]:
            start = starts[node.lineno - 1] + node.col_offset
            stop = starts[node.end_lineno - 1] + node.end_col_offset
            old, text = source[start:stop].decode(), texts[node.lineno - 1].decode()
            show = str if isinstance(node, BARE) else "({})".format
            at = node.lineno, text.strip(), lines
            found.append(
                [Mutant(file, start, stop, old, show(ast.unparse(n)), *at) for n in new]
            )
        runs_later = isinstance(node, ast.FunctionDef)
        for name, field in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list"):
                for child in field if isinstance(field, list) else [field]:
                    if isinstance(child, ast.AST):
                        visit(child, (0, 0) if runs_later and name == "body" else lines)

    visit(ast.parse(source), None)
    return found
