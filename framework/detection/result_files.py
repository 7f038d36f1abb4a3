"""Result files of oriented detection, one per class, as DOTA's server takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from framework.utilities.files import file_name, write_text
from framework.utilities.limits import read_text

_BYTES_PER_CHARACTER = 64
"""Bytes that a character of a file becomes at most, as lines of ten fields."""


def write_results(
    folder: str | Path,
    detections: Sequence[Mapping[str, Tensor]],
    image_names: Sequence[str],
    class_names: Sequence[str],
) -> None:
    r"""Write ``Task1_<class>.txt`` for every class, also for one of which nothing was found.

    A line is ``image score x1 y1 x2 y2 x3 y3 x4 y4``. Numbers have the fewest digits from which the
    same float32 is read; a file that is there is replaced as a whole.

    Args:
        folder: Folder of the files, made if it does not exist.
        detections: Detections of whole images, each with ``boxes`` (n, 4, 2), ``scores`` (n,),
            ``labels`` (n,) int64.
        image_names: Names of the images, without white space.
        class_names: Class names by label, without white space.

    Raises:
        ValueError: the numbers differ, a name is empty or has white space, a class has a name that
            a file cannot have, or a label has no name.

    Example:
        >>> import tempfile
        >>> box = torch.tensor([[[0.1, 0.0], [8.0, 0.0], [8.0, 4.0], [0.0, 4.0]]])
        >>> found = {"boxes": box, "scores": torch.tensor([0.75]), "labels": torch.tensor([1])}
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_results(folder, [found], ["P0006"], ["plane", "ship"])
        >>> (folder / "Task1_ship.txt").read_text()
        'P0006 0.75 0.1 0.0 8.0 0.0 8.0 4.0 0.0 4.0\n'
    """
    if len(detections) != len(image_names):
        raise ValueError(f"{len(detections)} images have results but {len(image_names)} a name.")
    for name in class_names:
        file_name(name, "A class")
    for name in (*image_names, *class_names):
        if name.split() != [name]:
            raise ValueError(f"{name!r} cannot stand in a result file: it has white space.")
    lines: list[list[str]] = [[] for _ in class_names]
    for name, found in zip(image_names, detections, strict=True):
        labels = found["labels"].tolist()
        outside = next((label for label in labels if not 0 <= label < len(class_names)), None)
        if outside is not None:
            raise ValueError(f"{name}: label {outside} is none of {len(class_names)} classes.")
        numbers = torch.cat([found["scores"][:, None], found["boxes"].flatten(1)], dim=1)
        texts = numbers.detach().float().cpu().numpy().astype(str)
        for label, text in zip(labels, texts, strict=True):
            lines[label].append(" ".join((name, *text)))
    folder = Path(folder)
    for class_name, of_class in zip(class_names, lines, strict=True):
        path = folder / f"Task1_{class_name}.txt"
        write_text(path, "".join(f"{line}\n" for line in of_class))


def classes_with_results(folder: str | Path) -> list[str]:
    """Return the classes of which a folder has a result file, in alphabetical order.

    Raises:
        FileNotFoundError: There is no such folder, or no result file in it.
    """
    names = sorted(path.stem.removeprefix("Task1_") for path in Path(folder).glob("Task1_*.txt"))
    if not names:
        raise FileNotFoundError(f"{folder} holds no result file, Task1_<class>.txt.")
    return names


def read_results(
    folder: str | Path, image_names: Sequence[str], class_names: Sequence[str]
) -> list[dict[str, Tensor]]:
    """Return what ``Task1_<class>.txt`` say of each image.

    Args:
        folder: Folder of the files.
        image_names: Names of the images.
        class_names: Class names by label; each has a file.

    Returns:
        Per image ``boxes`` (n, 4, 2) float32, ``scores`` (n,) float32 and ``labels`` (n,) int64,
        by descending score.

    Raises:
        FileNotFoundError: a class has no file.
        ValueError: by file and line, an unknown image, or not ten fields with nine finite numbers.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "Task1_ship.txt").write_text("P0006 0.75 0 0 8 0 8 4 0 4")
        >>> read_results(folder, ["P0006"], ["ship"])[0]["scores"]
        tensor([0.7500])
    """
    numbers_of = {name: number for number, name in enumerate(image_names)}
    rows: list[list[list[float]]] = [[] for _ in image_names]
    labels: list[list[int]] = [[] for _ in image_names]
    for label, class_name in enumerate(class_names):
        path = Path(folder) / f"Task1_{class_name}.txt"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: every class needs a result file.")
        for line, text in enumerate(read_text(path, _BYTES_PER_CHARACTER).splitlines(), start=1):
            if not text.strip():
                continue
            name, *fields = text.split()
            if name not in numbers_of:
                raise ValueError(f"{path}, line {line}: no image is called {name[:60]}.")
            rows[numbers_of[name]].append(_numbers(fields, f"{path}, line {line}"))
            labels[numbers_of[name]].append(label)
    return [_detections(*of_image) for of_image in zip(rows, labels, strict=True)]


def _numbers(fields: list[str], place: str) -> list[float]:
    try:
        numbers = [float(field) for field in fields]
    except ValueError:
        numbers = []
    if len(numbers) != 9 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{place}: not 'image score x1 y1 x2 y2 x3 y3 x4 y4'.")
    return numbers


def _detections(rows: list[list[float]], labels: list[int]) -> dict[str, Tensor]:
    numbers = torch.tensor(rows, dtype=torch.float32).view(-1, 9)
    order = numbers[:, 0].argsort(descending=True, stable=True)
    return {
        "boxes": numbers[order, 1:].view(-1, 4, 2),
        "scores": numbers[order, 0],
        "labels": torch.tensor(labels, dtype=torch.int64)[order],
    }
