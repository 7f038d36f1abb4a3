"""Checkpoints are what their names say, and every one of them goes on as if nothing had been."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelPruning,
)
from torch.optim.lr_scheduler import ReduceLROnPlateau as Plateau

from framework.runs.csv_logger import RunLogger, read_metrics
from framework.runs.run_checkpoint import RunCheckpoint
from tests.helpers.configs import one_of_many
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

BATCHES = 6


class Scored(TinyModule):
    """Validates with the scores that it is given, by the number of the validation."""

    scores = (0.5, 0.4, 0.9, 0.3, 0.6, 0.7, 0.2, 0.1, 0.95, 0.85, 0.0, 0.05)

    def __init__(self, plateau: str | None = None) -> None:
        super().__init__()
        self.optimizer = lambda groups: torch.optim.SGD(groups, lr=0.25, momentum=0.5)
        if plateau is not None:
            self.lr_scheduler = lambda optimizer: self.make_plateau(optimizer, plateau)
        self.register_buffer("validations", torch.tensor(0))

    def make_plateau(self, optimizer: Any, monitor: str) -> Plateau:
        schedule = Plateau(optimizer, mode="max", factor=0.5, patience=0)
        schedule.monitor = monitor  # type: ignore[attr-defined]
        return schedule

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self.log("val/score", self.scores[int(self.validations) % len(self.scores)])
            self.validations += 1


class Trace(Callback):
    """Notes every batch, validation and epoch's end with what it saw of the run."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def note(self, trainer: Any, *what: Any) -> None:
        module = trainer.lightning_module
        weights = tuple(module.network.weight.flatten().tolist())
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.events.append((*what, trainer.global_step, trainer.current_epoch, rate, weights))

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, i: int
    ) -> None:
        self.note(trainer, "batch", i, *batch["index"].tolist())

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.note(trainer, "validation", float(trainer.callback_metrics["val/score"]))

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.note(trainer, "epoch", trainer.fit_loop.epoch_progress.current.processed)


def run(
    folder: Path,
    *checkpoints: RunCheckpoint,
    ckpt_path: Path | None = None,
    module: Scored | None = None,
    callbacks: tuple[Callback, ...] = (),
    **settings: Any,
) -> list[tuple[Any, ...]]:
    torch.set_num_threads(1)
    trace = Trace()
    settings = {"max_epochs": 2, **settings}
    logger = RunLogger(str(folder))
    trainer = tiny_trainer(folder, [*callbacks, trace, *checkpoints], [logger], **settings)
    torch.manual_seed(0)
    trainer.fit(module or Scored(), TinyData(), ckpt_path=ckpt_path)
    return trace.events


def every(folder: Path, **settings: Any) -> RunCheckpoint:
    """Return a checkpoint that keeps all its files."""
    return RunCheckpoint(folder / "files", "last", save_top_k=-1, **settings)


def best(folder: Path, **settings: Any) -> RunCheckpoint:
    return RunCheckpoint(folder, "best", "val/score", mode="max", **settings)


def files(folder: Path) -> dict[int, Path]:
    """Return the kept files by their step."""
    found = {}
    for path in folder.glob("*-step*.ckpt"):
        match = re.search(r"-step(\d+)", path.name)
        assert match is not None
        found[int(match.group(1))] = path
    return dict(sorted(found.items()))


def score_and_weights(path: Path) -> tuple[int, Any]:
    saved = torch.load(path, weights_only=True)
    return saved["global_step"], saved["state_dict"]["network.weight"]


def steps(events: list[tuple[Any, ...]]) -> list[int]:
    """Return the number of optimizer steps after each batch."""
    return [event[-4] for event in events if event[0] == "batch"]


# ---- every file can be resumed ------------------------------------------------------------------

CASES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "each epoch": ("train/loss_epoch", {}),
    "each step, validations inside the epoch": (
        "val/score",
        {"every_n_train_steps": 1, "val_check_interval": 2},
    ),
    "validations at odd places": (None, {"every_n_train_steps": 1, "val_check_interval": 4}),
    "rare validations": ("val/score", {"every_n_train_steps": 1, "check_val_every_n_epoch": 2}),
    "a limit of steps": ("val/score", {"every_n_train_steps": 1, "max_steps": 8, "max_epochs": -1}),
    "a limit of steps, each epoch": (None, {"max_steps": 8, "max_epochs": -1}),
    "at any time, between steps too": (
        None,
        {"train_time_interval": timedelta(0), "accumulate_grad_batches": 4},
    ),
    "validations between steps": (
        "val/score",
        {"every_n_train_steps": 1, "accumulate_grad_batches": 4, "val_check_interval": 2},
    ),
    "no validation": ("train/loss_epoch", {"every_n_train_steps": 1, "limit_val_batches": 0}),
}


QUICK = ("each step, validations inside the epoch", "validations between steps")


