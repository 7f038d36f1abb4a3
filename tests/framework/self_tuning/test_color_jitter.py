"""Color jitter: each image as torchvision changes it alone."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from framework.self_tuning import ColorJitter, Draws, HyperParameter
from framework.self_tuning.effects import color
from framework.self_tuning.effects.color_jitter import ADJUSTMENTS

FACTORS = {
    "brightness": [0.0, 0.4, 1.0, 1.3, 2.0],
    "contrast": [0.0, 0.4, 1.0, 1.3, 2.0],
    "saturation": [0.0, 0.4, 1.0, 1.3, 2.0],
    "hue": [-0.5, -0.2, 0.0, 0.1, 0.5],
}


def images(channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(5, channels, 6, 7, generator=generator)
    x[0, :, 0] = 0
    x[1, :, 1] = 1
    # gray, and two equal channels
    x[2, :, 2] = 0.3
    x[3, : channels - 1, 3] = 0.8
    return x


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", FACTORS)
def test_each_image_is_changed_as_torchvision_does(kind, channels) -> None:
    x = images(channels)
    found = ADJUSTMENTS[kind](x, torch.tensor(FACTORS[kind]).view(-1, 1, 1, 1))
    alone = getattr(F, f"adjust_{kind}")
    expected = torch.stack([alone(one, f) for one, f in zip(x, FACTORS[kind], strict=True)])
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)
    if channels == 1 and kind in ("saturation", "hue"):
        assert torch.equal(found, x)


def test_the_factors_and_their_order() -> None:
    x = images(3)
    amounts = {
        "brightness": torch.linspace(0, 0.9, 5),
        "contrast": torch.tensor(0.5),
        "saturation": torch.linspace(0.9, 0.1, 5),
        "hue": torch.linspace(0, 0.5, 5),
    }
    effect = ColorJitter()
    with effect.at(amounts, Draws(0, 0)):
        found = effect.change_batch({"image": x})["image"]
    uniform = Draws(0, 0).uniform("color_jitter.image.1", 5, 4, 1, 1, 1)
    expected = []
    for row, image in enumerate(x):
        for number, (key, amount) in enumerate(amounts.items()):
            shift = float(amount.expand(5)[row] * (2 * uniform[row, number] - 1))
            image = getattr(F, f"adjust_{key}")(image, shift if key == "hue" else 1 + shift)
        expected.append(image)
    assert torch.allclose(found, torch.stack(expected), atol=1e-5, rtol=0)


def test_a_normalization_is_undone_for_the_time_of_the_change() -> None:
    x = images(3)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    amounts = {key: torch.tensor(0.4) for key in ADJUSTMENTS}
    plain, normalizing = ColorJitter(), ColorJitter(mean=mean, std=std)
    with plain.at(amounts, Draws(0, 0)), normalizing.at(amounts, Draws(0, 0)):
        expected = F.normalize(plain.change_batch({"image": x})["image"], mean, std)
        found = normalizing.change_batch({"image": F.normalize(x, mean, std)})["image"]
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)


def test_no_images() -> None:
    for kind in FACTORS:
        found = ADJUSTMENTS[kind](torch.empty(0, 3, 4, 4), torch.empty(0, 1, 1, 1))
        assert found.shape == (0, 3, 4, 4)
    assert color.grayscale(torch.ones(1, 3, 1, 1)).item() == pytest.approx(0.9999)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="changes nothing"):
        ColorJitter(brightness=None, contrast=None, saturation=None, hue=None)
    with pytest.raises(ValueError, match=r"color_jitter\.hue must stay between 0 and 0\.5"):
        ColorJitter(hue=HyperParameter(0.1, high=1.0))
    with pytest.raises(ValueError, match="both mean and std"):
        ColorJitter(mean=[0.5])
    effect = ColorJitter()
    amounts = {key: torch.tensor(0.4) for key in ADJUSTMENTS}
    with (
        effect.at(amounts, Draws(0, 0)),
        pytest.raises(ValueError, match=r"1 or 3 channels, but .* \(2, 4, 5, 5\)"),
    ):
        effect.change_batch({"image": torch.ones(2, 4, 5, 5)})
