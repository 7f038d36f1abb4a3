"""Photographs of people in the published forms of five data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Unpack

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from datamodules.body_parts.annotations import AnnotatedImage
from datamodules.body_parts.bodyhands import read_bodyhands
from datamodules.body_parts.coco import (
    HUMAN_PARTS,
    WHOLE_BODY_PARTS,
    read_coco_humanparts,
    read_coco_wholebody,
    read_visible_bodies,
)
from datamodules.body_parts.crowdhuman import read_crowdhuman
from datamodules.letterbox import LetterboxedImages
from datamodules.people_data import PeopleData, PeopleOptions, check_people
from framework.data.facts import Facts
from framework.data.folders import existing_file
from framework.data.image_files import image_size, intact_images
from framework.data.image_folders import find_images
from framework.detection.body_parts.people import PeopleTable
from framework.utilities.checks import check_at_least
from framework.utilities.files import path_below

USUAL_SIZE = 640
"""Width and height of an image that nobody asks to have another one."""
PUBLISHED = "published"
"""Stands for the file or folder that a data set is published with."""


class Layout(NamedTuple):
    """How a data set is published.

    Args:
        parts: Part of each slot, unless others are asked for.
        known: Parts that its annotations have.
        annotations: File of each part of the data set, in its folder.
        images: Folder of the images of each part of the data set, in its folder.
    """

    parts: tuple[str, ...]
    known: tuple[str, ...]
    annotations: Mapping[str, str]
    images: Mapping[str, str]


_PARTS = ("train", "val", "test")
_COCO_IMAGES = {part: f"{part}2017" for part in _PARTS}
LAYOUTS = {
    "crowdhuman": Layout(
        parts=("head",),
        known=("head", "face"),
        annotations={part: f"annotation_{part}.odgt" for part in _PARTS},
        images=dict.fromkeys(_PARTS, "Images"),
    ),
    "citypersons": Layout(
        parts=("face",),
        known=("head", "face"),
        annotations={part: f"annotations/{part}.json" for part in _PARTS},
        images={part: f"leftImg8bit/{part}" for part in _PARTS},
    ),
    "bodyhands": Layout(  # it has no validation part
        parts=("hand", "hand"),
        known=("hand",),
        annotations={
            "train": "ImageSets/Main/train.txt",
            "val": "ImageSets/Main/test.txt",
            "test": "ImageSets/Main/test.txt",
        },
        images=dict.fromkeys(_PARTS, "JPEGImages"),
    ),
    "cocohumanparts": Layout(
        parts=HUMAN_PARTS,
        known=HUMAN_PARTS,
        annotations={part: f"annotations/person_humanparts_{part}2017.json" for part in _PARTS},
        images=_COCO_IMAGES,
    ),
    "coco_wholebody": Layout(
        parts=tuple(WHOLE_BODY_PARTS),
        known=tuple(WHOLE_BODY_PARTS),
        annotations={part: f"annotations/coco_wholebody_{part}_v1.0.json" for part in _PARTS},
        images=_COCO_IMAGES,
    ),
}
"""Layouts by the name of the format."""


class BodyParts(PeopleData):
    """Photographs of people whose bodies and parts are labeled, or a folder of any images.

    ``format`` says how the labels are written, which parts a body has and where the files lie in
    ``root``; ``LAYOUTS`` has all of that. A crowd, a mask and whatever else is to be ignored is a
    region without labels, see ``People``. Images without any annotation are left out.

    - ``crowdhuman``: head, read by ``read_crowdhuman`` (``.odgt``) or ``read_visible_bodies``
      (``.json``, which has faces as well);
    - ``citypersons``: face, or head; read by ``read_visible_bodies`` from a file of BFJDet;
    - ``bodyhands``: hand, hand; read by ``read_bodyhands``;
    - ``cocohumanparts``: head, face, left and right hand and foot; read by
      ``read_coco_humanparts``;
    - ``coco_wholebody``: face, left and right hand; read by ``read_coco_wholebody``.

    An image is resized so that its longer side is S, stands in the middle of a gray square, and is
    decoded when it is needed. Batches hold what ``PeopleData`` says, with the fields of the
    letterbox.

    Tested and predicted is the test part, or else the validation part. Where the folder has no such
    labels, and without a ``format``, all images below it are predicted, by any names. A large file
    of JSON may need a higher ``TRIMTAB_MAX_GIB``.

    The remaining arguments are those of ``PeopleData``.

    Args:
        root: Folder of the data set.
        format: Form of the labels; None for images without labels.
        parts: Part of each slot of a person; by default all that the format has, see above.
        image_size: Width and height S of an image, in pixels; None for those that the model was
            trained on, and 640 where it is trained.
        train: Annotation file to train on, in the folder, or None.
        val: Annotation file to validate on, in the folder, or None.
        test: Annotation file to test on, in the folder, or None.
        train_images: Folder of the training images, in the folder.
        val_images: Folder of the validation images, in the folder.
        test_images: Folder of the test images, in the folder.
        strict: Whether an image without labels that cannot be decoded stops the run before it
            begins; otherwise it is left out and counted.

    Raises:
        FileNotFoundError: A file or an image is not there, by name (at ``setup``).
        ValueError: An argument out of its range, a part that the format does not have, no format
            where labels are needed; or, by file and line or annotation, what is wrong in it; or an
            image of another size than its annotation says, or that cannot be decoded.

    Example:
        >>> import pathlib, tempfile, PIL.Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> PIL.Image.new("RGB", (64, 48)).save(root / "a street.png")
        >>> data = BodyParts(str(root), image_size=32)
        >>> data.setup("predict")
        >>> batch = next(iter(data.predict_dataloader()))
        >>> data.image_names, batch["image"].shape, batch["letterbox_offset"].tolist()
        (['a street.png'], torch.Size([1, 3, 32, 32]), [[0.0, -4.0]])
    """

    is_letterboxed = True

    def __init__(
        self,
        root: str,
        format: Literal[  # noqa: A002
            "crowdhuman", "cocohumanparts", "coco_wholebody", "bodyhands", "citypersons"
        ]
        | None = None,
        parts: list[str] | None = None,
        image_size: int | None = None,
        train: str | None = PUBLISHED,
        val: str | None = PUBLISHED,
        test: str | None = None,
        train_images: str = PUBLISHED,
        val_images: str = PUBLISHED,
        test_images: str = PUBLISHED,
        strict: bool = True,
        **options: Unpack[PeopleOptions],
    ) -> None:
        super().__init__(**options)
        self.image_size = image_size
        size = USUAL_SIZE if image_size is None else image_size
        check_at_least(32, image_size=size)
        self.root = Path(root)
        self.format = format
        self.files = {"train": train, "val": val, "test": test}
        self.folders = {"train": train_images, "val": val_images, "test": test_images}
        self.strict = strict
        self.input_shape = (3, size, size)
        self.own_parts = () if format is None else _chosen(format, parts)
        if format is None and parts is not None:
            raise ValueError(f"parts={parts} need a format, which says how they are labeled.")

    def use_facts(self, facts: Facts) -> None:
        """Take over the size of the images in training, where no other was asked for."""
        super().use_facts(facts)
        if self.image_size is None and "input_shape" in facts:
            size = int(facts["input_shape"][1])
            self.input_shape = (3, size, size)

    def setup(self, stage: str | None = None) -> None:
        """Read the labels of the parts that the stage needs, once."""
        tested = "val" if self.files["test"] is None else "test"
        if stage == "predict" and not self._has_labels(tested):
            self._predict_all()
            return
        if self.format is None:
            raise ValueError(
                f"BodyParts needs a format, one of {', '.join(LAYOUTS)}, to read labels from "
                f"{self.root}: without one, its images can only be predicted."
            )
        if stage in (None, "fit") and self.files["train"] is not None and self.train_set is None:
            self.train_set = self._part("train")
            self.augment_from(self.train_set)
        validates = stage in (None, "fit", "validate") or tested == "val"
        if validates and self.files["val"] is not None and self.val_set is None:
            self.val_set = self._part("val")
        if stage in (None, "test", "predict") and self.test_set is None:
            self.test_set = self.val_set if tested == "val" else self._part("test")
            self.predict_set = self.test_set
            if isinstance(self.predict_set, LetterboxedImages):
                self._name_predicted(self.predict_set.paths.tolist(), self._images_of(tested))

    def train_scales(self) -> Tensor:
        """Return the factor by which each training image is resized, (N,)."""
        longer = [max(image_size(Path(path))) for path in self.trained_images().paths]
        return self.input_shape[1] / torch.tensor(longer, dtype=torch.float32)

    def _has_labels(self, part: str) -> bool:
        return (
            self.format is not None
            and self.files[part] is not None
            and self._annotations_of(part).is_file()
        )

    def _annotations_of(self, part: str) -> Path:
        file = self.files[part]
        published = LAYOUTS[str(self.format)].annotations[part]
        return self.root / (published if file == PUBLISHED else str(file))

    def _images_of(self, part: str) -> Path:
        folder = self.folders[part]
        published = LAYOUTS[str(self.format)].images[part]
        return self.root / (published if folder == PUBLISHED else folder)

    def _number_own_slots(self) -> list[int]:
        """Return the slot in training of each part that the labels have."""
        names = ("body", *dict.fromkeys(self.own_parts))
        return self.number_slots(names, [names.index(name) for name in self.own_parts])

    def _part(self, part: str) -> LetterboxedImages:
        labels, folder = self._annotations_of(part), self._images_of(part)
        places = self._number_own_slots()
        number = len(self.slot_classes)
        images = [image for image in self._read(labels, folder) if len(image.people)]
        paths = [existing_file(path_below(folder, image.name, labels)) for image in images]
        for image, path in zip(images, paths, strict=True):
            if image.size is not None and image.size != image_size(path):
                said, found = ("{} x {}".format(*size) for size in (image.size, image_size(path)))
                raise ValueError(f"{path} has {found} pixels, and {labels} says {said}.")
        people = PeopleTable([i.people.in_slots(places, number) for i in images], number)
        check_people(people, labels)
        return LetterboxedImages(paths, self.input_shape[1], people)

    def _read(self, labels: Path, folder: Path) -> list[AnnotatedImage]:
        if self.format == "bodyhands":
            images, left_out = read_bodyhands(labels, self.root / "Annotations")
            said = [f"{number:,} {reason}" for reason, number in left_out.items() if number]
            if said:
                rank_zero_warn(f"Of {labels}, {' and '.join(said)} are left out.")
            return images
        if self.format == "cocohumanparts":
            return read_coco_humanparts(labels, self.own_parts)
        if self.format == "coco_wholebody":
            return read_coco_wholebody(labels, self.own_parts)
        if self.format == "citypersons" or labels.suffix == ".json":
            return read_visible_bodies(labels, self.own_parts)
        if self.own_parts != ("head",):
            raise ValueError(
                f"{labels} has heads and no other parts: for {', '.join(self.own_parts)} name a "
                "file of BFJDet, which ends in .json."
            )
        return read_crowdhuman(
            labels, lambda name: image_size(existing_file(path_below(folder, name, labels)))
        )

    def _predict_all(self) -> None:
        if self.format is None and "class_names" in self.trained:
            self.class_names, self.slot_classes = (
                self.trained[fact] for fact in ("class_names", "slot_classes")
            )
            self.num_classes = len(self.class_names)
        elif self.format is not None:
            self._number_own_slots()
        if self.predict_set is None:
            paths = intact_images(find_images(self.root), self.root, self.strict)
            self.predict_set = LetterboxedImages(paths, self.input_shape[1])
            self._name_predicted([str(path) for path in paths], self.root)

    def _name_predicted(self, paths: Sequence[str], folder: Path) -> None:
        self.image_paths = list(paths)
        self.image_names = [Path(path).relative_to(folder).as_posix() for path in paths]


def _chosen(name: str, parts: list[str] | None) -> tuple[str, ...]:
    layout = LAYOUTS[name]
    if parts is None:
        return layout.parts
    unknown = [part for part in parts if part not in layout.known]
    too_many = [part for part in parts if parts.count(part) > max(1, layout.parts.count(part))]
    if not parts or unknown or too_many or (name == "bodyhands" and len(parts) != 2):
        raise ValueError(
            f"parts of format {name} must be some of {', '.join(layout.known)}, each once, and "
            f"of bodyhands hand, hand; got {parts}."
        )
    return tuple(parts)
