import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import Digits


def rows(loader, name):
    return torch.cat([batch[name] for batch in loader])


def test_every_digit_is_in_one_split():
    data = Digits()
    data.setup()
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert [len(rows(loader, "label")) for loader in loaders] == [1437, 180, 180]
    images = torch.cat([rows(loader, "image") for loader in loaders])
    assert images.dtype == torch.float32
    assert images.shape[1:] == data.input_shape == (1, 8, 8)
    assert 0 == images.min() < images.max() == 1
    pixels, labels = load_digits(return_X_y=True)
    expected = sorted(map(tuple, torch.tensor(pixels).float().div(16).tolist()))
    assert sorted(map(tuple, images.flatten(1).tolist())) == expected
    counts = sum(torch.bincount(rows(loader, "label"), minlength=10) for loader in loaders)
    assert counts.tolist() == torch.bincount(torch.tensor(labels)).tolist()
    assert data.num_samples == 1617
    assert len(data.class_names) == data.num_classes == 10


def test_images_keep_their_labels():
    data = Digits(batch_size=2000, val_size=0, test_size=0)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    pixels, labels = load_digits(return_X_y=True)
    known = {tuple(image): label for image, label in zip(pixels.tolist(), labels, strict=True)}
    found = [known[tuple(image)] for image in batch["image"].flatten(1).mul(16).tolist()]
    assert found == batch["label"].tolist()
    assert data.test_set is None


def test_test_set_is_every_class_and_fixed():
    first, second, other = Digits(), Digits(val_size=10), Digits(split_seed=1)
    for data in (first, second, other):
        data.setup("test")
    label = rows(first.test_dataloader(), "label")
    assert label.unique().tolist() == list(range(10))
    assert torch.equal(label, rows(second.test_dataloader(), "label"))
    assert not torch.equal(label, rows(other.test_dataloader(), "label"))


@pytest.mark.parametrize("test_size", [-1, 1797])
def test_bad_test_size(test_size):
    with pytest.raises(ValueError, match=r"test_size must lie in \[0, 1796\]"):
        Digits(test_size=test_size)
