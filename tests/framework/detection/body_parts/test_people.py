"""People of images, and batches of them."""

from __future__ import annotations

import torch

from framework.detection.body_parts.people import (
    NAMES,
    People,
    PeopleTable,
    pad_people,
    people_of,
)


def some(number: int, first: int = 1) -> People:
    value = torch.arange(first, first + number)
    return People(
        bodies=value.float()[:, None].expand(-1, 4),
        parts=value.float()[:, None, None].expand(-1, 2, 4),
        visible=(value % 2 == 0)[:, None].expand(-1, 2),
        part_ignored=(value % 3 == 0)[:, None].expand(-1, 2),
        visible_ratio=value / 10,
        ignored=value % 4 == 0,
    )


def same(one: People, other: People) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in NAMES)


def test_padding_is_nobody():
    images = [some(1, 5), People.none(2), some(3, 7)]
    batch = pad_people([{"image": torch.zeros(3, 2, 2), **one.fields()} for one in images])
    assert batch["image"].shape == (3, 3, 2, 2)
    assert batch["num_people"].tolist() == [1, 0, 3]
    assert batch["bodies"][..., 0].tolist() == [[5, 0, 0], [0, 0, 0], [7, 8, 9]]
    assert batch["parts"].shape == (3, 3, 2, 4)
    assert batch["visible"][..., 1].tolist() == [[False] * 3, [False] * 3, [False, True, False]]
    assert batch["ignored"].tolist() == [[False] * 3, [False] * 3, [False, True, False]]
    dtypes = [torch.float32] * 2 + [torch.bool] * 2 + [torch.float32, torch.bool]
    assert [batch[name].dtype for name in NAMES] == dtypes
    for people, found in zip(images, people_of(batch), strict=True):
        assert same(people, People(**found))


def test_a_batch_without_people_has_one_place_for_them():
    batch = pad_people([People.none(2).fields()] * 2)
    assert batch["bodies"].shape == (2, 1, 4)
    assert batch["num_people"].tolist() == [0, 0]
    assert batch["num_people"].dtype == torch.int64


def test_images_alone_are_a_batch_too():
    assert list(pad_people([{"image": torch.zeros(3, 2, 2)}])) == ["image"]


def test_a_table_returns_what_was_put_in():
    images = [some(2, 3), People.none(2), some(1, 9)]
    table = PeopleTable(images, num_slots=2)
    assert len(table) == 3
    assert all(same(table[k], images[k]) for k in range(3))
    table[0].fields()["bodies"].add_(1)
    assert same(table[0], images[0])
    assert PeopleTable([], num_slots=5).rows.parts.shape == (0, 5, 4)


def test_rows_are_chosen_in_all_fields():
    people = some(4)
    assert same(people[torch.tensor([2])], some(1, 3))
    assert same(people[1:3], some(2, 2))
    assert same(People.of({**people.fields(), "image": 0}), people)


def persons(x0: list[list[float]], visible: list[list[bool]], ignored: list[list[bool]]) -> People:
    left = torch.tensor(x0)
    n = len(left)
    return People(
        bodies=torch.zeros(n, 4),
        parts=torch.stack([left, left, left + 1, left + 1], -1),
        visible=torch.tensor(visible),
        part_ignored=torch.tensor(ignored),
        visible_ratio=torch.ones(n),
        ignored=torch.zeros(n, dtype=torch.bool),
    )


def test_slots_of_a_class_are_in_the_order_of_their_left_edges():
    off, on = [False] * 4, [True] * 4
    # hands in slots 0 and 2, a head in slot 1, and a foot that stays where it is
    classes = (2, 1, 2, 3)
    people = persons(
        [[9.0, 1, 5, 0], [5.0, 1, 9, 0], [0.0, 1, 5, 3], [2.0, 1, 7, 3]],
        [on, on, [False, True, True, True], [False, True, False, True]],
        [off, off, off, [False, False, True, False]],
    ).sorted_slots(classes)
    expected = [[5, 1, 9, 0], [5, 1, 9, 0], [5, 1, 0, 3], [7, 1, 2, 3]]
    assert people.parts[..., 0].tolist() == expected
    assert people.visible[2].tolist() == [True, True, False, True]
    assert people.part_ignored[3].tolist() == [True, False, False, False]
    assert same(people.sorted_slots(classes), people)
    assert same(People.none(4).sorted_slots(classes), People.none(4))


def test_parts_move_to_other_slots():
    people = some(2).in_slots([2, 0], num_slots=4)
    assert people.parts[..., 0].tolist() == [[1, 0, 1, 0], [2, 0, 2, 0]]
    assert people.visible.tolist() == [[False] * 4, [True, False, True, False]]
    assert torch.equal(people.bodies, some(2).bodies)
