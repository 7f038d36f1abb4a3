"""Base classes to train on by plain batches, and episodes of novel classes to evaluate by."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from datamodules.class_parts import Classes, ClassParts, ClassSubset, labels_of
from datamodules.episodes import say_episodes
from datamodules.parted_classes import PartedClasses
from framework.data.datamodule import DataModule, LoaderOptions
from framework.data.datasets import root_and_rows
from framework.data.episodes import EpisodeSet
from framework.utilities.checks import check_at_least, check_positive

EVAL_EPISODES = 16
"""Episodes of a batch outside training where nothing else is said."""


class BaseAndNovel(PartedClasses):
    """Trains on base classes by plain batches, and evaluates on episodes of novel classes.

    Training batches hold what ``data`` yields of the base classes, with ``label`` (B,) in 0..C-1.
    Validation and test batches are episodes as those of ``Episodes``: ``image``
    (E, N (K + Q), C, H, W), ``label``, ``support`` and ``index`` (E,), always the same ones of
    ``episode_seed``. With ``dirichlet`` the classes of an episode have unequally many queries.

    Base, validation and test classes are parted as by ``Retrieval``. Without validation classes,
    ``val_classes: 0``, validation episodes are of the base classes, drawn from the images that
    ``data`` itself holds out, which then are not trained.

    The remaining arguments are those of ``DataModule``; ``eval_batch_size`` counts episodes, 16 by
    default.

    Args:
        data: Datamodule of labeled images; its own ``batch_size``, ``eval_batch_size`` and
            ``num_workers`` are not used, but its ``augment`` is.
        ways: Classes N of an episode.
        shots: Supports K of a class.
        queries: Queries Q of a class, on average.
        dirichlet: Concentration of the Dirichlet distribution of the classes' shares of the
            queries, 2 in the literature; None for equal shares.
        val_episodes: Episodes of a validation.
        test_episodes: Episodes of the test.
        val_classes: Validation classes of ``data``'s training set, by their labels, or how many of
            them (int), or which share (float), the last ones; by default ``data``'s own validation
            part if its classes are others, else a tenth. 0 for none.
        test_classes: Test classes of ``data``'s training set, by their labels, or how many of them
            (int), or which share (float), the last ones; by default ``data``'s own test part if
            its classes are others, else none where its own validation part serves, else half.
        episode_seed: Seed of the episodes.
        batch_size: Images of a global training batch, over all ranks.

    Raises:
        ValueError: Data with mixup or noisy labels; an argument out of its range; or (at ``setup``)
            too few classes, or a class with fewer than K + Q images.
        TypeError: Data that are no labeled images.

    Example:
        >>> from datamodules import BaseAndNovel, Digits
        >>> data = BaseAndNovel(
        ...     Digits(val_size=300), shots=1, queries=15, val_classes=0, test_classes=5
        ... )
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader()))["image"].shape
        torch.Size([128, 1, 8, 8])
        >>> next(iter(data.test_dataloader()))["image"].shape
        torch.Size([16, 80, 1, 8, 8])
    """

    def __init__(
        self,
        data: DataModule,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        dirichlet: float | None = None,
        val_episodes: int = 200,
        test_episodes: int = 600,
        val_classes: Classes | None = None,
        test_classes: Classes | None = None,
        episode_seed: int = 0,
        batch_size: int = 128,
        **options: Unpack[LoaderOptions],
    ) -> None:
        if options.get("eval_batch_size") is None:
            options["eval_batch_size"] = EVAL_EPISODES
        super().__init__(batch_size=batch_size, **options)
        check_at_least(2, ways=ways)
        check_at_least(1, shots=shots, queries=queries)
        check_at_least(1, val_episodes=val_episodes, test_episodes=test_episodes)
        check_positive(dirichlet=dirichlet)
        self.data = data
        self.ways = ways
        self.shots = shots
        self.queries = queries
        self.dirichlet = dirichlet
        self.val_episodes = val_episodes
        self.test_episodes = test_episodes
        self.val_classes = val_classes
        self.test_classes = test_classes
        self.episode_seed = episode_seed

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped data up, and part its classes, once."""
        if self.train_set is not None:
            return
        parts = self.read_parts()
        self.num_classes = parts.num_classes
        self.augment = self.data.augment
        train, plain, val = parts.train, parts.plain, parts.val
        if val is None and self.data.val_set is not None:
            val, held_out = self._held_out(parts)
            train, plain = _without(train, held_out), _without(plain, held_out)
        self.train_set = train
        self.plain_train_set = plain if self.augment is not None else None
        if val is not None:
            self.val_set = self._episodes(val, self.val_episodes, "validation")
        if parts.test is not None:
            self.test_set = self._episodes(parts.test, self.test_episodes, "test")
        self.predict_set = self.val_set if self.test_set is None else self.test_set

    def _held_out(self, parts: ClassParts) -> tuple[ClassSubset, Tensor]:
        """Return the held-out images of base classes, and which rows of the training set they are.

        The latter are none where the data came with a validation set of its own.
        """
        part: Any = self.data.val_set
        source, places = root_and_rows(part, list(range(len(part))))
        root, _ = root_and_rows(self.data.train_set, [])
        name = type(self.data).__name__
        given, known = labels_of(root, name), labels_of(source, name)
        number = torch.full((int(max(given.max(), known.max())) + 2,), -1)
        number[given[parts.train.rows]] = parts.train.label
        rows = torch.tensor(places, dtype=torch.int64)
        label = number[known[rows].clamp(min=-1)]
        # views of the same images share their labels
        held_out = rows if known is given else rows[:0]
        return ClassSubset(source, rows[label >= 0], label[label >= 0]), held_out

    def _episodes(self, part: ClassSubset, number: int, name: str) -> EpisodeSet:
        return EpisodeSet(
            part,
            part.label,
            number,
            ways=self.ways,
            shots=self.shots,
            queries=self.queries,
            seed=self.episode_seed,
            name=name,
            dirichlet=self.dirichlet,
        )

    def test_dataloader(self) -> Any:
        """Return the test loader, and say which episodes they are."""
        say_episodes(self.test_set)
        return super().test_dataloader()


def _without(part: ClassSubset, rows: Tensor) -> ClassSubset:
    """Return a part without some rows of its source."""
    kept = ~torch.isin(part.rows, rows)
    return ClassSubset(part.source, part.rows[kept], part.label[kept])
