"""Identification among distractors and in a gallery."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from framework.embedding.metrics.identification import (
    identify,
    identify_among_distractors,
    verify_against_distractors,
)
from framework.embedding.metrics.identification_metric import Identification
from framework.embedding.metrics.roc import tar_at_far

# of axes and their negatives, whose cosines have no rounding and many ties
AXES = torch.cat([torch.eye(3), -torch.eye(3), torch.tensor([[0.6, 0.8, 0], [0, 0.6, 0.8]])])
images = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), min_size=1, max_size=12)


def of(rows: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return AXES[[axis for axis, _ in rows]], torch.tensor([label for _, label in rows])


@settings(max_examples=40)
@given(images, images, st.integers(1, 400))
def test_ranks_among_distractors_are_those_of_a_loop(
    rows: list[tuple[int, int]], others: list[tuple[int, int]], block: int
) -> None:
    (probe, label), (distractor, _) = of(rows), of(others)
    ranks = [
        1 + int((distractor @ probe[p] > probe[p] @ probe[g]).sum())
        for p in range(len(label))
        for g in range(len(label))
        if p != g and label[p] == label[g]
    ]
    found = identify_among_distractors(probe, label, distractor, (1, 2, 5), block)
    assert found.number == len(ranks)
    if ranks:
        expected = [sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 2, 5)]
        assert found.rate.tolist() == pytest.approx(expected, abs=1e-12)


def test_verification_is_of_the_same_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    probe, distractor = torch.randn(2, 40, 6, generator=generator).unbind()
    label = torch.arange(40) // 5
    unit = torch.nn.functional.normalize(torch.cat([probe, distractor]), dim=1)
    one, other = torch.triu_indices(40, 40, 1)
    mates = label[one] == label[other]
    genuine = (unit @ unit.T)[one[mates], other[mates]]
    impostor = (unit[:40] @ unit[40:].T).flatten()
    scores = torch.cat([genuine, impostor])
    expected = tar_at_far(scores, torch.arange(len(scores)) < len(genuine), [0.01, 0.1, 0.5])
    for block in (90, 10**6):
        found = verify_against_distractors(probe, label, distractor, [0.01, 0.1, 0.5], block)
        torch.testing.assert_close(found.at_far.tar, expected.tar)
        assert found.histogram.sum(1).tolist() == [1600, len(genuine)]


@settings(max_examples=40)
@given(images, images, st.integers(1, 60))
def test_a_gallery_is_that_of_a_loop(
    rows: list[tuple[int, int]], others: list[tuple[int, int]], block: int
) -> None:
    (probe, label), (gallery, person) = of(rows), of(others)
    ranks = []
    for one, own in zip(probe, label.tolist(), strict=True):
        best = {p: float((gallery[person == p] @ one).max()) for p in person.unique().tolist()}
        if own in best:
            ranks.append(1 + sum(score > best[own] for score in best.values()))
    found, _ = identify(probe, label, gallery, person, (1, 2), block=block)
    assert found.number == len(ranks)
    if ranks:
        expected = [sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 2)]
        assert found.rate.tolist() == pytest.approx(expected, abs=1e-12)


def test_open_set() -> None:
    gallery, person = torch.eye(3), torch.tensor([10, 20, 30])
    probe = torch.tensor([[1, 0.1, 0], [0.2, 1, 0], [0.9, 1, 0], [1, 1, 1], [0, 0.4, 1.0]])
    # the third is nearer to another person; the last two are of nobody in the gallery
    label = torch.tensor([10, 20, 10, 50, 60])
    found, errors = identify(probe, label, gallery, person, fpir=[0, 0.5, 1])
    assert (found.number, found.rate.tolist()) == (3, pytest.approx([2 / 3]))
    # at most none, one, or both of those are taken for someone; the third is never found
    assert errors.fnir.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert errors.fpir.tolist() == [0, 0.5, 1]
    stranger = torch.tensor([[0, 0, 1.0]])
    _, errors = identify(
        torch.cat([probe, stranger]), torch.tensor([10, 20, 10, 50, 60, 70]), gallery, person,
        fpir=[0],
    )  # fmt: skip
    assert errors.fnir.tolist() == [1]
    with pytest.raises(ValueError, match="The gallery has no image"):
        identify(probe, label, gallery[:0], person[:0])


def test_metric_over_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(40) // 4
    embedding = torch.randn(10, 6, generator=generator)[label]
    embedding = embedding + torch.randn(40, 6, generator=generator)
    index, is_probe = torch.arange(40), torch.arange(40) % 4 < 3
    is_probe[20:] = True
    for protocol in ("distractors", "gallery"):
        metric = Identification(6, protocol, ks=(1, 5), rates=(0.1, 1e-6))
        for part in torch.randperm(40, generator=generator).split(9):
            rows = torch.cat([part, part[:2]])
            metric.update(embedding[rows], label[rows], index[rows], is_probe[rows])
        values = metric.compute()
        given_probe = (embedding[is_probe], label[is_probe])
        if protocol == "distractors":
            found = identify_among_distractors(*given_probe, embedding[~is_probe], (1, 5))
            assert set(values) == {"rank@1", "rank@5", "tar@far=1e-1", "curves"}
        else:
            gallery = (embedding[~is_probe], label[~is_probe])
            found, errors = identify(*given_probe, *gallery, (1, 5), [0.1])
            assert set(values) == {"rank@1", "rank@5", "fnir@fpir=1e-1"}
            assert values["fnir@fpir=1e-1"] == errors.fnir[0]
        assert [values["rank@1"], values["rank@5"]] == found.rate.tolist()
        metric.reset()
        metric.update(embedding[:0], label[:0], index[:0], is_probe[:0])
        assert metric.compute() == {}
