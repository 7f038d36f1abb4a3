"""Token, mutual and feature choice: the worked example, their limits, and two ranks as one."""

import math

import pytest
import torch
from torch import Tensor

from framework.distributed.collectives import rank
from framework.sparse_coding.selection import (
    BatchTopK,
    FeatureChoice,
    MutualChoice,
    Selection,
    TokenChoice,
)
from framework.sparse_coding.topk import top_per_column

# the spec's worked example: 3 tokens, 4 features; its sixth and seventh entries are both 0.8
X = torch.tensor([[1.0, 0.5], [0.9, 1.2], [0.1, 0.8]])
W = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-0.8, 0.6]])
B_PRE = torch.tensor([0.1, -0.2])
AFFINITY = torch.tensor([[0.9, 0.7, 1.1, -0.3], [0.8, 1.4, 1.6, 0.2], [0.0, 1.0, 0.8, 0.6]])


def masks(text: str) -> list[list[bool]]:
    return [[digit == "1" for digit in row] for row in text.split("/")]


def scores(tokens: int = 24, features: int = 40, ties: bool = False) -> Tensor:
    x = torch.randn(tokens, features, generator=torch.Generator().manual_seed(0))
    return (4 * x).round() / 4 if ties else x


def choice(kind: type[Selection], features: int = 40, **kwargs: object) -> Selection:
    chosen = kind(**kwargs)
    chosen.setup(features)
    return chosen


def test_the_example_of_the_spec() -> None:
    assert TokenChoice(k=2).select(AFFINITY).tolist() == masks("1010/0110/0110")
    # of the two entries of 0.8 the one of the earlier token
    assert MutualChoice(k=2).select(AFFINITY).tolist() == masks("1010/1110/0100")
    mask = torch.zeros(12, dtype=torch.bool)
    mask[top_per_column(AFFINITY, torch.tensor([2, 2, 1, 1]))] = True
    assert mask.view(3, 4).tolist() == masks("1000/1110/0101")


def test_one_token_alone() -> None:
    for x in scores().split(1):
        for k in (1, 5, 40):
            assert torch.equal(MutualChoice(k).select(x), TokenChoice(k).select(x))


def test_all_entries() -> None:
    x = scores()
    everything = torch.ones_like(x, dtype=torch.bool)
    for kind in (TokenChoice, MutualChoice, FeatureChoice):
        assert torch.equal(choice(kind, k=40).select(x), everything)
    assert torch.equal(BatchTopK(k=40).select(x), x > 0)


@pytest.mark.parametrize("ties", [False, True])
def test_the_budget_is_spent_and_mutual_choice_is_the_best_way(ties: bool) -> None:
    x, k = scores(ties=ties), 5
    spent = {}
    for kind in (TokenChoice, MutualChoice, FeatureChoice):
        mask = choice(kind, k=k).select(x)
        assert int(mask.sum()) == k * len(x)
        spent[kind] = float(x[mask].sum())
    assert spent[MutualChoice] >= max(spent.values())
    zipf = choice(FeatureChoice, k=k, alpha=1.0)
    zipf.assign(torch.rand(40))
    mask = zipf.select(x)
    assert torch.equal(mask.sum(0), zipf.budgets(len(x)))
    assert int(mask.sum()) == k * len(x)


def test_permutations_of_tokens_and_features() -> None:
    x = scores()
    tokens = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    features = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    mutual = MutualChoice(k=5)
    moved = mutual.select(x[tokens][:, features])
    assert torch.equal(moved, mutual.select(x)[tokens][:, features])
    density = torch.rand(40, generator=torch.Generator().manual_seed(3))
    one, two = (choice(FeatureChoice, k=5, alpha=1.0) for _ in range(2))
    one.assign(density)
    two.assign(density[features])
    assert torch.equal(two.select(x[:, features]), one.select(x)[:, features])


def test_batch_topk_is_mutual_choice_without_what_is_not_active() -> None:
    x = scores() - 1.5
    mutual, batch = MutualChoice(k=8), BatchTopK(k=8)
    assert int(mutual.select(x).sum()) == 8 * 24
    assert torch.equal(batch.select(x), mutual.select(x) & (x > 0))
    assert int(batch.select(x).sum()) < 8 * 24
    for one, other in zip(_leaves(mutual, x), _leaves(batch, x), strict=True):
        assert torch.equal(one, other)


def _leaves(rule: Selection, x: Tensor) -> tuple[Tensor, ...]:
    code = rule.select_sparse(x)
    return code.values, code.pattern.rows, code.pattern.features


@pytest.mark.parametrize("kind", [TokenChoice, MutualChoice, BatchTopK, FeatureChoice])
def test_the_sparse_form_is_the_masked_relu(kind: type[Selection]) -> None:
    x = (scores() - 1.0).requires_grad_()
    rule = choice(kind, k=8)
    code = rule.select_sparse(x)
    assert (code.values >= 0).all()
    expected = rule.select(x) * x.relu()
    assert torch.equal(code.dense(), expected)
    (one,) = torch.autograd.grad(code.values.square().sum(), x)
    (other,) = torch.autograd.grad(expected.square().sum(), x)
    assert torch.equal(one, other)


def test_half_precision_is_compared_in_float32() -> None:
    x = scores(64, 512).bfloat16()
    assert int(MutualChoice(k=4).select(x).sum()) == 256
    assert torch.equal(MutualChoice(k=4).select(x), MutualChoice(k=4).select(x.float()))


