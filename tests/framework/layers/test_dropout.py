"""Dropout: what it keeps, and that ranks, restarts and precisions drop the same elements."""

import io

import pytest
import torch
from torch import nn

from framework.distributed.collectives import rank
from framework.layers import GlobalDropBlock, GlobalDropout

SHAPE = (7, 3, 5)


def kept(layer: GlobalDropout, times: int = 1) -> torch.Tensor:
    """The masks of several forwards, one after the other."""
    return torch.stack([layer(torch.ones(SHAPE)) != 0 for _ in range(times)])


def test_what_is_kept_is_divided_by_the_share_of_what_is_kept() -> None:
    layer = GlobalDropout(0.3, stream="a")
    x = torch.randn(SHAPE)
    y = layer(x)
    mask = y != 0
    assert 0 < int(mask.sum()) < mask.numel()
    assert torch.equal(y, torch.where(mask, x / 0.7, 0))
    # every element draws for itself
    for dim in range(3):
        assert (mask.movedim(dim, 0)[0] != mask.movedim(dim, 0)[1]).any()


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.95])
def test_the_share_of_dropped_elements_and_the_mean(p: float) -> None:
    y = GlobalDropout(p, stream="a")(torch.ones(100, 1000))
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert float((y == 0).double().mean()) == pytest.approx(p, abs=4 * deviation)
    assert float(y.double().mean()) == pytest.approx(1, abs=4 * deviation / (1 - p))


def test_evaluation_and_p_0_return_the_input_itself_and_draw_nothing() -> None:
    x = torch.randn(SHAPE)
    for layer in (GlobalDropout(0.9, stream="a").eval(), GlobalDropout(0.0, stream="a")):
        assert layer(x) is x
        assert layer.count == 0


def test_a_dropped_infinity_is_a_zero() -> None:
    y = GlobalDropout(0.5, stream="a")(torch.full((100,), torch.inf))
    assert set(y.tolist()) == {0, torch.inf}


def test_p_near_1_drops_nearly_all() -> None:
    y = GlobalDropout(0.9999, stream="a")(torch.ones(1000, 1000))
    assert 50 < int((y != 0).sum()) < 150
    assert float(y.max()) == pytest.approx(1e4)


def test_the_gradient_is_the_mask_over_the_share_kept() -> None:
    x = torch.randn(SHAPE, requires_grad=True)
    y = GlobalDropout(0.4, stream="a")(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, (y != 0) / torch.tensor(0.6))


def test_forwards_and_streams_differ_and_one_stream_repeats_itself() -> None:
    masks = kept(GlobalDropout(0.5, stream="a"), 4)
    assert all((masks[0] != other).any() for other in masks[1:])
    assert torch.equal(kept(GlobalDropout(0.5, stream="a"), 4), masks)
    assert (kept(GlobalDropout(0.5, stream="b"), 4) != masks).flatten(1).any(1).all()


def test_only_the_seed_of_the_run_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    mask = kept(GlobalDropout(0.5, stream="a"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(kept(GlobalDropout(0.5, stream="a")), mask)
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert not torch.equal(kept(GlobalDropout(0.5, stream="a")), mask)


def test_a_restored_layer_goes_on_with_the_next_mask() -> None:
    layer = nn.Sequential(nn.Identity(), GlobalDropout(0.5, stream="a"))
    first = kept(layer[1], 3)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    restored = nn.Sequential(nn.Identity(), GlobalDropout(0.5, stream="a"))
    restored.load_state_dict(torch.load(file, weights_only=True))
    following = kept(layer[1], 2)
    assert torch.equal(kept(restored[1], 2), following)
    assert not torch.equal(following, first[:2])


def test_evaluation_in_between_does_not_move_the_sequence() -> None:
    layer, undisturbed = GlobalDropout(0.5, stream="a"), GlobalDropout(0.5, stream="a")
    kept(layer)
    layer.eval()(torch.ones(SHAPE))
    assert torch.equal(kept(layer.train()), kept(undisturbed, 2)[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_drops_the_same_elements(dtype: torch.dtype) -> None:
    mask = kept(GlobalDropout(0.3, stream="a"))[0]
    before = torch.get_default_dtype()
    try:
        # as in a run of that precision
        torch.set_default_dtype(dtype)
        y = GlobalDropout(0.3, stream="a")(torch.ones(SHAPE, dtype=dtype))
    finally:
        torch.set_default_dtype(before)
    assert y.dtype == dtype
    assert torch.equal(y != 0, mask)
    assert set(y.flatten().tolist()) == {0, float(torch.ones(1, dtype=dtype) / 0.7)}


KINDS = pytest.mark.parametrize(
    ("kind", "shape"), [(GlobalDropout, SHAPE), (GlobalDropBlock, (7, 2, 12, 12))]
)


@KINDS
def test_a_checkpoint_without_the_layer_begins_with_its_first_mask(kind, shape) -> None:
    layer = kind(0.3, stream="a")
    first = layer(torch.ones(shape))
    assert layer.state_dict() == {"_extra_state": {"count": 1}}
    layer.load_state_dict({})
    assert torch.equal(layer(torch.ones(shape)), first)


SLICES = [(4, 3), (7, 0), (0, 7), (1, 6)]


def forwards(
    kind: type[GlobalDropout], slices: list[tuple[int, ...]], x: torch.Tensor
) -> list[torch.Tensor]:
    """Drop this rank's slice of ``x``, once for each division of the rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "3")
        layer = kind(0.5, stream="a")
        return [layer(x.split(counts)[rank()]) for counts in slices]


@KINDS
def test_ranks_drop_what_one_process_drops(kind, shape, two_ranks) -> None:
    x = torch.randn(shape)
    whole = forwards(kind, [(7,)] * len(SLICES), x)
    parts = two_ranks(forwards, kind, SLICES, x)
    for step, expected in enumerate(whole):
        assert [len(part[step]) for part in parts] == list(SLICES[step])
        assert torch.equal(torch.cat([part[step] for part in parts]), expected)


def test_no_rows_on_one_process() -> None:
    layer = GlobalDropout(0.5, stream="a")
    assert layer(torch.empty(0, 3)).shape == (0, 3)
    assert layer.count == 1


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0, float("nan")])
def test_a_bad_rate_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=rf"p must lie in \[0, 1\), got {p}"):
        GlobalDropout(p, stream="a")


def test_it_shows_its_arguments() -> None:
    assert str(GlobalDropout(0.1, stream="input")) == "GlobalDropout(p=0.1, stream='input')"
