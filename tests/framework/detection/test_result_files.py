import pytest
import torch

from framework.detection.result_files import read_results, write_results

CLASSES = ["plane", "small-vehicle"]


def detections(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(number, generator=generator).sort(descending=True).values
    return {
        "boxes": torch.randn(number, 4, 2, generator=generator) * 1000,
        "scores": scores,
        "labels": torch.randint(2, (number,), generator=generator),
    }


def test_every_bit_comes_back(tmp_path):
    written = [detections(40), detections(0), detections(3, seed=1)]
    names = ["P0001", "P0002", "x__1__0___0"]
    write_results(tmp_path, written, names, CLASSES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Task1_plane.txt",
        "Task1_small-vehicle.txt",
    ]
    for before, after in zip(written, read_results(tmp_path, names, CLASSES), strict=True):
        for name in before:
            assert torch.equal(before[name], after[name])
            assert before[name].dtype == after[name].dtype


def test_a_class_of_which_nothing_was_found_has_an_empty_file(tmp_path):
    write_results(tmp_path, [detections(0)], ["P0001"], CLASSES)
    assert (tmp_path / "Task1_plane.txt").read_text() == ""


def test_a_second_run_replaces_the_first(tmp_path):
    write_results(tmp_path, [detections(9)], ["P0001"], CLASSES)
    write_results(tmp_path, [detections(2)], ["P0001"], CLASSES)
    assert len(read_results(tmp_path, ["P0001"], CLASSES)[0]["scores"]) == 2


@pytest.mark.parametrize(
    ("found", "names", "classes", "message"),
    [
        ([1], [], CLASSES, "1 images have results but 0 a name"),
        ([1], ["a b"], CLASSES, "'a b' cannot stand in a result file: it has white space"),
        ([1], [""], CLASSES, "'' cannot stand"),
        ([1], ["a"], ["plane", "small vehicle"], "'small vehicle' cannot stand"),
        ([9], ["a"], ["plane"], "a: label 1 is none of 1 classes"),
    ],
)
def test_what_cannot_be_written(tmp_path, found, names, classes, message):
    with pytest.raises(ValueError, match=message):
        write_results(tmp_path, [detections(n) for n in found], names, classes)
    assert not list(tmp_path.iterdir()), "nothing is half-written"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("P0002 0.5 0 0 1 0 1 1 0 1", "no image is called P0002"),
        ("P0001 0.5 0 0 1 0 1 1 0", "not 'image score x1"),
        ("P0001 0.5 0 0 1 0 1 1 0 1 1", "not 'image score x1"),
        ("P0001 0.5 0 0 1 0 1 1 0 nan", "not 'image score x1"),
        ("P0001 much 0 0 1 0 1 1 0 1", "not 'image score x1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    good = "P0001 0.5 0 0 1 0 1 1 0 1\n\n"
    (tmp_path / "Task1_plane.txt").write_text(good + line)
    with pytest.raises(ValueError, match=f"Task1_plane.txt, line 3: {message}"):
        read_results(tmp_path, ["P0001"], ["plane"])


def test_a_missing_class_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Task1_plane.txt does not exist"):
        read_results(tmp_path, ["P0001"], ["plane"])


@pytest.mark.parametrize("name", ["a/../../thesis", "..", "/etc/x", "a\0b", "a\\b", 3])
def test_a_class_leads_nowhere(tmp_path, name):
    folder = tmp_path / "detections"
    (folder / "Task1_a").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"A class is called .*, which a file cannot be called"):
        write_results(folder, [detections(0)], ["P0001"], ["plane", name])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
