import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.distributed.collectives import rank
from framework.sparse_coding.top_contexts import TopContexts

FEATURES, LIMIT, ENTRIES = 4, 3, 80


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    # few distinct values, so that many are equal
    values = torch.randint(1, 6, (ENTRIES,), generator=generator) / 4
    features = torch.randint(FEATURES - 1, (ENTRIES,), generator=generator)
    contexts = torch.randint(9, (ENTRIES,), generator=generator)
    return values, features, contexts


def by_hand(values, features, contexts):
    best: dict[int, dict[int, float]] = {f: {} for f in range(FEATURES)}
    for v, f, c in zip(values.tolist(), features.tolist(), contexts.tolist(), strict=True):
        best[f][c] = max(v, best[f].get(c, 0.0))
    rows = []
    for f in range(FEATURES):
        ordered = sorted(best[f].items(), key=lambda item: (-item[1], item[0]))[:LIMIT]
        rows.append(ordered + [(-1, 0.0)] * (LIMIT - len(ordered)))
    return rows


def table(top):
    values, contexts = top.compute()
    return [
        list(zip(c.tolist(), v.tolist(), strict=True))
        for c, v in zip(contexts, values, strict=True)
    ]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, ENTRIES), max_size=5))
def test_is_exact_however_contexts_are_cut(seed, cuts):
    entries = drawn(seed)
    top = TopContexts(FEATURES, LIMIT)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), ENTRIES], strict=True):
        top.update(*(part[start:stop] for part in entries))
    assert table(top) == by_hand(*entries)


def of_this_rank(split):
    rows = slice(split) if rank() == 0 else slice(split, ENTRIES)
    top = TopContexts(FEATURES, LIMIT)
    top.update(*(part[rows] for part in drawn()))
    return table(top)


@pytest.mark.parametrize("split", [31, ENTRIES])
def test_two_ranks_find_what_one_finds(split, two_ranks):
    for found in two_ranks(of_this_rank, split):
        assert found == by_hand(*drawn())


def test_bad_arguments():
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        TopContexts(4, 0)
