"""Build the C kernels: ``python -m tinyflow.native``."""

from __future__ import annotations

import sys

from tinyflow.native.library import NativeError, build, load


def main() -> int:
    """Compile, load, and say what happened."""
    try:
        path = build()
        _, how = load()
    except NativeError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"built {path}\n{how}; TINYFLOW_ENGINE=numpy goes back to NumPy alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
