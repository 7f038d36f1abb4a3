"""Oriented objects in the label form of YOLO-OBB."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from datamodules.dota.label_errors import LabelErrors
from datamodules.dota.labeled_tiles import LabeledTiles, PartOptions
from datamodules.dota.labels import LineError, coordinates, objects_of_lines, read_lines
from datamodules.dota.tiled import check_class_names
from framework.detection.objects import Objects
from framework.utilities.yaml_files import read_yaml

_NUMBER = re.compile(r"\d{1,9}")


class YOLOOBB(LabeledTiles):
    r"""Images with labels in the form of YOLO-OBB, served as tiles with their objects.

    A label file has one object per line, ``class x1 y1 x2 y2 x3 y3 x4 y4``: the number of the class
    and four corners as shares of the image's width and height. An image without a label file has no
    object. Names of classes are those of ``data.yaml``, or of the only other YAML file of the
    folder; white space in them becomes a hyphen, as it cannot stand in a result file.

    The layout of parts and the remaining arguments are described at ``LabeledTiles``, what batches
    hold at ``TiledData``. Paths that a YAML file names are not followed.

    Args:
        root: Folder of the data set.
        class_names: Names of the classes, by number; default those of the YAML file.
        labels: Name of the folders of labels.

    Raises:
        FileNotFoundError: A part is not there (at ``setup``), or no names of classes are given.
        ValueError: An argument out of its range, or nothing to train on; a YAML file without names;
            or, by file and line unless ``strict`` is off, another form, a number of no class,
            corners that are not those of a convex area or wholly outside the image.

    Example:
        >>> import pathlib, tempfile, PIL.Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for folder in ("images", "labels"):
        ...     (root / folder / "train").mkdir(parents=True)
        >>> PIL.Image.new("RGB", (64, 32)).save(root / "images" / "train" / "a.png")
        >>> labels = root / "labels" / "train" / "a.txt"
        >>> _ = labels.write_text("1 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75")
        >>> data = YOLOOBB(str(root), ["plane", "ship"], image_size=64, gap=16, val=None)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader()))["quads"][0, 0].tolist()
        [[16.0, 8.0], [32.0, 8.0], [32.0, 24.0], [16.0, 24.0]]
    """

    needs_label_files = False

    def __init__(
        self,
        root: str,
        class_names: list[str] | None = None,
        labels: str = "labels",
        **options: Unpack[PartOptions],
    ) -> None:
        super().__init__(root, labels, **options)
        self.own_names = read_names(self.root) if class_names is None else class_names
        check_class_names(self.own_names)
        self.class_names, self.num_classes = self.own_names, len(self.own_names)

    def read_labels(self, path: Path, faults: LabelErrors, size: tuple[int, int]) -> Objects:
        """Return the objects of a label file, in pixels of an image of this size."""
        rows = [(place, line.split()) for place, line in read_lines(path, faults)]
        return objects_of_lines(rows, lambda fields: self._parse(fields, size), faults, size)

    def _parse(self, fields: list[str], size: tuple[int, int]) -> tuple[list[float], int, int]:
        if len(fields) != 9:
            raise LineError(f"{len(fields)} fields instead of 'class x1 y1 x2 y2 x3 y3 x4 y4'.")
        shares = coordinates(fields[1:])
        known = len(self.own_names)
        if not _NUMBER.fullmatch(fields[0]) or int(fields[0]) >= known:
            message = f"{fields[0][:60]} is no number of a class, 0 to {known - 1}."
            raise LineError(message, "unknown class")
        label = self.label_numbers[int(fields[0])]
        return [share * size[k % 2] for k, share in enumerate(shares)], label, 0


def read_names(root: Path) -> list[str]:
    """Return the names of the classes in ``data.yaml``, or in the only YAML file of a folder.

    Raises:
        FileNotFoundError: There is no such file, or several.
        ValueError: It holds no list of names, nor names by number from 0, or passes a limit of
            ``load_yaml``.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> _ = (root / "data.yaml").write_text("names: {0: plane, 1: storage tank}")
        >>> read_names(root)
        ['plane', 'storage-tank']
    """
    path = root / "data.yaml"
    if not path.is_file():
        found = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
        if len(found) != 1:
            raise FileNotFoundError(
                f"{root} has no data.yaml with the names of the classes: write one, or give "
                "class_names, the names by number."
            )
        path = found[0]
    content = read_yaml(path)
    names = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, Mapping) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path} has no `names`: a list, or a name for each number from 0.")
    return ["-".join(str(name).split()) for name in names]
