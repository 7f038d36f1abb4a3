"""Base classes come as plain batches, and novel classes as episodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from datamodules import BaseAndNovel, Digits, LabelNoise, LongTailed
from framework.data.facts import facts_of
from tests.datamodules.test_whole_set import Tiny, joined


class Small(Tiny):
    """Image i is constant i / 255 and has the label i mod 5; 100 train, 20 validate, 10 test."""

    sizes = (100, 20, 10)


def ready(data: Any = None, **arguments: Any) -> BaseAndNovel:
    options: dict[str, Any] = {"ways": 2, "queries": 3, "batch_size": 16, **arguments}
    options = {"val_episodes": 5, "test_episodes": 7, "eval_batch_size": 2, **options}
    parted = BaseAndNovel(Small() if data is None else data, **options)
    parted.setup("fit")
    return parted


def number(image: torch.Tensor) -> torch.Tensor:
    """Return which image of all is each one."""
    return image[..., 0, 0, 0].mul(255).round().long()


@pytest.fixture
def data() -> BaseAndNovel:
    return ready(val_classes=0, test_classes=[3, 4])


def test_training_batches_are_plain(data):
    found = joined(data.train_dataloader())
    assert sorted(found) == ["image", "index", "label"]
    assert (data.num_classes, facts_of(data)["num_classes"]) == (3, 3)
    assert torch.equal(found["label"], number(found["image"]) % 5)
    assert sorted(found["index"].tolist()) == list(range(len(data.train_set)))


def test_test_episodes_are_of_novel_classes(data):
    batches = list(data.test_dataloader())
    assert [len(batch["image"]) for batch in batches] == [2, 2, 2, 1]
    image = torch.cat([number(batch["image"]) for batch in batches])
    assert image.shape == (7, 8)
    assert set((image % 5).flatten().tolist()) == {3, 4}
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(7))
    again = torch.cat([number(batch["image"]) for batch in data.test_dataloader()])
    assert torch.equal(image, again)


def test_without_validation_classes_held_out_images_of_base_classes_serve(data):
    image = torch.cat([number(batch["image"]) for batch in data.val_dataloader()])
    trained = number(joined(data.train_dataloader())["image"])
    assert set((image % 5).flatten().tolist()) == {0, 1, 2}
    assert not set(image.flatten().tolist()) & set(trained.tolist())


def test_held_out_rows_of_the_training_set_are_not_trained():
    digits = Digits(val_size=300)
    data = ready(digits, val_classes=0, test_classes=[5, 6, 7, 8, 9], ways=5, queries=15)
    trained, held_out = data.train_set.rows, data.val_set.source.rows
    assert len(held_out.unique()) + len(trained.unique()) == len(trained) + len(held_out)
    assert not torch.isin(held_out, trained).any()
    given = data.train_set.source.fields["label"]
    base = (given < 5).nonzero().flatten()
    assert torch.equal(torch.cat([held_out, trained]).sort().values, base)
    assert torch.equal(data.val_set.source.label, given[held_out])


def test_a_validation_set_of_its_own_takes_no_rows_from_the_training_set():
    thinned = LongTailed(Small(), imbalance=2.0)
    data = ready(thinned, val_classes=0, test_classes=[3, 4])
    trained = number(joined(data.train_dataloader())["image"])
    assert sorted(trained.tolist()) == [k for k in range(100) if k % 5 < 3]
    held_out = number(torch.cat([batch["image"].flatten(0, 1) for batch in data.val_dataloader()]))
    assert set(held_out.tolist()) <= set(range(100, 120))


def test_validation_classes_are_in_no_training_batch():
    data = ready(Digits(), val_classes=[2, 3], test_classes=[4, 7], shots=2)
    assert data.num_classes == 6
    label = torch.cat([data.val_set.source.label, data.test_set.source.label])
    assert label.unique().tolist() == [6, 7, 8, 9]


def test_queries_may_be_unbalanced():
    data = ready(val_classes=0, test_classes=[3, 4], dirichlet=1.0, test_episodes=20)
    label = torch.cat([batch["label"] for batch in data.test_dataloader()])[:, 2:]
    assert label.shape == (20, 6)
    assert len(label.sum(1).unique()) > 2


def test_what_does_not_fit_is_refused():
    for options, match in [
        ({"dirichlet": -1.0}, "dirichlet"),
        ({"ways": 1}, "ways"),
        ({"shots": 0}, "shots"),
    ]:
        with pytest.raises(ValueError, match=match):
            BaseAndNovel(Small(), **options)
    noisy = Small(label_noise=LabelNoise(rate=0.2))
    with pytest.raises(ValueError, match="label_noise"):
        ready(noisy)