# ---- feature choice over time --------------------------------------------------------------------


def test_a_feature_due_less_than_one_token_per_batch_is_served_in_turn() -> None:
    # 4 tokens with k = 1 for 40 features: a tenth each
    rule = choice(FeatureChoice, k=1)
    served = torch.stack([rule.budgets(4) for _ in range(10)])
    assert served.sum(0).tolist() == [1] * 40
    # in turn, and not all of them in the tenth step
    assert int(served.sum(1).min()) >= 3
    assert int(served.sum(1).max()) <= 5
    rule = choice(FeatureChoice, k=1, alpha=1.0)
    rule.assign(torch.arange(40, 0, -1).float())
    due = rule.share * 4
    waited = torch.zeros(40)
    for _ in range(300):
        waited = torch.where(rule.budgets(4) > 0, 0.0, waited + 1)
        assert (waited < torch.ceil(1 / due)).all()


def test_the_carry_is_saved_and_only_training_moves_it() -> None:
    rule, other = choice(FeatureChoice, k=1), choice(FeatureChoice, k=1)
    rule.budgets(4)
    other.load_state_dict(rule.state_dict())
    assert float(other.carry[0]) == pytest.approx(0.1)
    other.eval().budgets(4)
    assert torch.equal(other.carry, rule.carry)
    del rule._buffers["carry"]
    with pytest.raises(RuntimeError, match="carry"):
        other.load_state_dict(rule.state_dict())


def test_budgets_follow_the_ranks_of_the_densities() -> None:
    rule = choice(FeatureChoice, features=8, k=4, alpha=1.0, beta=2.7)
    before = rule.budgets(8)
    assert before.tolist() == [4] * 8
    rule.assign(torch.tensor([0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4, 0.5]))
    # the spec's budgets (7, 5, 5, 4, 3, 3, 3, 2) by rank
    assert rule.budgets(8).tolist() == [2, 7, 3, 5, 3, 5, 3, 4]
    assert rule.law.tolist() == [1.0, 2.7, 0.0]


def test_the_law_is_fitted_where_it_is_not_given() -> None:
    rule = choice(FeatureChoice, features=400, k=8)
    density = torch.arange(1, 401).add(20.0).pow(-1.3)
    rule.assign(density)
    assert rule.law.tolist() == pytest.approx([1.3, 20.0, 1.0], abs=1e-5)
    torch.testing.assert_close(rule.share, (density / density.sum()).double(), rtol=1e-4, atol=0)


def test_restored_shares_give_their_budgets() -> None:
    rule, other = (choice(FeatureChoice, features=8, k=4, alpha=1.0, beta=2.7) for _ in range(2))
    rule.assign(torch.arange(8, 0, -1).float())
    assert other.budgets(8).tolist() == [4] * 8
    other.load_state_dict(rule.state_dict())
    assert other.budgets(8).tolist() == [7, 5, 5, 4, 3, 3, 3, 2]


@pytest.mark.parametrize("active", [0, 2])
def test_too_few_features_for_a_law_keep_their_budgets(active: int, caplog) -> None:
    rule = choice(FeatureChoice, features=8, k=4)
    rule.assign((torch.arange(8) < active).float())
    assert rule.share.tolist() == [1 / 8] * 8
    assert rule.law.tolist() == [0, 0, 0]
    assert f"Only {active} of 8 features were active" in caplog.text
    rule.assign(torch.tensor([0.4, 0.2, 0.1, 0, 0, 0, 0, 0]))
    assert float(rule.law[0]) > 0


# ---- two ranks -----------------------------------------------------------------------------------


def masks_on_a_rank(rules: list[Selection], x: Tensor, cut: int) -> list[Tensor]:
    own = x[:cut] if rank() == 0 else x[cut:]
    return [rule.select(own) for rule in rules]


@pytest.mark.parametrize("cut", [12, 5, 0])
@pytest.mark.parametrize("ties", [False, True])
def test_two_ranks_select_the_mask_of_one_process(cut: int, ties: bool, two_ranks) -> None:
    x = scores(ties=ties)
    zipf = choice(FeatureChoice, k=5, alpha=1.0)
    zipf.assign(torch.arange(40.0))
    rules = [
        TokenChoice(k=5),
        MutualChoice(k=5),
        BatchTopK(k=30),
        choice(FeatureChoice, k=5),
        zipf,
        choice(FeatureChoice, k=1),
    ]
    zero, one = two_ranks(masks_on_a_rank, rules, x, cut)
    for rule, first, second in zip(rules, zero, one, strict=True):
        assert torch.equal(torch.cat([first, second]), rule.select(x)), rule


def test_without_sync_the_mask_depends_on_the_ranks(two_ranks) -> None:
    x = scores()
    rule = MutualChoice(k=5, sync=False)
    zero, one = two_ranks(masks_on_a_rank, [rule], x, 12)
    both = torch.cat([zero[0], one[0]])
    assert int(zero[0].sum()) == int(one[0].sum()) == 60
    assert not torch.equal(both, rule.select(x))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: TokenChoice(k=0), "k must be at least 1"),
        (lambda: TokenChoice(k=9).setup(8), "k=9 of 8 features"),
        (lambda: FeatureChoice(k=1, alpha=-1.0), "alpha must be at least 0"),
        (lambda: FeatureChoice(k=1, alpha=math.nan), "alpha must be finite and at least 0"),
    ],
)
def test_refuses(call, says) -> None:
    with pytest.raises(ValueError, match=says):
        call()
