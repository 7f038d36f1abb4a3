"""One LightningDataModule per kind of data."""

from datamodules.activations import ActivationFile, Activations
from datamodules.bags import Bags
from datamodules.cifar import CIFAR
from datamodules.classification import ClassificationData
from datamodules.digits import Digits
from datamodules.domain_pair import DomainPair
from datamodules.dota import DOTA, ImageTiles
from datamodules.hrsc2016 import HRSC2016
from datamodules.idx import IDXImages
from datamodules.image_data import ImageData
from datamodules.image_folder import ImageFolder
from datamodules.image_list import ImageList
from datamodules.label_noise import LabelNoise
from datamodules.mat_features import MatFeatures
from datamodules.oriented_augmentation import (
    Mixup,
    Mosaic,
    PixelTransform,
    RandomAffine,
    RandomCrop,
    RandomFlip,
    RandomQuarterTurn,
    RandomTranslation,
)
from datamodules.rendered_scenes import RenderedScenes
from datamodules.rotated_digits import RotatedDigits
from datamodules.tabular import Tabular
from datamodules.usps import USPS
from datamodules.whole_set import WholeSet

__all__ = [
    "CIFAR",
    "DOTA",
    "HRSC2016",
    "USPS",
    "ActivationFile",
    "Activations",
    "Bags",
    "ClassificationData",
    "Digits",
    "DomainPair",
    "IDXImages",
    "ImageData",
    "ImageFolder",
    "ImageList",
    "ImageTiles",
    "LabelNoise",
    "MatFeatures",
    "Mixup",
    "Mosaic",
    "PixelTransform",
    "RandomAffine",
    "RandomCrop",
    "RandomFlip",
    "RandomQuarterTurn",
    "RandomTranslation",
    "RenderedScenes",
    "RotatedDigits",
    "Tabular",
    "WholeSet",
]
