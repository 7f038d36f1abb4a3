"""Two agents of torchrun, as on two machines: one is lost, or a rank that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.invariant import Outcome
from tests.faults.table import assert_as_told
from tests.faults.test_ranks import PATIENCE
from tests.helpers.runs import ROOT, fit_in_child, largest_difference
from tests.slurm.jobs import Place, state

# their row is that of one of two ranks
FAULTS = ()
DOUBLE = "--trainer.precision=64-true"


class Agents:
    """Two agents with a rank each, held in the second of four epochs.

    Args:
        folder: Working directory of both.
        restarts: How often they start their ranks again.
    """

    def __init__(self, folder: Path, restarts: int) -> None:
        self.place = Place(folder)
        self.args = ["--config=classifier", *self.place.config(step=7), DOUBLE]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torchrun = [
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=tests"),
            *("--local-addr=127.0.0.1", f"--max-restarts={restarts}", "-m", "trimtab", "fit"),
        ]
        ranks = [
            *("--trainer.strategy=ddp", "--trainer.num_nodes=2", "--trainer.devices=1"),
            "--run_folder=run",
        ]
        self.run = folder / "run"
        self.logs = [folder / f"agent{number}" for number in range(2)]
        self.processes = []
        for log in self.logs:
            with log.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [*torchrun, *self.args, *ranks],
                        cwd=folder,
                        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
        self.place.wait_until_held(ranks=2)

    def rank_of(self, agent: int) -> int:
        """Return the process that an agent started."""
        pid = self.processes[agent].pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def outcome(self, agent: int, seconds: float = 4 * PATIENCE) -> Outcome:
        """Wait for an agent's end."""
        code = self.processes[agent].wait(seconds)
        return Outcome(code, self.logs[agent].read_text())

    def end(self) -> None:
        """Stop what is left, after a failure."""
        self.place.let_go()
        for process in self.processes:
            process.terminate()
            process.wait(PATIENCE)


@pytest.fixture
def agents(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Agents]:
    monkeypatch.setenv("TRIMTAB_ALLOW", "tests")
    started = Agents(tmp_path, restarts=request.param)
    yield started
    started.end()


@pytest.mark.combination
@pytest.mark.parametrize("agents", [0], indirect=True)
def test_a_machine_is_lost(agents: Agents) -> None:
    for process in (agents.processes[1].pid, agents.rank_of(1)):
        os.kill(process, signal.SIGKILL)
    agents.processes[1].wait()
    agents.place.let_go()
    assert_as_told("One of two ranks is killed", agents.outcome(0, PATIENCE))
    assert state(agents.run)["global_step"] == 5


@pytest.mark.combination
@pytest.mark.parametrize("agents", [1], indirect=True)
def test_a_rank_is_lost_and_all_start_again(agents: Agents, tmp_path: Path) -> None:
    os.kill(agents.rank_of(1), signal.SIGKILL)
    agents.place.let_go()
    outcomes = [agents.outcome(agent) for agent in range(2)]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].said + outcomes[1].said
    said = outcomes[0].said + outcomes[1].said
    assert said.count("resumed at step 5 from") == 1
    whole = tmp_path / "whole"
    assert fit_in_child([*agents.args, f"--run_folder={whole}"], tmp_path / "whole.pt")[0] == 0
    ours, theirs = state(agents.run), state(whole)
    assert ours["global_step"] == theirs["global_step"] == 20
    assert largest_difference(ours["state_dict"], theirs["state_dict"]) < 1e-12
