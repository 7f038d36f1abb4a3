"""Packs a folder of identities into one RecordIO file, as InsightFace does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from datamodules.faces.record_identities import HEADER_KEY, PROPERTY, RECORDS
from framework.data.image_files import image_size, intact_images
from framework.data.image_folders import labeled_images
from framework.data.record_io import Record
from framework.data.record_writer import write_records
from framework.utilities.files import new_folder, write_text
from framework.utilities.limits import open_file


def pack_identities(source: str | Path, target: str | Path) -> None:
    """Write the images in one folder per identity to ``train.rec``, ``train.idx``, ``property``.

    Image files are taken as they are, and not encoded anew. Identities are numbered in the order of
    ``sorted_names``, as ``Faces`` numbers those of a folder.

    Args:
        source: Folder of the identities' folders.
        target: Folder that is made, or an empty one.

    Raises:
        FileExistsError: ``target`` holds something.
        FileNotFoundError: no such folder, no folder in it, or no image.
        ValueError: by name, all images that cannot be decoded.
        WriteError: ``target`` could not be made.

    Example:
        >>> import tempfile, PIL.Image
        >>> from datamodules.faces import Faces
        >>> folder = Path(tempfile.mkdtemp())
        >>> for number in range(4):
        ...     (folder / "people" / str(number // 2)).mkdir(parents=True, exist_ok=True)
        ...     PIL.Image.new("L", (9, 9)).save(folder / f"people/{number // 2}/{number}.png")
        >>> pack_identities(folder / "people", folder / "packed")
        >>> data = Faces(str(folder / "packed"), val_identities=0, test_identities=0)
        >>> data.setup("fit")
        >>> data.num_classes, len(data.train_set)
        (2, 4)
    """
    target = Path(target)
    if target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"{target} holds files already: name a folder that is not there.")
    found = labeled_images(Path(source))
    of_class: list[list[Path]] = [[] for _ in found.class_names]
    numbers = {name: number for number, name in enumerate(found.class_names)}
    for path, name in found.class_of.items():
        if name is not None and isinstance(path, Path):
            of_class[numbers[name]].append(path)
    paths = intact_images([path for paths in of_class for path in paths], source)
    width, height = image_size(paths[0])
    with new_folder(target) as folder:
        write_records(folder / RECORDS, _records(of_class))
        write_text(folder / PROPERTY, f"{len(of_class)},{height},{width}\n")


def _records(of_class: list[list[Path]]) -> Iterator[tuple[int, Record]]:
    """Yield the images, the header, and the range of keys of each identity."""
    key = HEADER_KEY + 1
    ranges = []
    for label, paths in enumerate(of_class):
        ranges.append((key, key + len(paths)))
        for path in paths:
            with open_file(path) as file:
                yield key, Record((float(label),), key, file.read())
            key += 1
    yield HEADER_KEY, Record((float(key), float(key + len(ranges))), HEADER_KEY, b"")
    for begin, end in ranges:
        yield key, Record((float(begin), float(end)), key, b"")
        key += 1
