"""Rows that a datamodule does not train for the time of a run, as callbacks of the run ask."""

from __future__ import annotations

from abc import abstractmethod

from torch.utils.data import Dataset

from framework.data.datasets import Sample
from framework.objectives.errors import IncompatibleError


class RunHoldOut:
    """What a datamodule lends to the callbacks of one run as ``guide_set``, and takes back."""

    train_set: Dataset[Sample] | None
    plain_train_set: Dataset[Sample] | None
    val_set: Dataset[Sample] | None
    guide_set: Dataset[Sample] | None
    _whole: tuple[Dataset[Sample] | None, ...] | None = None
    _run_share: float | None = None

    @abstractmethod
    def hold_out(self, share: float) -> None:
        """Move a share of the training set to ``guide_set``."""

    def hold_out_for_run(self, share: float | None) -> None:
        """Hold a share out until ``return_held_out``, also where ``adopt`` sets the data up anew.

        Data that hold something out themselves stay as they are. Of several callbacks the first
        says the share; where one takes the validation set, all do, and all other rows are trained.

        Args:
            share: Share of the training set; None lends the validation set instead.

        Raises:
            IncompatibleError: The data hold rows out themselves, which one callback takes, and
                another takes the validation set.
        """
        if self._whole is None:
            self._whole = self.train_set, self.plain_train_set, self.guide_set
            self._run_share = share
        elif (self._run_share is None) != (share is None):
            if self._whole[2] is not None:
                raise IncompatibleError(
                    f"One callback of the run takes the rows that {type(self).__name__} holds out, "
                    "and another the validation set in the same place: set tuning_set of "
                    "SelfTuning to held_out."
                )
            self._run_share = None
        if self._run_share is None:
            self.train_set, self.plain_train_set, _ = self._whole
            self.guide_set = self.val_set
        elif self.guide_set is None:
            self.hold_out(self._run_share)

    def return_held_out(self) -> None:
        """Undo ``hold_out_for_run``."""
        if self._whole is not None:
            self.train_set, self.plain_train_set, self.guide_set = self._whole
        self._whole = None

    def hold_out_anew(self) -> None:
        """Hold out again what callbacks asked for, of data that were set up anew."""
        if self._whole is not None:
            self._whole = None
            self.hold_out_for_run(self._run_share)
