"""Parameters and multiply-adds to the last digit, counted elsewhere from the papers.

A network that publishes digits has these: torchvision's, timm's, pytorchcv's.
"""

from functools import partial

import pytest

import models
from models.densenet import DenseNet
from models.preact_resnet import PreActResNet, Unit
from models.quadir import QuadirCNN, QuadirResNet
from models.shufflenet import ShuffleNetV2
from tinyflow.flow.claims.nets import OWN

# At the native size: parameters for 10, 100 and 1000 classes where there is such a data
# set, and multiply-adds of one image with the most and with the fewest classes given.
CIFAR = {
    # He et al. 2016, section 4.2: option A, option B
    "resnet20": (269_722, 275_572, 40_551_040),
    "resnet32": (464_154, 470_004, 68_862_592),
    "resnet44": (658_586, 664_436, 97_174_144),
    "resnet56": (853_018, 858_868, 125_485_696),
    "resnet110": (1_727_962, 1_733_812, 252_887_680),
    "resnet1202": (19_421_274, 19_427_124, 2_829_238_912),
    "resnet20_b": (272_474, 278_324, 40_813_184),
    "resnet32_b": (466_906, 472_756, 69_124_736),
    "resnet44_b": (661_338, 667_188, 97_436_288),
    "resnet56_b": (855_770, 861_620, 125_747_840),
    "resnet110_b": (1_730_714, 1_736_564, 253_149_824),
    "resnet1202_b": (19_424_026, 19_429_876, 2_829_501_056),
    "plain20": (269_722, 275_572, 40_551_040),
    "plain32": (464_154, 470_004, 68_862_592),
    "plain44": (658_586, 664_436, 97_174_144),
    "plain56": (853_018, 858_868, 125_485_696),
    "plain110": (1_727_962, 1_733_812, 252_887_680),
    # Hu et al. 2018, r = 16
    "se_resnet20": (272_095, 277_945, 40_553_056),
    "se_resnet56": (860_137, 865_987, 125_491_744),
    "se_resnet110": (1_742_200, 1_748_050, 252_899_776),
    # He et al. 2016, arXiv:1603.05027
    "preact_resnet110": (1_727_962, 1_733_812, 252_887_680),
    "preact_resnet164": (1_703_258, 1_726_388, 247_646_720),
    "preact_resnet1001": (10_327_706, 10_350_836, 1_490_995_712),
    # Huang et al. 2017, Table 2
    "densenet40_12": (1_019_722, 1_060_132, 264_812_928),
    "densenet100_12": (6_979_642, 7_084_852, 1_769_516_448),
    "densenet100_24": (27_249_082, 27_457_972, 6_889_347_744),
    "densenet_bc100_12": (769_162, 800_032, 287_929_692),
    "densenet_bc250_24": (15_324_406, 15_480_556, 5_418_785_724),
    "densenet_bc190_40": (25_624_430, 25_821_620, 9_301_945_740),
    # Ma et al. 2018: x1.0 as at 224 pixels but for the strides before the first stage,
    # (32/56)^2 of the 135,755,480 from there to the average
    "shufflenet_v2_cifar": (1_263_854, 1_356_104, 663_552 + 44_328_320 + 10_240),
}
IMAGENET = {
    "resnet18_a": (224, 11_007_818, 11_515_688, 1_794_805_760),
    "resnet34_a": (224, 21_115_978, 21_623_848, 3_644_493_824),
    "plain18": (224, 11_007_818, 11_515_688, 1_794_805_760),
    "plain34": (224, 21_115_978, 21_623_848, 3_644_493_824),
    "resnet_rs50": (160, 33_663_402, 35_691_912, 2_278_629_376),
    "resnet_rs101": (192, 61_590_186, 63_618_696, 6_012_157_952),
    "resnet_rs152": (256, 84_593_066, 86_621_576, 15_527_886_848),
    "resnet_rs200": (256, 91_181_482, 93_209_992, 20_093_386_752),
    "resnet_rs270": (256, 127_832_938, 129_861_448, 26_950_189_056),
    "resnet_rs350": (320, 161_927_658, 163_956_168, 53_683_601_408),
    "resnet_rs420": (320, 189_863_146, 191_891_656, 63_942_344_704),
    "densenet161": (224, 26_494_090, 28_681_000, 7_727_907_072),
    "se_resnet34": (224, 21_450_998, 21_958_868, 3_663_918_592),
}


