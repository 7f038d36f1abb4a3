"""Episodes of few-shot learning, drawn from any labeled images."""

from __future__ import annotations

from typing import Any, Unpack

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from datamodules.augmentation import check_keeps_shape
from datamodules.class_parts import Classes, ClassSubset
from datamodules.parted_classes import PartedClasses
from framework.data.datamodule import DataModule, LoaderOptions
from framework.data.episodes import EpisodeSet
from framework.utilities.checks import check_at_least


class Episodes(PartedClasses):
    """Episodes of N classes with K supports and Q queries each, drawn from labeled images.

    Training, validation and test episodes have no class in common: they are of the classes of
    ``data``'s own parts where these differ, as those of ``Omniglot`` do, else of those that
    ``val_classes`` and ``test_classes`` name. No query of an episode is one of its supports.

    Training draws other episodes in every epoch, as a function of (seed of the run, epoch, number);
    evaluation the same ones always, a function of (``episode_seed``, number), so that runs are
    compared on the same episodes. Neither depends on the number of ranks or loading processes. A
    digest of the test episodes is said when they are made.

    A sample is an episode; batches are those of ``EpisodeSet`` with ``index`` (E,) int64, the
    number of the episode.

    The remaining arguments are those of ``DataModule``.

    Args:
        data: Datamodule of labeled images; its own ``batch_size``, ``eval_batch_size`` and
            ``num_workers`` are not used.
        ways: Classes N of an episode.
        shots: Supports K of a class.
        queries: Queries Q of a class.
        eval_ways: Classes of an episode outside training; default ``ways``.
        eval_shots: Supports of a class outside training; default ``shots``.
        eval_queries: Queries of a class outside training; default ``queries``.
        train_episodes: Episodes of an epoch.
        val_episodes: Episodes of a validation.
        test_episodes: Episodes of the test.
        val_classes: Validation classes of ``data``'s training set, by their labels, or how many of
            them (int), or which share (float), the last ones; by default ``data``'s own validation
            part if its classes are others, else a tenth. 0 for none.
        test_classes: Test classes of ``data``'s training set, by their labels, or how many of them
            (int), or which share (float), the last ones; by default ``data``'s own test part if
            its classes are others, else none where its own validation part serves, else half.
        episode_seed: Seed of the episodes outside training.
        augment: Transforms of a training image, such as those of ``torchvision.transforms.v2``,
            that keep its shape; images come as ``data`` prepares them, normalized if it does that.
        batch_size: Episodes of a global step, over all ranks.

    Raises:
        ValueError: Data with augmentation, mixup or noisy labels; an argument out of its range;
            or (at ``setup``) an ``augment`` that changes the shape of an image, too few classes, or
            a class with fewer than K + Q images.
        TypeError: Data that are no labeled images.

    Example:
        >>> from datamodules import Digits, Episodes
        >>> data = Episodes(Digits(), ways=3, shots=2, queries=4, val_classes=3, test_classes=3)
        >>> data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["label"].shape
        (torch.Size([1, 18, 1, 8, 8]), torch.Size([1, 18]))
    """

    mixes_samples = True

    def __init__(
        self,
        data: DataModule,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        eval_ways: int | None = None,
        eval_shots: int | None = None,
        eval_queries: int | None = None,
        train_episodes: int = 100,
        val_episodes: int = 500,
        test_episodes: int = 1000,
        val_classes: Classes | None = None,
        test_classes: Classes | None = None,
        episode_seed: int = 0,
        augment: list[nn.Module] | None = None,
        batch_size: int = 1,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(batch_size=batch_size, **options)
        check_at_least(2, ways=ways, eval_ways=eval_ways)
        check_at_least(1, shots=shots, eval_shots=eval_shots, train_episodes=train_episodes)
        check_at_least(1, queries=queries, eval_queries=eval_queries)
        check_at_least(1, val_episodes=val_episodes, test_episodes=test_episodes)
        if getattr(data, "transforms", None):
            raise ValueError(
                f"Episodes has transforms of its own: give augment to it, not to "
                f"{type(data).__name__}."
            )
        self.data = data
        self.shape = {"ways": ways, "shots": shots, "queries": queries}
        self.eval_shape = {
            "ways": ways if eval_ways is None else eval_ways,
            "shots": shots if eval_shots is None else eval_shots,
            "queries": queries if eval_queries is None else eval_queries,
        }
        self.num_episodes = {"train": train_episodes, "val": val_episodes, "test": test_episodes}
        self.val_classes = val_classes
        self.test_classes = test_classes
        self.episode_seed = episode_seed
        self.transforms = augment or []

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped data up, and draw from it, once."""
        self._share_facts()
        if self.train_set is not None:
            return
        parts = self.read_parts()
        if self.transforms:
            image = parts.plain[0]["image"]
            check_keeps_shape(self.transforms, image, tuple(image.shape), "let augment keep it")
        self.train_set = self._episodes(parts.plain, "train", "training")
        if parts.val is not None:
            self.val_set = self._episodes(parts.val, "val", "validation")
        if parts.test is not None:
            self.test_set = self._episodes(parts.test, "test", "test")
        self.predict_set = self.val_set if self.test_set is None else self.test_set

    def _episodes(self, part: ClassSubset, kind: str, name: str) -> EpisodeSet:
        return EpisodeSet(
            part,
            part.label,
            self.num_episodes[kind],
            **(self.shape if kind == "train" else self.eval_shape),
            seed=None if kind == "train" else self.episode_seed,
            name=name,
            augment=nn.Sequential(*self.transforms)
            if kind == "train" and self.transforms
            else None,
        )

    def test_dataloader(self) -> Any:
        """Return the test loader, and say which episodes they are."""
        say_episodes(self.test_set)
        return super().test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity, the place in it, and what an episode is."""
        return {**super().state_dict(), "episode": [*self.shape.values()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: Inside an epoch, the episodes are others, or see the base class.
        """
        trains = self.trainer is None or self.trainer.state.fn == "fit"
        others = state_dict["episode"] != [*self.shape.values()]
        if trains and state_dict["position"] and others:
            raise RuntimeError(
                f"The checkpoint was written inside epoch {state_dict['epoch']} with episodes of "
                f"{state_dict['episode']} ways, shots and queries, and cannot continue with "
                f"{[*self.shape.values()]}; keep them, or resume from an epoch's end."
            )
        super().load_state_dict(state_dict)


def say_episodes(dataset: Any) -> None:
    """Say which episodes a test has, so that runs can be told to have the same.

    Args:
        dataset: Test set, or None for none.
    """
    if isinstance(dataset, EpisodeSet):
        shape = f"ways {dataset.ways}, shots {dataset.shots}, queries {dataset.queries}"
        if dataset.dirichlet is not None:
            shape = f"{shape}, dirichlet {dataset.dirichlet}"
        rank_zero_info(
            f"{len(dataset):,} test episodes ({shape}) of episode_seed {dataset.seed}; their "
            f"digest is {dataset.digest}."
        )
