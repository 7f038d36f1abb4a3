"""SAF's term on two ranks, after a kill, and on another number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from framework.data.samplers import GlobalBatchSampler
from framework.objectives.errors import IncompatibleError
from framework.utilities.randomness import stable_seed
from tests.helpers.configs import arguments, one_of_many
from tests.helpers.runs import DDP, differences, fit, fit_in_child, fit_on_two_ranks, terms
from tests.test_parity import FLOAT64, PLAIN_SGD, assert_parity, compare
from tests.test_resume import EVERY, KILLED, assert_close, assert_same_bits, kill_and_resume, last

# without a GPU the memory of the device is that of the CPU
LEFT = [one_of_many(name, quick=False) for name in ("cpu", "device")]
MAPPED = ["memmap", one_of_many("exchange", quick=False), *LEFT]
EXCHANGED = ["exchange", one_of_many("memmap", quick=False), *LEFT]


def overlay(folder: Path, name: str = "SAF", **arguments: Any) -> str:
    """Return the argument that adds a callback."""
    path = folder / f"{name.lower()}.yaml"
    callback = {"class_path": name, "init_args": arguments}
    path.write_text(yaml.safe_dump({"trainer": {"callbacks+": [callback]}}))
    return f"--config={path}"


def saf_run(folder: Path, storage: str, **more: Any) -> list[str]:
    """Return a run whose term is active from its third epoch of four steps on."""
    settings = {"lag_epochs": 2, "start_epoch": 1, "dtype": "float64", "storage": storage}
    args = [*arguments("classifier"), overlay(folder, **settings | more), "--trainer.max_epochs=5"]
    return [*args, "--data.shards=2"] if storage in ("cpu", "device") else args


def root(folder: Path) -> str:
    return f"--run_folder={folder}"


@pytest.mark.parametrize(
    "idle",
    [
        one_of_many({"weight": 0.0, "start_epoch": 0, "lag_epochs": 1}, quick=False),
        {"start_epoch": 2},
    ],
)
def test_without_weight_or_before_its_start_nothing_changes(idle, tmp_path):
    args = [*arguments("classifier"), "--trainer.max_epochs=3"]
    plain = fit([*args, root(tmp_path / "plain")])
    saf = fit([*args, overlay(tmp_path, **idle), root(tmp_path / "saf")])
    assert differences(plain.parameters, saf.parameters) == []
    assert differences(plain.optimizer, saf.optimizer) == []
    assert [s["terms"]["loss"] for s in plain.steps] == [s["terms"]["loss"] for s in saf.steps]
    assert any("saf" in s["terms"] for s in saf.steps) == ("weight" in idle)


@pytest.mark.parametrize("storage", MAPPED)
def test_two_ranks_equal_one_process(storage, tmp_path, two_ranks):
    args = [*saf_run(tmp_path, storage), *FLOAT64, *PLAIN_SGD, "--trainer.max_steps=14"]
    one, two = compare(args, tmp_path, two_ranks)
    for record in (one, two):
        active = [terms(s) for s in record.steps if "saf" in s["terms"]]
        assert len(active) == 6
        assert all(t["saf"] > 1e-9 and t["saf_valid"] == 1 for t in active)


def with_duplicates(self, epoch, name, rows):
    generator = torch.Generator().manual_seed(stable_seed(self.seed, epoch, name))
    return torch.randint(rows // 2, (rows,), generator=generator)


def fit_with_duplicates(args, fit=fit, **recorder):
    order, GlobalBatchSampler._order = GlobalBatchSampler._order, with_duplicates
    try:
        return fit(args, **recorder)
    finally:
        GlobalBatchSampler._order = order


def fit_with_duplicates_on_two_ranks(args, **recorder):
    return fit_with_duplicates(args, fit_on_two_ranks, **recorder)


@pytest.mark.parametrize("storage", ["memmap", one_of_many("exchange", quick=False)])
def test_duplicates_are_resolved_the_same_way_on_two_ranks(storage, tmp_path, two_ranks):
    args = [*saf_run(tmp_path, storage, lag_epochs=1, start_epoch=0), *FLOAT64, *PLAIN_SGD]
    one = fit_with_duplicates([*args, root(tmp_path / "one")], gradients=True)
    again = fit_with_duplicates([*args, root(tmp_path / "again")], gradients=True)
    assert one.steps == again.steps
    two = two_ranks(fit_with_duplicates_on_two_ranks, [*args, root(tmp_path)], gradients=True)[0]
    assert_parity(one, two)
    assert any(len(set(s["index"])) < len(s["index"]) for s in one.steps[4:])
    assert terms(two.steps[-1])["saf"] > 1e-9


@pytest.mark.parametrize("storage", MAPPED)
def test_resume_is_bitwise(storage, tmp_path):
    args = saf_run(tmp_path, storage, dtype="float16")
    whole, resumed = kill_and_resume(args, tmp_path, kill_at=11)
    assert_same_bits(whole, resumed)
    assert terms(resumed.steps[0])["saf_valid"] == 1
    folder = tmp_path / "killed" / "checkpoints"
    token = torch.load(folder / "last.ckpt", weights_only=True)["shards"]
    assert [p.name for p in folder.glob("last.ckpt.*")] == [f"last.ckpt.{token}.shards"]
    names = sorted(p.name for p in (folder / f"last.ckpt.{token}.shards").iterdir())
    assert names == [f"SAF.{t}-{s}-0-of-1.pt" for t in ("history", "written") for s in range(3)]


def interrupted_on_two_ranks(args: list[str], step: int) -> int:
    try:
        fit([*args, *DDP], terminate_at=step)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize("storage", EXCHANGED)
def test_resume_on_two_ranks_and_back(storage, tmp_path, two_ranks):
    args = [*saf_run(tmp_path, storage), "--trainer.precision=64-true", *PLAIN_SGD, EVERY]
    code, whole = fit_in_child([*args, root(tmp_path / "whole")], tmp_path / "whole.pt")
    assert code == 0
    args = [*args, root(tmp_path / "moved")]
    # one process until step 10, two ranks until step 14, one process again
    assert fit_in_child(args, tmp_path / "none.pt", kill_at=11)[0] == KILLED
    args = [*args, last(tmp_path / "moved")]
    assert min(two_ranks(interrupted_on_two_ranks, args, 13)) > 128
    shards = list((tmp_path / "moved" / "checkpoints").glob("last.ckpt.*/SAF.history-0-*-of-2.pt"))
    assert len(shards) == 2
    code, resumed = fit_in_child(args, tmp_path / "resumed.pt")
    assert code == 0
    assert len(resumed.steps) == len(whole.steps) - 14
    assert_close(whole, resumed)
    assert all(terms(s)["saf_valid"] == 1 and terms(s)["saf"] > 1e-9 for s in resumed.steps)


def test_a_history_that_is_not_saved_is_masked_after_a_resume(tmp_path):
    args = [*saf_run(tmp_path, "auto", save_history="none"), EVERY, root(tmp_path)]
    assert fit_in_child(args, tmp_path / "none.pt", kill_at=9)[0] == KILLED
    assert list((tmp_path / "checkpoints").glob("*.shards")) == []
    code, resumed = fit_in_child([*args, last(tmp_path)], tmp_path / "resumed.pt")
    assert code == 0
    valid = {}
    for step in resumed.steps:
        values = terms(step)
        valid.setdefault(step["epoch"], set()).add(values["saf_valid"])
        if values["saf_valid"] == 0:
            assert values["saf"] == 0
            assert values["loss"] == values["classification"]
    assert valid == {2: {0.0}, 3: {0.0}, 4: {1.0}}


def message_of(args: list[str]) -> str:
    try:
        fit([*args, *DDP])
    except IncompatibleError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("storage", ["cpu", "device"])
def test_memory_of_one_process_is_refused_on_two_ranks(storage, tmp_path, two_ranks):
    args = [*saf_run(tmp_path, storage), "--data.shards=null", root(tmp_path)]
    for message in two_ranks(message_of, args):
        assert message == (
            f"SAF: storage={storage!r} on 2 ranks needs a fixed assignment of samples to ranks: "
            "set data.shards=2, or use memmap or exchange."
        )
