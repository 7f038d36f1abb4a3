"""The base of every map-style datamodule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from framework.data.datasets import Batch, IndexedDataset, Sample, root_and_rows
from framework.data.facts import Facts, facts_of, same_facts
from framework.data.loader import ElasticDataLoader, usual_workers
from framework.data.origin import has_changed, is_another, is_elsewhere, origin_of
from framework.data.run_hold_out import RunHoldOut
from framework.data.samplers import GlobalBatchSampler, SampleKey, StreamOptions
from framework.objectives.errors import IncompatibleError
from framework.utilities.checks import check_at_least
from framework.utilities.lightning_internals import CheckedLoading, training_progress
from framework.utilities.randomness import global_seed, stable_seed


def check_share(share: float, rows: int) -> int:
    """Return how many rows a share is.

    Raises:
        ValueError: it leaves no row on either side.
    """
    size = round(share * rows)
    if not 0 < size < rows:
        raise ValueError(
            f"held_out={share} of {rows} training rows leaves none to hold out or none to train."
        )
    return size


class LoaderOptions(TypedDict, total=False):
    """Arguments of ``DataModule`` whose defaults are the same for all data."""

    num_workers: int | None
    eval_batch_size: int | None
    drop_last: bool
    shards: int | None


class BatchOptions(LoaderOptions, total=False):
    """Arguments of ``DataModule``, for data that keep its default batch size."""

    batch_size: int


def _passthrough(batch: Any) -> Any:
    return batch


class DataModule(RunHoldOut, CheckedLoading, LightningDataModule):
    """Base of every map-style datamodule: elastic sampling and exact resume.

    A subclass sets ``train_set``, ``val_set``, ``test_set`` and ``predict_set`` (those it has) in
    ``setup``, and the class attributes below where they apply.

    Args:
        batch_size: Rows of a global batch, over all ranks.
        num_workers: Loading processes per rank; results do not depend on it. By default none, but
            on a GPU as many as a rank has cores, at most 8, where data are decoded or augmented.
        eval_batch_size: Rows of a global batch outside training; default ``batch_size``.
        drop_last: Whether to leave out the last training batch if it is smaller.
        shards: Number of parts that samples are assigned to for good, so that a rank keeps its own;
            None for none.

    Raises:
        ValueError: A size or the number of loading processes out of range.
    """

    num_classes: int | None = None
    class_names: Sequence[str] | None = None
    has_groups = False
    """True if training batches hold ``group`` and never split a group."""
    never_one_row = False
    """True if no training batch is of one row, whatever the numbers of rows."""
    mixes_samples = False
    """True if a training sample is made of several: its predictions are not its own."""

    train_set: Dataset[Sample] | None = None
    plain_train_set: Dataset[Sample] | None = None
    """``train_set`` as it is read without ``augment``, where that takes it in another form."""
    val_set: Dataset[Sample] | None = None
    test_set: Dataset[Sample] | None = None
    predict_set: Dataset[Sample] | None = None
    guide_set: Dataset[Sample] | None = None
    """Held-out training data for a guide, see ``hold_out``."""
    augment: Callable[[Sample], Sample] | None = None
    place: Path | None = None
    """File or folder that the data are read from; None where the class says it all."""

    def __init__(
        self,
        batch_size: int = 128,
        num_workers: int | None = None,
        eval_batch_size: int | None = None,
        drop_last: bool = False,
        shards: int | None = None,
    ) -> None:
        super().__init__()
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(0, num_workers=num_workers)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.eval_batch_size = eval_batch_size or batch_size
        self.drop_last = drop_last
        self.shards = shards
        self.seed = global_seed()
        self._origin: list[str] | None = None
        self._sampler: GlobalBatchSampler | None = None
        self._resume: SampleKey = (0, 0)
        self._run_facts: Facts | None = None

    def collate(self, samples: list[Sample]) -> Batch:
        """Join samples to a batch; override where fields have varying shapes."""
        return default_collate(samples)

    def as_batch(self, inputs: Any) -> Batch:
        """Return raw inputs as a batch, prepared as in evaluation, for predictions outside a run.

        Raises:
            ValueError: Inputs of another kind than the data serves.
        """
        raise ValueError(
            f"{type(self).__name__} makes no batch of raw inputs: give a batch, a dict of tensors."
        )

    def restore_statistics(self, state: dict[str, Any]) -> None:
        """Restore what ``as_batch`` and predictions need of the training data; default: nothing.

        Args:
            state: State of the datamodule in a checkpoint.
        """

    @property
    def trained(self) -> Facts:
        """What the data that the model was trained on were found to be; empty for a new training.

        ``setup`` prepares the data accordingly: the numbers of the classes, sizes and statistics.
        """
        if self._run_facts is None:
            trainer = self.trainer
            if trainer is None or trainer.state.fn == "fit":
                return {}
            return getattr(trainer.lightning_module, "data_facts", {})
        return self._run_facts

    @property
    def origin(self) -> list[str]:
        """Place of the data and a digest of what lies there, or the name of the class."""
        if self._origin is None:
            self._origin = [type(self).__name__] if self.place is None else origin_of(self.place)
        return self._origin

    @origin.setter
    def origin(self, origin: list[str]) -> None:
        self._origin = origin

    @property
    def is_elsewhere(self) -> bool:
        """Whether this lies elsewhere than the data of the training: all of it is predicted."""
        trained = self.trained.get("origin")
        return trained is not None and is_elsewhere(self.origin, trained)

    @property
    def is_new(self) -> bool:
        """Whether this is no copy of the data of the training, either: all of it is evaluated."""
        trained = self.trained.get("origin")
        return trained is not None and is_another(self.origin, trained)

    def use_facts(self, facts: Facts) -> None:
        """Prepare this data as those that a model was trained on; call it before ``setup``."""
        self._run_facts = facts
        trained = facts.get("origin")
        if trained is not None and has_changed(self.origin, trained):
            rank_zero_warn(
                f"What lies in {self.origin[0]} has changed since the training: rows that were "
                "trained on may be among those that are held out now."
            )

    def adopt(self, facts: Facts, stage: str) -> None:
        """Prepare data that are set up already as those that a model was trained on.

        The Trainer restores a checkpoint only after it has set the data up.
        """
        if not facts or same_facts(facts, self._run_facts):
            return
        # training is the same wherever the data lie: only evaluation asks where they come from
        trained = facts.get("origin")
        ignored = (
            {"origin"}
            if stage == "fit" or trained is None or not is_elsewhere(self.origin, trained)
            else set()
        )
        wanted, found = (
            {name: fact for name, fact in known.items() if name not in ignored}
            for known in (facts, facts_of(self))
        )
        if same_facts(wanted, found):
            return
        self.use_facts(facts)
        if type(self).setup is not LightningDataModule.setup:
            self.forget()
            self.setup(stage)
            self.hold_out_anew()

    def forget(self) -> None:
        """Forget what ``setup`` read."""
        self.train_set = self.plain_train_set = self.guide_set = None
        self.val_set = self.test_set = self.predict_set = None
        self.augment = None

    @property
    def num_samples(self) -> int:
        """Rows of the *full* training set, which bounds ``index``."""
        if self.train_set is None:
            raise RuntimeError(f"{type(self).__name__} has no training set; call setup('fit').")
        self._refuse_iterable(self.train_set)
        root, _ = root_and_rows(self.train_set, [])
        return len(root)

    def _refuse_iterable(self, dataset: Dataset[Sample]) -> None:
        if isinstance(dataset, IterableDataset):
            raise TypeError(
                f"{type(self).__name__} serves samples by position, and an iterable data set "
                f"({type(dataset).__name__}) has none; use a LightningDataModule of your own."
            )

    def train_dataloader(self) -> ElasticDataLoader:
        """Return the loader of this rank's slices, from the place where training stands."""
        if self.train_set is None:
            raise RuntimeError(f"{type(self).__name__} has no training set.")
        self._refuse_iterable(self.train_set)
        self._sampler = self.train_sampler()
        self._sampler.repeats = getattr(self.trainer, "overfit_batches", 0) > 0
        return self._loader(self.train_set, self._sampler, self.augment)

    def train_sampler(self) -> GlobalBatchSampler:
        """Return the stream of training batches; override where rows must stay together."""
        rows = len(self.train_set)  # type: ignore[arg-type]
        _, stable = (
            root_and_rows(self.train_set, list(range(rows))) if self.shards else (None, None)
        )
        return GlobalBatchSampler(
            rows,
            self.batch_size,
            shuffle=True,
            shards=self.shards,
            stable_index=None if stable is None else torch.tensor(stable),
            **self._stream,
        )

    def hold_out(self, share: float) -> None:
        """Move a share of the training set to ``guide_set``, where it is not trained.

        The rows depend on nothing but the numbers of rows. They keep their ``index``.

        Raises:
            ValueError: a share that leaves no row on either side.
            IncompatibleError: training samples are made of several, or come in groups.
        """
        name = type(self).__name__
        if self.train_set is None:
            raise RuntimeError(f"{name} has no training set; call setup('fit').")
        if self.mixes_samples or self.has_groups:
            raise IncompatibleError(
                f"The training samples of {name} are made of several, so that none of them can be "
                "held out."
            )
        self._refuse_iterable(self.train_set)
        held, kept = self._held_and_kept(share, len(self.train_set))  # type: ignore[arg-type]
        plain = self.train_set if self.plain_train_set is None else self.plain_train_set
        self.guide_set = Subset(plain, held)
        self.train_set = Subset(self.train_set, kept)
        if self.plain_train_set is not None:
            self.plain_train_set = Subset(plain, kept)

    def _held_and_kept(self, share: float, rows: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the rows to hold out and the others, each in ascending order."""
        size = check_share(share, rows)
        generator = torch.Generator().manual_seed(stable_seed("hold out", rows))
        order = torch.randperm(rows, generator=generator)
        return order[:size].sort().values.tolist(), order[size:].sort().values.tolist()

    def guide_dataloader(
        self, batch_size: int, start: Callable[[], SampleKey]
    ) -> ElasticDataLoader:
        """Return the loader of this rank's slices of ``guide_set``, without augmentation.

        Args:
            batch_size: Rows of a global batch.
            start: Function called at each ``iter()``; it returns (pass, global batches of it to
                leave out).
        """
        if self.guide_set is None:
            raise RuntimeError(f"{type(self).__name__} holds nothing out; call hold_out().")
        return self._loader(self.guide_set, self.guide_sampler(batch_size, start), None)

    def guide_sampler(self, batch_size: int, start: Callable[[], SampleKey]) -> GlobalBatchSampler:
        """Return the stream of guide batches; override where rows must stay together."""
        return GlobalBatchSampler(
            len(self.guide_set),  # type: ignore[arg-type]
            batch_size,
            shuffle=True,
            seed=stable_seed(self.seed, "guide"),
            rank=self._rank,
            world_size=self._world_size,
            start=start,
        )

    def ordered_train_dataloader(
        self, rows: Sequence[int] | None = None, batch_size: int | None = None
    ) -> ElasticDataLoader:
        """Return a loader of every training sample once, in order and without augmentation.

        It is for methods that look at all samples between epochs. Batches are as in evaluation:
        ``eval_batch_size`` rows, sliced over ranks without regard to ``shards``, and nothing is
        padded or left out. ``index`` is that of training. The stream of training and the global
        generators stay untouched.

        Args:
            rows: Positions in ``train_set`` that are read instead of all, in this order.
            batch_size: Rows of a global batch; default ``eval_batch_size``.

        Raises:
            RuntimeError: there is no training set.
            ValueError: a row outside the training set.

        Example:
            >>> from framework.data.datasets import ArrayDataset
            >>> class Ten(DataModule):
            ...     train_set = Subset(ArrayDataset(input=torch.arange(20)), list(range(10, 20)))
            >>> loader = Ten(batch_size=8).ordered_train_dataloader([4, 2, 9])
            >>> next(iter(loader))
            {'input': tensor([14, 12, 19]), 'index': tensor([14, 12, 19])}
        """
        if self.train_set is None:
            raise RuntimeError(f"{type(self).__name__} has no training set.")
        dataset = self.train_set if self.plain_train_set is None else self.plain_train_set
        if rows is not None:
            self._refuse_iterable(dataset)
            size = len(dataset)  # type: ignore[arg-type]
            outside = next((row for row in rows if not 0 <= row < size), None)
            if outside is not None:
                raise ValueError(f"Row {outside} lies outside the training set of {size} samples.")
            dataset = Subset(dataset, rows)
        return self._eval_loader(dataset, batch_size)

    def val_dataloader(self) -> Any:
        """Return the validation loader, or nothing where there is no validation set."""
        return self._eval_loader(self.val_set)

    def test_dataloader(self) -> Any:
        """Return the test loader, or nothing where there is no test set."""
        return self._eval_loader(self.test_set)

    def predict_dataloader(self) -> Any:
        """Return the loader of what is to be predicted."""
        return self._eval_loader(self.predict_set)

    @property
    def _stream(self) -> StreamOptions:
        """What every stream of training batches is made with."""
        return {
            "seed": self.seed,
            "drop_last": self.drop_last,
            "rank": self._rank,
            "world_size": self._world_size,
            "start": self._start,
        }

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def _start(self) -> SampleKey:
        # a resumed run makes its first iterators before Lightning restores its loops, whose
        # counters then still say that nothing was trained
        return max(self._progress(), self._resume)

    def _progress(self) -> SampleKey:
        return training_progress(self.trainer) if self.trainer is not None else (0, 0)

    def _eval_loader(self, dataset: Dataset[Sample] | None, batch_size: int | None = None) -> Any:
        if dataset is None:
            return []
        self._refuse_iterable(dataset)
        batches = GlobalBatchSampler(
            len(dataset),  # type: ignore[arg-type]
            batch_size or self.eval_batch_size,
            shuffle=False,
            rank=self._rank,
            world_size=self._world_size,
        )
        return self._loader(dataset, batches, None)

    def _loader(
        self,
        dataset: Dataset[Sample],
        batches: GlobalBatchSampler,
        augment: Callable[[Sample], Sample] | None,
    ) -> ElasticDataLoader:
        trainer = self.trainer
        on_cuda = trainer is not None and trainer.strategy.root_device.type == "cuda"
        workers = self.num_workers
        if workers is None:
            # on a CPU the cores train, and what lies in memory is read faster than handed over
            is_work = augment is not None or getattr(
                root_and_rows(dataset, [])[0], "decodes", False
            )
            workers = usual_workers(trainer.num_devices) if trainer and on_cuda and is_work else 0
        loader: DataLoader[Any] = DataLoader(
            IndexedDataset(dataset, augment=augment, seed=self.seed, collate=self.collate),
            batch_sampler=batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_passthrough,
            pin_memory=on_cuda,
            # its own generator: the loader must not draw from the one that training restores
            generator=torch.Generator().manual_seed(stable_seed(self.seed, "workers")),
        )
        return ElasticDataLoader(loader)

    def teardown(self, stage: str) -> None:
        """Forget the place that was resumed from: another run may follow."""
        self._resume = (0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's identity and the place in it."""
        epoch, position = self._progress()
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "num_samples": len(self.train_set) if self.train_set is not None else 0,  # type: ignore[arg-type]
            "epoch": epoch,
            "position": position,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the saved stream.

        Raises:
            RuntimeError: Training goes on inside an epoch, with another batch size or number of
                samples.
        """
        self.seed = state_dict["seed"]
        self._resume = (state_dict["epoch"], state_dict["position"])
        if self._sampler is not None:
            self._sampler.seed = self.seed
        trains = self.trainer is None or self.trainer.state.fn == "fit"
        if not trains or not state_dict["position"]:
            return
        now = self.state_dict()
        for name in ("batch_size", "num_samples"):
            if now[name] != state_dict[name]:
                raise RuntimeError(
                    f"The checkpoint was written inside epoch {state_dict['epoch']} with "
                    f"{name}={state_dict[name]}, and cannot continue with {now[name]}; "
                    "keep the value or resume from a checkpoint of an epoch's end."
                )
