"""A labeled source and an unlabeled target, for domain adaptation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from datamodules.augmentation import check_keeps_shape
from datamodules.classification import ClassificationData
from datamodules.image_data import ImageData
from datamodules.image_datasets import ImageSet, JoinedImages
from framework.adaptation.paired_sampling import PairedBatchSampler
from framework.data.datamodule import DataModule, check_share
from framework.data.datasets import Batch, Sample
from framework.data.raw_inputs import as_images
from framework.utilities.checks import check_at_least, check_interval
from framework.utilities.randomness import stable_seed


class DomainPair(DataModule):
    """Serves labeled images of a source together with unlabeled images of a target.

    Both domains are the training parts of the wrapped data. Training batches hold ``image``
    (B, C, H, W), ``domain`` (B,) int64, 0 for the source and 1 for the target in turn, ``label``
    (B,) int64, which is -1 for the target, and ``index`` (B,) int64, the position among all images
    of the source and then all of the target. An epoch is the larger domain once, see
    ``PairedBatchSampler``.

    A share of the target is held out for a guide: it is not trained, and is in ``guide_set``, as in
    training, but without augmentation.

    In evaluation batches labels are true, -1 where the target has none, and ``held_out`` (B,) bool
    tells what is held out. The validation set is ``source_eval`` images of the source and all of
    the target, its labels being for metrics alone. The test set, which is also predicted, is the
    target's test part, and without one all of the target; ``index`` is then the row of that part.

    Images of one channel are repeated where the other domain has three. Each domain is normalized
    by its own ``mean`` and ``std``, after augmentation.

    Args:
        source: Any datamodule of labeled images; with label noise, training batches also hold
            ``clean_label`` (B,). Its validation and test parts, ``batch_size``,
            ``eval_batch_size``, ``num_workers``, ``val_size`` and ``split_seed`` are not used.
        target: Any datamodule of images of the same classes; it may lack labels, and its test part
            is used.
        held_out: Share of the target that is held out for a guide; 0 for none.
        image_size: Width and height that images of another size are resized to; needed where the
            domains differ.
        augment: Transforms of a training image of either domain in [0, 1], such as those of
            ``torchvision.transforms.v2``.
        crop: Width and height of the central square that is cropped without augmentation; the size
            that ``augment`` makes.
        source_eval: Most images of the source in the validation set.
        split_seed: Seed of the permutations that choose the source's validation images and the
            held-out share; not the seed of the run.
        batch_size: Rows of a global batch of both domains, over all ranks; even.
        num_workers: Loading processes per rank; results do not depend on it. By default none, but
            on a GPU as many as a rank has cores, at most 8, where data are decoded or augmented.
        eval_batch_size: Rows of a global batch outside training; default ``batch_size``.
        drop_last: Whether a smaller last training batch is left out.

    Raises:
        TypeError: data that are no images.
        ValueError: wrapped data with augmentation, mixup, ``drop_last`` or ``shards`` of its own, a
            target with label noise, an argument out of its range; or (at ``setup``) domains
            that are empty or differ in classes, channels or size, a source without labels, or an
            ``augment`` that makes another shape than evaluation has.

    Example:
        >>> from datamodules import RotatedDigits
        >>> data = DomainPair(RotatedDigits("first"), RotatedDigits("second", 25), batch_size=4)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["domain"], batch["label"][1::2]
        (torch.Size([4, 1, 8, 8]), tensor([0, 1, 0, 1]), tensor([-1, -1]))
    """

    has_domains = True
    input_shape: tuple[int, int, int]
    """(C, H, W) of an image, known after ``setup``."""

    def __init__(
        self,
        source: ImageData,
        target: ImageData,
        held_out: float = 0.1,
        image_size: int | None = None,
        augment: list[nn.Module] | None = None,
        crop: int | None = None,
        source_eval: int = 1000,
        split_seed: int = 0,
        batch_size: int = 64,
        num_workers: int | None = None,
        eval_batch_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            eval_batch_size=eval_batch_size,
            drop_last=drop_last,
        )
        _check_wrapped(source)
        _check_wrapped(target)
        if isinstance(target, ClassificationData) and target.label_noise is not None:
            raise ValueError(
                "The target's labels are for metrics alone, which must be true: drop its "
                "label_noise."
            )
        check_interval("[0, 1)", held_out=held_out)
        check_at_least(1, image_size=image_size)
        check_at_least(0, source_eval=source_eval)
        self.source = source
        self.target = target
        self.held_out = held_out
        self.image_size = image_size
        self.transforms = augment or []
        self.crop = crop
        self.source_eval = source_eval
        self.split_seed = split_seed

    def prepare_data(self) -> None:
        """Prepare the wrapped data."""
        self.source.prepare_data()
        self.target.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the wrapped data once, for all stages."""
        if self.train_set is not None:
            return
        named = {k: v for k, v in self.trained.items() if k == "class_names"}
        self.source.use_facts(named)
        self.target.use_facts(named)
        source = self.source.read_normalized().train
        target, _, test = self.target.read_normalized()
        for images, name in ((source, "source"), (target, "target")):
            if not len(images):
                raise ValueError(f"The {name} has no images.")
        self.num_classes, self.class_names = _common_classes(self.source, self.target)
        self._set_shapes()
        self._first_target = len(source)
        self._is_held_out = torch.zeros(len(source) + len(target), dtype=torch.bool)
        self._set_training([source, target])
        self._set_evaluation(source, target, test)
        if self.held_out:
            self.hold_out(self.held_out)

    def as_batch(self, inputs: Any) -> Batch:
        """Return images of the target as a batch, brought to the common shape and normalized."""
        try:
            shape = _common_shape(self.source, self.target, self.image_size)
        except AttributeError:  # known only from the files
            self.setup()
            shape = self._shape
        own = getattr(self.target, "input_shape", None)
        images = ImageSet(image=as_images(inputs, own, self.target.resize))
        images.normalize = self.target.normalize
        fields = {"domain": _domains(0, len(images))}
        return JoinedImages([images], fields, shape, self.crop).batch(range(len(images)))

    def hold_out(self, share: float) -> None:
        """Move a share of the target's images to ``guide_set``, where they are not trained.

        Raises:
            ValueError: a share that leaves none on either side.
        """
        if self.train_set is None:
            raise RuntimeError("DomainPair has no training set; call setup('fit').")
        rows = len(self._is_held_out) - self._first_target
        order = self._permutation(rows, "held out") + self._first_target
        held, kept = (part.sort().values for part in order.tensor_split([check_share(share, rows)]))
        self._is_held_out.zero_()
        self._is_held_out[held] = True
        trained = [*range(self._first_target), *kept.tolist()]
        self.guide_set = Subset(self._plain, held.tolist())
        self.train_set = Subset(self._trained, trained)
        if self.transforms:
            self.plain_train_set = Subset(self._plain, trained)

    def train_sampler(self) -> PairedBatchSampler:
        """Return the stream of batches of both domains."""
        return PairedBatchSampler(
            self._first_target,
            len(self.train_set) - self._first_target,  # type: ignore[arg-type]
            self.batch_size,
            **self._stream,
        )

    def _set_shapes(self) -> None:
        self._shape = _common_shape(self.source, self.target, self.image_size)
        channels, height, width = self._shape
        if self.crop is not None and not 1 <= self.crop <= min(height, width):
            raise ValueError(f"crop={self.crop} does not fit images of {height} x {width} pixels.")
        size = (height, width) if self.crop is None else (self.crop, self.crop)
        self.input_shape = (channels, *size)

    def _set_training(self, domains: list[ImageSet]) -> None:
        source, target = domains
        unknown = torch.full((len(target),), -1)
        label = {"label": _labels(source)}
        noise = self.source.label_noise if isinstance(self.source, ClassificationData) else None
        if noise is not None:
            assert self.num_classes is not None
            noisy = noise.apply(label["label"], self.num_classes)
            label = {"label": noisy, "clean_label": label["label"]}
        fields = {name: torch.cat([value, unknown]) for name, value in label.items()}
        fields["domain"] = _domains(len(source), len(target))
        self._plain = JoinedImages(domains, fields, self._shape, self.crop)
        self.train_set = self._trained = self._plain
        if self.transforms:
            # the augmentation crops, and normalizes last
            self._trained = JoinedImages(domains, fields, self._shape, normalize=False)
            self.train_set, self.plain_train_set = self._trained, self._plain
            check_keeps_shape(
                self.transforms,
                self._trained[0]["image"],
                self.input_shape,
                "set crop to the size that augment makes",
            )
            normalize = [images.normalize for images in domains]
            self.augment = DomainAugmentation(self.transforms, normalize)

    def _set_evaluation(self, source: ImageSet, target: ImageSet, test: ImageSet | None) -> None:
        fields = {
            "label": torch.cat([_labels(source), _labels(target)]),
            "domain": _domains(len(source), len(target)),
            "held_out": self._is_held_out,
        }
        both = JoinedImages([source, target], fields, self._shape, self.crop)
        rows = self._permutation(len(source), "source")[: self.source_eval].sort().values.tolist()
        self.val_set = Subset(both, [*rows, *range(len(source), len(both))])
        if test is None:
            # views, as what is held out may still change
            fields = {name: value[len(source) :] for name, value in fields.items()}
        else:
            fields = {
                "label": _labels(test),
                "domain": _domains(0, len(test)),
                "held_out": torch.zeros(len(test), dtype=torch.bool),
            }
        images = target if test is None else test
        self.test_set = JoinedImages([images], fields, self._shape, self.crop)
        self.predict_set = self.test_set

    def _permutation(self, rows: int, name: str) -> Tensor:
        generator = torch.Generator().manual_seed(stable_seed(self.split_seed, name))
        return torch.randperm(rows, generator=generator)

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity, the place in it, and what is held out."""
        return {**super().state_dict(), "held_out": [self.held_out, self.split_seed]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: another part of the target is held out, or see the base class.
        """
        if state_dict["held_out"] != self.state_dict()["held_out"]:
            raise RuntimeError(
                "The checkpoint was trained on images of the target that are now held out: keep "
                "held_out and split_seed."
            )
        super().load_state_dict(state_dict)


