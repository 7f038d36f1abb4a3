from itertools import chain

import pytest
import torch

from framework.data.class_sampling import ClassBatchSampler
from framework.data.datasets import ArrayDataset
from framework.data.episodes import EpisodeSet
from framework.data.unbalanced_queries import dirichlet_counts

LABEL = torch.arange(40) % 5


def make(number=20, label=LABEL, **options):
    images = ArrayDataset(image=torch.arange(float(len(label)))[:, None], label=label)
    shape = {"ways": 3, "shots": 2, "queries": 4, "seed": 0}
    return EpisodeSet(images, label, number, **{**shape, **options})


def test_no_query_is_a_support():
    batch = make(number=200).batch(torch.arange(200))
    assert batch["image"].shape == (200, 18, 1)
    for image in batch["image"].flatten(1):
        assert len(image.unique()) == 18


def test_supports_come_first_and_labels_are_those_of_the_episode():
    batch = make().batch([0, 1, 2])
    assert batch["label"][0].tolist() == [0, 0, 1, 1, 2, 2, *[0] * 4, *[1] * 4, *[2] * 4]
    assert batch["support"][2].tolist() == [[0, 1], [2, 3], [4, 5]]
    drawn = LABEL[batch["image"].long()[..., 0]]
    for label, own in zip(drawn, batch["label"], strict=True):
        classes = [label[own == k].unique() for k in range(3)]
        assert all(len(one) == 1 for one in classes)
        assert len(torch.cat(classes).unique()) == 3


def test_evaluation_is_a_function_of_the_number_alone():
    episodes = make()
    whole = episodes.batch(torch.arange(20))["image"]
    assert torch.equal(episodes.batch([7, 3])["image"], whole[[7, 3]])
    assert torch.equal(episodes.batch_of_epoch([7, 3], epoch=4, seed=9)["image"], whole[[7, 3]])
    assert not torch.equal(whole[0], whole[1])
    assert make().digest == episodes.digest
    assert make(seed=1).digest != episodes.digest
    assert make(number=21).digest != episodes.digest


def test_training_draws_by_seed_and_epoch():
    episodes = make(seed=None)
    one = episodes.batch_of_epoch([5], epoch=1, seed=0)["image"]
    assert torch.equal(one, episodes.batch_of_epoch([5], epoch=1, seed=0)["image"])
    assert not torch.equal(one, episodes.batch_of_epoch([5], epoch=2, seed=0)["image"])
    assert not torch.equal(one, episodes.batch_of_epoch([5], epoch=1, seed=1)["image"])
    with pytest.raises(ValueError, match="other episodes in every epoch"):
        _ = episodes.digest


def test_no_episode_keeps_its_shape():
    batch = make().batch([])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "image": (0, 18, 1),
        "label": (0, 18),
        "support": (0, 3, 2),
    }


def test_images_come_in_equal_shares():
    drawn = make(number=600).batch(torch.arange(600))["image"].flatten().long()
    count = drawn.bincount(minlength=40)
    assert count.sum() == 600 * 18
    assert 0.8 < count.min() / 270 < count.max() / 270 < 1.2


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(ValueError, match="6 ways needs as many val classes, and there are 5"):
        make(ways=6, name="val")
    message = "1 of the 5 training classes have fewer than 2 . 4 images, the class 4 has 3"
    with pytest.raises(ValueError, match=message):
        make(label=torch.cat([LABEL[LABEL < 4], torch.full((3,), 4)]))
    with pytest.raises(ValueError, match="ways must be at least 2, got 1"):
        make(ways=1)


def batches(**options):
    sampler = ClassBatchSampler(LABEL, **{"batch_size": 8, "rows_per_class": 4, **options})
    return [[row for _, row in batch] for batch in sampler]


