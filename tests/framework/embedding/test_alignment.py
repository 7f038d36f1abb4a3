"""Alignment by landmarks: known rotations and scales, least squares, pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from framework.embedding.alignment import FACE_TEMPLATE, align_face, similarity_transform

TEMPLATE = torch.tensor(FACE_TEMPLATE, dtype=torch.float64)


def matrix(angle, scale, shift):
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return torch.tensor([[cos, -sin, shift[0]], [sin, cos, shift[1]]], dtype=torch.float64)


def moved(points, transform):
    return points @ transform[:, :2].T + transform[:, 2]


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, math.pi, -2.5])
@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
def test_known_transforms_are_found(angle, scale):
    expected = matrix(angle, scale, (3.0, -70.0))
    found = similarity_transform(TEMPLATE, moved(TEMPLATE, expected))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    back = similarity_transform(moved(TEMPLATE, expected))
    torch.testing.assert_close(moved(moved(TEMPLATE, expected), back), TEMPLATE)


def test_noisy_points_are_fitted_by_least_squares():
    rng = np.random.default_rng(0)
    points, target = rng.normal(size=(2, 5, 2))
    rows = [row for x, y in points for row in ([x, -y, 1, 0], [y, x, 0, 1])]
    a, b, x, y = np.linalg.lstsq(np.array(rows), target.ravel(), rcond=None)[0]
    found = similarity_transform(*map(torch.from_numpy, (points, target)))
    np.testing.assert_allclose(found.numpy(), [[a, -b, x], [b, a, y]], atol=1e-12)


def test_a_mirrored_face_is_not_mirrored_back():
    found = similarity_transform(TEMPLATE * torch.tensor([-1.0, 1.0]))
    assert torch.linalg.det(found[:, :2]) > 0


def test_several_faces_at_once():
    transforms = [matrix(0.1 * k, 1 + k, (k, 2 * k)) for k in range(3)]
    faces = torch.stack([moved(TEMPLATE, one) for one in transforms])
    found = similarity_transform(TEMPLATE.expand(3, -1, -1), faces)
    torch.testing.assert_close(found, torch.stack(transforms))
    single = similarity_transform(faces)
    torch.testing.assert_close(single[1], similarity_transform(faces[1]))


def test_an_aligned_face_stays_as_it_is():
    image = torch.randint(256, (3, 112, 112), dtype=torch.uint8)
    assert torch.equal(align_face(image, FACE_TEMPLATE), image)


def test_what_lies_outside_is_black():
    image = torch.full((1, 112, 112), 200, dtype=torch.uint8)
    aligned = align_face(image, (TEMPLATE - torch.tensor([20.0, 30.0])).tolist())
    assert torch.equal(aligned[:, 30:, 20:], image[:, 30:, 20:])
    assert aligned[:, :30].max() == 0
    assert aligned[:, :, :20].max() == 0


@pytest.mark.parametrize("size", [112, 56])
def test_pixels_are_those_of_the_transform(size):
    """Bilinear interpolation is exact for values that are linear in the place."""
    y, x = torch.meshgrid(torch.arange(300.0), torch.arange(400.0), indexing="ij")
    transform = matrix(0.4, 1.7, (150.0, 40.0))
    aligned = align_face(torch.stack([x, y]), moved(TEMPLATE, transform), size)
    py, px = torch.meshgrid(*[torch.arange(size).double()] * 2, indexing="ij")
    places = moved(torch.stack([px, py], -1) * 112 / size, transform)
    assert (places > 0).all()
    torch.testing.assert_close(aligned.permute(1, 2, 0).double(), places, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.ones(5, 2), "all the same"),
        (torch.full((5, 2), float("nan")), "no numbers"),
        (torch.rand(4, 2), r"got \(4, 2\) and \(5, 2\)"),
        (torch.rand(5, 3), r"got \(5, 3\) and"),
    ],
)
def test_other_points_are_refused(points, message):
    with pytest.raises(ValueError, match=message):
        align_face(torch.zeros(3, 20, 20), points)


def test_another_image_is_refused():
    with pytest.raises(ValueError, match=r"must be \(C, H, W\), got \(20, 20\)"):
        align_face(torch.zeros(20, 20), FACE_TEMPLATE)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_places_pixels_as_single(kind):
    image = torch.rand(3, 300, 400).to(kind)
    points = moved(TEMPLATE, matrix(0.4, 1.7, (150.0, 40.0)))
    found = align_face(image, points)
    assert found.dtype == kind
    assert torch.equal(found, align_face(image.float(), points).to(kind))
