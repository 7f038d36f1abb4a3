"""The image sets of retrieval that come with lists: Stanford Online Products and In-Shop."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Unpack

import torch

from datamodules.image_data import ImageData, ImageGeometry, ImageOptions, Splits
from datamodules.image_datasets import ImageFiles
from framework.data.folders import existing_file, is_text
from framework.data.image_files import ImagePath, intact_images
from framework.utilities.files import path_below
from framework.utilities.limits import read_text, whole_number

_LINE_BYTES = 32
"""Memory that each byte of a list takes at most."""
QUERY, GALLERY = "query", "gallery"


class ListedImages(ImageData):
    """Base of sets of images that a list in their folder names, one class an article.

    The remaining arguments are those of ``ImageData``.

    Args:
        root: Folder of the list.
        image_size: Side of a square image, or its height and width (H, W).
        resize: Length that the shorter side is resized to before the crop.
        channels: Channels of an image: 3 for RGB, 1 for gray.
        strict: Whether an image that cannot be decoded stops the run before it begins.
    """

    def __init__(
        self,
        root: str,
        image_size: int | tuple[int, int] | None = 224,
        resize: int | None = 256,
        channels: Literal[1, 3] | None = 3,
        strict: bool = True,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        self.root = Path(root)
        self.place = self.root
        self.strict = strict
        self.geometry = ImageGeometry(image_size, channels, resize)
        self._use_preparation()

    def setup(self, stage: str | None = None) -> None:
        """Read the lists once, for all stages."""
        if self.train_set is None:
            self.train_set, self.val_set, self.test_set = self.read_normalized()
            self.predict_set = self.test_set

    def _files(self, names: dict[str, int]) -> ImageFiles:
        """Return listed images, by their paths in the folder, with their labels."""
        number = {self._path(name): label for name, label in names.items()}
        paths: list[ImagePath] = [*intact_images([*number], self.root, self.strict)]
        return self.images_of(paths, torch.tensor([number[Path(str(path))] for path in paths]))

    def _path(self, name: str) -> Path:
        """Return where a listed image is, below the folder."""
        if not is_text(name):
            raise ValueError(
                f"A list in {self.root} names {name[:100]!r}, which is no line of text."
            )
        return existing_file(path_below(self.root, name, f"A list in {self.root}"))


class OnlineProducts(ListedImages):
    """Stanford Online Products: photographs of articles, other articles in the test.

    Read are ``Ebay_train.txt`` (11,318 classes, 59,551 images) and ``Ebay_test.txt`` (11,316,
    60,502), whose lines are ``image_id class_id super_class_id path`` after a header. For
    batches of several images of a class and held-out classes, give it to ``Retrieval``.

    Paper: Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016,
    arXiv:1511.06452.

    The arguments are those of ``ListedImages``.

    Raises:
        FileNotFoundError: A list or an image is missing (at ``setup``).
        ValueError: A damaged list, by line, or a class in both lists (at ``setup``).

    Example:
        >>> OnlineProducts("data/Stanford_Online_Products").input_shape
        (3, 224, 224)
    """

    def read(self) -> Splits:
        """Return training and test images."""
        train, test = (self._listed(f"Ebay_{part}.txt") for part in ("train", "test"))
        if shared := set(train.values()) & set(test.values()):
            raise ValueError(f"{self.root}: the class {min(shared)} is in both lists.")
        numbers = {old: new for new, old in enumerate([*dict.fromkeys(train.values())])}
        self.num_classes = len(numbers)
        numbers |= {
            old: new for new, old in enumerate([*dict.fromkeys(test.values())], len(numbers))
        }
        sets = [
            self._files({name: numbers[label] for name, label in part.items()})
            for part in (train, test)
        ]
        return Splits(sets[0], None, sets[1])

    def _listed(self, name: str) -> dict[str, int]:
        """Return the number of the class of every image of a list."""
        path = existing_file(self.root / name)
        found: dict[str, int] = {}
        for number, line in enumerate(read_text(path, _LINE_BYTES).splitlines(), 1):
            parts = line.split(maxsplit=3)
            if number == 1 or not parts:
                continue
            label = whole_number(parts[1]) if len(parts) == 4 else None
            if label is None:
                raise ValueError(
                    f"{path}, line {number}: expected image_id class_id super_class_id path, got "
                    f"{line[:80]!r}."
                )
            found[parts[3].strip()] = label
        if not found:
            raise ValueError(f"{path} names no images.")
        return found


class InShop(ListedImages):
    """DeepFashion In-Shop Clothes Retrieval: photographs of clothes, query and gallery in the test.

    Read is ``Eval/list_eval_partition.txt`` or ``list_eval_partition.txt``: the number of images, a
    header and lines ``image_name item_id evaluation_status``, of which the last is ``train``
    (3,997 classes, 25,882 images), ``query`` (3,985, 14,218) or ``gallery`` (12,612). Images of
    the test also hold ``is_query`` (B,) bool: a query is compared with the gallery alone. For
    batches of several images of a class and held-out classes, give it to ``Retrieval``.

    Paper: Liu et al., DeepFashion, CVPR 2016.

    The arguments are those of ``ListedImages``.

    Raises:
        FileNotFoundError: The list or an image is missing (at ``setup``).
        ValueError: A damaged list, by line, or a class for both training and test (at ``setup``).

    Example:
        >>> InShop("data/In-shop").input_shape
        (3, 224, 224)
    """

    def read(self) -> Splits:
        """Return training and test images."""
        parts = self._listed()
        tested = [*parts[QUERY].values(), *parts[GALLERY].values()]
        if shared := set(parts["train"].values()) & set(tested):
            raise ValueError(f"{self.root}: the article {min(shared)} is for training and test.")
        numbers = {old: new for new, old in enumerate(sorted(set(parts["train"].values())))}
        self.num_classes = len(numbers)
        numbers |= {old: new for new, old in enumerate(sorted(set(tested)), len(numbers))}
        sets = {
            part: self._files({name: numbers[item] for name, item in images.items()})
            for part, images in parts.items()
        }
        for part in (QUERY, GALLERY):
            images = sets[part]
            mark = torch.full((len(images),), part == QUERY)
            images.fields = {**images.fields, "is_query": mark}
        return Splits(sets["train"], None, sets[QUERY].followed_by(sets[GALLERY]))

    def _listed(self) -> dict[str, dict[str, str]]:
        """Return the article of every image of every part."""
        nested = self.root / "Eval" / "list_eval_partition.txt"
        path = nested if nested.is_file() else existing_file(self.root / "list_eval_partition.txt")
        parts: dict[str, dict[str, str]] = {"train": {}, QUERY: {}, GALLERY: {}}
        for number, line in enumerate(read_text(path, _LINE_BYTES).splitlines(), 1):
            words = line.split()
            if number <= 2 or not words:
                continue
            if len(words) != 3 or words[2] not in parts:
                raise ValueError(
                    f"{path}, line {number}: expected an image, its article and train, query or "
                    f"gallery, got {line[:80]!r}."
                )
            parts[words[2]][words[0]] = words[1]
        missing = [part for part, images in parts.items() if not images]
        if missing:
            raise ValueError(f"{path} names no images of the part {missing[0]}.")
        return parts
