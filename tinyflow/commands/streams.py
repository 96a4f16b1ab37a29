"""Standard output and error that can print every letter of ours, whatever they are.

A terminal in cp1252, a pipe under ``LC_ALL=C``: what such a stream cannot hold is
written with letters it has, one for one where a table needs it, never as an error.
"""

from __future__ import annotations

import codecs
import io
import sys

NEAREST = str.maketrans(
    {
        "‖": "|", "∂": "d", "·": "-", "…": "...", "√": "r", "≥": ">=", "≤": "<=",
        "½": "1/2", "×": "x", "ᵀ": "^T", "Σ": "sum", "→": "->", "—": "-", "–": "-",
        "“": '"', "”": '"', "Δ": "D", "λ": "lambda", "ε": "eps", "α": "alpha",
        "²": "^2", "₀": "0", "₁": "1", "∝": "~", "⟨": "<", "⟩": ">", "⊙": "*",
    }
)  # fmt: skip


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """The letters that ASCII has for those that a stream cannot hold."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(NEAREST)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("tinyflow.nearest", _nearest)


def open_minded() -> None:
    """Let standard output and error take every letter."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="tinyflow.nearest")
