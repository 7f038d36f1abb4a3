"""Novel classes are added by their first supports, and queries are counted by their kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from framework.distributed.collectives import rank
from framework.embedding.imprinted_evaluation import ImprintedEvaluation
from framework.embedding.imprinting import imprint


def rows() -> dict[str, Tensor]:
    """Return two base and two novel classes in three dimensions, supports first."""
    torch.manual_seed(0)
    label = torch.tensor([2, 2, 2, 3, 3, 3, 0, 1, 2, 3, 0, 2, 3, -1])
    shot = torch.tensor([1, 2, 3, 1, 2, 3, *[0] * 8])
    return {
        "embedding": torch.randn(14, 3),
        "label": label,
        "index": torch.arange(14),
        "shot": shot,
    }


def evaluated(parts: list[Tensor], shots: tuple[int, ...] = (1, 3)) -> dict[str, Tensor]:
    metric = ImprintedEvaluation(3, shots)
    metric.base_weight = torch.eye(3)[:2]
    for part in parts:
        metric.update(**{name: value[part] for name, value in rows().items()})
    return metric.compute()


def test_the_values_are_those_of_a_loop():
    values = evaluated([torch.arange(14)])
    data = rows()
    for shots in (1, 3):
        used = (data["shot"] > 0) & (data["shot"] <= shots)
        novel = imprint(data["embedding"][used], data["label"][used] - 2, 2)
        weight = torch.cat([torch.eye(3)[:2], novel])
        queries = (data["shot"] == 0) & (data["label"] >= 0)
        kinds = ("joint", "joint_on_base", "joint_on_novel", "disjoint")
        right: dict[str, list[bool]] = {kind: [] for kind in kinds}
        for x, label in zip(data["embedding"][queries], data["label"][queries], strict=True):
            hit = bool((weight @ x).argmax() == label)
            right["joint"].append(hit)
            right["joint_on_base" if label < 2 else "joint_on_novel"].append(hit)
            if label >= 2:
                right["disjoint"].append(bool((novel @ x).argmax() + 2 == label))
        expected = {name: sum(hits) / len(hits) for name, hits in right.items()}
        base, of_novel = expected["joint_on_base"], expected["joint_on_novel"]
        both = base + of_novel
        expected["harmonic_mean"] = 2 * base * of_novel / both if both else 0.0
        assert {n: values[f"{n}@{shots}"].item() for n in expected} == pytest.approx(expected)


def test_batches_order_and_repeated_rows_do_not_matter():
    whole = evaluated([torch.arange(14)])
    parts = [torch.tensor([13, 2, 5, 9]), torch.arange(9), torch.tensor([9, 10, 11, 12])]
    assert evaluated(parts) == whole
    # a class that comes without support is not asked for, and a set without supports says nothing
    alone = evaluated([torch.tensor([0, 1, 2, 6, 7, 8, 9, 11])])
    assert alone["disjoint@1"] == 1
    assert evaluated([torch.arange(6, 14)]) == {}
    assert evaluated([torch.arange(6)]) == {}


def values_of_rank() -> dict[str, float]:
    parts = [torch.tensor([0, 3, 6, 8, 9, 12, 13]), torch.tensor([1, 2, 4, 5, 7, 10, 11])]
    values = evaluated([parts[rank()]])
    return {name: value.item() for name, value in values.items()}


def test_two_ranks_equal_one_process(two_ranks):
    whole = {name: value.item() for name, value in evaluated([torch.arange(14)]).items()}
    assert two_ranks(values_of_rank) == [whole, whole]


def test_numbers_below_one_are_refused():
    for options in ({"embedding_dim": 0}, {"shots": [0, 1]}, {"shots": []}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least 1"):
            ImprintedEvaluation(**{"embedding_dim": 3, **options})
