"""The harnesses catch what they are there to catch: each of these faults must turn them red."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback

import framework.data.datamodule
import framework.runs.resume
import framework.training.module
from framework.objectives.reduction import ReducedObjectives
from framework.training.objectives_callback import ObjectivesCallback
from tests.helpers import runs
from tests.helpers.configs import arguments
from tests.test_parity import FLOAT64, PLAIN_SGD, compare
from tests.test_resume import assert_same_bits, kill_and_resume


class Jitter(ObjectivesCallback):
    """Scales each sample's loss by a number from the global generator, as many methods would."""

    needs = ("per_sample",)

    def on_objectives(self, trainer, module, objectives, batch):
        rows = len(objectives.per_sample["classification"])
        objectives.sample_weight = 0.5 + torch.rand(rows)


def plain_mean(objectives):
    """A mean over this rank's rows, which DDP then averages over ranks: wrong if they differ."""
    terms = {name: values.mean() for name, values in objectives.per_sample.items()}
    total = sum(terms.values())
    return ReducedObjectives(
        terms, total, torch.tensor(objectives.rows), torch.zeros(len(terms)).bool()
    )


def fit_with_plain_mean(args, **recorder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framework.training.module, "reduce_objectives", plain_mean)
        return runs.fit_on_two_ranks(args, **recorder)


def test_parity_catches_a_mean_per_rank(tmp_path, two_ranks):
    def faulty(function, *args, **kwargs):
        return two_ranks(fit_with_plain_mean, *args, **kwargs)

    with pytest.raises(AssertionError):
        compare([*arguments("classifier"), *FLOAT64, *PLAIN_SGD], tmp_path, faulty)


@pytest.mark.combination
def test_resume_needs_the_generators(tmp_path, monkeypatch):
    fit = runs.fit

    def noisy(args, **recorder):
        return fit(args, extra=[Jitter()], **recorder)

    monkeypatch.setattr(runs, "fit", noisy)
    assert_same_bits(*kill_and_resume(arguments("classifier"), tmp_path, kill_at=7))


@pytest.mark.combination
def test_resume_catches_a_forgotten_generator(tmp_path, monkeypatch):
    fit = runs.fit
    monkeypatch.setattr(runs, "fit", lambda args, **r: fit(args, extra=[Jitter()], **r))
    monkeypatch.setattr(framework.runs.resume, "restore_rng", lambda state: None)
    with pytest.raises(AssertionError):
        assert_same_bits(*kill_and_resume(arguments("classifier"), tmp_path, kill_at=7))


@pytest.mark.combination
def test_resume_catches_a_stale_epoch(tmp_path, monkeypatch):
    true_progress = framework.data.datamodule.training_progress
    monkeypatch.setattr(
        framework.data.datamodule, "training_progress", lambda t: (0, true_progress(t)[1])
    )
    with pytest.raises(AssertionError):
        assert_same_bits(*kill_and_resume(arguments("classifier"), tmp_path, kill_at=7))


def test_resume_catches_a_lost_position(tmp_path, monkeypatch):
    monkeypatch.setattr(
        framework.data.datamodule.DataModule, "load_state_dict", lambda self, state: None
    )
    true_progress = framework.data.datamodule.training_progress
    monkeypatch.setattr(
        framework.data.datamodule, "training_progress", lambda t: (true_progress(t)[0], 0)
    )
    with pytest.raises(AssertionError):
        assert_same_bits(*kill_and_resume(arguments("classifier"), tmp_path, kill_at=7))


def test_a_stale_epoch_is_not_only_caught_on_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(framework.data.datamodule, "training_progress", lambda t: (0, 0))
    record = runs.fit([*arguments("classifier"), f"--run_folder={tmp_path}"])
    first, second = record.steps[:4], record.steps[4:8]
    assert [s["index"] for s in first] == [s["index"] for s in second], "the fault was not planted"


def test_every_epoch_has_an_order_of_its_own(tmp_path):
    record = runs.fit([*arguments("classifier"), f"--run_folder={tmp_path}"])
    first, second = record.steps[:4], record.steps[4:8]
    assert [s["index"] for s in first] != [s["index"] for s in second]
    assert sorted(i for s in first for i in s["index"]) == sorted(
        i for s in second for i in s["index"]
    )


def test_diverged_ranks_are_reported(two_ranks, tmp_path):
    args = [*arguments("classifier"), f"--run_folder={tmp_path}"]
    for message in two_ranks(message_of_diverging_run, args):
        assert "diverged" in message
        assert "network.head.bias" in message


class Nudge(Callback):
    """Changes one parameter on one rank, as a forgotten all-reduce would."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_rank == 1 and batch_idx == 1:
            with torch.no_grad():
                pl_module.network.head.bias[0] += 1e-3


def message_of_diverging_run(args):
    try:
        runs.fit([*args, *runs.DDP, "--trainer.max_epochs=1"], extra=[Nudge()])
    except RuntimeError as error:
        return str(error)
    return ""
