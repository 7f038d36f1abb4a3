"""Attacks stay in their ball, in units of pixels, and leave no trace on the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from framework.attacks import pgd as attacks
from framework.attacks.attack import Attack, under_attack
from framework.attacks.pgd import PGDAttack
from framework.distributed.collectives import shared_generator


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(*, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh()]
        return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(16, 3)).to(dtype)


def images(rows: int = 6, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    image = torch.rand(rows, 3, 2, 2, generator=seeded(1), dtype=dtype)
    return image, torch.randint(3, (rows,), generator=seeded(2))


def entropy(label: Tensor) -> attacks.Objective:
    return lambda logits: F.cross_entropy(logits, label, reduction="none")


@pytest.mark.parametrize("clamp", [(0.0, 1.0), None])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [0, 10])
def test_stays_in_the_ball_and_in_the_range(norm, clamp, steps):
    image, label = images()
    attack = PGDAttack(eps=0.3, steps=steps, norm=norm, clamp=clamp)
    offset = attack.perturb(network(), image, entropy(label), generator=seeded()) - image
    order = torch.inf if norm == "linf" else 2
    length = torch.linalg.vector_norm(offset.flatten(1), ord=order, dim=1)
    assert length.max() < 0.3 + 1e-6
    assert length.min() > 0.02
    if steps and clamp is None:  # the objective grows all the way to the border
        torch.testing.assert_close(length, torch.full_like(length, 0.3))
    inside = ((image + offset >= 0) & (image + offset <= 1)).all()
    assert inside == (clamp is not None)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_finds_the_maximum_of_a_linear_objective(norm):
    image = torch.zeros(4, 3, 2, 2)
    slope = torch.randn(4, 3, 2, 2, generator=seeded())
    attack = PGDAttack(eps=0.2, steps=20, norm=norm, clamp=None)
    found = attack.perturb(lambda x: x, image, lambda x: x * slope, generator=seeded())
    length = torch.linalg.vector_norm(slope.flatten(1), dim=1).view(4, 1, 1, 1)
    best = 0.2 * (slope.sign() if norm == "linf" else slope / length)
    torch.testing.assert_close(found, best, atol=1e-4, rtol=0)


def test_the_default_step_is_a_quarter_of_the_radius():
    image = torch.zeros(1, 2)
    attack = PGDAttack(eps=0.4, steps=1, random_start=False, clamp=None)
    found = attack.perturb(lambda x: x, image, lambda x: x, generator=seeded())
    torch.testing.assert_close(found, torch.full((1, 2), 0.1))
    attack = PGDAttack(eps=0.4, steps=1, step_size=0.3, random_start=False, clamp=None)
    found = attack.perturb(lambda x: x, image, lambda x: x, generator=seeded())
    torch.testing.assert_close(found, torch.full((1, 2), 0.3))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_uniformly_in_the_ball(norm):
    attack = PGDAttack(eps=2.0, steps=0, norm=norm, clamp=None)
    points = attack.perturb(lambda x: x, torch.zeros(20000, 2), entropy, generator=seeded()) / 2
    assert points.mean(0).abs().max() < 0.02
    radius = points.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(points, dim=1)
    # in two dimensions the share of the ball within radius r is its square
    for r in (0.3, 0.5, 0.9):
        assert (radius < r).float().mean() == pytest.approx(r**2, abs=0.01)


def test_a_zero_gradient_moves_nothing():
    image, label = images()
    for norm in ("linf", "l2"):
        attack = PGDAttack(eps=0.3, norm=norm, random_start=False)
        found = attack.perturb(
            lambda x: 0 * x.flatten(1)[:, :3], image, entropy(label), generator=seeded()
        )
        assert torch.equal(found, image)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_radius_returns_the_inputs_bit_by_bit(norm):
    image, label = images()
    mean, std = [0.3, 0.4, 0.5], [0.2, 0.3, 0.4]
    normalized = (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    for inputs, attack in (
        (image, PGDAttack(eps=0.0, norm=norm)),
        (normalized, PGDAttack(eps=0.0, norm=norm, clamp=None, mean=mean, std=std)),
    ):
        found = attack.perturb(network(), inputs, entropy(label), generator=seeded())
        assert torch.equal(found, inputs)
        assert found.data_ptr() != inputs.data_ptr()


def test_normalized_inputs_are_attacked_in_pixels():
    image, label = images(dtype=torch.float64)
    mean, std = torch.tensor([0.3, 0.4, 0.5]), torch.tensor([0.2, 0.3, 0.4])
    shape = (3, 1, 1)
    model = network(dtype=torch.float64).eval()
    plain = PGDAttack(eps=0.1)

    def of_pixels(x: Tensor) -> Tensor:
        return model((x - mean.view(shape)) / std.view(shape))

    in_pixels = plain.perturb(of_pixels, image, entropy(label), generator=seeded())
    normalized = (image - mean.view(shape)) / std.view(shape)
    attack = plain.normalized(mean.tolist(), std.tolist())
    found = attack.perturb(model, normalized, entropy(label), generator=seeded())
    torch.testing.assert_close(found * std.view(shape) + mean.view(shape), in_pixels)
    assert not plain.mean  # a copy


def test_finds_that_a_normalization_is_missing():
    image, label = images()
    with pytest.raises(ValueError, match=r"not in clamp=\[0.0, 1.0\]; give the attack the mean"):
        PGDAttack().perturb(network(), image * 2 - 1, entropy(label), generator=seeded())


def test_leaves_no_trace_on_the_model():
    model = network(dropout=0.5).train()
    model[2].eval()  # a module in another mode than its parent
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image, label = images()
    seen = []
    model[4].register_forward_hook(lambda module, *_: seen.append(module.training))
    fired = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(fired.append)
    x = image.clone().requires_grad_()
    state = torch.get_rng_state()
    found = PGDAttack().perturb(model, x, entropy(label), generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.requires_grad
    assert x.grad is None
    assert torch.equal(x, image)
    assert len(seen) == 10
    assert not any(seen)
    assert not fired
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_modes_come_back_after_an_error():
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            assert not self.body.training
            raise RuntimeError("broken")

    model = Broken()
    for forward in (model, model.forward):  # the module is found behind its method too
        with pytest.raises(RuntimeError, match="broken"):
            PGDAttack().perturb(forward, images()[0], lambda x: x, generator=seeded())
        assert model.training
        assert model.body.training
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(mode):
    model = network()
    image, label = images()
    expected = PGDAttack().perturb(model, image, entropy(label), generator=seeded())
    with mode():
        inputs = image.clone()  # an inference tensor in inference mode
        found = PGDAttack().perturb(model, inputs, entropy(label), generator=seeded())
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)


def test_autocast_does_not_change_the_attack():
    model, attack = network(), PGDAttack(norm="l2")
    image, label = images()
    expected = attack.perturb(model, image, entropy(label), generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attack.perturb(model, image, entropy(label), generator=seeded())
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_model_in_half_precision_is_attacked_in_single_precision():
    model = network(dtype=torch.bfloat16).eval()
    image, label = images(dtype=torch.bfloat16)
    # steps that bfloat16 would round away
    attack = PGDAttack(eps=0.02, steps=20, step_size=0.001)
    found = attack.perturb(model, image, entropy(label), generator=seeded())
    exact = attack.perturb(
        lambda x: model(x.bfloat16()), image.float(), entropy(label), generator=seeded()
    )
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_empty_batch_stays_empty(norm):
    image, label = images(0)
    found = PGDAttack(norm=norm).perturb(network(), image, entropy(label), generator=seeded())
    assert found.shape == image.shape


def attacked(norm: str, split: int, normalized: bool) -> Tensor:
    """Return this rank's attacked rows of six, ``split`` of them on the first rank."""
    alone = not dist.is_initialized()
    rows = slice(None) if alone else slice(split) if dist.get_rank() == 0 else slice(split, None)
    image, label = images(dtype=torch.float64)
    attack: Attack = PGDAttack(eps=0.1, steps=3, norm=norm)
    if normalized:
        attack, image = attack.normalized([0.5], [0.25]), (image - 0.5) / 0.25
    model = network(dtype=torch.float64)
    generator = shared_generator(0, 3, "attack")
    return attack.perturb(model, image[rows], entropy(label[rows]), generator=generator)


