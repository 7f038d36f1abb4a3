"""Tiles of large pictures as samples, and a folder where they are kept cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from framework.data.datasets import Sample
from framework.data.image_files import decode_image, image_info, image_size
from framework.detection.objects import Objects, ObjectTable
from framework.detection.tiles import tile_objects, tile_origins
from framework.utilities.files import make_folder, remove_parts, write_atomically, write_text
from framework.utilities.json_files import read_json

if TYPE_CHECKING:
    from PIL import Image

GRAY = (128, 128, 128)
"""Color of a tile beyond the picture's right and lower border."""


class Tile(NamedTuple):
    """A square of a resized picture: its number, the rate of resizing, and where it begins."""

    image: int
    rate: float
    left: int
    top: int


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    Args:
        window: Width and height of a tile.
        gap: Least overlap of neighbors.
        rates: Rates by which pictures are resized before they are cut, one set of tiles for each.

    Raises:
        ValueError: an argument out of its range.
    """

    window: int
    gap: int
    rates: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        tile_origins(1, self.window, self.gap)
        if not self.rates or not all(0 < rate < float("inf") for rate in self.rates):
            raise ValueError(f"rates must be positive numbers, got {self.rates}.")

    def tiles(self, image: int, size: tuple[int, int]) -> list[Tile]:
        """Return the tiles of a picture of a size (width, height), row by row."""
        return [
            Tile(image, rate, left, top)
            for rate in self.rates
            for top in tile_origins(resized(size[1], rate), self.window, self.gap)
            for left in tile_origins(resized(size[0], rate), self.window, self.gap)
        ]


def resized(length: int, rate: float) -> int:
    """Return a length after resizing, in whole pixels."""
    return max(1, round(length * rate))


def cut(picture: Image.Image, tile: Tile, window: int) -> Image.Image:
    """Return a tile of a picture that was resized by its rate, gray beyond the border."""
    from PIL import Image

    canvas = Image.new("RGB", (window, window), GRAY)
    right = min(tile.left + window, picture.width)
    bottom = min(tile.top + window, picture.height)
    canvas.paste(picture.crop((tile.left, tile.top, right, bottom)))
    return canvas


def resize(picture: Image.Image, rate: float) -> Image.Image:
    """Return a picture resized by a rate, bicubic."""
    from PIL import Image

    if rate == 1:
        return picture
    size = (resized(picture.width, rate), resized(picture.height, rate))
    return picture.resize(size, Image.Resampling.BICUBIC)


class TileCache:
    """A folder of tiles that were cut once, so that a sample needs no whole picture.

    A tile is called ``<image>__<rate>__<left>___<top>.png``. It is written beside its place and
    then moved there, so cutting that was stopped goes on where it stood. It holds its picture's
    size in bytes and time of change, and is cut again for a picture in which they differ.

    Args:
        folder: Folder of one part of a data set; made if it does not exist.
        tiling: Tiling of the folder's pictures.

    Raises:
        ValueError: the folder holds tiles of another tiling.
    """

    def __init__(self, folder: Path, tiling: Tiling) -> None:
        self.folder = folder
        self.tiling = tiling
        self.window = tiling.window
        settings = {"window": tiling.window, "gray": list(GRAY)}
        path = folder / "tiling.json"
        if not path.is_file():
            make_folder(folder)
            if next(folder.glob("*.png"), None) is not None:
                raise ValueError(f"{folder} holds pictures that are no tiles of this data set.")
            write_text(path, json.dumps(settings))
        remove_parts(folder)
        found = read_json(path)
        if found != settings:
            raise ValueError(
                f"{folder} holds tiles cut with {found}, not {settings}: remove it, or name "
                "another cache_dir."
            )

    def path(self, picture: Path, tile: Tile) -> Path:
        """Return where a tile lies."""
        return self.folder / f"{picture.stem}__{tile.rate:g}__{tile.left}___{tile.top}.png"

    def cut_missing(self, paths: Sequence[Path]) -> int:
        """Cut the tiles of pictures that are not there yet, and return their number."""
        from rich.progress import track

        number = 0
        for path in track(paths, f"Cutting tiles into {self.folder}", transient=True):
            tiles = self.tiling.tiles(0, image_size(path))
            source = _source(path)
            missing = [tile for tile in tiles if _source_of(self.path(path, tile)) != source]
            if missing:
                picture = decode_image(path)
                for rate in self.tiling.rates:
                    scaled = resize(picture, rate)
                    for tile in missing:
                        if tile.rate == rate:
                            _write(self.path(path, tile), cut(scaled, tile, self.window), source)
            number += len(missing)
        return number


def _source(picture: Path) -> str:
    found = picture.stat()
    return f"{found.st_size} bytes, {found.st_mtime_ns} ns"


def _source_of(tile: Path) -> str | None:
    if not tile.is_file():
        return None
    try:
        return str(image_info(tile).get("source"))
    except ValueError:  # it is cut again
        return None


def _write(path: Path, tile: Image.Image, source: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("source", source)
    options: dict[str, Any] = {"format": "PNG", "compress_level": 1, "pnginfo": texts}
    write_atomically(path, lambda file: tile.save(file, **options))


class TileSet(Dataset[Sample]):
    """Tiles of pictures, cut when they are read or taken from a cache.

    A sample holds ``image`` (3, S, S) and, with labels, the objects of the tile. For training,
    objects of which the tile shows too little are left out. Otherwise it also holds ``image_id``
    (), ``tile_offset`` (2,), ``tile_scale`` () and ``tile_extent`` (2,), width and height of what
    it shows of the picture, and with labels ``image_quads``, ``image_label`` and
    ``image_difficult``: the objects of the whole picture in its first tile, and none in its other
    ones.

    Args:
        paths: Files of the pictures.
        tiling: Tiling by which they are cut.
        objects: Objects of each picture, if they are known.
        training: Whether samples are for training.
        empty_tiles: Whether tiles without objects are served.
        cache: Cache from which tiles are read.
        tiles: Tiles to serve instead of all, in the order of their pictures.
    """

    decodes = True
    """Reading a sample is work that loading processes should do."""

    def __init__(
        self,
        paths: Sequence[Path],
        tiling: Tiling,
        objects: Sequence[Objects] | None = None,
        training: bool = False,
        empty_tiles: bool = True,
        cache: TileCache | None = None,
        tiles: Sequence[Tile] | None = None,
    ) -> None:
        self.paths = np.array([str(path) for path in paths])  # shared by loading processes
        self.window = tiling.window
        self.training = training
        self.cache = cache
        sizes = [image_size(path) for path in paths]
        self.sizes = np.array(sizes).reshape(-1, 2)
        if tiles is None:
            tiles = [tile for image, size in enumerate(sizes) for tile in tiling.tiles(image, size)]
        self.whole = None if objects is None else ObjectTable(objects)
        self.objects = None
        if objects is not None:
            shown = [_shown(objects[tile.image], tile, self.window) for tile in tiles]
            if training:
                shown = [found[found.difficult < 2] for found in shown]
            if not empty_tiles:
                tiles = [tile for tile, found in zip(tiles, shown, strict=True) if len(found)]
                shown = [found for found in shown if len(found)]
            self.objects = ObjectTable(shown)
        self.tiles = np.array(tiles, dtype=np.float64).reshape(-1, 4)
        self._last: tuple[int, float, Image.Image] | None = None

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, row: int) -> Sample:
        image, rate, left, top = self.tiles[row].tolist()
        tile = Tile(int(image), rate, int(left), int(top))
        sample: Sample = {"image": self._read(tile)}
        if self.objects is not None:
            sample |= self.objects[row].fields()
        if self.training:
            return sample
        sample["image_id"] = torch.tensor(tile.image)
        sample["tile_offset"] = torch.tensor([left, top], dtype=torch.float32)
        sample["tile_scale"] = torch.tensor(rate, dtype=torch.float32)
        width, height = (resized(length, rate) for length in self.sizes[tile.image].tolist())
        sample["tile_extent"] = torch.tensor(
            [min(width - left, self.window), min(height - top, self.window)], dtype=torch.float32
        )
        if self.whole is not None:
            first = row == 0 or self.tiles[row - 1, 0] != image
            of_image = (self.whole[tile.image] if first else Objects.none()).fields()
            for name in ("quads", "label", "difficult"):
                sample[f"image_{name}"] = of_image[name]
        return sample

    def _read(self, tile: Tile) -> Tensor:
        from torchvision.transforms.v2 import functional as transforms

        path = Path(self.paths[tile.image])
        if self.cache is not None:
            picture = decode_image(self.cache.path(path, tile))
        else:
            picture = cut(self._resized(tile.image, tile.rate), tile, self.window)
        return transforms.pil_to_tensor(picture).float().div_(255)

    def _resized(self, image: int, rate: float) -> Image.Image:
        # the tiles of a picture are read in turn, except in training
        if self._last is None or self._last[:2] != (image, rate):
            self._last = (image, rate, resize(decode_image(Path(self.paths[image])), rate))
        return self._last[2]


def _shown(objects: Objects, tile: Tile, window: int) -> Objects:
    scaled = Objects(objects.quads * tile.rate, objects.label, objects.difficult)
    return tile_objects(scaled, tile.left, tile.top, window)
