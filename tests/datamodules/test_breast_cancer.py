from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_breast_cancer

from datamodules import BreastCancer, LabelNoise


def columns(data_set, name):
    return data_set.fields[name]


def test_every_row_is_in_one_part_and_keeps_its_label():
    data = BreastCancer()
    data.setup()
    parts = [data.train_set, data.guide_set, data.val_set, data.test_set]
    assert [len(part) for part in parts] == [284, 57, 57, 171]
    inputs, label = (torch.cat([columns(p, name) for p in parts]) for name in ("input", "label"))
    back = inputs.double() * data.input_std + data.input_mean
    table, truth = load_breast_cancer(return_X_y=True)
    gap, row = torch.cdist(back, torch.from_numpy(table)).min(1)
    assert float(gap.max()) < 1e-2
    assert row.sort().values.tolist() == list(range(569))
    assert torch.equal(label, torch.from_numpy(truth)[row])
    assert data.num_samples == 284


def test_inputs_are_standardized_on_the_training_rows_alone():
    data = BreastCancer()
    data.setup()
    rows = columns(data.train_set, "input")
    assert rows.mean(0).abs().max() < 1e-5
    assert rows.std(0, correction=0).tolist() == pytest.approx([1] * 30, abs=1e-5)
    assert columns(data.test_set, "input").mean(0).abs().max() > 1e-2
    table = load_breast_cancer().data[:3]
    expected = (torch.from_numpy(table) - data.input_mean) / data.input_std
    assert torch.equal(data.as_batch(table)["input"], expected.float())


def test_noise_is_in_the_training_labels_alone():
    noise = LabelNoise("symmetric", rate=0.4, redraw_true=False)
    clean, noisy = BreastCancer(), BreastCancer(label_noise=noise)
    for data in (clean, noisy):
        data.setup("fit")
    label, truth = (columns(noisy.train_set, name) for name in ("label", "clean_label"))
    assert torch.equal(truth, columns(clean.train_set, "label"))
    assert 0.3 < float((label != truth).float().mean()) < 0.5
    for part in ("guide_set", "val_set", "test_set"):
        own, other = getattr(noisy, part), getattr(clean, part)
        assert torch.equal(columns(own, "label"), columns(other, "label"))


def test_parts_of_no_rows_are_none():
    data = BreastCancer(clean_size=0, test_size=0)
    data.setup()
    assert data.guide_set is None
    assert data.test_set is None
    assert data.predict_set is data.val_set
    assert len(data.train_set) == 512


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match="leave none of the 569 rows to train"):
        BreastCancer(clean_size=341)
    with pytest.raises(ValueError, match="val_size must be at least 0"):
        BreastCancer(val_size=-1)
