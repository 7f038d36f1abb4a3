"""Activations inside a language model, computed as they are needed or read from files."""

from datamodules.activations.activations import Activations
from datamodules.activations.file import ActivationFile

__all__ = ["ActivationFile", "Activations"]