class DomainAugmentation:
    """Transforms a training image, and normalizes it as its domain is.

    Args:
        transforms: Modules from image to image.
        normalize: Normalization of the source and of the target.
    """

    def __init__(
        self,
        transforms: Sequence[nn.Module],
        normalize: Sequence[Callable[[Tensor], Tensor] | None],
    ) -> None:
        self.transforms = nn.Sequential(*transforms)
        self.normalize = normalize

    def __call__(self, sample: Sample) -> Sample:
        """Return the augmented sample; random numbers come from the global generators."""
        image = self.transforms(sample["image"])
        normalize = self.normalize[int(sample["domain"])]
        return {**sample, "image": image if normalize is None else normalize(image)}


def _domains(source: int, target: int) -> Tensor:
    return torch.cat([torch.zeros(source), torch.ones(target)]).long()


def _labels(images: ImageSet) -> Tensor:
    return images.fields.get("label", torch.full((len(images),), -1))


def _common_classes(source: ImageData, target: ImageData) -> tuple[int, Sequence[str] | None]:
    if source.num_classes is None:
        raise ValueError(f"The source needs labels, and {type(source).__name__} has none.")
    if target.num_classes not in (None, source.num_classes):
        raise ValueError(
            f"The source has {source.num_classes} classes and the target {target.num_classes}, "
            "which must be the same."
        )
    names = source.class_names
    if names is None or target.class_names is None:
        return source.num_classes, names
    for number, (one, other) in enumerate(zip(names, target.class_names, strict=True)):
        if one != other:
            raise ValueError(
                f"Class {number} is {one!r} in the source and {other!r} in the target, whose "
                "classes must be the same."
            )
    return source.num_classes, names


