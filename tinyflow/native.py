"""Build the C kernels: ``python -m tinyflow.native``."""

from __future__ import annotations

import signal
import sys

from tinyflow.backend import DeviceError, SettingError
from tinyflow.kernels.native.library import build, load, settings


def main() -> int:
    """Compile, load, and say what happened."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as with Ctrl-C
    try:
        settings()
        path = build()
        library, reason = load()
    except DeviceError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 1
    except KeyboardInterrupt:
        print("interrupted; nothing was built", file=sys.stderr)
        return 130
    back = "" if library is None else "; TINYFLOW_ENGINE=numpy goes back to NumPy alone"
    print(f"built {path}\n{reason}{back}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
