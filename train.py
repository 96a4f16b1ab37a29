"""Train a network: ``python train.py --model resnet``. See --help for the options."""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until run() there is nothing to lose

from tinyflow.commands.train import run

if __name__ == "__main__":
    run()
