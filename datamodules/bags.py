"""Any data whose training responses are known only as means of bags."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Subset

from datamodules.wrapped_data import WrappedData
from framework.data.bag_sampling import BagSampler, assign_bags
from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset, Batch, Sample, root_and_rows
from framework.data.facts import Facts, copy_facts
from framework.data.privacy import (
    MeanRelease,
    project_to_simplex,
    proportion_sensitivity,
    response_sensitivity,
)
from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.randomness import stable_seed

RESPONSES = ("label", "clean_label", "target")


class Bags(WrappedData):
    r"""Replaces each training response of other data by the mean over a random bag of samples.

    Training batches hold whole bags, the inputs as they are, ``group`` (B,) int64, the bag of each
    row, and the bag's mean response: ``target`` (B,) or (B, T) float32, or of class labels the
    proportions, ``label`` (B, K) float32. Individual responses are in no training batch; validation
    and test batches are those of the wrapped data. Losses for such batches need ``group``, as
    ``AggregateResponseLoss`` does.

    The n training rows are assigned once, by ``assign_bags``, to
    n // ``bag_size`` bags; rows left over make some of them larger, none is smaller.

    With ``epsilon`` the means are released once with noise on each, drawn before training and the
    same in every epoch, see ``MeanRelease``; they are then private in the
    responses, not in the inputs. Replacing one target in [-C, C] by another moves the mean of k by
    2 C / k at most, so that Laplace noise has the scale 2 C / (k epsilon); replacing one label
    moves proportions by 2 / k in L1 and sqrt(2) / k in L2 norm. Noisy proportions are projected to
    the nearest probability vectors. Not covered: whoever knows ``bag_seed`` can subtract the noise;
    validation and test responses stay exact, and so do the mean and the deviation by which
    ``Tabular`` standardizes targets.

    Paper: Javanmard et al., *Learning from Aggregate Responses*, ICLR 2024, arXiv:2401.11081.

    Args:
        data: Any datamodule of this package whose training set is in memory or on files; its own
            ``batch_size``, ``eval_batch_size`` and ``num_workers`` are not used.
        bag_size: Least number of rows of a bag, k.
        bag_seed: Seed of the bags and of the noise; not the seed of the run.
        batch_size: Rows of a global batch, over all ranks; it holds ``batch_size / k`` whole bags,
            at least one.
        num_workers: Loading processes per rank; results do not depend on it. By default none, but
            on a GPU as many as a rank has cores, at most 8, where data are decoded or augmented.
        eval_batch_size: Rows of a global batch outside training; default ``batch_size``.
        epsilon: Privacy loss of the release; default exact means.
        mechanism: Noise of a private release: ``laplace`` or ``gaussian``.
        delta: Probability δ of the Gaussian mechanism's guarantee to fail.
        clip: Bound C on the size of a target, in the unit of the batches' targets; needed with
            ``epsilon``, not for class labels.

    Raises:
        ValueError: data with mixup, ``shards``, ``drop_last`` or bags of its own; an argument out
            of its range or without meaning; a ``bag_size`` above the number of training rows.
        TypeError: a training set that is no ``ArrayDataset``.

    Example:
        >>> from datamodules import Tabular
        >>> data = Bags(Tabular(), bag_size=10, batch_size=20)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> len(batch["index"]), len(batch["group"].unique()), len(batch["target"].unique())
        (20, 2, 2)
    """

    has_groups = True

    def __init__(
        self,
        data: DataModule,
        bag_size: int,
        bag_seed: int = 0,
        batch_size: int = 128,
        num_workers: int | None = None,
        eval_batch_size: int | None = None,
        epsilon: float | None = None,
        mechanism: Literal["laplace", "gaussian"] = "laplace",
        delta: float | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size, num_workers=num_workers, eval_batch_size=eval_batch_size
        )
        _check_wrapped(data)
        check_at_least(1, bag_size=bag_size)
        check_positive(clip=clip)
        if epsilon is None and (clip is not None or delta is not None):
            raise ValueError("clip and delta belong to a private release: set epsilon.")
        self.data = data
        self.bag_size = bag_size
        self.bag_seed = bag_seed
        self.release = None if epsilon is None else MeanRelease(epsilon, mechanism, delta)
        self.clip = clip

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped data up, then bag its training set, once."""
        self.data.use_facts(self.trained)
        self.data.setup(stage)  # type: ignore[arg-type]
        copy_facts(self.data, self)
        self.augment = self.data.augment
        self.val_set, self.test_set = self.data.val_set, self.data.test_set
        self.predict_set = self.data.predict_set
        if self.train_set is None and self.data.train_set is not None:
            self._bag(self.data.train_set)

    def use_facts(self, facts: Facts) -> None:
        """Prepare the wrapped data as those that a model was trained on."""
        super().use_facts(facts)
        copy_facts(self.data, self)

    def restore_statistics(self, state: dict[str, Any]) -> None:
        """Restore those of the wrapped data."""
        super().restore_statistics(state)
        copy_facts(self.data, self)

    def collate(self, samples: list[Sample]) -> Batch:
        """Join samples as the wrapped data does."""
        return self.data.collate(samples)

    def train_sampler(self) -> BagSampler:
        """Return the stream of batches of whole bags."""
        return BagSampler(
            self.bag_of_row,
            self.batch_size,
            seed=self.seed,
            rank=self._rank,
            world_size=self._world_size,
            start=self._start,
        )

    def _bag(self, train_set: Any) -> None:
        root, rows = root_and_rows(train_set, list(range(len(train_set))))
        if not isinstance(root, ArrayDataset):
            raise TypeError(
                f"Bags reads all responses of {type(self.data).__name__} at once, which needs an "
                f"ArrayDataset, not a {type(root).__name__}."
            )
        self.bag_of_row = assign_bags(len(rows), self.bag_size, self.bag_seed)
        name = "target" if "target" in root.fields else "label"
        means = self._means(root.fields[name][rows], name)
        if self.release is not None:
            means = self._privatized(means, self.release, name)
        group = torch.full((len(root),), -1)  # a row outside the training set is in no bag
        group[rows] = self.bag_of_row
        self.train_set = Subset(BaggedSet(root, group, name, means.float()), rows)
        if self.data.plain_train_set is not None:
            plain: Any = root_and_rows(self.data.plain_train_set, [])[0]
            self.plain_train_set = Subset(BaggedSet(plain, group, name, means.float()), rows)

    def _means(self, values: Tensor, name: str) -> Tensor:
        """Return the mean response of each bag, (M, ...) float64."""
        sizes = torch.bincount(self.bag_of_row)
        if name == "target":
            bounded = values if self.clip is None else values.clamp(-self.clip, self.clip)
            bounded = bounded.double()
            total = bounded.new_zeros(len(sizes), *bounded.shape[1:])
            total.index_add_(0, self.bag_of_row, bounded)
            return total / sizes.view(-1, *[1] * (bounded.ndim - 1))
        assert self.num_classes is not None
        counts = torch.zeros(len(sizes), self.num_classes, dtype=torch.float64)
        one = torch.ones((), dtype=torch.float64)
        return counts.index_put_((self.bag_of_row, values), one, accumulate=True) / sizes[:, None]

    def _privatized(self, means: Tensor, release: MeanRelease, name: str) -> Tensor:
        """Return the means with the noise of the release, drawn from ``bag_seed`` alone."""
        if name == "label" and self.clip is not None:
            raise ValueError("clip has no meaning for class labels.")
        if name == "target" and self.clip is None:
            raise ValueError("A private release of targets needs clip, a bound on one target.")
        sensitivities = [
            proportion_sensitivity(size)
            if self.clip is None
            else response_sensitivity(size, self.clip, outputs=means[0].numel())
            for size in torch.bincount(self.bag_of_row).tolist()
        ]
        std = torch.tensor([release.noise_std(s) for s in sensitivities], dtype=torch.float64)
        generator = torch.Generator().manual_seed(stable_seed(self.bag_seed, "release"))
        noisy = release.add_noise(means, std, generator)
        return project_to_simplex(noisy) if name == "label" else noisy

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity, the place in it, and what the bags follow from."""
        release = self.release
        private = [] if release is None else [release.epsilon, release.mechanism, release.delta]
        return {
            **super().state_dict(),
            "bags": [self.bag_size, self.bag_seed, *private, self.clip],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: the bags or the release are others, or see the base class.
        """
        if state_dict["bags"] != self.state_dict()["bags"]:
            raise RuntimeError(
                "The checkpoint was trained on other bags or another release of their means: keep "
                "bag_size, bag_seed, epsilon, mechanism, delta and clip, as a second release would "
                "spend the privacy again."
            )
        super().load_state_dict(state_dict)


