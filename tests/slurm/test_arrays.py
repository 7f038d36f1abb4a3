"""Every task of an array is a run of its own."""

from __future__ import annotations

from datetime import datetime

import yaml

from tests.slurm.jobs import Job, Place, state, wait_for


def test_one_task_that_is_stopped_leaves_the_others_alone(place: Place) -> None:
    """All start in one second; then that whose job id is the array's is stopped, as two ended."""
    # there is room for all at once, whatever else runs
    options = ("--array=0-2,7", "--gpus-per-node=0", "--cpus-per-task=1")
    job = place.submit("array", *place.config(step=7), sbatch=options)
    tasks = {number: Job(f"{job.name}_{number}", place) for number in (0, 1, 2, 7)}
    for number in tasks:
        place.wait_until_held(task=str(number))
    starts = [datetime.fromisoformat(task.fields["StartTime"]) for task in tasks.values()]
    assert (max(starts) - min(starts)).total_seconds() <= 1
    (own,) = [n for n, task in tasks.items() if task.fields["JobId"] == job.name]
    running, *first = [number for number in tasks if number != own]
    for number in first:
        place.let_go(str(number))
        tasks[number].end()
    folders = {number: task.folder for number, task in tasks.items()}
    before = {number: (folders[number] / "metrics.csv").stat().st_mtime_ns for number in first}

    tasks[own].signal("USR1")
    place.let_go(str(own))
    wait_for(lambda: tasks[own].restarts == 1)
    assert tasks[running].state == "RUNNING"
    place.let_go(str(running))
    for task in tasks.values():
        task.end()
        assert (task.state, task.exit_code) == ("COMPLETED", 0), task.log
    assert {n for n, task in tasks.items() if task.restarts} == {own}
    assert before == {n: (folders[n] / "metrics.csv").stat().st_mtime_ns for n in first}

    found = {path.name for path in folders[0].parent.iterdir()}
    assert found == {f"slurm-{job.name}_{number}" for number in tasks}
    configs = [yaml.safe_load((f / "config.yaml").read_text()) for f in folders.values()]
    assert [config["seed_everything"] for config in configs] == [0, 1, 2, 3]
    assert {state(folder)["global_step"] for folder in folders.values()} == {20}
