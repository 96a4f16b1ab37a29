"""Take gradients apart: ``python analyze.py``. See --help for the analyses."""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until run() there is nothing to lose

from tinyflow.commands.analyze import run

if __name__ == "__main__":
    run()
