"""A folder of large images without labels, served as tiles for prediction."""

from __future__ import annotations

from pathlib import Path

from datamodules.dota.label_errors import LabelErrors
from datamodules.dota.tiled import TiledData, check_class_names


class ImageTiles(TiledData):
    """All images below a folder, as overlapping tiles, to be predicted.

    There is nothing to train or test on. The remaining arguments and what batches hold are
    described at ``TiledData``.

    Args:
        root: Folder of the images.
        class_names: Names of the classes by label, for a model whose checkpoint does not hold
            them; default those of its training.
        strict: Whether a picture that cannot be decoded stops the run; otherwise it is left out and
            counted.

    Raises:
        FileNotFoundError: no such folder, or no image in it (at ``setup``).
        IncompatibleError: names that the model was not trained on.
        ValueError: an argument out of its range, no names of classes, a name with white space, or a
            ``cache_dir`` among the images; or, by name unless ``strict`` is off, an image that
            cannot be decoded, or two of one name.

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
        class_names: list[str] | None = None,
        image_size: int = 1024,
        gap: int = 200,
        rates: tuple[float, ...] = (1.0,),
        cache_dir: str | None = None,
        batch_size: int = 16,
        num_workers: int | None = None,
        strict: bool = True,
    ) -> None:
        super().__init__(
            image_size=image_size,
            gap=gap,
            rates=rates,
            cache_dir=cache_dir,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        if class_names is not None:
            check_class_names(class_names)
        self.root = Path(root)
        self.strict = strict
        self.own_names = class_names
        self._paths: list[Path] | None = None

    def prepare_data(self) -> None:
        """Cut the tiles that the cache lacks."""
        if self.cache_dir is not None:
            self.cut_tiles("", self.read())

    def setup(self, stage: str | None = None) -> None:
        """Find the images once."""
        self.number_classes(self.own_names or ())
        if self.trainer is not None and not self.class_names:
            raise ValueError(
                "The checkpoint does not hold the names of its classes: give data.class_names, in "
                "the order of training."
            )
        if self.predict_set is not None:
            return
        if self.trainer is None:  # nobody has called it before
            self.prepare_data()
        paths = self.read()
        self.predict_from(paths)
        self.predict_set = self.tile_set("", paths)

    def read(self) -> list[Path]:
        """Return the images."""
        if self._paths is None:
            faults = LabelErrors(self.strict)
            self._paths = self.pictures(self.root, faults)
            faults.warn(self.root)
        return self._paths
