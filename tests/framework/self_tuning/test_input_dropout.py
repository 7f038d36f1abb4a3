"""Dropout of the input: rates of rows, and the same mask on any number of ranks."""

import pytest
import torch

from framework.distributed.collectives import rank
from framework.self_tuning import Draws, InputDropout

SLICES = [(4, 3), (7, 0), (0, 7), (1, 6)]
RATES = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 0.3, 0.2])


def changed(slices: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """What a step sees of images of ones, for each division of the rows."""
    effect, found = InputDropout(), []
    for counts in slices:
        own = RATES.split(counts)[rank()]
        with effect.at({"rate": own}, Draws(0, 1)):
            found.append(effect.change_batch({"image": torch.ones(len(own), 1, 20, 20)})["image"])
    return found


def test_every_row_has_its_own_rate(two_ranks) -> None:
    whole = changed([(7,)])[0]
    share = (whole == 0).flatten(1).double().mean(1)
    assert share.tolist() == pytest.approx(RATES.tolist(), abs=0.1)
    assert (share[0], share[4]) == (0, 1)
    assert float(whole[2].max()) == 2
    parts = two_ranks(changed, SLICES)
    for step in range(len(SLICES)):
        assert torch.equal(torch.cat([part[step] for part in parts]), whole)


def test_the_batch_itself_is_not_changed() -> None:
    batch = {"input": torch.ones(2, 3), "label": torch.zeros(2)}
    effect = InputDropout(field="input")
    assert effect.change_batch(batch) is batch
    with effect.at({"rate": torch.tensor(1.0)}, Draws(0, 0)):
        found = effect.change_batch(batch)
    assert (found["input"] == 0).all()
    assert found["label"] is batch["label"]
    assert (batch["input"] == 1).all()


def test_a_field_that_is_not_there_or_holds_whole_numbers() -> None:
    effect = InputDropout(field="imag")
    with effect.at({"rate": torch.tensor(0.5)}, Draws(0, 0)):
        with pytest.raises(ValueError, match=r"'imag'.* not among image; the nearest are image"):
            effect.change_batch({"image": torch.ones(2)})
        with pytest.raises(ValueError, match=r"'imag'.* holds torch.uint8"):
            effect.change_batch({"imag": torch.ones(2, dtype=torch.uint8)})