@pytest.mark.parametrize("split", [4, 6])
@pytest.mark.parametrize(("norm", "normalized"), [("linf", False), ("l2", True)])
def test_two_ranks_find_what_one_process_finds(norm, normalized, split, two_ranks: Callable):
    one = attacked(norm, split, normalized)
    torch.testing.assert_close(torch.cat(two_ranks(attacked, norm, split, normalized)), one)


def test_refuses_arguments_out_of_range():
    for arguments, message in (
        ({"eps": -0.1}, "eps must be at least 0"),
        ({"eps": float("inf")}, "eps must be"),
        ({"step_size": 0.0}, "step_size must be positive"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"norm": "l1"}, "norm must be one of linf, l2, got 'l1'"),
        ({"clamp": (1.0, 0.0)}, "low < high"),
        ({"mean": [0.5]}, "mean and std must be given together"),
        ({"std": [0.5]}, "mean and std must be given together"),
        ({"mean": [0.5, 0.5], "std": [1.0]}, "as many values each"),
        ({"mean": [0.5], "std": [0.0]}, "std positive"),
    ):
        with pytest.raises(ValueError, match=message):
            PGDAttack(**arguments)


def test_the_base_class_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="Attack defines no search"):
        Attack().perturb(network(), images()[0], lambda x: x, generator=seeded())


def test_a_function_of_no_module_keeps_its_modules_as_they_are():
    model = network()
    with under_attack(lambda x: model(x), torch.device("cpu")):
        assert model.training
