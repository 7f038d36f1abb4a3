"""One LightningDataModule per kind of data."""

from datamodules.activations import ActivationFile, Activations
from datamodules.bags import Bags
from datamodules.cifar import CIFAR
from datamodules.classification import ClassificationData
from datamodules.digits import Digits
from datamodules.idx import IDXImages
from datamodules.image_folder import ImageFolder
from datamodules.label_noise import LabelNoise
from datamodules.tabular import Tabular

__all__ = [
    "CIFAR",
    "ActivationFile",
    "Activations",
    "Bags",
    "ClassificationData",
    "Digits",
    "IDXImages",
    "ImageFolder",
    "LabelNoise",
    "Tabular",
]
