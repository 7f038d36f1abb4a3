"""Photographs of faces: identities to train on, and verification sets or held-out identities."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Unpack

from datamodules.face_data import HELD_OUT, FaceData, FaceOptions
from datamodules.faces.identities import Identities, read_identity_folder, split_identities
from datamodules.faces.record_identities import RECORDS, read_identity_records
from datamodules.faces.verification import (
    VerificationImages,
    VerificationSet,
    read_verification,
)
from datamodules.image_data import ImageGeometry, Splits
from datamodules.image_datasets import ImageFiles
from framework.data.image_files import intact_images
from framework.data.image_folders import find_images
from framework.embedding.pair_lists import balanced_pairs
from framework.utilities.checks import check_at_least

ALIGNED = (3, 112, 112)
"""Shape (C, H, W) of an aligned face."""


class Faces(FaceData):
    """Photographs of faces to train on, and pairs of others to verify.

    Trained are the identities in ``root``. Where ``verification`` sets are given, they are the
    validation and the test set, and ``pairs`` has a list for each, by the names of their files:
    a ``.bin`` file as InsightFace writes them, a list such as LFW's ``pairs.txt``
    (``read_lfw_pairs``), or a table (``read_pair_table``). Otherwise some identities are held out
    of training to validate and others to test on, and pairs of their images are drawn
    (``balanced_pairs``). A trained model is validated and tested on all identities of another
    ``root`` that is no copy of the one of the training. Predicted is the test set, or each image
    below another ``root`` than that of the training, in folders of any name or none.

    An image is resized, its sides in proportion, until it covers the size, then the center is
    cropped. Faces are expected to be aligned, see ``align_face``.

    The remaining arguments and what batches hold are described at ``FaceData``.

    Args:
        root: Folder with one folder of images per identity, or with ``train.rec`` and, where there
            are, ``train.idx`` and ``property`` (RecordIO); None to evaluate only.
        verification: Files of the verification sets.
        image_size: Side of a square image, or its height and width (H, W); by default as in
            training, or 112.
        channels: Channels of an image: 3 for RGB, 1 for gray; by default as in training, or 3.
        resize: Length that the shorter side is resized to before the center is cut out, at least
            ``image_size``; by default as little as covers that.
        min_images_per_identity: Images without which an identity is left out.
        val_identities: Identities held out to validate on where there are no verification sets, as
            a number (int) or as a share (float).
        test_identities: Identities held out to test on where there are no verification sets, as a
            number (int) or as a share (float).
        split_seed: Seed of the choice of identities and of their pairs; not the seed of the run.
        num_pairs: Most pairs of a drawn list.
        num_folds: Folds of a drawn list.
        strict: Whether an image file in ``root`` that cannot be decoded stops the run before it
            begins; otherwise it is left out and counted, and every image is decoded once before.

    Raises:
        FileNotFoundError: no such file or folder, or no image in it (at ``setup``).
        ValueError: an argument out of its range; neither ``root`` nor ``verification``; or (at
            ``setup``), by file, damaged data, or too few identities or images.

    Example:
        >>> import pathlib, tempfile, PIL.Image
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> for number in range(24):
        ...     folder = root / f"person {number // 4}"
        ...     folder.mkdir(exist_ok=True)
        ...     PIL.Image.new("L", (20, 30), 10 * number).save(folder / f"{number}.png")
        >>> data = Faces(str(root), image_size=16, val_identities=2, test_identities=2, num_folds=2)
        >>> data.setup("fit")
        >>> data.num_classes, data.train_set[0]["image"].shape, data.pairs("val")["held_out"].count
        (2, torch.Size([3, 16, 16]), 24)
    """

    def __init__(
        self,
        root: str | None = None,
        verification: list[str] | None = None,
        image_size: int | tuple[int, int] | None = None,
        channels: Literal[1, 3] | None = None,
        resize: int | None = None,
        min_images_per_identity: int = 1,
        val_identities: int | float = 0.1,
        test_identities: int | float = 0.1,
        split_seed: int = 0,
        num_pairs: int = 6000,
        num_folds: int = 10,
        strict: bool = True,
        **options: Unpack[FaceOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(1, min_images_per_identity=min_images_per_identity, num_folds=num_folds)
        check_at_least(0, val_identities=val_identities, test_identities=test_identities)
        check_at_least(2 * num_folds, num_pairs=num_pairs)
        self.root = None if root is None else Path(root)
        self.verification = [Path(path) for path in verification or ()]
        if self.root is None and not self.verification:
            raise ValueError("Give the folder of the identities as root, or verification sets.")
        self.place = self.root or self.verification[0]
        self.geometry = ImageGeometry(image_size, channels, resize)
        self.min_images_per_identity = min_images_per_identity
        self.val_identities = val_identities
        self.test_identities = test_identities
        self.split_seed = split_seed
        self.num_pairs = num_pairs
        self.num_folds = num_folds
        self.strict = strict
        self._parts: dict[bool, dict[str, Identities]] = {}
        self._sets: list[VerificationSet] | None = None
        self._use_preparation()

    def setup(self, stage: str | None = None) -> None:
        """Find the images that the stage needs, once."""
        self._use_preparation()
        if stage == "predict" and self.is_elsewhere and self.root is not None:
            self.predict_set = self._prepared(Splits(self._all_images(), None, None)).train
            return
        is_new = stage in ("validate", "test") and self.is_new
        if stage in (None, "fit") and self.train_set is None:
            self._serve_train()
        if stage in (None, "fit", "validate") and self.val_set is None:
            self._serve("val", is_new)
        if stage in (None, "test", "predict") and self.test_set is None:
            self._serve("test", is_new)

    def forget(self) -> None:
        """Forget what ``setup`` read."""
        super().forget()
        self._parts, self._sets = {}, None

    def _use_preparation(self) -> None:
        super()._use_preparation()
        assert self.geometry is not None
        self.input_shape = self.geometry.shape({"input_shape": ALIGNED, **self.trained})

    @property
    def _has_records(self) -> bool:
        return self.root is not None and (self.root / RECORDS).is_file()

    def _all_images(self) -> ImageFiles:
        assert self.root is not None
        if self._has_records:
            return read_identity_records(self.root, self.input_shape, self.resize).images
        paths = intact_images(find_images(self.root), self.root, self.strict)
        return self.images_of(paths, None)

    def _serve_train(self) -> None:
        if self.root is None:
            return
        people = self._identities(False)["train"]
        self.num_classes, self.class_names = people.num_identities, people.names
        self.serve_train(people.images)

    def _serve(self, stage: Literal["val", "test"], is_new: bool) -> None:
        if self.verification:
            if self._sets is None:
                self._sets = read_verification(self.verification, self.input_shape, self.resize)
            for one in self._sets:
                self._prepared(Splits(one.images, None, None))
            images = VerificationImages(self._sets, self.input_shape)
            self.serve_evaluated(stage, images, images.pairs())
            return
        parts = self._identities(is_new)
        if stage not in parts:
            return
        people = self._prepared(Splits(parts[stage].images, None, None)).train
        pairs = balanced_pairs(
            people.fields["label"], self.num_pairs, self.num_folds, self.split_seed
        )
        self.serve_evaluated(stage, people, {HELD_OUT: pairs})

    def _identities(self, is_new: bool) -> dict[str, Identities]:
        """Return the identities of each part; those of new data are all evaluated."""
        if is_new not in self._parts:
            people = self._all_identities()
            if is_new:
                self._parts[is_new] = {"val": people, "test": people}
            elif self.verification:
                self._parts[is_new] = {"train": people}
            else:
                sizes = self.val_identities, self.test_identities
                self._parts[is_new] = split_identities(people, *sizes, self.split_seed)
        return self._parts[is_new]

    def _all_identities(self) -> Identities:
        assert self.root is not None
        if self._has_records:
            people = read_identity_records(self.root, self.input_shape, self.resize)
        else:
            people = read_identity_folder(self.root, self.strict, self.images_of)
        if self.min_images_per_identity == 1:
            return people
        return people.chosen(people.with_images(self.min_images_per_identity))
