"""Templates of images, and their verification."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from framework.embedding.metrics.roc import tar_at_far
from framework.embedding.metrics.template_verification import TemplateVerification
from framework.embedding.metrics.templates import pool_templates, template_scores
from framework.embedding.pairs import Pairs

COUNT, TEMPLATES = 60, 12


def images() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    template = torch.randint(0, TEMPLATES, (COUNT,), generator=generator) * 7 + 3
    person = template // 7 // 3
    return {
        "embedding": torch.randn(4, 5, generator=generator)[person]
        + torch.randn(COUNT, 5, generator=generator),
        "template": template,
        # the same numbers of media in several templates
        "media": torch.randint(100, 104, (COUNT,), generator=generator),
        "faceness": torch.rand(COUNT, generator=generator),
    }


def pairs() -> Pairs:
    numbers = torch.arange(TEMPLATES) * 7 + 3
    first, second = numbers[torch.triu_indices(TEMPLATES, TEMPLATES, 1)]
    return Pairs(first, second, first // 7 // 3 == second // 7 // 3, 1)


@pytest.mark.parametrize("norm_score", [True, False])
@pytest.mark.parametrize("faceness", [True, False])
def test_pooling_is_that_of_a_loop(norm_score: bool, faceness: bool) -> None:
    given = images()
    template, media = given["template"].numpy(), given["media"].numpy()
    features = given["embedding"].double().numpy()
    if not norm_score:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    if faceness:
        features = features * given["faceness"].numpy()[:, None]
    expected = []
    for number in np.unique(template):
        rows = template == number
        means = [features[rows & (media == one)].mean(0) for one in np.unique(media[rows])]
        total = np.sum(means, 0)
        expected.append(total / np.linalg.norm(total))
    found = pool_templates(
        given["embedding"],
        given["template"],
        given["media"],
        norm_score=norm_score,
        faceness=given["faceness"] if faceness else None,
    )
    assert found.number.tolist() == np.unique(template).tolist()
    torch.testing.assert_close(found.vector, torch.tensor(np.array(expected)).float())


def test_pairs_of_absent_templates_are_left_out() -> None:
    given = images()
    found = pool_templates(given["embedding"], given["template"], given["media"])
    first, second = torch.tensor([3, 4, 10]), torch.tensor([10, 3, 99])
    scores, known = template_scores(found, first, second)
    assert known.tolist() == [True, False, False]
    torch.testing.assert_close(scores, (found.vector[0] * found.vector[1]).sum()[None])
    nothing = pool_templates(torch.zeros(0, 5), torch.zeros(0).long(), torch.zeros(0).long())
    assert not template_scores(nothing, first, second)[1].any()


def metric() -> TemplateVerification:
    return TemplateVerification(5, pairs(), far=(0.2, 0.05, 1e-6))


def whole() -> torch.Tensor:
    made = metric()
    made.update(**images(), index=torch.arange(COUNT))
    return made.compute()["tar@far=2e-1"]


def of_this_rank() -> torch.Tensor:
    rows = torch.arange(COUNT).chunk(2)[dist.get_rank()]
    made = metric()
    made.update(**{name: value[rows] for name, value in images().items()}, index=rows)
    return made.compute()["tar@far=2e-1"]


def test_metric_over_batches_and_ranks(two_ranks: Any) -> None:
    given, some = images(), pairs()
    vectors = pool_templates(
        given["embedding"], given["template"], given["media"], faceness=given["faceness"]
    )
    scores, known = template_scores(vectors, some.first, some.second)
    assert whole() == tar_at_far(scores, some.same[known], 0.2).tar
    made = metric()
    for part in torch.randperm(COUNT, generator=torch.Generator().manual_seed(1)).split(16):
        rows = torch.cat([part, part[:3]])
        made.update(**{name: value[rows] for name, value in given.items()}, index=rows)
    assert set(made.compute()) == {"tar@far=2e-1", "tar@far=5e-2", "curves"}
    assert made.compute()["tar@far=2e-1"] == whole()
    for found in two_ranks(of_this_rank):
        assert found == whole()
    made.reset()
    made.update(torch.zeros(0, 5), *[torch.zeros(0, dtype=torch.int64)] * 3)
    assert made.compute() == {}
