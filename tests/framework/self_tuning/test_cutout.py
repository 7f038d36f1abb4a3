"""Cutout: which pixels a square covers, at the border too, and how many squares count."""

import pytest
import torch

from framework.self_tuning import Cutout, Draws, HyperParameter
from framework.self_tuning.effects.cutout import cut_pixels, inside

# the middle of an axis of 5 pixels, its beginning and its end
UNIFORM = torch.tensor([[0.5, 0.0, 0.99]])


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, ["00000", "00000", "00000"]),
        (1, ["00100", "10000", "00001"]),
        (2, ["01100", "10000", "00011"]),
        (3, ["01110", "11000", "00011"]),
        (4, ["11110", "11000", "00111"]),
        (9, ["11111", "11111", "11111"]),
    ],
)
def test_squares_lie_around_their_middle(length, expected) -> None:
    found = inside(UNIFORM, torch.tensor(float(length)), 5)
    assert ["".join(str(int(pixel)) for pixel in row) for row in found[0]] == expected


def test_only_the_first_holes_count() -> None:
    rows = torch.tensor([[[1, 0, 0], [0, 1, 1]]] * 3).bool()
    columns = torch.tensor([[[1, 0], [0, 1]]] * 3).bool()
    cut = cut_pixels(rows, columns, torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1)).int()
    assert cut.shape == (3, 1, 3, 2)
    assert cut[:, 0].tolist() == [
        [[0, 0], [0, 0], [0, 0]],
        [[1, 0], [0, 0], [0, 0]],
        [[1, 0], [0, 1], [0, 1]],
    ]


def test_squares_of_each_image() -> None:
    effect = Cutout(fill=-1.0)
    values = {"length": torch.tensor([2.0, 4.0, 2.0, 3.0]), "holes": torch.tensor([1.0, 1, 0, 3])}
    x = torch.ones(4, 3, 40, 40)
    sizes = []
    for step in range(40):
        with effect.at(values, Draws(0, step)):
            cut = effect.change_batch({"image": x})["image"] == -1
        # all channels
        assert (cut == cut[:, :1]).all()
        sizes.append(cut[:, 0].sum((1, 2)))
    sizes = torch.stack(sizes)
    assert sizes.amax(0).tolist() == [4, 16, 0, 27]
    assert int(sizes[:, 0].min()) >= 1


def test_every_pixel_is_equally_likely_to_be_a_middle() -> None:
    effect = Cutout()
    values = {"length": torch.tensor(1.0), "holes": torch.tensor(1.0)}
    with effect.at(values, Draws(0, 0)):
        x = effect.change_batch({"image": torch.ones(20_000, 1, 4, 5)})["image"]
    share = (x == 0).double().mean((0, 1))
    assert share.flatten().tolist() == pytest.approx([0.05] * 20, abs=4 * (0.05 / 20_000) ** 0.5)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cutout\.holes must stay between 0 and inf"):
        Cutout(holes=HyperParameter(1, low=-1, high=4))
    effect = Cutout()
    values = {"length": torch.tensor(1.0), "holes": torch.tensor(1.0)}
    with effect.at(values, Draws(0, 0)), pytest.raises(ValueError, match=r"shape \(2, 5\)"):
        effect.change_batch({"image": torch.ones(2, 5)})
    assert Cutout(length=HyperParameter(2, high=8)).hyperparameters["length"].discrete
