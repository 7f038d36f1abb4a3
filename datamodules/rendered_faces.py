"""Rendered faces of persons who are not those of training: data without a download."""

from __future__ import annotations

from typing import Literal, Unpack

import torch

from datamodules.face_data import HELD_OUT, FaceData, FaceOptions
from datamodules.face_rendering import render_face
from datamodules.image_data import Splits
from datamodules.image_datasets import ImageSet
from framework.embedding.pair_lists import balanced_pairs
from framework.utilities.checks import check_at_least
from framework.utilities.randomness import stable_seed


class RenderedFaces(FaceData):
    """Cartoon faces of persons to train on, and of others to validate and to test on.

    What a face shows is described at ``render_face``. A person depends on (``face_seed``, part,
    number in the part), a picture on the person and its number: more persons or pictures leave the
    first ones as they are, and nobody is in two parts. All are drawn at ``setup``, about 1 ms each
    at the default size, and kept as bytes. Pixels hardly tell persons: with the defaults, the
    validation picture closest to another one shows the same person in a quarter of the cases, and
    in 89 of 100 by the embeddings that ``configs/face.yaml`` learns. Each of the validation and the
    test set has one list of pairs, ``held_out``.

    The remaining arguments and what batches hold are described at ``FaceData``.

    Args:
        num_identities: Persons to train on.
        images_per_identity: Pictures of each person of every part, at least 2.
        val_identities: Persons to validate on, at least 2, or 0 for no validation set.
        test_identities: Persons to test on and to predict, at least 2, or 0 for no test set.
        image_size: Width and height of a picture in pixels.
        num_pairs: Most pairs of a list.
        num_folds: Folds of a list.
        face_seed: Seed of the persons, pictures and pairs; not the seed of the run.

    Raises:
        ValueError: an argument out of its range, or too few pictures for a pair of each kind in
            every fold.

    Example:
        >>> data = RenderedFaces(num_identities=4, val_identities=3, batch_size=8, num_folds=2)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader()))["image"].shape, data.pairs("val")["held_out"].count
        (torch.Size([8, 3, 32, 32]), 720)
    """

    def __init__(
        self,
        num_identities: int = 100,
        images_per_identity: int = 16,
        val_identities: int = 20,
        test_identities: int = 20,
        image_size: int = 32,
        num_pairs: int = 6000,
        num_folds: int = 10,
        face_seed: int = 0,
        **options: Unpack[FaceOptions],
    ) -> None:
        super().__init__(**options)
        check_at_least(1, num_identities=num_identities, num_folds=num_folds)
        check_at_least(2, images_per_identity=images_per_identity)
        held_out = {"val_identities": val_identities, "test_identities": test_identities}
        check_at_least(2, **{name: number or None for name, number in held_out.items()})
        check_at_least(16, image_size=image_size)
        check_at_least(2 * num_folds, num_pairs=num_pairs)
        self.sizes = {"train": num_identities, "val": val_identities, "test": test_identities}
        self.images_per_identity = images_per_identity
        self.num_pairs = num_pairs
        self.num_folds = num_folds
        self.face_seed = face_seed
        self.input_shape = (3, image_size, image_size)
        self.num_classes = num_identities
        self._use_preparation()

    def setup(self, stage: str | None = None) -> None:
        """Draw the parts that the stage needs, once."""
        self._use_preparation()
        if stage in (None, "fit") and self.train_set is None:
            self.serve_train(self.draw("train"))
        if stage in (None, "fit", "validate") and self.val_set is None:
            self._serve("val")
        if stage in (None, "test", "predict") and self.test_set is None:
            self._serve("test")

    def draw(self, part: str) -> ImageSet:
        """Return the faces of a part, normalized: ``'train'``, ``'val'`` or ``'test'``."""
        persons = self.sizes[part]
        label = torch.arange(persons).repeat_interleave(self.images_per_identity)
        images = torch.empty(len(label), *self.input_shape, dtype=torch.uint8)
        for row, image in enumerate(images):
            person, number = divmod(row, self.images_per_identity)
            place = (self.face_seed, "face", part, person)
            picture = render_face(stable_seed(*place), stable_seed(*place, number), image.shape[1])
            image.copy_(torch.from_numpy(picture).permute(2, 0, 1))
        drawn = ImageSet(image=images, label=label)
        return self._prepared(Splits(drawn, None, None)).train

    def _serve(self, part: Literal["val", "test"]) -> None:
        if self.sizes[part]:
            images = self.draw(part)
            label, seed = images.fields["label"], stable_seed(self.face_seed, part)
            pairs = balanced_pairs(label, self.num_pairs, self.num_folds, seed)
            self.serve_evaluated(part, images, {HELD_OUT: pairs})
