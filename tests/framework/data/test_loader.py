"""Loading processes where nobody says their number."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from datamodules import Digits
from datamodules.image_datasets import ImageFiles, ImageSet, JoinedImages
from framework.data.loader import usual_workers


@pytest.mark.parametrize(
    ("cores", "ranks", "task", "expected"),
    [
        (64, 1, "", 8),
        (16, 4, "", 4),
        (2, 1, "", 2),
        (2, 4, "", 1),
        (64, 8, "6", 6),
        (4, 4, "12", 8),
    ],
)
def test_a_rank_takes_its_cores(monkeypatch, cores, ranks, task, expected) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", task)
    assert usual_workers(ranks) == expected


def loader(kind: str, num_workers: int | None = None, files: bool = False, **options):
    data = Digits(num_workers=num_workers, **options)
    data.setup("fit")
    if files:
        images = ImageFiles(["1.png"] * 5, torch.zeros(5, dtype=torch.int64), ".", (1, 8, 8))
        data.train_set = images
    strategy = SimpleNamespace(root_device=torch.device(kind))
    data.trainer = SimpleNamespace(
        strategy=strategy, num_devices=1, global_rank=0, world_size=1, overfit_batches=0
    )
    return data.train_dataloader().loader


def test_only_a_gpu_is_kept_busy_and_only_where_there_is_work(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "")
    for options, workers in (({}, 0), ({"files": True}, 3), ({"mixup": 0.5}, 3)):
        assert loader("cpu", **options).num_workers == 0
        found = loader("cuda", **options)
        assert (found.num_workers, found.persistent_workers) == (workers, workers > 0)
        assert found.pin_memory
        assert not loader("cpu", **options).pin_memory
    for number in (0, 1):
        assert loader("cuda", number, files=True).num_workers == number
        assert loader("cpu", number).num_workers == number


def test_joined_images_are_decoded_where_one_of_them_is() -> None:
    label = {"label": torch.zeros(3, dtype=torch.int64)}
    memory = ImageSet(image=torch.zeros(2, 1, 8, 8), label=torch.zeros(2, dtype=torch.int64))
    files = ImageFiles(["1.png"], None, ".", (1, 8, 8))
    assert JoinedImages([memory, files], label, (1, 8, 8)).decodes
    assert not JoinedImages([memory], label, (1, 8, 8)).decodes