def test_batches_hold_a_few_rows_of_each_of_some_classes():
    found = batches()
    assert len(found) == 5
    for batch in found:
        assert len(set(batch)) == 8
        assert sorted(LABEL[batch].bincount().tolist()[k] for k in set(LABEL[batch].tolist())) == [
            4,
            4,
        ]
    assert batches() == found
    assert batches(seed=1) != found
    assert batches(start=lambda: (1, 0)) != found
    assert batches(start=lambda: (0, 3)) == found[3:]


def test_ranks_take_slices_of_the_same_batches():
    parts = [batches(rank=rank, world_size=3) for rank in range(3)]
    joined = [[*chain(*slices)] for slices in zip(*parts, strict=True)]
    assert joined == batches()


def test_a_small_class_gives_rows_again():
    label = torch.tensor([0] * 9 + [1] * 3)
    sampler = ClassBatchSampler(label, batch_size=14, rows_per_class=7)
    (batch,) = list(sampler)
    rows = torch.tensor([row for _, row in batch])
    assert (label[rows] == 1).sum() == 7
    assert sorted(rows[label[rows] == 1].bincount()[9:].tolist()) == [2, 2, 3]


def test_more_classes_than_there_are_is_refused():
    with pytest.raises(ValueError, match="at most 20, as there are 5 classes"):
        batches(batch_size=24)
    with pytest.raises(ValueError, match="a multiple of 4"):
        batches(batch_size=10)


def test_equal_shares_are_drawn_as_they_always_were():
    assert make().digest == "2943e09d9e29ecf5"


def test_unbalanced_queries_are_as_many_in_all_and_of_drawn_shares():
    episodes = make(number=300, label=torch.arange(400) % 5, dirichlet=2.0)
    batch = episodes.batch(torch.arange(300))
    assert batch["image"].shape == (300, 18, 1)
    assert batch["support"].shape == (300, 3, 2)
    assert (batch["label"][:, :6] == torch.tensor([0, 0, 1, 1, 2, 2])).all()
    queries = batch["label"][:, 6:]
    assert (queries.diff(dim=1) >= 0).all()
    count = torch.stack([(queries == k).sum(1) for k in range(3)], dim=1)
    # the shares of each class are Beta(2, 4): of mean 1/3 and standard deviation 0.178
    assert count.float().mean(0).tolist() == pytest.approx([4, 4, 4], abs=0.4)
    assert (count.float() / 12).std().item() == pytest.approx(0.178, abs=0.02)
    drawn = batch["image"].long()[..., 0] % 5
    for label, own in zip(drawn, batch["label"], strict=True):
        assert len({(int(a), int(b)) for a, b in zip(label, own, strict=True)}) == len(own.unique())
    assert all(len(image.unique()) == 18 for image in batch["image"].flatten(1))


def test_unbalanced_episodes_are_functions_of_seed_and_number():
    episodes = make(dirichlet=2.0)
    whole = episodes.batch(torch.arange(20))
    some = episodes.batch([7, 3])
    assert all(torch.equal(some[name], whole[name][[7, 3]]) for name in whole)
    assert episodes.digest not in (make().digest, make(dirichlet=1.0).digest)
    assert make(dirichlet=2.0).digest == episodes.digest
    empty = episodes.batch([])
    assert empty["label"].shape == (0, 18)


def test_a_class_gives_no_more_queries_than_it_has():
    generator = torch.Generator().manual_seed(0)
    for total in range(13):
        for concentration in (0.05, 2.0, 1e6):
            available = torch.tensor([1, 8, 0, 3])
            count = dirichlet_counts(total, available, concentration, generator)
            assert count.sum() == total
            assert (count >= 0).all()
            assert (count <= available).all()
    even = dirichlet_counts(12, torch.tensor([9, 9, 9]), 1e9, generator)
    assert even.tolist() == [4, 4, 4]
    with pytest.raises(ValueError, match="13 queries were asked for of 12 images"):
        dirichlet_counts(13, available, 2.0, generator)
    with pytest.raises(ValueError, match="dirichlet must be"):
        make(dirichlet=0)
