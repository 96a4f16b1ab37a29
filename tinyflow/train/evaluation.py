"""What a trained network makes of the test images: which classes it takes for which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyflow import Tensor, nn
from tinyflow.backend import Array, asarray, asnumpy, device_of, numbers
from tinyflow.data import ImageFolder, Loader, log_mean_probability, normalize
from tinyflow.state import in_mode
from tinyflow.train.step import Batches, answers, served

TOP = 5


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Of N images of K classes.

    Attributes:
        loss: mean over the images of -log(probability of their class), in nats: the
            cross-entropy. Of ten crops the probability is the mean of their ten.
        confusion: whole numbers (K, K): how many images of the class of the row were
            taken for that of the column.
        in_top: how many images have their class among the `TOP` likeliest.
    """

    loss: float
    confusion: NDArray[np.int64]
    in_top: int

    @property
    def images(self) -> int:
        """N."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Share of the images whose class is the likeliest, 0 to 1."""
        return int(self.confusion.trace()) / self.images

    @property
    def top5(self) -> float:
        """Share of those that have it among the five likeliest."""
        return self.in_top / self.images

    @property
    def per_class(self) -> list[float | None]:
        """Of each class the share of its images that are right; None without images."""
        counts = self.confusion.sum(axis=1).tolist()
        right = self.confusion.diagonal().tolist()
        return [r / n if n else None for r, n in zip(right, counts, strict=True)]

    def mistaken(self, label: int) -> tuple[int, int] | None:
        """The class that a class is taken for most often if wrongly, and how often."""
        row = self.confusion[label].copy()
        row[label] = 0
        other = int(row.argmax())
        return (other, int(row[other])) if row[other] else None

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """All of it, with the names of the classes."""
        counts = self.confusion.sum(axis=1).tolist()
        rows = zip(classes, counts, self.per_class, strict=True)
        return {
            "images": self.images,
            "loss": self.loss,
            "top1": self.top1,
            "top5": self.top5,
            "classes": [{"name": c, "images": n, "accuracy": a} for c, n, a in rows],
            "confusion": self.confusion.tolist(),
        }


def ranks(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """y[n] = how many classes are likelier than that of the label, 0 if none is.

    Of equal ones the class with the lower number is the likelier, as for argmax.

    Args:
        logits: (N, K), all of them numbers.
        labels: (N,), whole numbers below K.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    above: NDArray[np.int64] = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return above


def examine(
    model: nn.Module,
    batches: Batches,
    progress: Callable[[float], None] = lambda done: None,
) -> Evaluation:
    """Evaluate a network on all images of `batches`, in evaluation mode.

    Args:
        model: put back into its own mode in the end.
        batches: of N images, with the network's number of classes; a Loader of an
            ImageFolder that serves `ten` crops of each is judged by
            :func:`ten_crop_answers`.
        progress: told the part, 0 to 1, that is done.

    Raises:
        FloatingPointError: a logit is not finite, so that no class is the likeliest.
    """
    classes, total = batches.dataset.num_classes, len(batches)
    confusion = np.zeros((classes, classes), np.int64)
    losses, in_top = [], 0
    data, made = batches.dataset, answers(model, batches)
    if isinstance(batches, Loader) and isinstance(data, ImageFolder) and data.ten:
        made = ten_crop_answers(model, batches)
    with served(made) as epoch:
        for done, (logits, labels, loss) in enumerate(epoch, 1):
            losses.append(loss)
            found, true = asnumpy(logits.data), asnumpy(labels)
            if not np.isfinite(found).all():
                raise FloatingPointError(
                    f"the network's output is not finite in batch {done} of the test "
                    "images"
                )
            taken = found.argmax(axis=1)
            np.add.at(confusion, (true, taken), 1)
            in_top += int((ranks(found, true) < TOP).sum())
            progress(done / total)
    mean = sum(numbers(*losses)) / len(batches.dataset)
    return Evaluation(mean, confusion, in_top)


def ten_crop_answers(
    model: nn.Module, loader: Loader
) -> Iterator[tuple[Tensor, Array, Array]]:
    """What a model in evaluation mode makes of the ten crops of each image.

    y = log(mean over the crops i of softmax(xᵢ)), whose softmax is that mean, (N, K) in
    float64 on the host; labels (N,); and the sum of -y of the labels, in nats. The
    network sees one crop of each image of a batch at a time: what it holds is what it
    holds for a batch of single crops, and only the bytes of the images are ten times as
    many.

    Args:
        model: in the end each of its modules is put back into its own mode.
        loader: of an ImageFolder that serves `ten` crops.
    """
    data = loader.dataset
    device = next((device_of(p.data) for p in model.parameters()), "cpu")
    quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
    with in_mode(model, False), quiet, served(loader.raw(0)) as batches:
        for _, images, labels in batches:
            crops = []
            for crop in images.swapaxes(0, 1):
                x = normalize(crop, data.mean, data.std, loader.dtype)
                crops.append(asnumpy(model(Tensor(asarray(x, device))).data))
            logits = np.stack(crops, axis=1).astype(np.float64)
            y = log_mean_probability(logits)
            if not np.isfinite(logits).all():  # of one crop, as of the only one
                y[...] = np.nan
            loss = -y[np.arange(len(labels)), labels].sum()
            yield Tensor(y), labels, loss