@pytest.mark.parametrize("case", [one_of_many(name, quick=name in QUICK) for name in CASES])
def test_every_file_goes_on_exactly(case: str, tmp_path: Path) -> None:
    plateau, settings = CASES[case]
    settings = dict(settings)
    names = ("every_n_train_steps", "train_time_interval")
    asked: dict[str, Any] = {n: settings.pop(n) for n in names if n in settings}
    whole = run(tmp_path, every(tmp_path, **asked), module=Scored(plateau), **settings)
    kept = files(tmp_path / "files")
    assert len(kept) >= 2
    rows = read_metrics(tmp_path / "metrics.csv")
    for step, path in kept.items():
        if step == max(steps(whole)):
            continue
        resumed = run(
            tmp_path,
            every(tmp_path, **asked),
            ckpt_path=path,
            module=Scored(plateau),
            **settings,
        )
        tail = whole[len(whole) - len(resumed) :]
        assert resumed == tail, step
        # batches whose gradients wait for more follow their step
        first = steps(whole).index(step) + 1
        assert steps(resumed) == steps(whole)[first:]
        assert read_metrics(tmp_path / "metrics.csv") == rows, step


@pytest.mark.parametrize(
    "make",
    [lambda: EMAWeightAveraging(decay=0.9), lambda: GradientAccumulationScheduler({0: 2, 1: 3})],
)
def test_callbacks_of_lightning_go_on_exactly(make: Any, tmp_path: Path) -> None:
    whole = run(tmp_path, every(tmp_path, every_n_train_steps=1), callbacks=(make(),))
    for step in (2, 4):
        path = files(tmp_path / "files")[step]
        again = every(tmp_path, every_n_train_steps=1)
        resumed = run(tmp_path, again, ckpt_path=path, callbacks=(make(),))
        assert steps(resumed) == steps(whole)[-len(steps(resumed)) :]
        assert resumed == whole[-len(resumed) :]


