"""Train a network: ``python train.py --model resnet``. See --help for the options."""

from tinyflow.commands.train import run

if __name__ == "__main__":
    run()
