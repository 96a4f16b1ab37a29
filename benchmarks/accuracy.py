r"""PyTorch trained by our recipe: same images, order, augmentation, initial weights.

    python train.py --model resnet20 --dataset cifar10 --epochs 5 --batch-size 128 \\
        --optimizer sgd --lr 0.1 --warmup-epochs 1.28 --weight-decay 1e-4 --augment
    python -m benchmarks.accuracy --model resnet20 --dataset cifar10 --epochs 5 \\
        --batch-size 128 --lr 0.1 --warmup-epochs 1.28 --weight-decay 1e-4

prints, per epoch, what PyTorch reaches where the first command printed ours. The two
differ by rounding alone, which training amplifies: compare curves, not digits.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

import models
from tinyflow.train.config import TrainConfig
from tinyflow.train.prepare import prepare


def main(
    model: str = "resnet20",
    dataset: str = "shapes",
    data_dir: Annotated[Path | None, typer.Option(envvar="TINYFLOW_DATA")] = None,
    epochs: int = 5,
    batch_size: int = 128,
    lr: float = 0.1,
    warmup_epochs: float = 1.28,
    weight_decay: float = 1e-4,
    seed: int = 0,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> None:
    """Train a network in PyTorch by train.py's recipe, with augmentation."""
    import torch
    import torch.nn.functional as F

    from benchmarks.peers import Peer

    ready = prepare(
        TrainConfig(
            models.find(model),
            dataset=dataset,
            data_dir=data_dir,
            epochs=epochs,
            optimizer="sgd",
            batch_size=batch_size,
            lr=lr,
            warmup_epochs=warmup_epochs,
            weight_decay=weight_decay,
            augment=True,
            seed=seed,
            limit_train=limit_train,
            limit_test=limit_test,
            device="cpu",
        )
    )
    peer = Peer(ready.model, channels_last=True)
    optimizer = torch.optim.SGD(
        peer.parameters, lr, momentum=0.9, weight_decay=weight_decay, fused=True
    )
    print(f"PyTorch {torch.__version__}, {model} on {dataset}, seed {seed}")
    for epoch in range(epochs):
        start, losses = time.perf_counter(), []
        peer.training = True
        batches = ready.train.epoch(epoch)
        for step, (images, labels) in zip(range(ready.steps), batches, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = lr * ready.schedule(epoch * ready.steps + step)
            optimizer.zero_grad()
            logits = peer(torch.from_numpy(images))
            loss = F.cross_entropy(logits, torch.from_numpy(labels))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        seconds = time.perf_counter() - start
        peer.training = False
        right = count = 0
        with torch.no_grad():
            for images, labels in ready.test.epoch(0):
                guess = peer(torch.from_numpy(images)).argmax(1).numpy()
                right, count = right + int((guess == labels).sum()), count + len(labels)
        print(
            f"epoch {epoch + 1}/{epochs}  train loss {sum(losses) / len(losses):.3f}  "
            f"test accuracy {right / count:.2%}  {seconds:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    typer.run(main)