def _common_shape(
    source: ImageData, target: ImageData, image_size: int | None
) -> tuple[int, int, int]:
    shapes = source.input_shape, target.input_shape
    (c1, *size), (c2, *other) = shapes
    if c1 != c2 and {c1, c2} != {1, 3}:
        raise ValueError(
            f"The source has images of {c1} channels and the target of {c2}; only 1 and 3 are "
            "joined."
        )
    if image_size is not None:
        return max(c1, c2), image_size, image_size
    if size != other:
        raise ValueError(
            f"The source has images of {size[0]} x {size[1]} pixels and the target of {other[0]} x "
            f"{other[1]}: set image_size."
        )
    return max(c1, c2), size[0], size[1]


def _check_wrapped(data: ImageData) -> None:
    name = type(data).__name__
    if not isinstance(data, ImageData):
        raise TypeError(f"DomainPair joins datamodules of images, and {name} is none.")
    if isinstance(data, ClassificationData) and data.transforms:
        raise ValueError(f"DomainPair augments both domains alike: give it {name}'s augment.")
    if isinstance(data, ClassificationData) and data.mixup:
        raise ValueError(f"DomainPair keeps every sample apart: drop {name}'s mixup.")
    if isinstance(data, ClassificationData) and data.balance_classes:
        raise ValueError(f"DomainPair makes the batches: drop {name}'s balance_classes.")
    if data.drop_last:
        raise ValueError(f"DomainPair makes the batches: give it {name}'s drop_last.")
    if data.shards is not None:
        raise ValueError(f"Batches of two domains cannot be sharded: drop {name}'s shards.")
