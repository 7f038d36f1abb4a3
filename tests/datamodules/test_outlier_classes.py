"""Some classes are never trained, and marked in evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from datamodules import BreastCancer, Digits, LabelNoise, OutlierClasses, Tabular
from framework.data.facts import facts_of
from tests.datamodules.test_whole_set import Tiny, joined


class Named(Tiny):
    """Image i is constant i / 255 and has the label i mod 5; 20 train, 5 validate, 10 test."""

    sizes = (20, 5, 10)


def ready(data: Any = None, **arguments: Any) -> OutlierClasses:
    options = {"outliers": [1, 3], "batch_size": 4, **arguments}
    found = OutlierClasses(Named() if data is None else data, **options)
    found.setup("fit")
    return found


def test_outliers_are_not_trained_and_rows_keep_their_index() -> None:
    data = ready()
    found = joined(data.train_dataloader())
    assert sorted(found) == ["image", "index", "label"]
    assert sorted(found["index"].tolist()) == [i for i in range(20) if i % 5 in (0, 2, 4)]
    assert torch.equal(found["label"], found["index"] % 5)
    assert (data.num_samples, data.num_classes) == (20, 5)


@pytest.mark.parametrize(("stage", "rows"), [("val", 5), ("test", 10), ("predict", 10)])
def test_outliers_are_marked_in_evaluation(stage: str, rows: int) -> None:
    found = joined(getattr(ready(eval_batch_size=3), f"{stage}_dataloader")())
    assert len(found["index"]) == rows
    wanted = (found["label"] == 1) | (found["label"] == 3)
    assert torch.equal(found["is_outlier"], wanted)
    assert wanted.any()


def test_held_out_rows_and_augmentation_are_those_of_the_wrapped_data() -> None:
    plain = Digits(val_size=200)
    plain.setup()
    data = ready(Digits(val_size=200, augment=[torch.nn.Dropout(1.0)]), outliers=[8, 9])
    assert set(data.train_set.indices) < set(plain.train_set.indices)  # type: ignore[union-attr]
    held, wanted = joined(data.val_dataloader()), joined(plain.val_dataloader())
    assert all(torch.equal(value, held[name]) for name, value in wanted.items())
    assert joined(data.train_dataloader())["image"].abs().max() == 0
    assert joined(data.ordered_train_dataloader())["image"].abs().max() > 0


def test_rows_of_a_table_have_outliers_too() -> None:
    data = ready(BreastCancer(), outliers=[0])
    assert joined(data.train_dataloader())["label"].unique().tolist() == [1]
    assert facts_of(data)["input_shape"] == [30]
    assert joined(data.val_dataloader())["is_outlier"].any()


def test_training_goes_on_with_the_same_outliers_alone() -> None:
    state = ready().state_dict()
    ready().load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"data\.outliers=\[1, 3\], and cannot go on with \[1\]"):
        ready(outliers=[1]).load_state_dict(state)


def test_what_has_no_classes_to_tell_is_refused() -> None:
    with pytest.raises(TypeError, match="Tabular serves TableRows, and classes"):
        ready(Tabular("diabetes"))
    with pytest.raises(ValueError, match=r"has the class 7, and Named trains \[0, 1"):
        ready(outliers=[1, 7])
    with pytest.raises(ValueError, match="leaves no class of Named to train"):
        ready(outliers=[0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"each once, got \[\]"):
        ready(outliers=[])
    with pytest.raises(ValueError, match="switch its mixup off"):
        ready(Named(mixup=0.2))
    with pytest.raises(ValueError, match="drop Named's balance_classes"):
        ready(Named(balance_classes=True))
    with pytest.raises(ValueError, match="drop Named's label_noise"):
        ready(Named(label_noise=LabelNoise("symmetric", rate=0.5)))
