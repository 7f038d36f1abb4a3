"""DOTA, other data in its form, and large images without labels."""

from datamodules.dota.dota import DOTA
from datamodules.dota.image_tiles import ImageTiles

__all__ = ["DOTA", "ImageTiles"]
