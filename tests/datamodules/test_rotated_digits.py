import pytest
import torch

from datamodules import Digits, RotatedDigits


def half(name, degrees=0.0):
    return RotatedDigits(name, degrees).read().train.fields


def test_halves_are_the_digits_once():
    whole = Digits(test_size=0).read().train.fields
    parts = half("first"), half("second")
    assert [len(part["label"]) for part in parts] == [900, 897]
    for name in ("image", "label"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
    assert all(part["label"].bincount().min() > 75 for part in parts), "every class in both"


def test_a_quarter_turn_is_exact_and_anticlockwise():
    plain, turned = half("second"), half("second", 90)
    assert torch.equal(turned["label"], plain["label"])
    torch.testing.assert_close(turned["image"], plain["image"].rot90(1, (2, 3)), atol=1e-5, rtol=0)
    image = half("second", 180)["image"]
    torch.testing.assert_close(image, plain["image"].flip(2, 3), atol=1e-5, rtol=0)


def test_a_turn_is_bilinear_with_zeros_outside():
    plain, turned = half("first")["image"].double(), half("first", 25)["image"].double()
    angle = torch.tensor(25.0, dtype=torch.float64).deg2rad()
    # where the pixel in row 2, column 5 comes from; the center is at 3.5, 3.5
    down, right = -1.5, 1.5
    x = 3.5 + right * angle.cos() - down * angle.sin()
    y = 3.5 + right * angle.sin() + down * angle.cos()
    i, j, v, u = int(y), int(x), y - int(y), x - int(x)
    corners = plain[:, 0, i : i + 2, j : j + 2]
    weights = torch.stack([(1 - v) * torch.stack([1 - u, u]), v * torch.stack([1 - u, u])])
    torch.testing.assert_close(
        turned[:, 0, 2, 5], (corners * weights).sum((1, 2)), atol=1e-5, rtol=0
    )
    # the corner of the square comes from outside, and the turn makes no new values
    assert not turned[:, 0, 0, 0].any()
    assert turned.min() >= 0
    assert turned.max() <= 1


def test_serves_itself():
    data = RotatedDigits("first", val_size=100, batch_size=400, mean=[0.5], std=[0.5])
    data.setup("fit")
    assert [len(batch["index"]) for batch in data.train_dataloader()] == [400, 400]
    assert len(data.val_set) == 100
    assert next(iter(data.val_dataloader()))["image"].min() == -1
    assert (data.num_classes, data.input_shape) == (10, (1, 8, 8))


def test_bad_half():
    with pytest.raises(ValueError, match="half must be one of first, second, got 'third'"):
        RotatedDigits("third")
