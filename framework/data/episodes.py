"""Episodes of few-shot learning: a few classes, a few images to learn each from, and questions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from framework.data.datasets import Batch, BatchedDataset
from framework.data.unbalanced_queries import dirichlet_counts
from framework.utilities.checks import check_at_least, check_positive
from framework.utilities.randomness import seeded, stable_seed


class EpisodeSet(BatchedDataset):
    """A data set whose samples are episodes: N classes with K supports and Q queries each.

    The K + Q images of a class are drawn together without replacement and then split, so that no
    query is a support of its episode. Episode e is a function of ``(seed, e)``, or of (seed of the
    run, epoch, e) where ``seed`` is None. Whatever is trained or evaluated by episodes draws them
    here: prototypical networks of faces and characters as well as transductive solvers.

    By default the classes have equally many queries, which transductive methods may exploit. With
    ``dirichlet`` an episode has N Q queries in shares that are drawn, and a class may have none; at
    most all its images but the supports are queries.

    A batch of E episodes holds ``image`` (E, N (K + Q), C, H, W), first the supports, class by
    class, then the queries, class by class; ``label`` (E, N (K + Q)) int64, the class in the
    episode, 0..N-1; and ``support`` (E, N, K) int64, where in the episode the supports of each
    class are.

    Args:
        source: Labeled images, a data set that reads batches.
        label: Class of each of its images, (M,) int64.
        num_episodes: Number of episodes, of each epoch in training.
        ways: Classes N of an episode.
        shots: Supports K of a class.
        queries: Queries Q of a class.
        seed: Seed of the episodes; None for that of the run, with other episodes in every epoch.
        name: Part of the data in messages, such as ``training``.
        augment: Function from an image (C, H, W) to one of the same shape, whose random numbers
            follow from those that an episode is a function of.
        dirichlet: Concentration of the Dirichlet distribution of the classes' shares of the
            queries; None for equal shares.

    Raises:
        ValueError: There are fewer than N classes, a class has fewer than K + Q images, or an
            argument is out of its range.

    Example:
        >>> from framework.data.datasets import ArrayDataset
        >>> images = ArrayDataset(image=torch.arange(12.0), label=torch.arange(12) % 3)
        >>> label = images.fields["label"]
        >>> episodes = EpisodeSet(images, label, 5, ways=2, shots=1, queries=2, seed=0)
        >>> {name: tuple(value.shape) for name, value in episodes.batch([3]).items()}
        {'image': (1, 6), 'label': (1, 6), 'support': (1, 2, 1)}
    """

    def __init__(
        self,
        source: Any,
        label: Tensor,
        num_episodes: int,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int | None = None,
        name: str = "training",
        augment: Callable[[Tensor], Tensor] | None = None,
        dirichlet: float | None = None,
    ) -> None:
        check_at_least(1, num_episodes=num_episodes, shots=shots, queries=queries)
        check_at_least(2, ways=ways)
        check_positive(dirichlet=dirichlet)
        classes, count = label.unique(return_counts=True)
        if len(classes) < ways:
            raise ValueError(
                f"An episode of {ways} ways needs as many {name} classes, and there are "
                f"{len(classes)}: lower ways, or share the classes out by val_classes and "
                "test_classes."
            )
        if (fewest := int(count.min())) < shots + queries:
            lacking = classes[count < shots + queries]
            raise ValueError(
                f"{len(lacking):,} of the {len(classes):,} {name} classes have fewer than "
                f"{shots} + {queries} images, the class {int(classes[count.argmin()])} has "
                f"{fewest}: lower shots or queries."
            )
        self.source = source
        self.members = label.argsort(stable=True).split(count.tolist())
        self.num_episodes = num_episodes
        self.ways = ways
        self.shots = shots
        self.queries = queries
        self.seed = seed
        self.augment = augment
        self.dirichlet = dirichlet
        self.decodes = getattr(source, "decodes", False)

    def __len__(self) -> int:
        return self.num_episodes

    @property
    def episode_size(self) -> int:
        """Number N (K + Q) of images of an episode."""
        return self.ways * (self.shots + self.queries)

    def rows(self, *key: int | str) -> Tensor:
        """Return the rows of the images of the episode of a key, (N (K + Q),) int64."""
        return self._draw(*key)[0]

    def _draw(self, *key: int | str) -> tuple[Tensor, Tensor]:
        """Return the rows of an episode's images, and the number of queries of each class."""
        generator = torch.Generator().manual_seed(stable_seed(*key, "episode"))
        chosen = torch.randperm(len(self.members), generator=generator)[: self.ways]
        members = [self.members[k] for k in chosen.tolist()]
        count = torch.full((self.ways,), self.queries)
        if self.dirichlet is not None:
            available = torch.tensor([len(rows) - self.shots for rows in members])
            count = dirichlet_counts(int(count.sum()), available, self.dirichlet, generator)
        drawn = [
            rows[torch.randperm(len(rows), generator=generator)[: self.shots + queries]]
            for rows, queries in zip(members, count.tolist(), strict=True)
        ]
        supports = [rows[: self.shots] for rows in drawn]
        return torch.cat([*supports, *(rows[self.shots :] for rows in drawn)]), count

    def batch(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return episodes as one batch."""
        return self.batch_of_epoch(rows, 0, 0)

    def batch_of_epoch(self, rows: Sequence[int] | Tensor, epoch: int, seed: int) -> Batch:
        """Return episodes of an epoch as one batch."""
        numbers = torch.as_tensor(rows).tolist()
        prefix = (seed, epoch) if self.seed is None else (self.seed,)
        drawn = [self._draw(*prefix, number) for number in numbers]
        size, number = self.episode_size, len(numbers)
        chosen = [torch.empty(0, dtype=torch.int64), *(rows for rows, _ in drawn)]
        images = self.source.batch(torch.cat(chosen))["image"]
        images = images.view(number, size, *images.shape[1:])
        if self.augment is not None:
            for one, e in zip(images, numbers, strict=True):
                with seeded(*prefix, e, "augment"):
                    one.copy_(torch.stack([self.augment(image) for image in one]))
        return {
            "image": images,
            "label": self._labels([count for _, count in drawn]),
            "support": torch.arange(self.ways * self.shots)
            .view(self.ways, self.shots)
            .expand(number, -1, -1),
        }

    def _labels(self, counts: list[Tensor]) -> Tensor:
        """Return the labels of episodes with so many queries of each class, (E, N (K + Q))."""
        label = torch.arange(self.ways)
        support = label.repeat_interleave(self.shots)
        empty = torch.empty(0, self.episode_size, dtype=torch.int64)
        rows = [torch.cat([support, label.repeat_interleave(count)]) for count in counts]
        return torch.stack(rows) if rows else empty

    @property
    def digest(self) -> str:
        """Digest of all episodes, which is equal where the same images were drawn.

        Raises:
            ValueError: The episodes differ from epoch to epoch.
        """
        if self.seed is None:
            raise ValueError("Training draws other episodes in every epoch.")
        digest = hashlib.blake2b(digest_size=8)
        for number in range(self.num_episodes):
            digest.update(self.rows(self.seed, number).numpy().tobytes())
        return digest.hexdigest()
