"""Take gradients apart: ``python analyze.py``. See --help for the analyses."""

from tinyflow.commands.analyze import run

if __name__ == "__main__":
    run()
