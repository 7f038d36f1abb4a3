"""What response layers see inside and outside of a block, and what is refused."""

import copy

import pytest
import torch

from framework.layers import Conditioning, ResponseLinear


def test_blocks_nest_and_restore_also_after_an_error() -> None:
    conditioning = Conditioning(1, source=lambda: torch.tensor([0.0]))
    with conditioning.at(torch.tensor([1.0])):
        with conditioning.at(torch.tensor([[2.0], [3.0]])):
            assert conditioning.of(2).tolist() == [[2.0], [3.0]]
        with pytest.raises(KeyError), conditioning.at(torch.zeros(3, 1)):
            raise KeyError
        assert conditioning.of(2).tolist() == [1.0]
    assert conditioning.of(2).tolist() == [0.0]


def test_layers_in_evaluation_mode_may_see_what_they_do_outside_of_a_block() -> None:
    conditioning = Conditioning(1, source=lambda: torch.tensor([0.5]))
    layer = ResponseLinear(2, 3, conditioning, gate_scale=1)
    one_for_each, x = torch.tensor([[2.0], [3.0]]), torch.ones(4, 2)
    outside = layer(x)
    with conditioning.at(one_for_each, in_training_only=True):
        assert torch.equal(layer.eval()(x), outside)
        assert not torch.equal(layer.train()(x[:2]), outside[:2])
        with conditioning.at(one_for_each):
            assert torch.equal(layer.eval()(x[:2]), layer.train()(x[:2]))


def test_centered_layers_see_the_distance_whose_gradient_is_that_of_h() -> None:
    h = torch.tensor([0.3, -2.0], requires_grad=True)
    conditioning = Conditioning(2, source=lambda: h, centered=True)
    outside = conditioning.of()
    assert outside.tolist() == [0.0, 0.0]
    assert torch.autograd.grad(outside.sum(), h)[0].tolist() == [1.0, 1.0]
    with conditioning.at(torch.tensor([[0.5, -2.0], [0.3, 0.0]])):
        torch.testing.assert_close(conditioning.of(2), torch.tensor([[0.2, 0.0], [0.0, 2.0]]))


def test_a_deep_copy_sees_the_same_hyperparameters() -> None:
    conditioning = Conditioning(1)
    layer = ResponseLinear(2, 3, conditioning)
    other = copy.deepcopy(layer)
    assert other.conditioning is conditioning
    assert other.weight_gate is not layer.weight_gate
    with conditioning.at(torch.tensor([2.0])):
        assert torch.equal(other(torch.ones(4, 2)), layer(torch.ones(4, 2)))


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(RuntimeError, match="A response layer has no hyperparameters to read"):
        Conditioning(1).of()
    layer = ResponseLinear(2, 3, Conditioning(1))
    with pytest.raises(RuntimeError, match="ResponseLinear has no hyperparameters to read: call"):
        layer(torch.ones(4, 2))
    with (
        pytest.raises(RuntimeError, match=r"set conditioning\.source"),
        (centered := Conditioning(1, centered=True)).at(torch.zeros(1)),
    ):
        centered.of()


def test_other_numbers_of_rows_are_refused() -> None:
    conditioning = Conditioning(1)
    with (
        conditioning.at(torch.zeros(3, 1)),
        pytest.raises(ValueError, match=r"an input of 6 rows.* hyperparameters for 3 samples"),
    ):
        conditioning.of(6, "The layer")


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (1, 1, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    conditioning = Conditioning(2, source=lambda: torch.zeros(shape))
    with pytest.raises(ValueError, match=r"must have shape \(2,\) or \(B, 2\), got \("):
        conditioning.of()
    with (
        pytest.raises(ValueError, match=r"must have shape \(2,\) or \(B, 2\), got \("),
        conditioning.at(torch.zeros(shape)),
    ):
        pass


def test_no_hyperparameters_are_refused() -> None:
    with pytest.raises(ValueError, match="num_hyperparameters must be at least 1, got 0"):
        Conditioning(0)
