"""A folder of large images without labels, served as tiles for prediction."""

from __future__ import annotations

from pathlib import Path

from datamodules.dota.tiled import TiledData


class ImageTiles(TiledData):
    """All images below a folder, as overlapping tiles, to be predicted.

    There is nothing to train or test on. The remaining arguments and what batches hold are
    described at :class:`~datamodules.dota.tiled.TiledData`.

    Args:
        root: folder of the images.
        class_names: of what is detected, by label, as in training; for reports and result files.

    Raises:
        FileNotFoundError: no such folder, or no image in it (at :meth:`setup`).
        ValueError: an argument out of its range, an image that cannot be decoded, by name, two of
            one name, or a ``cache_dir`` among them.

    Example:
        >>> import pathlib, tempfile, PIL.Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> PIL.Image.new("RGB", (100, 60)).save(root / "P0001.png")
        >>> data = ImageTiles(str(root), ["ship"], image_size=64, gap=16)
        >>> data.setup("predict")
        >>> batch = next(iter(data.predict_dataloader()))
        >>> data.image_names, batch["image"].shape, batch["tile_offset"].tolist()
        (['P0001'], torch.Size([2, 3, 64, 64]), [[0.0, 0.0], [36.0, 0.0]])
    """

    def __init__(
        self,
        root: str,
        class_names: list[str],
        image_size: int = 1024,
        gap: int = 200,
        rates: tuple[float, ...] = (1.0,),
        cache_dir: str | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        super().__init__(image_size, gap, rates, cache_dir, batch_size, num_workers)
        self.root = Path(root)
        self.class_names = class_names
        self.num_classes = len(class_names)

    def prepare_data(self) -> None:
        """Cut the tiles that the cache lacks."""
        if self.cache_dir is not None:
            self.cut_tiles("", self.pictures(self.root))

    def setup(self, stage: str | None = None) -> None:
        """Find the images once."""
        if self.predict_set is not None:
            return
        if self.trainer is None:  # nobody has called it before
            self.prepare_data()
        paths = self.pictures(self.root)
        self.predict_from(paths)
        self.predict_set = self.tile_set("", paths)
