"""Runs on images in tar files, of which one is longer than the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datamodules.test_image_folder import write_classes
from tests.datamodules.test_image_tars import pack
from tests.helpers.configs import arguments
from tests.test_parity import FLOAT64, compare
from tests.test_resume import assert_same_bits, kill_and_resume


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Return the arguments of a run on 27 images in tar files of 1, 4 and 22."""
    write_classes(tmp_path / "photos", count=9)
    files = sorted((tmp_path / "photos").rglob("*.png"))
    assert len(files) == 27
    # the classes lie scattered over the tar files
    files = files[::2] + files[1::2]
    for name, part in (("0", files[:1]), ("1", files[1:5]), ("2", files[5:])):
        content = {f.relative_to(tmp_path / "photos").as_posix(): f.read_bytes() for f in part}
        pack(tmp_path / "shards" / f"{name}.tar", content)
    flip = "--data.augment+={class_path: torchvision.transforms.v2.RandomHorizontalFlip}"
    return [
        *arguments("classifier"),
        "--model.input_shape=null",
        "--model.num_classes=null",
        "--data=ImageTars",
        f"--data.root={tmp_path / 'shards'}",
        "--data.image_size=8",
        "--data.batch_size=5",
        "--data.val_size=3",
        "--data.stratify=true",
        flip,
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(shards, workers, tmp_path):
    # five steps an epoch: the run is killed inside of the second one
    args = [*shards, f"--data.num_workers={workers}"]
    whole, resumed = kill_and_resume(args, tmp_path, kill_at=7)
    assert {step["epoch"] for step in resumed.steps} == {1, 2}
    assert_same_bits(whole, resumed)


def test_two_ranks_equal_one_process(shards, tmp_path, two_ranks):
    one, _ = compare([*shards, *FLOAT64], tmp_path, two_ranks)
    assert sorted(index for step in one.steps[:5] for index in step["index"]) == sorted(
        {index for step in one.steps for index in step["index"]}
    )
