"""A fault that is planted in a step is found, with its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch

from modules.classifier import Classifier
from tests.helpers.configs import arguments
from tests.pretended_gpu.bounds import exceeded, of_one_process, of_two_ranks
from tests.pretended_gpu.measure import (
    ONE_GPU,
    TWO_GPUS,
    Measurement,
    measure,
    measure_on_two_ranks,
)

FEW_STEPS = [
    *arguments("classifier"),
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=0",
    "--trainer.enable_checkpointing=false",
    "--trainer.logger=false",
]


def copy_to_the_host(x):
    x.cpu()


def read_a_number(x):
    x.sum().item()


def copy_as_float64(x):
    for _ in range(9):
        x.double()


def add_a_tensor_of_the_cpu(x):
    x + torch.zeros(x.shape)


def draw_by_a_generator_of_the_cpu(x):
    torch.empty_like(x).normal_(generator=torch.Generator())


def hand_to_numpy(x):
    x.numpy()


def reduce_a_tensor_of_the_cpu(x):
    torch.distributed.all_reduce(torch.zeros(1))


def reduce_once_more(x):
    torch.distributed.all_reduce(x.sum())


def gather_objects(x):
    torch.distributed.all_gather_object([None, None], 1)


PLANTS: dict[str, Callable[[torch.Tensor], Any]] = {
    plant.__name__: plant
    for plant in (
        copy_to_the_host,
        read_a_number,
        copy_as_float64,
        add_a_tensor_of_the_cpu,
        draw_by_a_generator_of_the_cpu,
        hand_to_numpy,
        reduce_a_tensor_of_the_cpu,
        reduce_once_more,
        gather_objects,
    )
}


def planted(name: str) -> Any:
    """Let every step of a classifier commit a fault inside the block."""
    original = Classifier.objectives

    def objectives(self, batch):
        if name in PLANTS:
            PLANTS[name](batch["image"])
        return original(self, batch)

    return mock.patch.object(Classifier, "objectives", objectives)


def fit(name: str, folder) -> Measurement:
    with planted(name):
        found = measure(["fit", *FEW_STEPS, *ONE_GPU, f"--run_folder={folder}"])
    # a mixture is computed after it was noted, and NumPy is not
    assert found.error is None
    return found


def plant_on_rank(name: str) -> None:
    """Plant a fault on this rank, or take it away."""
    if name:
        plant_on_rank.patch = planted(name)
        plant_on_rank.patch.start()
    else:
        plant_on_rank.patch.stop()


def fit_on_two_ranks(two_ranks, name: str, folder) -> list[Measurement]:
    two_ranks(plant_on_rank, name or "nothing")
    args = ["fit", *FEW_STEPS, *TWO_GPUS, f"--run_folder={folder}"]
    try:
        ranks = measure_on_two_ranks(two_ranks, args)
    finally:
        two_ranks(plant_on_rank, "")
    assert [rank.error for rank in ranks] == [None, None]
    return ranks


def above_bounds(found: Measurement) -> list[str]:
    return exceeded("classifier", of_one_process({"fit": found}))


def test_nothing_is_found_where_nothing_is_planted(tmp_path):
    found = fit("", tmp_path)
    assert not found.faults
    assert not above_bounds(found)


@pytest.mark.parametrize(
    ("name", "title", "kind"),
    [
        ("copy_to_the_host", "host waits of a training step: 1, pinned 0", "wait"),
        ("read_a_number", "host waits of a training step: 1, pinned 0", "wait"),
        ("copy_as_float64", "operations on float64", "float64"),
    ],
)
def test_a_cost_is_above_its_bound(name, title, kind, tmp_path):
    found = fit(name, tmp_path)
    assert any(title in line for line in above_bounds(found))
    where = [place.where[0] for place in found.places["training step"][kind]]
    assert any(line.startswith("tests/pretended_gpu/test_planted.py") for line in where)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("add_a_tensor_of_the_cpu", "at least two devices, cuda:0 and cpu"),
        ("draw_by_a_generator_of_the_cpu", "'cuda' device type for generator but found 'cpu'"),
        ("hand_to_numpy", "can't convert cuda:0 device type tensor to numpy"),
    ],
)
def test_what_cuda_would_refuse_is_named(name, message, tmp_path):
    faults = fit(name, tmp_path).faults
    assert len(faults) == 3  # one a step
    assert message in faults[0]
    assert (
        f"tests/pretended_gpu/test_planted.py:{PLANTS[name].__code__.co_firstlineno + 1}"
        in (faults[0])
    )


@pytest.fixture(scope="module")
def unplanted(two_ranks, tmp_path_factory) -> list[Measurement]:
    """What two ranks do where nothing is planted."""
    return fit_on_two_ranks(two_ranks, "", tmp_path_factory.mktemp("unplanted"))


def test_nothing_is_refused_on_two_ranks_where_nothing_is_planted(unplanted):
    assert not any(rank.faults for rank in unplanted)


def test_nccl_takes_no_tensor_of_the_cpu(two_ranks, tmp_path):
    for rank in fit_on_two_ranks(two_ranks, "reduce_a_tensor_of_the_cpu", tmp_path):
        assert "No backend type associated with device type cpu (all_reduce)" in rank.faults[0]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("reduce_once_more", "collectives"),
        ("gather_objects", "host waits of a training step on two ranks"),
    ],
)
def test_a_collective_is_above_its_bound(name, title, two_ranks, unplanted, tmp_path):
    ranks = fit_on_two_ranks(two_ranks, name, tmp_path)
    bounds = {"classifier": of_two_ranks(unplanted)}
    assert any(title in line for line in exceeded("classifier", of_two_ranks(ranks), bounds))
