"""The first line of a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from callbacks import RunHeader
from framework.runs.run_checkpoint import RunCheckpoint
from tests.helpers.slurm import pretend_job
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


def test_the_first_line_says_what_runs_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    here = "on 1 process (cpu, n1, 32-true)"
    saver = RunCheckpoint(tmp_path, "last")
    trainer = tiny_trainer(tmp_path, [RunHeader(), saver], False, max_epochs=1)
    trainer.fit(TinyModule(), TinyData())
    assert capfd.readouterr().out == f"fit {here} | . | starts anew\n"
    pretend_job(monkeypatch, SLURM_ARRAY_JOB_ID="8", SLURM_ARRAY_TASK_ID="2")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    trainer = tiny_trainer(tmp_path, [RunHeader(), saver], False, max_epochs=2)
    trainer.fit(TinyModule(), TinyData(), ckpt_path=tmp_path / "last.ckpt")
    assert capfd.readouterr().out == (
        f"fit {here} | SLURM job 8_2, restart 1 | . | resumed at step 6 from last.ckpt\n"
    )
    trainer.test(TinyModule(), TinyData(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert capfd.readouterr().out == (
        f"test {here} | SLURM job 8_2, restart 1 | . | weights of last.ckpt\n"
    )


@pytest.mark.parametrize("task", ["validate", "test", "predict"])
def test_an_evaluation_names_the_weights_that_it_loaded(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saver = RunCheckpoint(tmp_path, "last")
    tiny_trainer(tmp_path, [saver], False, max_epochs=1).fit(TinyModule(), TinyData())
    capfd.readouterr()
    for path, weights in ((tmp_path / "last.ckpt", "weights of last.ckpt"), (None, "the start")):
        trainer = tiny_trainer(tmp_path, [RunHeader(), saver], False)
        getattr(trainer, task)(TinyModule(), TinyData(), ckpt_path=path)
        lines = capfd.readouterr().out.splitlines()
        assert lines[0].endswith(weights)
        assert sum(" | " in line for line in lines) == 1


def test_a_trainer_that_is_used_again_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = tiny_trainer(tmp_path, [RunHeader()], False, max_epochs=1)
    trainer.fit(TinyModule(), TinyData())
    trainer.validate(trainer.lightning_module, TinyData(), verbose=False)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(trainer.lightning_module, TinyData())
    said = [line.split(" | ")[-1] for line in capfd.readouterr().out.splitlines()]
    assert said == ["starts anew", "weights at step 6", "goes on at step 6"]