def test_pruning_is_not_resumed(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    pruning = [ModelPruning("l1_unstructured", amount=0.5) for _ in range(2)]
    run(tmp_path, RunCheckpoint(tmp_path, "last"), callbacks=(pruning[0],))
    assert (score_and_weights(last)[1] == 0).any()
    with pytest.raises(ValueError, match="ModelPruning keeps its masks out of the checkpoint"):
        run(tmp_path, RunCheckpoint(tmp_path, "last"), callbacks=(pruning[1],), ckpt_path=last)


# ---- files are what their names say -------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # scores .5 .4 .9 after the batches 2, 4 and 6 of the first epoch, .3 .6 .7 in the second
        ({"val_check_interval": 2, "max_epochs": 1}, 6),
        ({"val_check_interval": 2, "max_steps": 5}, 2),
        ({"val_check_interval": 4}, 4),
        ({"check_val_every_n_epoch": 2, "max_epochs": 3}, 12),
        ({"val_check_interval": 2, "accumulate_grad_batches": 3, "max_epochs": 1}, 2),
        ({"max_epochs": 1}, 6),
    ],
)
def test_the_best_file_holds_the_weights_that_had_the_score(
    settings: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    checkpoint = best(tmp_path)
    events = run(tmp_path, checkpoint, **settings)
    step, weights = score_and_weights(tmp_path / "best.ckpt")
    assert step == expected
    score = float(checkpoint.best_model_score)  # type: ignore[arg-type]
    (validated,) = [e for e in events if e[0] == "validation" and e[1] == score]
    assert validated[-4] == step
    assert validated[-1] == tuple(weights.flatten().tolist())


def test_a_score_of_older_weights_keeps_nothing(tmp_path: Path) -> None:
    checkpoint = best(tmp_path, every_n_train_steps=1)
    run(tmp_path, checkpoint, val_check_interval=2, max_epochs=1)
    assert checkpoint.best_model_path
    assert score_and_weights(tmp_path / "best.ckpt")[0] == 6
    (tmp_path / "best.ckpt").unlink()
    # the validation of step 2 says nothing on step 3
    run(tmp_path, best(tmp_path, every_n_train_steps=3), val_check_interval=2, max_steps=3)
    assert not (tmp_path / "best.ckpt").exists()


@pytest.mark.parametrize("several", [2, -1])
def test_several_best_files_carry_their_scores(several: int, tmp_path: Path) -> None:
    checkpoint = best(tmp_path, save_top_k=several)
    run(tmp_path, checkpoint, val_check_interval=2)
    names = sorted(path.name for path in tmp_path.glob("best-*"))
    kept = {4: "0.4", 2: "0.5", 6: "0.9", 8: "0.3", 10: "0.6", 12: "0.7"}
    chosen = kept if several == -1 else {6: "0.9", 12: "0.7"}
    assert names == sorted(f"best-step{step}-{score}.ckpt" for step, score in chosen.items())
    assert score_and_weights(tmp_path / "best.ckpt")[0] == 6
    for step, path in files(tmp_path).items():
        assert score_and_weights(path)[0] == step


def test_several_last_files_carry_their_steps(tmp_path: Path) -> None:
    run(tmp_path, every(tmp_path, every_n_train_steps=5))
    assert list(files(tmp_path / "files")) == [5, 10, 12]
    assert score_and_weights(tmp_path / "files" / "last.ckpt")[0] == 12


@pytest.mark.parametrize(
    "options", [{"filename": "last", "monitor": "val/score"}, {"save_last": True}]
)
def test_two_checkpoints_of_one_name_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    other = RunCheckpoint(tmp_path, **{"filename": "best", **options})
    with pytest.raises(ValueError, match=r"Two checkpoints would write .*last.ckpt: give each"):
        run(tmp_path, other, RunCheckpoint(tmp_path, "last"))


@pytest.mark.parametrize(
    "settings",
    [
        {"every_n_train_steps": 5},
        {"train_time_interval": timedelta(hours=1)},
        {"every_n_epochs": 5},
        {"every_n_train_steps": 5, "max_steps": 8},
        {"max_steps": 8},
        {"max_steps": 8, "val_check_interval": 2},
    ],
)
def test_the_last_file_is_the_state_at_the_end(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = dict(settings)
    names = ("every_n_train_steps", "train_time_interval", "every_n_epochs")
    asked: dict[str, Any] = {n: settings.pop(n) for n in names if n in settings}
    events = run(tmp_path, RunCheckpoint(tmp_path, "last", **asked), **settings)
    step, weights = score_and_weights(tmp_path / "last.ckpt")
    assert step == settings.get("max_steps", 12)
    assert tuple(weights.flatten().tolist()) == events[-1][-1]


@pytest.mark.parametrize("asked", [{"save_top_k": 0}, {"every_n_epochs": 0}])
def test_what_is_switched_off_saves_nothing(asked: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path, RunCheckpoint(tmp_path, "last", **asked), max_steps=4)
    assert list(tmp_path.glob("*.ckpt")) == []


class StopsAt(Callback):
    """Asks for the end after a step, as ``Timer`` and ``EarlyStopping`` do."""

    def __init__(self, step: int, hook: str) -> None:
        self.step = step
        setattr(self, hook, self.stop)

    def stop(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


STOPS: dict[str, dict[str, Any]] = {
    "steps": {"max_steps": 8},
    "steps with validations": {"max_steps": 8, "val_check_interval": 2},
    "time": {"callbacks": (StopsAt(8, "on_train_batch_end"),)},
    "early": {"callbacks": (StopsAt(8, "on_validation_end"),), "val_check_interval": 2},
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_run_that_stopped_inside_an_epoch_goes_on_there(stop: str, tmp_path: Path) -> None:
    """No batch is left out, and the run is the one that did not stop."""
    settings = {k: v for k, v in STOPS[stop].items() if k == "val_check_interval"}
    whole = run(tmp_path / "whole", RunCheckpoint(tmp_path / "whole", "last"), **settings)
    folder = tmp_path / "stopped"
    stopped = run(folder, RunCheckpoint(folder, "last"), **STOPS[stop])
    assert steps(stopped) == list(range(1, 9))
    resumed = run(folder, RunCheckpoint(folder, "last"), ckpt_path=folder / "last.ckpt", **settings)
    assert steps(resumed) == [9, 10, 11, 12]
    without_scores = [e[:1] + e[2:] if e[0] == "validation" else e for e in resumed]
    expected = [e[:1] + e[2:] if e[0] == "validation" else e for e in whole]
    assert without_scores == expected[-len(resumed) :]


def test_early_stopping_and_the_best_file_agree(tmp_path: Path) -> None:
    early = EarlyStopping("val/score", mode="max", patience=2)
    checkpoint = best(tmp_path)
    last = RunCheckpoint(tmp_path, "last")
    events = run(tmp_path, checkpoint, last, callbacks=(early,), val_check_interval=2)
    # .5 .4 .9 .3 .6: the second after the best ends the run
    assert steps(events)[-1] == 10
    assert score_and_weights(tmp_path / "best.ckpt")[0] == 6
    assert score_and_weights(tmp_path / "last.ckpt")[0] == 10


def test_a_plateau_counts_the_values_that_were_measured(tmp_path: Path) -> None:
    """Half the rate after .4 and .3 and .6 and .7, each at its validation."""
    events = run(tmp_path, module=Scored("val/score"), val_check_interval=2)
    rates = [event[-2] for event in events if event[0] == "batch"]
    assert rates == [0.25] * 4 + [0.125] * 4 + [0.0625] * 2 + [0.03125] * 2
    # no validation, no value: the rates of the first two epochs are the same
    rare = run(tmp_path, module=Scored("val/score"), check_val_every_n_epoch=2, max_epochs=5)
    rates = [event[-2] for event in rare if event[0] == "batch"]
    assert rates == [0.25] * 24 + [0.125] * 6


def test_a_plateau_of_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lr_scheduler waits for 'val/skore', which is not mea"):
        run(tmp_path, module=Scored("val/skore"))
