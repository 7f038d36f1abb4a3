"""Training data that are held out for a guide."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch.utils.data import Subset

from framework.data.datamodule import DataModule
from framework.data.datasets import ArrayDataset
from framework.objectives.errors import IncompatibleError


class Plain(ArrayDataset):
    """Ten rows."""

    def __init__(self):
        super().__init__(input=torch.arange(10))


class Ten(DataModule):
    def setup(self, stage=None):
        self.train_set = Subset(ArrayDataset(input=torch.arange(10)), [0, 2, 4, 6, 8, 9])


def ten(**arguments):
    data = Ten(**arguments)
    data.setup()
    return data


def chained(lists):
    return list(chain.from_iterable(lists))


def test_held_out_rows_are_the_guides_and_are_not_trained():
    data = ten(batch_size=4)
    data.hold_out(1 / 3)
    guide = data.guide_set.dataset.indices
    held = sorted(guide[row] for row in data.guide_set.indices)
    trained = sorted(torch.cat([b["index"] for b in data.train_dataloader()]).tolist())
    assert len(held) == 2
    assert sorted([*held, *trained]) == [0, 2, 4, 6, 8, 9]
    # which ones has nothing to do with the seed of the run
    other = ten(batch_size=4)
    other.seed = 17
    other.hold_out(1 / 3)
    assert list(other.guide_set.indices) == list(data.guide_set.indices)


def test_the_stream_of_the_guide_goes_on_where_it_stood():
    data = ten(batch_size=4)
    data.hold_out(0.7)
    place = [0, 0]
    loader = data.guide_dataloader(3, lambda: (place[0], place[1]))
    first = [batch["index"].tolist() for batch in loader]
    assert [len(batch) for batch in first] == [3, 1]
    place[:] = [0, 1]
    assert [batch["index"].tolist() for batch in loader] == first[1:]
    place[:] = [1, 0]
    again = [batch["index"].tolist() for batch in loader]
    assert sorted(chained(again)) == sorted(chained(first))
    assert again != first


def test_what_cannot_be_held_out_is_refused():
    with pytest.raises(ValueError, match=r"held_out=0.05 of 6 training rows"):
        ten().hold_out(0.05)
    with pytest.raises(ValueError, match="none to train"):
        ten().hold_out(0.99)
    for reason in ("mixes_samples", "has_groups"):
        data = ten()
        setattr(data, reason, True)
        with pytest.raises(IncompatibleError, match="Ten are made of several"):
            data.hold_out(0.5)
    with pytest.raises(RuntimeError, match="Ten holds nothing out"):
        ten().guide_dataloader(3, lambda: (0, 0))


def test_the_guide_sees_samples_as_they_are():
    data = ten(batch_size=4)
    data.plain_train_set = Subset(Plain(), data.train_set.indices)
    data.hold_out(0.5)
    assert isinstance(data.guide_set.dataset.dataset, Plain)
    plain = data.plain_train_set
    assert list(plain.indices) == list(data.train_set.indices)
    assert isinstance(plain.dataset.dataset, Plain)


def test_the_validation_set_may_be_lent_for_a_run():
    data = ten(batch_size=4)
    data.val_set = Plain()
    trained = data.train_set
    data.hold_out_for_run(None)
    assert data.guide_set is data.val_set
    # a second one that asks for rows shares those
    data.hold_out_for_run(0.5)
    assert data.guide_set is data.val_set
    assert data.train_set is trained
    data.return_held_out()
    data.return_held_out()
    assert data.guide_set is None
    assert data.train_set is trained


def test_callbacks_that_hold_out_together_share_rows_in_any_order():
    for shares in ((0.5, None), (None, 0.5)):
        data = ten(batch_size=4)
        data.val_set = Plain()
        trained = data.train_set
        for share in shares:
            data.hold_out_for_run(share)
        assert data.guide_set is data.val_set
        assert data.train_set is trained
    data = ten(batch_size=4)
    data.hold_out_for_run(0.5)
    data.hold_out_for_run(0.2)
    assert len(data.guide_set) == 3
    # a run that goes on sets the data up anew
    data.train_set, data.guide_set = trained, None
    data.hold_out_anew()
    assert len(data.guide_set) == 3
    data.return_held_out()
    data.hold_out_anew()
    assert data.guide_set is None


def test_rows_that_data_hold_out_are_not_exchanged_for_the_validation_set():
    data = ten(batch_size=4)
    data.val_set, data.guide_set = Plain(), Plain()
    data.hold_out_for_run(0.5)
    with pytest.raises(IncompatibleError, match="rows that Ten holds out, and another the valid"):
        data.hold_out_for_run(None)