class BaggedSet(ArrayDataset):
    """Samples without their responses, with the bag and the bag's response in their place.

    Args:
        samples: N samples.
        group: Bag of each sample, (N,) int64 in 0..M-1.
        name: Name of the field that holds the response.
        response: Response of each bag, (M, ...).
    """

    def __init__(self, samples: ArrayDataset, group: Tensor, name: str, response: Tensor) -> None:
        super().__init__(group=group)
        self.samples = copy(samples)
        self.samples.fields = {k: v for k, v in samples.fields.items() if k not in RESPONSES}
        self.name = name
        self.response = response

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return the rows as one batch."""
        rows = torch.as_tensor(rows, dtype=torch.int64)
        group = self.fields["group"][rows]
        return {**self.samples.batch(rows), self.name: self.response[group], "group": group}

    def __getitem__(self, row: int) -> Sample:
        return {name: value[0] for name, value in self.batch([row]).items()}


def _check_wrapped(data: DataModule) -> None:
    name = type(data).__name__
    if data.has_groups:
        raise ValueError(f"{name} gives groups of its own, which Bags cannot bag again.")
    if data.mixes_samples:
        raise ValueError(f"Bags needs a response per sample: switch the mixup of {name} off.")
    if data.shards is not None:
        raise ValueError(
            f"Bags keeps bags whole, so samples cannot be sharded: drop {name}'s shards."
        )
    if getattr(data, "balance_classes", False):
        raise ValueError(f"Bags makes the batches: drop {name}'s balance_classes.")
    if data.drop_last:
        raise ValueError(f"drop_last would leave out whole bags: drop {name}'s drop_last.")
