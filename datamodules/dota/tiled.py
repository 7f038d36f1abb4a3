"""Base of the datamodules of large pictures, which are served as tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from datamodules.dota.label_errors import LabelErrors
from datamodules.dota.tile_set import TileCache, TileSet, Tiling
from datamodules.oriented_data import OrientedData, OrientedOptions
from framework.data.image_files import decode_image, image_size
from framework.data.image_folders import find_images
from framework.detection.objects import Objects
from framework.utilities.files import file_name


class TiledOptions(OrientedOptions, total=False):
    """Arguments of ``TiledData``."""

    image_size: int
    gap: int
    rates: tuple[float, ...]
    cache_dir: str | None


class TiledData(OrientedData):
    """Base of the datamodules that serve large pictures as overlapping square tiles.

    Batches hold what ``OrientedData`` says, in pixels of the tile.
    Outside training they also hold ``image_id`` (B,) int64, the number of the whole picture,
    ``tile_offset`` (B, 2) float32, left and top, and ``tile_scale`` (B,) float32, so that a place
    in the whole picture is (place in the tile + offset) / scale; ``tile_extent`` (B, 2) float32,
    width and height of what a tile shows of the picture, beyond which it is gray; and, where there
    are labels, ``image_quads`` (B, M', 4, 2), ``image_label`` (B, M') and ``image_difficult``
    (B, M'): the objects of the whole picture, in its first tile alone.

    The remaining arguments are those of ``OrientedData``.

    Args:
        image_size: Width and height S of a tile; a smaller picture is filled up with gray.
        gap: Least overlap of neighboring tiles, in pixels.
        rates: Rates by which pictures are resized before they are cut, one set of tiles for each.
        cache_dir: Folder where tiles are kept as PNG files, cut before the first run; without it a
            picture is decoded for each of its tiles. Labels are read anew in any case.

    Raises:
        ValueError: an argument out of its range, a cache of other tiles, two pictures of one name.
    """

    is_tiled = True

    def __init__(
        self,
        image_size: int = 1024,
        gap: int = 200,
        rates: tuple[float, ...] = (1.0,),
        cache_dir: str | None = None,
        **options: Unpack[OrientedOptions],
    ) -> None:
        super().__init__(**options)
        self.tiling = Tiling(image_size, gap, tuple(rates))
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.input_shape = (3, image_size, image_size)

    def pictures(self, folder: Path, faults: LabelErrors) -> list[Path]:
        """Return the pictures below a folder that can be opened, see ``readable``.

        Raises:
            FileNotFoundError: no such folder, or no picture below it.
            ValueError: the cache lies in the folder, whose tiles would count as pictures.
        """
        if self.cache_dir is not None and self.cache_dir.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"cache_dir {self.cache_dir} must not lie in {folder}.")
        return readable(find_images(folder), faults)

    def cut_tiles(self, part: str, paths: Sequence[Path]) -> None:
        """Cut the tiles of a part that the cache lacks, if there is a cache."""
        cache = self._cache(part)
        if cache is not None:
            cache.cut_missing(paths)

    def tile_set(
        self,
        part: str,
        paths: Sequence[Path],
        objects: Sequence[Objects] | None = None,
        training: bool = False,
        empty_tiles: bool = True,
    ) -> TileSet:
        """Return the tiles of a part."""
        return TileSet(
            paths,
            self.tiling,
            objects,
            training=training,
            empty_tiles=empty_tiles,
            cache=self._cache(part),
        )

    def _cache(self, part: str) -> TileCache | None:
        return None if self.cache_dir is None else TileCache(self.cache_dir / part, self.tiling)

    def predict_from(self, paths: Sequence[Path]) -> None:
        """Name the pictures that are predicted.

        Raises:
            ValueError: a name has white space, with which it cannot stand in a result file.
        """
        for path in paths:
            if path.stem.split() != [path.stem]:
                raise ValueError(f"{path} cannot be named in a result file: it has white space.")
        self.image_paths = [str(path) for path in paths]
        self.image_names = [path.stem for path in paths]


def readable(paths: Sequence[Path], faults: LabelErrors) -> list[Path]:
    """Return the pictures that can be opened, and whose names differ.

    Args:
        paths: Files of the pictures.
        faults: Collector of unreadable pictures. Where it leaves them out, every picture is decoded
            once, since the end of a file may be missing; else its header alone is read.

    Raises:
        ValueError: a picture that cannot be opened, or of the name of another one, if faults are
            strict.
    """
    found: dict[str, Path] = {}
    for path in paths:
        try:
            if faults.strict:
                image_size(path)
            else:
                decode_image(path)
        except ValueError as error:
            faults.add("unreadable image", str(error))
            continue
        if path.stem in found:
            faults.add("name twice", f"{path} has the same name as {found[path.stem]}.")
            continue
        found[path.stem] = path
    return list(found.values())


def check_class_names(class_names: Sequence[str]) -> None:
    """Check that classes can be told apart, in result files too.

    Raises:
        ValueError: no class, one twice, or a name that is empty, has white space or cannot be that
            of a file.
    """
    if not class_names or len(set(class_names)) < len(class_names):
        raise ValueError(f"Classes need names, each its own, got {list(class_names)}.")
    for name in class_names:
        if name.split() != [name]:
            raise ValueError(f"A class cannot be called {name!r}: it has white space.")
        file_name(name, "A class")
