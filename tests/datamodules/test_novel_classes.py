"""Some classes are trained, and the others come with a few examples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules import Digits, LabelNoise, NovelClasses, Tabular
from framework.data.facts import facts_of
from tests.datamodules.test_whole_set import Tiny, joined


class Named(Tiny):
    """Image i is constant i / 255 and has the label i mod 5; 20 train, 5 validate, 10 test."""

    sizes = (20, 5, 10)


def ready(data: Any = None, **arguments: Any) -> NovelClasses:
    options = {"novel": [1, 3], "shots": 2, "batch_size": 4, **arguments}
    novel = NovelClasses(Named() if data is None else data, **options)
    novel.setup("fit")
    return novel


def number(found: dict[str, Tensor]) -> Tensor:
    """Return which image of all is the one of each row."""
    return found["image"][:, 0, 0, 0].mul(255).round().long()


def test_base_classes_are_trained_and_numbered_first():
    data = ready()
    assert (data.num_classes, data.class_names, data.novel_names) == (3, list("ace"), ["b", "d"])
    found = joined(data.train_dataloader())
    assert sorted(found) == ["image", "index", "label"]
    assert sorted(found["index"].tolist()) == [i for i in range(20) if i % 5 in (0, 2, 4)]
    assert torch.equal(number(found), found["index"]), "of the full training set"
    assert torch.equal(found["label"], found["index"] % 5 // 2)
    assert data.num_samples == 20
    assert facts_of(data)["num_classes"] == 3


@pytest.mark.parametrize(("stage", "first", "queries"), [("val", 20, 5), ("test", 25, 10)])
def test_supports_come_before_queries(stage, first, queries):
    data = ready(eval_batch_size=3)
    found = joined(getattr(data, f"{stage}_dataloader")())
    assert sorted(found) == ["image", "index", "label", "shot"]
    assert found["index"].tolist() == list(range(4 + queries))
    assert found["shot"].tolist() == [1, 2, 1, 2] + [0] * queries
    assert found["label"][:4].tolist() == [3, 3, 4, 4]
    image = number(found)
    assert (image[:4] < 20).all(), "of the training part"
    assert (image[:4] % 5).tolist() == [1, 1, 3, 3]
    assert len(image.unique()) == len(image)
    assert image[4:].tolist() == list(range(first, first + queries))
    new = torch.tensor([0, 3, 1, 4, 2])
    assert torch.equal(found["label"], new[image % 5])


def test_supports_are_chosen_by_their_seed_alone():
    def supports(**options: Any) -> list[int]:
        found = joined(ready(Named(split_seed=options.pop("split", 0)), **options).val_dataloader())
        return number(found)[found["shot"] > 0].tolist()

    assert supports() == supports(batch_size=7, split=1)
    assert supports(shots=4, support_seed=3) != supports(shots=4)
    # fewer are the first of more
    more, few = supports(shots=4), supports(shots=2)
    assert few == more[:2] + more[4:6]


def test_held_out_images_are_evaluated_and_never_support():
    data = ready(Digits(val_size=200), novel=[7, 8, 9], shots=20, eval_batch_size=500)
    found = joined(data.val_dataloader())
    assert len(found["label"]) == 60 + 200
    plain = Digits(val_size=200)
    plain.setup()
    kept = set(plain.train_set.indices)
    assert all(row in kept for row in data.val_set.rows[0].tolist())
    assert set(data.train_set.indices) < kept
    held = joined(plain.val_dataloader())
    assert torch.equal(found["image"][60:], held["image"][: len(found["image"]) - 60])
    assert data.as_batch(torch.zeros(1, 1, 8, 8))["image"].shape == (1, 1, 8, 8)


def test_augmented_training_images_and_plain_supports():
    plain = ready(Digits(), novel=[7, 8, 9])
    data = ready(Digits(augment=[torch.nn.Dropout(1.0)]), novel=[7, 8, 9])
    assert joined(data.train_dataloader())["image"].abs().max() == 0
    for loader in ("val_dataloader", "ordered_train_dataloader"):
        one, other = joined(getattr(plain, loader)()), joined(getattr(data, loader)())
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_what_was_trained_is_not_novel_later():
    state = ready().state_dict()
    assert state["novel"] == [1, 3]
    ready().load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"data\.novel=\[1, 3\], and cannot go on with \[1\]"):
        ready(novel=[1]).load_state_dict(state)


def test_a_trained_model_finds_the_same_classes():
    facts = facts_of(ready())
    data = NovelClasses(Named(), novel=[1, 3], shots=2)
    data.use_facts(facts)
    data.setup("test")
    assert facts_of(data) == facts
    data.forget()
    data.setup("test")
    assert len(data.test_set) == 14


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: NovelClasses(Tabular(), [1]), TypeError, "labeled images, and Tabular is none"),
        (lambda: NovelClasses(Named(mixup=0.1), [1]), ValueError, "drop Named's mixup"),
        (lambda: NovelClasses(Named(label_noise=LabelNoise()), [1]), ValueError, "'?s label_noise"),
        (lambda: NovelClasses(Named(balance_classes=True), [1]), ValueError, "s balance_classes"),
        (lambda: NovelClasses(Named(drop_last=True), [1]), ValueError, "drop Named's drop_last"),
        (lambda: NovelClasses(Named(), []), ValueError, r"each once, got \[\]"),
        (lambda: NovelClasses(Named(), [1, 1]), ValueError, r"each once, got \[1, 1\]"),
        (lambda: NovelClasses(Named(), [1], shots=0), ValueError, "shots must be at least 1"),
        (lambda: ready(novel=[5]), ValueError, r"novel=\[5\] must leave two of the 5 classes, 0"),
        (lambda: ready(novel=[0, 1, 2, 3]), ValueError, r"must leave two of the 5 classes"),
        (lambda: ready(shots=5), ValueError, "class 'b' has 4 training images, fewer than shots=5"),
    ],
)
def test_what_cannot_be_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make()
