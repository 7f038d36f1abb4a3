"""The sparse autoencoder: the worked example of every rule, the variants, and what is computed."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from framework.sparse_coding.selection import (
    BatchTopK,
    FeatureChoice,
    MutualChoice,
    Selection,
    TokenChoice,
)
from modules.sae.activations import GatedReLU, JumpReLU, ReLUWithL1
from modules.sae.network import SparseAutoencoder, active_per_feature, active_per_token
from modules.sae.statistics import smallest_values

# in float64, so that the example's two entries of 0.8 are equal once they are compared in float32
X = torch.tensor([[1.0, 0.5], [0.9, 1.2], [0.1, 0.8]], dtype=torch.float64)
W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-0.8, 0.6]])
B_PRE = torch.tensor([0.1, -0.2])


class Budgets(FeatureChoice):
    """Feature choice with the budgets of the example, which are not k B."""

    def budgets(self, tokens: int) -> Tensor:
        return torch.tensor([2, 2, 1, 1])


def example(selection: Selection) -> SparseAutoencoder:
    sae = SparseAutoencoder(d_in=2, d_sae=4, selection=selection).double()
    with torch.no_grad():
        sae.W_enc.copy_(W)
        sae.W_dec.copy_(W)
        sae.b_dec.copy_(B_PRE)
    return sae


def random(tokens: int = 20, d: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(tokens, d, generator=torch.Generator().manual_seed(seed))


def autoencoder(selection: object = None, **kwargs: object) -> SparseAutoencoder:
    torch.manual_seed(0)
    return SparseAutoencoder(d_in=6, d_sae=24, selection=selection, **kwargs)


@pytest.mark.parametrize(
    ("selection", "rebuilt", "fvu", "openai", "ratio"),
    [
        (
            TokenChoice(k=2),
            [[1.66, 0.68], [1.06, 2.48], [0.58, 1.44]],
            3.780000,
            0.699524,
            0.667952,
        ),
        (
            MutualChoice(k=2),
            [[1.66, 0.68], [1.86, 2.48], [0.10, 0.80]],
            4.129091,
            0.504059,
            0.729639,
        ),
        (
            Budgets(k=2),
            [[1.0, -0.2], [1.86, 2.48], [-0.38, 1.16]],
            4.650000,
            0.694541,
            0.821687,
        ),
    ],
    ids=["token", "mutual", "feature"],
)
def test_the_example_of_the_spec(selection, rebuilt, fvu, openai, ratio) -> None:
    sae = example(selection)
    out = sae.decode(sae.encode_batch(X).code).detach()
    expected = torch.tensor(rebuilt, dtype=torch.float64)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    error = (X - out).square()
    assert float(error.sum() / (X - X.mean(0)).square().sum()) == pytest.approx(fvu, abs=1e-5)
    assert float((error.mean(1) / X.square().mean(1)).mean()) == pytest.approx(openai, abs=1e-5)
    assert float(error.sum() / X.square().sum()) == pytest.approx(ratio, abs=1e-6)


def test_the_smallest_value_that_was_kept_stays_with_running_thresholds() -> None:
    sae = example(MutualChoice(k=2))
    code = sae.encode_batch(X).code
    sae.thresholds.update(smallest_values(code, per_feature=False))
    assert float(sae.thresholds.mean[0]) == pytest.approx(0.8)
    kept = code.dense() > 0
    assert int(kept.sum()) == 6
    assert (sae.encode_dense(X) > 0)[kept].all()


def test_a_value_equal_to_a_calibrated_threshold_is_not_active() -> None:
    sae, x = autoencoder(MutualChoice(4)), random()
    pre_acts = sae.pre_activations(x)
    value = pre_acts[pre_acts > 0].median()
    sae.thresholds.calibrate(value.expand(24))
    active = sae.encode_dense(x) > 0
    assert torch.equal(active, pre_acts > value)
    assert int(active.sum()) == int((pre_acts >= value).sum()) - 1


@pytest.mark.parametrize("number", [0, 1])
def test_another_rule_begins_with_thresholds_of_its_own(number: int) -> None:
    sae, x = autoencoder(MutualChoice(4)), random()
    sae.add_selection(MutualChoice(2))
    sae.thresholds.calibrate(torch.ones(24))
    code = sae.encode_batch(x).code
    sae.thresholds.update(smallest_values(code, per_feature=False))
    assert sae.thresholds.updates.all()
    sae.switch(number)
    assert not sae.thresholds.updates.any()
    assert not sae.thresholds.values().any()


def test_the_start() -> None:
    sae = autoencoder(TokenChoice(4))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24), atol=1e-6, rtol=0)
    assert torch.equal(sae.W_enc, sae.W_dec)
    assert sae.W_enc.data_ptr() != sae.W_dec.data_ptr()
    assert sum(p.numel() for p in sae.parameters()) == 2 * 6 * 24 + 24 + 6


@pytest.mark.parametrize(
    "selection", [TokenChoice(24), MutualChoice(24), BatchTopK(24), FeatureChoice(24)]
)
def test_with_all_features_every_rule_is_a_relu(selection: Selection) -> None:
    x = random()
    relu = autoencoder(ReLUWithL1())
    chosen = autoencoder(selection)
    torch.testing.assert_close(
        chosen.decode(chosen.encode_batch(x).code), relu.decode(relu.encode_batch(x).code)
    )


@pytest.mark.parametrize("selection", [TokenChoice(4), MutualChoice(4), FeatureChoice(4)])
def test_gradients_are_those_of_the_masked_dense_network(selection: Selection) -> None:
    x, sae = random().double(), autoencoder(selection).double()
    with torch.no_grad():
        sae.b_dec.normal_()
    loss = (x - sae.decode(sae.encode_batch(x).code)).square().sum()
    loss.backward()
    gradients = {name: p.grad for name, p in sae.named_parameters()}
    sae.zero_grad()
    pre_acts = F.linear(x - sae.b_dec, sae.W_enc, sae.b_enc)
    code = selection.select(pre_acts) * pre_acts.relu()
    (x - code @ sae.W_dec - sae.b_dec).square().sum().backward()
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_lengths_and_the_gradient_along_them() -> None:
    sae = autoencoder(MutualChoice(4))
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (random() - sae.decode(sae.encode_batch(random()).code)).square().mean().backward()
        sae.project_gradient()
        inner = (sae.W_dec.grad * sae.W_dec).sum(1)
        torch.testing.assert_close(inner, torch.zeros(24), atol=1e-6, rtol=0)
        assert sae.W_dec.grad.any()
        optimizer.step()
        sae.normalize_decoder()
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24), atol=1e-6, rtol=0)


def test_a_penalty_weighted_by_lengths_leaves_them_free() -> None:
    sae = autoencoder(ReLUWithL1())
    sae.decode(sae.encode_batch(random()).code).sum().backward()
    before = sae.W_dec.grad.clone()
    sae.project_gradient()
    assert torch.equal(before, sae.W_dec.grad)
    with torch.no_grad():
        sae.W_dec.mul_(2)
    sae.normalize_decoder()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), 2 * torch.ones(24))


def test_nested_groups() -> None:
    groups = (1 / 16, 1 / 8, 1 / 4, 9 / 16)
    sae = SparseAutoencoder(d_in=6, d_sae=32, selection=BatchTopK(6), groups=groups)
    assert sae.group_ends == [2, 6, 14, 32]
    x = random()
    code = sae.encode_batch(x).code
    nested = sae.reconstructions(code)
    dense = code.dense()
    for end, rebuilt in zip(sae.group_ends, nested, strict=True):
        torch.testing.assert_close(rebuilt, dense[:, :end] @ sae.W_dec[:end] + sae.b_dec)
    torch.testing.assert_close(nested[-1], sae.decode(code))
    torch.testing.assert_close(sae.reconstructions(dense), nested)


def test_a_transcoder_does_not_center_and_may_skip() -> None:
    torch.manual_seed(0)
    sae = SparseAutoencoder(6, 24, TokenChoice(4), d_out=5, skip=True)
    with torch.no_grad():
        sae.b_dec.fill_(3.0)
        sae.W_skip.normal_()
    x = random()
    pre_acts = x @ sae.W_enc.T + sae.b_enc
    code = TokenChoice(4).select(pre_acts) * pre_acts.relu()
    expected = code @ sae.W_dec + sae.b_dec + x @ sae.W_skip.T
    torch.testing.assert_close(sae(x), expected)
    with pytest.raises(ValueError, match="decodes with its input"):
        sae.decode(sae.encode(x))


def test_half_precision_outside_is_float32_inside() -> None:
    sae, x = autoencoder(MutualChoice(4)), random()
    expected = sae.encode_batch(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = sae.encode_batch(x)
        out = sae.decode(encoding.code)
    assert torch.equal(encoding.pre_acts, expected.pre_acts)
    assert torch.equal(out, sae.decode(expected.code))
    assert out.dtype == torch.float32
    assert sae.bfloat16().encode_batch(x.bfloat16()).pre_acts.dtype == torch.float32


def test_a_code_is_counted_alike_in_both_forms() -> None:
    code = autoencoder(MutualChoice(4)).encode_batch(random()).code
    dense = code.dense()
    assert torch.equal(active_per_token(code), active_per_token(dense))
    assert torch.equal(active_per_feature(code), active_per_feature(dense))


# ---- activations ---------------------------------------------------------------------------------


def test_jump_relu_and_its_straight_through_gradients() -> None:
    jump = JumpReLU(threshold=0.5, bandwidth=0.2)
    jump.setup(1)
    z = torch.tensor([[0.3], [0.45], [0.55], [0.7]], requires_grad=True)
    out = jump(z, torch.zeros(1))
    assert out.flatten().tolist() == pytest.approx([0, 0, 0.55, 0.7])
    pull = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    of_z, of_log = torch.autograd.grad(out, (z, jump.log_threshold), pull)
    assert of_z.flatten().tolist() == [0, 0, 4, 8]
    # two values lie within half a bandwidth; d theta / d log theta is theta
    assert float(of_log) == pytest.approx(-(0.5 / 0.2) * (2 + 4) * 0.5)
    sae = SparseAutoencoder(1, 1, JumpReLU(threshold=0.5, bandwidth=0.2))
    penalty = sae.selection.penalties(sae, z, z, out)["sparsity"]
    assert penalty.tolist() == [0, 0, 1, 1]
    (of_log,) = torch.autograd.grad(penalty, sae.selection.log_threshold, pull[:, 0])
    assert float(of_log) == pytest.approx(-(1 / 0.2) * (2 + 4) * 0.5)


@pytest.mark.parametrize("log_threshold", [torch.inf, 88.5])
def test_a_threshold_that_nothing_exceeds_has_a_gradient_of_zero(log_threshold: float) -> None:
    sae = autoencoder(JumpReLU(threshold=0.5, bandwidth=0.001))
    with torch.no_grad():
        sae.selection.log_threshold[3] = log_threshold
    code = sae.encode_batch(random()).code
    assert not code[:, 3].any()
    penalty = sae.selection.penalties(sae, random(), code, code)["sparsity"]
    (sae.decode(code).square().sum() + penalty.sum()).backward()
    assert float(sae.selection.log_threshold.grad[3]) == 0
    assert sae.selection.log_threshold.grad.isfinite().all()


def test_the_penalty_of_relu_counts_lengths() -> None:
    sae = autoencoder(ReLUWithL1())
    with torch.no_grad():
        sae.W_dec.mul_(torch.arange(1.0, 25)[:, None])
    code = sae.encode_batch(random()).code
    penalty = sae.selection.penalties(sae, random(), code, code)["sparsity"]
    torch.testing.assert_close(penalty, (code * torch.arange(1.0, 25)).sum(1))


def test_gated() -> None:
    sae = autoencoder(GatedReLU())
    gated = sae.selection
    with torch.no_grad():
        gated.log_gain.normal_()
        gated.gate_bias.normal_()
        sae.b_enc.normal_()
        sae.b_dec.normal_()
    x = random()
    encoding = sae.encode_batch(x)
    projected = (x - sae.b_dec) @ sae.W_enc.T
    gate = projected + gated.gate_bias
    magnitude = (gated.log_gain.exp() * projected + sae.b_enc).relu()
    torch.testing.assert_close(encoding.code, (gate > 0) * magnitude)
    terms = gated.penalties(sae, x, encoding.pre_acts, encoding.code)
    torch.testing.assert_close(terms["sparsity"], gate.relu().sum(1))
    torch.testing.assert_close(
        terms["gate"], (x - gate.relu() @ sae.W_dec - sae.b_dec).square().sum(1)
    )
    terms["gate"].sum().backward()
    assert sae.W_dec.grad is None
    assert sae.W_enc.grad.any()


def test_the_weight_of_a_penalty_warms_up() -> None:
    relu = ReLUWithL1(weight=4.0, warmup=0.1)
    assert [relu.weight_at(p) for p in (0.0, 0.05, 0.1, 1.0)] == [0.0, 2.0, 4.0, 4.0]
    assert ReLUWithL1(weight=4.0, warmup=0.0).weight_at(0.0) == 4.0


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: SparseAutoencoder(d_in=0), "d_in must be at least 1"),
        (lambda: SparseAutoencoder(skip=True), "an autoencoder has no d_out"),
        (lambda: SparseAutoencoder(2, 8, GatedReLU(), d_out=2, skip=True), "train without skip"),
        (lambda: SparseAutoencoder(groups=(0.5, 0.4)), "positive shares with sum 1"),
        (lambda: SparseAutoencoder(2, 40, groups=(0.001, 0.999)), "leave a group empty"),
        (lambda: SparseAutoencoder(2, 8, TokenChoice(9)), "k=9 of 8 features"),
        (lambda: JumpReLU(bandwidth=0.0), "bandwidth must be positive"),
        (lambda: ReLUWithL1(weight=-1.0), "weight must be at least 0"),
        (lambda: GatedReLU(warmup=2.0), r"warmup must lie in \[0, 1\]"),
    ],
)
def test_refuses(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()
