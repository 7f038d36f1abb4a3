import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor
from lightning.pytorch.utilities import rank_zero_only

from framework.runs.csv_logger import RunLogger, read_metrics
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Kill(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise KilledError


class KilledError(Exception):
    pass


class SaveAt(Checkpoint):
    """Saves at one moment of Lightning's loop, as a ModelCheckpoint would."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        def save(trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == step:
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


def fit(folder: Path, *callbacks: Callback, ckpt_path: Path | None = None, **kwargs: Any) -> Path:
    seed_everything(0, verbose=False)
    callbacks = (LearningRateMonitor(), *callbacks)
    settings = {"max_epochs": 3, **kwargs}
    trainer = tiny_trainer(folder, list(callbacks), RunLogger(str(folder)), **settings)
    trainer.fit(TinyModule(), TinyData(), ckpt_path=ckpt_path, weights_only=True)
    return folder / "metrics.csv"


def test_one_row_per_step_with_every_value(tmp_path: Path) -> None:
    columns, rows = read_metrics(fit(tmp_path))
    assert columns[:2] == ["epoch", "step"]
    assert [row["step"] for row in rows] == list(range(18))
    assert [int(row["epoch"]) for row in rows] == [s // 6 for s in range(18)]
    assert all(row["lr-AdamW/pg1"] == "0.001" for row in rows)
    assert all(float(row["train/size"]) > 0 for row in rows)
    ends = [row for row in rows if row["val/accuracy"]]
    assert [row["step"] for row in ends] == [5, 11, 17]
    # the epoch has equal batches, so its mean is the mean of the steps
    for end in ends:
        steps = [float(row["train/loss"]) for row in rows if row["epoch"] == end["epoch"]]
        assert float(end["train/loss_epoch"]) == pytest.approx(sum(steps) / 6, rel=1e-6)


@pytest.mark.parametrize(
    ("hook", "step", "killed"),
    [
        ("on_train_batch_end", 4, 5),
        ("on_train_batch_end", 4, 6),
        ("on_train_batch_end", 4, 9),
        ("on_train_batch_end", 9, 17),
        ("on_validation_end", 6, 8),
        ("on_validation_end", 12, 13),
        ("on_train_epoch_end", 6, 8),
        ("on_train_epoch_end", 6, 13),
    ],
)
@pytest.mark.parametrize("log_every", [1, 4])
def test_resumed_file_equals_uninterrupted(
    tmp_path: Path, hook: str, step: int, killed: int, log_every: int
) -> None:
    whole = fit(tmp_path / "whole", log_every_n_steps=log_every)
    folder, saved = tmp_path / "run", tmp_path / "saved.ckpt"
    with pytest.raises(KilledError):
        fit(folder, SaveAt(hook, step, saved), Kill(killed), log_every_n_steps=log_every)
    resumed = fit(folder, ckpt_path=saved, log_every_n_steps=log_every)
    assert resumed.read_text() == whole.read_text()


def test_checkpoint_decides_what_is_kept(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path))
    for step in range(6):
        logger.log_metrics({"epoch": 0, "train/loss": step / 10}, step)
    logger.finalize("failed")
    logger.continue_from(3)
    logger.log_metrics({"val/loss": 9.0}, step=2)
    logger.log_metrics({"epoch": 0, "train/loss": 0.7}, step=5)
    logger.finalize("success")
    assert logger.path.read_text().splitlines() == [
        "epoch,step,train/loss,val/loss",
        "0,0,0.0,",
        "0,1,0.1,",
        "0,2,0.2,9.0",
        "0,5,0.7,",
    ]


def test_every_value_is_in_the_file_at_once(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"a": 1e-17}, 0)
    logger.log_metrics({"a, b": 2}, 0)
    logger.log_metrics({"a": float("nan")}, 1)
    assert read_metrics(logger.path) == (
        ["epoch", "step", "a", "a, b"],
        [
            {"epoch": "", "step": 0, "a": "1e-17", "a, b": "2"},
            {"epoch": "", "step": 1, "a": "nan", "a, b": ""},
        ],
    )
    # a shorter value leaves nothing of the longer one behind
    logger.log_metrics({"a": 12345.0}, 2)
    logger.log_metrics({"a": 1.0}, 2)
    assert logger.path.read_bytes().endswith(b"\n,2,1.0,\n")
    logger.finalize("success")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path))
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"a": 2.0}, 1)
    logger.finalize("failed")
    logger.path.write_bytes(logger.path.read_bytes()[:-2])
    logger.log_metrics({"a": 3.0}, 1)
    logger.finalize("success")
    assert [(row["step"], row["a"]) for row in read_metrics(logger.path)[1]] == [
        (0, "1.0"),
        (1, "3.0"),
    ]


def test_a_run_from_the_start_replaces_the_file(tmp_path: Path) -> None:
    first = fit(tmp_path).read_text()
    assert fit(tmp_path, max_epochs=1).read_text() == first[: len(first.split("\n1,6")[0]) + 1]


def test_a_second_fit_of_the_same_trainer_goes_on(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", max_epochs=2)
    seed_everything(0, verbose=False)
    trainer = tiny_trainer(
        tmp_path, [LearningRateMonitor()], RunLogger(str(tmp_path)), max_epochs=1
    )
    module, data = TinyModule(), TinyData()
    trainer.fit(module, data)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, data)
    steps = [row["step"] for row in read_metrics(tmp_path / "metrics.csv")[1]]
    assert steps == [row["step"] for row in read_metrics(whole)[1]]


def test_evaluation_leaves_the_metrics_of_training_alone(tmp_path: Path) -> None:
    trained = fit(tmp_path).read_bytes()
    for _ in range(2):
        trainer = tiny_trainer(tmp_path, [], RunLogger(str(tmp_path)))
        trainer.test(TinyModule(), TinyData(), verbose=False)
        trainer.validate(TinyModule(), TinyData(), verbose=False)
        trainer.predict(TinyModule(), TinyData())
    assert (tmp_path / "metrics.csv").read_bytes() == trained
    (row,) = read_metrics(tmp_path / "metrics_test.csv")[1]
    assert 0 <= float(row["test/accuracy"]) <= 1
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == [
        "metrics.csv",
        "metrics_test.csv",
        "metrics_validate.csv",
    ]


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = RunLogger(str(tmp_path))
    logger.continue_from(0)
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    assert not any(tmp_path.iterdir())


def test_without_a_folder_it_says_so() -> None:
    with pytest.raises(ValueError, match="set its `folder`"):
        RunLogger().log_metrics({"a": 1.0}, 0)


def test_tensors_are_written_as_numbers(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path))
    rate = torch.tensor(0.25, dtype=torch.float64)
    logger.log_metrics({"lr": rate, "steps": torch.tensor(3), "epoch": 0}, step=0)
    logger.finalize("success")
    assert logger.path.read_text() == "epoch,step,lr,steps\n0,0,0.25,3\n"
    assert float(read_metrics(logger.path)[1][0]["lr"]) == 0.25


class Remove(Callback):
    """Removes a file or folder at a step, as a person might."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink()


@pytest.mark.parametrize("name", ["", "metrics.csv"])
@pytest.mark.parametrize("step", [1, 8])
def test_metrics_that_were_removed_are_written_again(tmp_path: Path, name: str, step: int) -> None:
    whole = fit(tmp_path / "one")
    folder = tmp_path / "two"
    with pytest.warns(UserWarning, match="two, or a file in it, was removed while its") as said:
        again = fit(folder, Remove(folder / name, step))
    assert again.read_bytes() == whole.read_bytes()
    assert sum("was removed" in str(one.message) for one in said) == 1


def log_steps(logger: RunLogger, steps: range) -> None:
    for step in steps:
        logger.log_metrics({"x": 1.0}, step)


def test_a_full_disk_keeps_the_rows_before(small_disk: Path) -> None:
    path = small_disk / "metrics.csv"
    logger = RunLogger(str(small_disk))
    logger.log_metrics({"x": 1.0}, 0)
    free = os.statvfs(small_disk)
    (small_disk / "other").write_bytes(bytes(free.f_bavail * free.f_frsize))
    said = r"metrics\.csv could not be written: no space left on device\.$"
    with pytest.raises(OSError, match=said):
        log_steps(logger, range(1, 2000))
    logger.finalize("failed")
    _, rows = read_metrics(path)
    assert len(rows) > 100
    assert [row["step"] for row in rows] == list(range(len(rows)))


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"step\nx\n", b"step,x\n\n1,2\nnan,1\n", b"\xff\n", b"step\n1e3\n"]
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.csv holds no metrics of a run"):
        read_metrics(tmp_path / "metrics.csv")


def test_rows_of_other_lengths_are_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,x\n1\n2,3,4,5\n")
    _, rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(isinstance(name, str) for row in rows for name in row)
