from .dota import DOTA as DOTA
from .image_tiles import ImageTiles as ImageTiles