QUADIR = {  # pixels, channels, parameters for 10 classes, multiply-adds
    ("quadir_cnn", 28, 1): (576_330, 58_756_096),
    ("quadir_cnn_valid", 28, 1): (281_930, 33_479_424),
    ("quadir_resnet", 28, 1): (436_010, 144_983_552),
    ("quadir_resnet_projection", 28, 1): (417_898, 130_783_744),
    ("quadir_cnn", 32, 3): (731_082, 77_922_304),
    ("quadir_cnn_valid", 32, 3): (385_482, 48_313_600),
    ("quadir_resnet", 32, 3): (513_386, 189_956_096),
    ("quadir_resnet_projection", 32, 3): (495_914, 172_064_768),
}
AT_32 = {  # with ten classes
    "resnet_rs50": 100_741_120,
    "densenet161": 157_689_408,
}


def counted(name, classes, size):
    model = models.find(name).build(num_classes=classes, image_size=size, seed=None)
    return models.count_parameters(model), models.count_macs(model, size)


@pytest.mark.parametrize("name", CIFAR)
def test_of_cifar(name):
    ten, hundred, macs = CIFAR[name]
    assert models.find(name).native == 32
    assert counted(name, 10, 32) == (ten, macs)
    features = (hundred - ten) // 90 - 1
    assert counted(name, 100, 32) == (hundred, macs + 90 * features)


SLOW = ("resnet_rs270", "resnet_rs350", "resnet_rs420")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in IMAGENET],
)
def test_of_imagenet(name):
    size, ten, thousand, macs = IMAGENET[name]
    assert models.find(name).native == size
    assert counted(name, 1000, size) == (thousand, macs)
    features = (thousand - ten) // 990 - 1
    assert counted(name, 10, size) == (ten, macs - 990 * features)
    if name in AT_32:
        assert counted(name, 10, 32) == (ten, AT_32[name])


@pytest.mark.parametrize(("name", "size", "channels"), QUADIR)
def test_of_quadir(name, size, channels):
    network = models.find(name)
    model = network.build(image_size=size, in_channels=channels, seed=None)
    found = models.count_parameters(model), models.count_macs(model, size, channels)
    assert found == QUADIR[name, size, channels]


def test_quadirs_are_those_that_the_claims_measure():
    """The instrument has them, too, since it knows no zoo."""
    for name in ("quadir_cnn", "quadir_resnet"):
        theirs = OWN[name].build(seed=None)
        assert models.count_parameters(theirs) == counted(name, 10, 32)[0]
        assert models.count_macs(theirs, 32) == counted(name, 10, 32)[1]


def test_options_that_a_network_does_not_know_are_refused():
    data = {"num_classes": 10, "image_size": 32, "in_channels": 3, "rng": None}
    for make, said in (
        (partial(QuadirCNN, "full"), "padding must be 'same' or 'valid', not 'full'"),
        (partial(QuadirResNet, "none"), "first must be 'stem' or 'projection'"),
        (partial(DenseNet, (2,), stem="mnist"), "stem must be 'imagenet' or 'cifar'"),
        (partial(ShuffleNetV2, 0.75), "width must be 0.5, 1.0, 1.5 or 2.0, not 0.75"),
        (partial(PreActResNet, Unit, 18), r"6n \+ 2 layers, not 18"),
    ):
        with pytest.raises(ValueError, match=said):
            make(**data)
