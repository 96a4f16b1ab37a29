"""Take gradients apart: ``python analyze.py``. See --help for the analyses."""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until run() there is nothing to lose

import importlib
import os

import tinyflow

# The folder models/ beside this file is tinyflow.models, as in an installation: a
# user's own module models is neither taken for it nor hidden by it.
tinyflow.__path__.append(os.path.dirname(os.path.abspath(__file__)))
run = importlib.import_module("tinyflow.models.commands").analyze

if __name__ == "__main__":
    run()
