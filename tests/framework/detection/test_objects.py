import pytest
import torch

from framework.detection.objects import Objects, ObjectTable, pad_objects


def some(number, first=0):
    label = torch.arange(first, first + number)
    return Objects(label.float().view(-1, 1, 1).expand(-1, 4, 2), label, label.byte() % 3)


def sample(number, first=0):
    return {"image": torch.full((3, 2, 2), float(first)), **some(number, first).fields()}


def test_padding_is_no_object():
    batch = pad_objects([sample(1, 5), sample(3, 7)])
    assert batch["image"].shape == (2, 3, 2, 2)
    assert batch["label"].tolist() == [[5, -1, -1], [7, 8, 9]]
    assert batch["quads"][..., 0, 0].tolist() == [[5, 0, 0], [7, 8, 9]]
    assert batch["difficult"].tolist() == [[True, False, False], [True, True, False]]
    assert batch["object_weight"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert [batch[name].dtype for name in ("quads", "label", "difficult", "object_weight")] == [
        torch.float32,
        torch.int64,
        torch.bool,
        torch.float32,
    ]


def test_a_batch_without_objects_has_one_place_for_them():
    batch = pad_objects([sample(0), sample(0)])
    assert batch["quads"].shape == (2, 1, 4, 2)
    assert batch["label"].tolist() == [[-1], [-1]]
    assert not batch["object_weight"].any()


def test_objects_of_whole_images_are_padded_apart():
    whole = {f"image_{name}": value for name, value in some(2, 3).fields().items()}
    del whole["image_object_weight"]
    none = {name: value[:0] for name, value in whole.items()}
    batch = pad_objects([{**sample(1), **whole}, {**sample(1), **none}])
    assert batch["label"].shape == (2, 1)
    assert batch["image_label"].tolist() == [[3, 4], [-1, -1]]
    assert batch["image_quads"].shape == (2, 2, 4, 2)


def test_a_table_returns_what_was_put_in():
    images = [some(2, 3), Objects.none(), some(1, 9)]
    table = ObjectTable(images)
    assert [table[k].label.tolist() for k in range(len(table))] == [[3, 4], [], [9]]
    assert table[2].quads.tolist() == images[2].quads.tolist()
    assert len(ObjectTable([])) == 0


def test_fields_are_copies():
    table = ObjectTable([some(2)])
    table[0].fields()["quads"].add_(1)
    assert table[0].quads[0].eq(0).all()


def test_images_of_two_sizes_make_no_batch():
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        pad_objects([sample(1), {**sample(1), "image": torch.zeros(3, 2, 3)}])
