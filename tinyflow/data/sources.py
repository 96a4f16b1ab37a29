"""The data sets that are read from files: one row says all that is particular to one.

A row is a `Cifar` or an `Idx`, which are read by ``cifar.py`` and ``mnist.py`` and
fetched by ``download.py``. Sizes and SHA-256 of what is published are those of
TensorFlow Datasets (``tensorflow_datasets/url_checksums/``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Remote:
    """A file as it is published.

    Attributes:
        path: where it belongs below the data folder, and where a mirror has it.
        size: its bytes.
        sha256: its checksum, in hexadecimal digits.
        files: the files, without ``.gz`` or ``.xz``, that it makes present.
        members: of an archive, the bytes of each of them by its name in there; empty
            if it is one file, to be kept as it is.
    """

    path: str
    size: int
    sha256: str
    files: tuple[str, ...]
    members: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A data set in files.

    Attributes:
        name: what ``load_dataset`` calls it.
        title: what its makers call it.
        folder: the sub-folder of the data folder that its files may lie in.
        packed: the suffix of its files where they are compressed.
        classes: the names, in the order of the labels.
        mean: of each channel of the training images, scaled to 0..1.
        std: standard deviation of the same.
        hosts: addresses that hold what is published, the makers' own first.
    """

    name: str
    title: str
    folder: str
    packed: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hosts: tuple[str, ...]

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to do about a file that is damaged or not there."""

    @property
    @abstractmethod
    def remotes(self) -> tuple[Remote, ...]:
        """What is published, in the order in which it is fetched."""


@dataclass(frozen=True, kw_only=True)
class Cifar(Source):
    """A data set in CIFAR's binary format.

    Attributes:
        files: the file names of each split, in order.
        rows: the images in each file of a split.
        labels: how many classes each label byte of a row tells apart.
        column: which of the label bytes is the label.
        archive: the published file that holds all of them, its bytes and SHA-256.
    """

    packed: str = ".xz"
    files: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, int]
    labels: tuple[int, ...]
    column: int
    archive: tuple[str, int, str]

    @property
    def row_bytes(self) -> int:
        """Bytes of an image with its labels."""
        return len(self.labels) + 3 * 32 * 32

    @property
    def remedy(self) -> str:
        """What to do about a file that is damaged or not there."""
        return (
            f"get {self.archive[0]} from {self.hosts[0]} and unpack it into the data "
            "folder"
        )

    @property
    def remotes(self) -> tuple[Remote, ...]:
        """The one archive."""
        sizes = {
            name: self.rows[split] * self.row_bytes
            for split, names in self.files.items()
            for name in names
        }
        members = {f"{self.folder}/{name}": size for name, size in sizes.items()}
        return (Remote(*self.archive, tuple(sizes), members),)


@dataclass(frozen=True, kw_only=True)
class Idx(Source):
    """A data set in MNIST's idx format.

    Attributes:
        images: how many a whole split has.
        first: the first ten labels of each split, which no other set has.
        published: bytes and SHA-256 of each published file, by its name.
    """

    packed: str = ".gz"
    images: Mapping[str, int]
    first: Mapping[str, str]
    published: Mapping[str, tuple[int, str]]

    @property
    def remedy(self) -> str:
        """What to do about a file that is damaged or not there."""
        return (
            f"put a clean copy of the four {self.title} files (for example from "
            f"{self.hosts[0]}) into the folder {self.folder} of the data folder"
        )

    @property
    def remotes(self) -> tuple[Remote, ...]:
        """The four files."""
        return tuple(
            Remote(f"{self.folder}/{name}", *facts, (Path(name).stem,))
            for name, facts in self.published.items()
        )


CIFAR10 = Cifar(
    name="cifar10",
    title="CIFAR-10",
    folder="cifar-10-batches-bin",
    files={
        "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    rows={"train": 10_000, "test": 10_000},
    labels=(10,),
    column=0,
    classes=tuple(
        "airplane automobile bird cat deer dog frog horse ship truck".split()
    ),
    # Computed over all pixels of the 50,000 training images.
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    # The makers' page, and where it sends those who come today.
    hosts=("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
    archive=(
        "cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
)

CIFAR100 = Cifar(
    name="cifar100",
    title="CIFAR-100",
    folder="cifar-100-binary",
    files={"train": ("train.bin",), "test": ("test.bin",)},
    rows={"train": 50_000, "test": 10_000},
    labels=(20, 100),
    column=1,
    classes=tuple(
        """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy
        bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock
        cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
        forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
        lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange
        orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
        possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
        snail snake spider squirrel streetcar sunflower sweet_pepper table tank
        telephone television tiger tractor train trout tulip turtle wardrobe whale
        willow_tree wolf woman worm
        """.split()
    ),
    # Over the training pixels, not computed here but published in more digits:
    # github.com/weiaicunzai/pytorch-cifar100, conf/global_settings.py.
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    hosts=CIFAR10.hosts,
    archive=(
        "cifar-100-binary.tar.gz",
        168_513_733,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ),
)

CIFAR100_COARSE = replace(
    CIFAR100,
    name="cifar100_coarse",
    column=0,
    classes=tuple(
        """
        aquatic_mammals fish flowers food_containers fruit_and_vegetables
        household_electrical_devices household_furniture insects large_carnivores
        large_man-made_outdoor_things large_natural_outdoor_scenes
        large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people
        reptiles small_mammals trees vehicles_1 vehicles_2
        """.split()
    ),
)

MNIST = Idx(
    name="mnist",
    title="MNIST",
    folder="mnist",
    images={"train": 60_000, "test": 10_000},
    first={"train": "5041921314", "test": "7210414959"},
    classes=tuple("0123456789"),
    # Computed over all pixels of the 60,000 training images.
    mean=(0.1307,),
    std=(0.3081,),
    # Copies of PyTorch and of TensorFlow: the makers' own page, yann.lecun.com, holds
    # the files no more (github.com/pytorch/pytorch/pull/164238).
    hosts=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    published={
        "train-images-idx3-ubyte.gz": (
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "train-labels-idx1-ubyte.gz": (
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "t10k-images-idx3-ubyte.gz": (
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    },
)

FASHION_MNIST = Idx(
    name="fashion_mnist",
    title="Fashion-MNIST",
    folder="fashion-mnist",
    images={"train": 60_000, "test": 10_000},
    first={"train": "9003027255", "test": "9211614657"},
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    # Over the training pixels, not computed here but published:
    # github.com/chatflip/CalculationMeanStd.
    mean=(0.2860,),
    std=(0.3530,),
    # The makers' own, and Keras's copy.
    hosts=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    published={
        "train-images-idx3-ubyte.gz": (
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        "train-labels-idx1-ubyte.gz": (
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        "t10k-images-idx3-ubyte.gz": (
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        "t10k-labels-idx1-ubyte.gz": (
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    },
)

IDX = (MNIST, FASHION_MNIST)
SOURCES: dict[str, Source] = {
    source.name: source for source in (CIFAR10, CIFAR100, CIFAR100_COARSE, *IDX)
}
