"""Two Gaussians: their means, the best accuracy, the shift, and that draws differ."""

import pytest
import torch

from datamodules import SemiSupervised, TwoGaussians


def parts(**arguments):
    return TwoGaussians(**arguments).read()


def test_points_have_the_means_and_the_noise_that_were_asked_for():
    data = TwoGaussians(num_train=20000, dimensions=5, norm=1.5, shift=2.0)
    assert float(data.mean.norm()) == pytest.approx(1.5)
    train, _, test = data.read()
    centers = []
    for part in (train, test):
        sign = 2.0 * part.fields["label"] - 1
        points = sign[:, None] * part.fields["image"].flatten(1)
        centers.append(points.mean(0))
        assert (points.std(0) - 1).abs().max() < 0.08
    assert (centers[1] - data.mean).norm() < 0.1
    assert float((centers[0] - data.mean).norm()) == pytest.approx(2.0, abs=0.05)


def test_the_best_classifier_has_the_accuracy_of_theory():
    data = TwoGaussians(num_train=2, num_test=20000, dimensions=10)
    test = data.read().test
    predicted = (test.fields["image"].flatten(1) @ data.mean > 0).long()
    accuracy = float((predicted == test.fields["label"]).float().mean())
    assert accuracy == pytest.approx(0.8413, abs=0.008)


def test_draws_differ_in_training_points_alone():
    one, same, other = (parts(num_train=6, num_test=4, draw=k) for k in (0, 0, 1))
    assert torch.equal(one.train.fields["image"], same.train.fields["image"])
    assert not torch.equal(one.train.fields["image"], other.train.fields["image"])
    assert torch.equal(one.test.fields["image"], other.test.fields["image"])
    moved = parts(num_train=6, num_test=4, shift=1.0)
    assert torch.equal(one.test.fields["image"], moved.test.fields["image"])
    whole = parts(num_train=6, num_test=4, shift=0)
    assert torch.equal(one.train.fields["image"], whole.train.fields["image"])
    assert moved.train.fields["label"].tolist() == [0, 1] * 3


def test_unlabeled_points_of_a_shifted_domain():
    data = SemiSupervised(
        TwoGaussians(num_train=10, dimensions=8, val_size=0),
        unlabeled=TwoGaussians(num_train=100, dimensions=8, shift=0.5, val_size=0),
        labeled=10,
        labeled_per_batch=2,
        batch_size=12,
    )
    data.setup("fit")
    assert (data.num_labeled, len(data.train_set)) == (10, 110)
    assert next(iter(data.train_dataloader()))["image"].shape == (12, 1, 1, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 1}, "num_train must be at least 2"),
        ({"dimensions": 0}, "dimensions must be at least 1"),
        ({"norm": 0.0}, "norm must be positive"),
        ({"shift": -1.0}, "shift must be at least 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TwoGaussians(**arguments)
