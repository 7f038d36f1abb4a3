"""Handwritten characters of many alphabets, the usual data of few-shot learning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

import torch
from torch import Tensor

from datamodules.image_data import ImageData, ImageOptions, Splits
from datamodules.image_datasets import ImageSet
from framework.data.encoded_image import EncodedImage
from framework.data.folders import sorted_names, subfolders
from framework.data.image_files import ImagePath
from framework.data.image_folders import ENDINGS, find_images
from framework.data.raw_inputs import as_images
from framework.data.zip_files import read_zip
from framework.utilities.checks import check_at_least
from framework.utilities.limits import check_size
from framework.utilities.randomness import stable_seed

BACKGROUND = ("images_background", "images_background_small1", "images_background_small2")
"""Names of the archives, or of the folders that they unpack to, of training alphabets."""
EVALUATION = "images_evaluation"


class Character(NamedTuple):
    """A class: a character of an alphabet.

    Args:
        alphabet: Name of the alphabet.
        name: Name of the character in it.
    """

    alphabet: str
    name: str


class Omniglot(ImageData):
    """Characters of many alphabets, each drawn by 20 persons; evaluated on other alphabets.

    Read are ``images_background``, ``images_background_small1`` and ``images_background_small2``,
    those of them that there are, and ``images_evaluation``, each as ``.zip`` or as the folder
    that it unpacks to, ``<alphabet>/<character>/*.png``. A class is a character of an alphabet;
    those of ``val_alphabets`` and ``test_alphabets`` are in no training batch. Labels are numbered
    through: first all training classes, then those of validation, then those of the test.

    Batches hold ``image`` (B, 1, S, S) float32, ``label`` (B,) int64 and ``index`` (B,) int64, the
    position in the training, validation or test set. Where ``images_evaluation`` is there, it is
    the test set.

    Paper: Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic
    program induction, Science 2015. With ``rotations``: Vinyals et al., Matching Networks, NeurIPS
    2016, arXiv:1606.04080.

    The remaining arguments are those of ``ImageData``.

    Args:
        root: Folder of the archives.
        image_size: Side S of an image, to which 105 pixels are resized.
        rotations: Whether every character turned by 90, 180 and 270 degrees is a class as well.
        white_ink: Whether ink is 1 and paper 0, in place of the files' black ink on white paper.
        val_alphabets: Alphabets held out for validation, by name, or how many of them.
        test_alphabets: Alphabets held out for the test, by name, or how many of them; not used
            where there is ``images_evaluation``.
        split_seed: Seed of the choice of alphabets that only their number is given of.

    Raises:
        FileNotFoundError: No archive and no folder (at ``setup``).
        ValueError: An alphabet that there is not, or no alphabet left to train on; a damaged
            archive or image, by name (at ``setup``).

    Example:
        >>> data = Omniglot("data/omniglot", image_size=20, rotations=True)
        >>> data.input_shape
        (1, 20, 20)
    """

    def __init__(
        self,
        root: str,
        image_size: int = 28,
        rotations: bool = False,
        white_ink: bool = True,
        val_alphabets: int | list[str] = 1,
        test_alphabets: int | list[str] = 1,
        split_seed: int = 0,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(1, image_size=image_size)
        self.root = Path(root)
        self.place = self.root
        self.input_shape = (1, image_size, image_size)
        self.rotations = rotations
        self.white_ink = white_ink
        self.val_alphabets = val_alphabets
        self.test_alphabets = test_alphabets
        self.split_seed = split_seed

    def setup(self, stage: str | None = None) -> None:
        """Read the data once, for all stages."""
        if self.train_set is None:
            self.train_set, self.val_set, self.test_set = self.read_normalized()
            self.predict_set = self.val_set if self.test_set is None else self.test_set

    def read(self) -> Splits:
        """Return the parts, of different alphabets each."""
        background = self._characters(BACKGROUND)
        if not background:
            raise FileNotFoundError(
                f"{self.root} has none of {', '.join(f'{name}.zip' for name in BACKGROUND)}, nor "
                "a folder of such a name: set data.root to the folder of Omniglot's archives."
            )
        evaluation = self._characters((EVALUATION,))
        alphabets = sorted_names(character.alphabet for character in background)
        generator = torch.Generator().manual_seed(stable_seed(self.split_seed, "alphabets"))
        order = [alphabets[k] for k in torch.randperm(len(alphabets), generator=generator)]
        val = _chosen(self.val_alphabets, order, "val_alphabets", self.root)
        order = [name for name in order if name not in val]
        wanted = [] if evaluation else self.test_alphabets
        test = _chosen(wanted, order, "test_alphabets", self.root)
        train = [name for name in alphabets if name not in {*val, *test}]
        if not train:
            raise ValueError(
                f"{self.root} has {len(alphabets)} alphabets, of which val_alphabets and "
                "test_alphabets leave none to train on."
            )
        parts = [_of(background, train), _of(background, val), evaluation or _of(background, test)]
        sets, first = [], 0
        for part in parts:
            sets.append(self._images(part, first))
            first += len(part) * (4 if self.rotations else 1)
        images, held_out, tested = sets
        assert images is not None
        self.num_classes = int(images.fields["label"].max()) + 1
        return Splits(images, held_out, tested)

    def _characters(self, names: Iterable[str]) -> dict[Character, list[ImagePath]]:
        """Return the images of every character, of the archives that there are."""
        found: dict[Character, list[ImagePath]] = {}
        for name in names:
            for character, pictures in _read(self.root, name).items():
                # an alphabet may be in several archives, with the same pictures
                found.setdefault(character, pictures)
        order = sorted_names(character.alphabet for character in found)
        return {
            character: found[character]
            for alphabet in order
            for character in sorted(c for c in found if c.alphabet == alphabet)
        }

    def _images(self, part: dict[Character, list[ImagePath]], first: int) -> ImageSet | None:
        """Return the images of characters, whose labels begin with ``first``."""
        if not part:
            return None
        pictures = [picture for of_one in part.values() for picture in of_one]
        label = torch.arange(len(part)).repeat_interleave(
            torch.tensor([len(of_one) for of_one in part.values()])
        )
        turns = 4 if self.rotations else 1
        size = self.input_shape[1]
        check_size(self.root, turns * len(pictures) * size * size, "its images")
        image = drawings(pictures, size, self.white_ink)
        image = torch.cat([image.rot90(turn, (2, 3)) for turn in range(turns)])
        label = torch.cat([label + turn * len(part) for turn in range(turns)])
        return ImageSet(image=image, label=label + first)


def drawings(pictures: Sequence[ImagePath], size: int, white_ink: bool) -> Tensor:
    """Return black drawings on white paper as (N, 1, size, size) uint8.

    Args:
        pictures: Images of any format.
        size: Side of a square.
        white_ink: Whether ink becomes 255 and paper 0.

    Raises:
        ValueError: A picture cannot be decoded, by name.
    """
    image = torch.empty(len(pictures), 1, size, size, dtype=torch.uint8)
    for row, picture in enumerate(pictures):
        image[row] = (as_images(picture, (1, size, size))[0] * 255).round().to(torch.uint8)
    return 255 - image if white_ink else image


def _read(root: Path, name: str) -> dict[Character, list[ImagePath]]:
    """Return the images by character of a folder, or else of an archive; nothing of neither."""
    folder, archive = root / name, root / f"{name}.zip"
    found: dict[Character, list[ImagePath]] = {}
    if folder.is_dir():
        for alphabet in subfolders(folder):
            for character in subfolders(alphabet):
                found[Character(alphabet.name, character.name)] = [*find_images(character)]
    elif archive.is_file():
        for path, content in read_zip(archive, lambda name: name.lower().endswith(ENDINGS)).items():
            *_, alphabet_name, character_name, _ = ["", "", *path.split("/")]
            if alphabet_name:
                picture = EncodedImage(f"{archive}/{path}", content)
                found.setdefault(Character(alphabet_name, character_name), []).append(picture)
    return found


def _chosen(wanted: int | list[str], names: list[str], argument: str, root: Path) -> list[str]:
    """Return names that were chosen, or as many as were asked for."""
    if isinstance(wanted, int):
        check_at_least(0, **{argument: wanted})
        return names[:wanted]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(
            f"{argument} has {unknown[0]}, and the alphabets in {root} that are not chosen "
            f"otherwise are {', '.join(sorted_names(names))}."
        )
    return list(wanted)


def _of(
    characters: dict[Character, list[ImagePath]], alphabets: list[str]
) -> dict[Character, list[ImagePath]]:
    return {
        character: pictures
        for character, pictures in characters.items()
        if character.alphabet in alphabets
    }
