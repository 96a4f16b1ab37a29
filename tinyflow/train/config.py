"""All options of a training run, checked before anything is computed or written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tinyflow.backend import DEVICES
from tinyflow.data import DATASETS
from tinyflow.data.augmentation import Augmentation
from tinyflow.data.dataset import FOLDER
from tinyflow.data.folder import BAD_IMAGES, LARGEST, MOST_WORKERS
from tinyflow.data.shapes import SIDES
from tinyflow.network import Network
from tinyflow.train.checks import (
    ConfigError,
    check_schedule,
    choice,
    interval,
    number_in,
    whole_in,
)
from tinyflow.train.recipes import RECIPES

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop")
EPOCHS, EPOCHS_LARGE = 4, 2  # of most networks, and of those for ImageNet
WEIGHT_DECAY = {"sgd": 5e-4, "adam": 0.0, "adamw": 0.01, "rmsprop": 0.0}
SCHEDULES = ("constant", "cosine", "step", "exponential", "onecycle", "plateau")
MILESTONES = (0.5, 0.75)  # of all steps (He et al. 2016)
NORMALIZE = ("channel", "pixel")
PRECISIONS = ("float32", "tf32", "bfloat16")
DTYPE = "float32"  # of parameters, statistics and loss, whatever the precision


@dataclass(frozen=True)
class TrainConfig:
    """The options of one run.

    Attributes:
        model: the network, e.g. ``models.find("resnet20")``, or one's own:
            ``Network("mine", MyNet)``.
        dataset: one of ``tinyflow.data.DATASETS``.
        data_dir: folder with the files of the data set; shapes needs none.
        image_size: pixels that the images of "folder" are given and "shapes" are drawn
            with; None means 224 and 32.
        workers: processes that decode the images of "folder"; None means one less than
            there are cores. The images are the same.
        bad_images: one of `BAD_IMAGES`, of "folder": whether one that cannot be decoded
            ends the run, or all are decoded once at its beginning, and those left out.
        recipe: name of the one that `tinyflow.train.recipes.from_recipe` took the
            options from, for the record.
        epochs: passes over the training images, at least 1.
        iterations: steps of the whole run, or None: then `epochs` says how many.
        batch_size: images per step, at least 1.
        lr: learning rate after warm-up; None means the model's own for the optimiser.
        optimizer: one of `OPTIMIZERS`; None means SGD for the networks designed for
            32x32 images and AdamW for the others: those designed for ImageNet learn
            nothing on small images from the first few hundred steps of SGD.
        schedule: one of `SCHEDULES`: constant; half a cosine down to `min_lr`; times
            `gamma` from each of the `milestones` on, or every `decay_epochs` epochs, or
            after more than `patience` epochs in which the loss fell no further, on the
            validation images if there are any, else in training; or PyTorch's one
            cycle, which has a warm-up of its own.
        milestones: of "step", rising: all below 1, shares of all steps, or all 1 and
            more, epochs (fractions too), or steps where `iterations` is given.
        gamma: of "step", "exponential" and "plateau", between 0 and 1.
        decay_epochs: of "exponential", which needs it; fractions too.
        patience: epochs, of "plateau".
        min_lr: the lowest rate of "cosine" and "plateau".
        weight_decay: λ in the optimiser's own sense; None means what `WEIGHT_DECAY`
            says.
        decay_norms: whether λ is also for parameters with one axis or none: the weights
            of norms, and all biases.
        momentum: of SGD and RMSprop, in [0, 1); the others ignore it.
        betas: of Adam and AdamW.
        alpha: of RMSprop.
        eps: of all but SGD; None means 1e-8.
        nesterov: Nesterov's momentum, of SGD.
        label_smoothing: ε of the training loss, in [0, 1); the test loss has none.
        warmup_epochs: epochs (fractions too) of linear warm-up.
        warmup_start: the part of the rate that it begins at; None means that the first
            step is a step of the warm-up like the others.
        warmup_constant: whether it stays at `warmup_start`, which it needs, to its end.
        slow_until: a tenth of the rate until the training accuracy of an epoch is above
            this (He et al. 2016 for ResNet-110: 0.2), or None.
        clip_grad: largest global gradient norm, or None.
        ema: the decay of averages of the weights and running statistics, or None. With
            them the averages are what is validated, tested and saved.
        ema_warm_up: whether the decay is lower at first, see
            :class:`tinyflow.train.ema.EMA`.
        normalize: one of `NORMALIZE`: (x / 255 - mean) / std of each channel, or minus
            the mean image of the images that are trained on, in place of both (He et
            al. 2015), which validation and test images are given, too.
        augment: random crop and flip of the training images.
        rand_augment: changes of RandAugment for each training image; 0 is none.
        magnitude: of RandAugment, from 0.
        cutout: side of the square that is cut out of each, in pixels; 0 is none.
        mixup: α of the blending of images and labels; 0 is none.
        dropout: probability, where the network has it (None: its own).
        stochastic_depth: probability that the last branch is dropped, or None.
        seed: of the initial weights, the order of the images and dropout. The shapes
            data set itself is always the one of seed 0, so that runs are comparable.
        device: "auto", "cpu" or "cuda".
        precision: one of `PRECISIONS`, of convolutions and products; a CPU has float32
            only.
        deterministic: on a GPU, only algorithms that give the same bits every time; a
            CPU has no others.
        capture: on a GPU, record the step once and replay it.
        limit_train, limit_test: use only the first so many images.
        val_split: so many of the training images, the same whatever the seed, are not
            trained on and choose the best epoch instead; the test images never do.
        num_classes: None, or the data set's number of classes.
        save_every: when the state of the run is saved, so that it can be resumed:
            "epoch", "5 epochs" or "200 steps", or only 200.
        trace_every: stream the block terms of every so many steps, or None.
        tensorboard: write the numbers for TensorBoard, too.
        output: the run folder to make, or None for ``runs/<model>-<dataset>-<n>``.
    """

    model: Network
    dataset: str = "shapes"
    data_dir: Path | None = None
    image_size: int | None = None
    workers: int | None = None
    bad_images: str = "refuse"
    recipe: str | None = None
    epochs: int = EPOCHS
    iterations: int | None = None
    batch_size: int = 64
    lr: float | None = None
    optimizer: str | None = None
    schedule: str = "cosine"
    milestones: tuple[float, ...] = MILESTONES
    gamma: float = 0.1
    decay_epochs: float | None = None
    patience: int = 10
    min_lr: float = 0.0
    weight_decay: float | None = None
    decay_norms: bool = True
    momentum: float = 0.9
    betas: tuple[float, ...] = (0.9, 0.999)
    alpha: float = 0.99
    eps: float | None = None
    nesterov: bool = False
    label_smoothing: float = 0.0
    warmup_epochs: float = 0.5
    warmup_start: float | None = None
    warmup_constant: bool = False
    slow_until: float | None = None
    clip_grad: float | None = None
    ema: float | None = None
    ema_warm_up: bool = False
    normalize: str = "channel"
    augment: bool = False
    rand_augment: int = 0
    magnitude: float = 9.0
    cutout: int = 0
    mixup: float = 0.0
    dropout: float | None = None
    stochastic_depth: float | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"
    deterministic: bool = False
    capture: bool = True
    limit_train: int | None = None
    limit_test: int | None = None
    val_split: int | None = None
    num_classes: int | None = None
    save_every: str = "epoch"
    trace_every: int | None = None
    tensorboard: bool = False
    output: Path | None = None

    @property
    def learning_rate(self) -> float:
        """`lr`, or the default that stands for it."""
        if self.lr is not None:
            return float(self.lr)
        sgd = self.optimizer_name == "sgd"
        return self.model.lr if sgd else self.model.adam_lr

    @property
    def lower_rate(self) -> float:
        """A learning rate to try where this one was too high."""
        usual = replace(self, lr=None).learning_rate
        return usual if self.learning_rate >= 10 * usual else self.learning_rate / 10

    @property
    def optimizer_name(self) -> str:
        """`optimizer`, or the default that stands for it."""
        if self.optimizer is not None:
            return self.optimizer
        return "sgd" if (self.model.native or 224) <= 32 else "adamw"

    @property
    def decay(self) -> float:
        """`weight_decay`, or the default that stands for it."""
        if self.weight_decay is not None:
            return float(self.weight_decay)
        return WEIGHT_DECAY[self.optimizer_name]

    @property
    def augmentation(self) -> Augmentation:
        """What is done to training images besides cropping and mirroring them."""
        changes = self.rand_augment
        return Augmentation(changes, self.magnitude, self.cutout, self.mixup)

    @property
    def model_options(self) -> dict[str, float]:
        """What the network is built with besides the shape of the data."""
        named = {"dropout": self.dropout, "stochastic_depth": self.stochastic_depth}
        return {name: p for name, p in named.items() if p is not None}

    def validate(self) -> None:
        """Check everything that needs neither data nor disk.

        Raises:
            ConfigError: with one sentence that names the option and what it may be.
        """
        if not isinstance(self.model, Network):
            raise ConfigError(
                f"model must be a Network, not {self.model!r}: write models.find(name) "
                'or Network("mine", MyNet)'
            )
        if self.recipe is not None:
            choice("recipe", self.recipe, RECIPES)
        choice("dataset", self.dataset, DATASETS)
        choice("optimizer", self.optimizer_name, OPTIMIZERS)
        choice("schedule", self.schedule, SCHEDULES)
        choice("precision", self.precision, PRECISIONS)
        choice("normalize", self.normalize, NORMALIZE)
        choice("device", self.device, DEVICES)
        choice("bad-images", self.bad_images, BAD_IMAGES)
        drawn = self.dataset == "shapes"
        least, most = (SIDES[0], SIDES[-1]) if drawn else (1, LARGEST)
        whole_in("image-size", self.image_size, least, most)
        whole_in("workers", self.workers, 0, MOST_WORKERS)
        for name, number in (
            ("epochs", self.epochs),
            ("iterations", self.iterations),
            ("batch-size", self.batch_size),
            ("limit-train", self.limit_train),
            ("limit-test", self.limit_test),
            ("val-split", self.val_split),
            ("trace-every", self.trace_every),
        ):
            whole_in(name, number, 1)
        interval(self.save_every)
        whole_in("seed", self.seed, 0)
        number_in("lr", self.lr, above=0)
        number_in("clip-grad", self.clip_grad, above=0)
        number_in("weight-decay", self.weight_decay)
        number_in("momentum", self.momentum, below=1)
        number_in("alpha", self.alpha, below=1)
        number_in("eps", self.eps, above=0)
        number_in("ema", self.ema, below=1)
        number_in("rand-augment", self.rand_augment)
        number_in("magnitude", self.magnitude)
        number_in("cutout", self.cutout)
        number_in("mixup", self.mixup)
        number_in("dropout", self.dropout, below=1)
        number_in("stochastic-depth", self.stochastic_depth, below=1)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            said = ",".join(f"{beta:g}" for beta in self.betas)
            raise ConfigError(
                f"--betas {said} must be two numbers from 0 to below 1, as in 0.9,0.999"
            )
        number_in("label-smoothing", self.label_smoothing, below=1)
        number_in("warmup-epochs", self.warmup_epochs)
        if self.nesterov and self.momentum == 0:
            raise ConfigError("--nesterov needs a --momentum above 0")
        check_schedule(self)
        if self.normalize == "pixel" and self.dataset == FOLDER:
            raise ConfigError(
                "--normalize pixel needs images that lie in memory, as those of folder "
                "do not: leave it out"
            )
        if self.augment and self.dataset == "mnist":
            raise ConfigError(
                "--augment mirrors images, which changes digits: leave it out for mnist"
            )
        if self.dataset != "shapes" and self.data_dir is None:
            raise ConfigError(
                f"{self.dataset} is read from files: name their folder with --data-dir "
                "or the environment variable TINYFLOW_DATA, or use --dataset shapes"
            )


def default_epochs(model: Network) -> int:
    """Epochs of a run that names none: it takes minutes on two cores, not hours."""
    return EPOCHS_LARGE if (model.native or 0) > 32 else EPOCHS
