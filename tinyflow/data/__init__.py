"""Image data sets, augmentation and batches, on NumPy; files through Pillow."""

from typing import TYPE_CHECKING

from tinyflow import habits
from tinyflow.data.augment import normalize, random_crop_flip
from tinyflow.data.base import DataError, Dataset, ImageSet
from tinyflow.data.cifar import load_cifar10, load_cifar100
from tinyflow.data.crops import log_mean_probability, ten_crop
from tinyflow.data.dataset import DATASETS, load_dataset
from tinyflow.data.download import Fetching, fetch
from tinyflow.data.folder import ImageFolder, load_folder
from tinyflow.data.loader import Batch, Loader
from tinyflow.data.mnist import load_fashion_mnist, load_mnist
from tinyflow.data.shapes import make_shapes

__all__ = [
    "DATASETS",
    "Batch",
    "DataError",
    "Dataset",
    "Fetching",
    "ImageFolder",
    "ImageSet",
    "Loader",
    "fetch",
    "load_cifar10",
    "load_cifar100",
    "load_dataset",
    "load_fashion_mnist",
    "load_folder",
    "load_mnist",
    "log_mean_probability",
    "make_shapes",
    "normalize",
    "random_crop_flip",
    "ten_crop",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = habits.answers(__name__, habits.DATA)
