"""What a job says and which exit code it has, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
import yaml

from tests.slurm.jobs import Place, state

FIT = "trimtab fit --config classifier"


def test_a_signal_in_the_test_trains_nothing_anew(place: Place) -> None:
    """The fit before it was finished, and so it stays when the job is started again."""
    place.script(
        f"""
        set -e
        srun {FIT} "$@"
        srun trimtab test --ckpt_path runs/classifier/slurm-$SLURM_JOB_ID
        """
    )
    args = place.config(place="test")
    options = ("--requeue", "--open-mode=append", "--ntasks-per-node=1")
    job = place.submit(place.path / "job.sbatch", *args, sbatch=options)
    place.wait_until_held()
    folder = job.folder
    files = [folder / "metrics.csv", folder / "checkpoints" / "last.ckpt"]
    before = [path.read_bytes() for path in files]
    job.signal("USR1")
    place.let_go()
    job.end()
    assert (job.state, job.exit_code, job.restarts) == ("COMPLETED", 0, 1), job.log
    assert [path.read_bytes() for path in files] == before
    assert (folder / "metrics_test.csv").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("held", ["sanity_check", "test"])
def test_sigterm_outside_of_training_is_no_success(place: Place, held: str) -> None:
    place.script(
        f"""
        set -e
        srun {FIT} "$@"
        srun trimtab test --ckpt_path runs/classifier/slurm-$SLURM_JOB_ID
        """
    )
    args = place.config(place=held)
    job = place.submit(place.path / "job.sbatch", *args, sbatch=("--ntasks-per-node=1",))
    place.wait_until_held()
    job.signal("TERM")
    place.let_go()
    job.end()
    assert (job.state, job.exit_code) == ("FAILED", 128 + signal.SIGTERM), job.log
    assert "trimtab: stopped by SIGTERM" in job.log


@pytest.mark.parametrize(
    ("command", "name"),
    [(f'{FIT} "$@"', "USR2"), (f'bash -c \'set -e; exec {FIT} "$@"\' - "$@"', "USR1")],
    ids=["SIGUSR2", "below a shell"],
)
def test_what_is_not_queued_again_has_saved(place: Place, command: str, name: str) -> None:
    script = place.script(f"srun {command}\n")
    options = ("--no-requeue", "--ntasks-per-node=1")
    job = place.submit(script, *place.config(step=7), sbatch=options)
    place.wait_until_held()
    job.signal(name)
    place.let_go()
    job.end()
    code = 128 + signal.Signals[f"SIG{name}"]
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", code, 0), job.log
    assert state(job.folder)["global_step"] == 8
    assert f"stopped by SIG{name} after step 8" in job.log
    assert "continue with trimtab fit --ckpt_path" in job.log


def test_several_runs_in_one_job_have_a_folder_each(place: Place) -> None:
    place.script(
        f"""
        srun -n1 --exact {FIT} "$@" --seed_everything 0 &
        srun -n1 --exact {FIT} "$@" --seed_everything 1 &
        wait
        srun -n1 --exact {FIT} "$@" --seed_everything 2
        """
    )
    options = ("--ntasks-per-node=2",)
    job = place.submit(place.path / "job.sbatch", *place.config(), sbatch=options).end()
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.log
    folders = sorted((place.path / "runs" / "classifier").iterdir())
    assert [f.name for f in folders] == [f"slurm-{job.name}{end}" for end in ("", ".1", ".2")]
    seeds = [yaml.safe_load((f / "config.yaml").read_text())["seed_everything"] for f in folders]
    assert sorted(seeds) == [0, 1, 2]
    assert [state(folder)["global_step"] for folder in folders] == [20, 20, 20]


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (f"srun {FIT}", "--trainer.devices 2 --trainer.num_nodes 1"),
        (f"{FIT} --trainer.devices 2 --trainer.strategy ddp", "put srun before it"),
    ],
    ids=["devices", "srun"],
)
def test_tasks_that_are_not_the_ranks_are_refused(place: Place, command: str, advice: str) -> None:
    place.script(f'{command} "$@"\n')
    options = ("--ntasks-per-node=2",)
    job = place.submit(place.path / "job.sbatch", *place.config(), sbatch=options).end()
    assert job.state == "FAILED", job.log
    assert job.exit_code in (1, 2), job.log
    assert advice in job.log
    assert not (place.path / "runs").exists()


def test_a_signal_after_training_ends_in_success(place: Place) -> None:
    job = place.submit("requeue", *place.config(place="end"))
    place.wait_until_held()
    job.signal("USR1")
    place.let_go()
    job.end()
    assert (job.state, job.exit_code, job.restarts) == ("COMPLETED", 0, 0), job.log
    assert state(job.folder)["global_step"] == 20


def test_a_session_of_salloc(place: Place) -> None:
    place.let_go()
    setting = dict(pair.split("=", 1) for pair in place.environment().split(","))
    session = ["salloc", "--quiet", "-J", "train", "--ntasks-per-node=2", "srun", *FIT.split()]
    ranks = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(
        [*session, *ranks, *place.config()],
        cwd=place.path,
        env=os.environ | setting,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (place.path / "runs" / "classifier").iterdir()
    assert folder.name.startswith("slurm-")
    assert state(folder)["global_step"] == 20
