"""A SLURM of its own on this machine: a controller and four emulated nodes."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
# addresses as names: every machine resolves them, and Lightning looks for rank 0 by a node's name
NODES = tuple(f"127.0.0.{number}" for number in range(1, 5))
CONFIG = """\
ClusterName=trimtab-tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
# of another cluster's jobs on this machine Lightning would take the same port
FirstJobId={first}
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=30
SchedulerParameters=bf_interval=2,sched_min_interval=200000
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=7200
ReturnToService=2
# the nodes claim more than this machine has
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs=64 RealMemory=512000 Gres=gpu:4
{nodes}
PartitionName=main Nodes={shared} Default=YES
# a job of `high` puts those of `low` back into the queue
PartitionName=low Nodes={scarce} PriorityTier=1
PartitionName=high Nodes={scarce} PriorityTier=10 PreemptMode=OFF
"""


PROCTRACK = os.environ.get("PROCTRACK", "linuxproc")
"""With ``linuxproc`` a signal reaches every process of a step, those of W&B and of the data's
workers too; with ``cgroup``, as on most clusters, what ``srun`` started (root, cgroup v1)."""


class UnavailableError(Exception):
    """SLURM can be neither found nor installed here; says why."""


def install() -> None:
    """Install Debian's packages where they are missing.

    Raises:
        UnavailableError: This is no Debian, the user is not root, or the packages cannot be had.
    """
    missing = [name for name in PROGRAMS if find(name) is None]
    if not missing:
        return
    found = f"{', '.join(missing)} not found"
    if shutil.which("apt-get") is None:
        raise UnavailableError(f"{found}, and there is no apt-get to install SLURM with")
    if os.geteuid() != 0:
        raise UnavailableError(f"{found}, and only root can install {' '.join(PACKAGES)}")
    # no service is started: the cluster starts its own
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (
        ("apt-get", "update", "-qq"),
        ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES),
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UnavailableError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Path]:
    """Run a cluster in a folder, and yield its ``slurm.conf``.

    Args:
        folder: Empty folder with a short name, as sockets are made in it.

    Raises:
        UnavailableError: SLURM does not start.
    """
    config = write_config(folder)
    environment = os.environ | {"SLURM_CONF": str(config)}
    daemons: list[subprocess.Popen[bytes]] = []
    munge = folder / "munge"
    commands = [
        # --force: the folder may lie in one that others may write into
        (
            "munged",
            "--foreground",
            "--force",
            f"--key-file={munge / 'key'}",
            f"--socket={munge / 'socket'}",
            f"--pid-file={munge / 'pid'}",
            f"--log-file={munge / 'log'}",
            f"--seed-file={munge / 'seed'}",
        ),
        ("slurmctld", "-D"),
        *(("slurmd", "-D", "-N", node) for node in NODES),
    ]
    try:
        for number, command in enumerate(commands):
            with (folder / f"{number}.out").open("wb") as out:
                daemons.append(
                    subprocess.Popen(
                        [find(command[0]) or command[0], *command[1:]],
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
            if command[0] == "munged":
                wait_for(lambda: (munge / "socket").exists(), 10)
        wait_for(lambda: has_ended(daemons) or idle_nodes(environment) == len(NODES), 60)
        if has_ended(daemons) or idle_nodes(environment) != len(NODES):
            raise UnavailableError(f"SLURM did not start: {last_words(folder, daemons)}")
        yield config
    finally:
        if daemons:
            stop(daemons, environment)


def find(name: str) -> str | None:
    """Return the path of a program, None where there is none; daemons are on root's path only."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def write_config(folder: Path) -> Path:
    """Write the cluster's config and key; return the config.

    Raises:
        UnavailableError: The user has no name, by which SLURM knows its own.
    """
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise UnavailableError(
            f"user {os.geteuid()} has no name, by which SLURM knows it"
        ) from None
    # other users' processes find munge's socket
    folder.chmod(0o755)
    for name in ("state", "munge", *(f"spool.{node}" for node in NODES)):
        (folder / name).mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    controller, *ports = free_ports(1 + len(NODES))
    host = socket.gethostname().partition(".")[0]
    nodes = [
        f"NodeName={node} NodeHostName={host} NodeAddr=127.0.0.1 Port={port}"
        for node, port in zip(NODES, ports, strict=True)
    ]
    text = CONFIG.format(
        host=host,
        controller=controller,
        user=user,
        folder=folder,
        proctrack=PROCTRACK,
        first=random.randrange(100, 9000),
        nodes="\n".join(nodes),
        shared=",".join(NODES[:2]),
        scarce=",".join(NODES[2:]),
    )
    config = folder / "slurm.conf"
    config.write_text(text)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n")
    # files in the place of devices
    for number in range(4):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={folder}/gpu[0-3]\n")
    return config


def free_ports(number: int) -> list[int]:
    """Return ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def has_ended(daemons: list[subprocess.Popen[bytes]]) -> bool:
    """Return whether a daemon has ended by itself."""
    return any(process.poll() is not None for process in daemons)


def idle_nodes(environment: dict[str, str]) -> int:
    """Return how many nodes wait for jobs."""
    command = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return len(set(done.stdout.split()))


def stop(daemons: list[subprocess.Popen[bytes]], environment: dict[str, str]) -> None:
    """End all jobs, then the daemons."""

    def run(*command: str) -> str:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout

    # without its controller it has no jobs, and nothing answers
    answers = len(daemons) > 1 and not has_ended(daemons[:2])
    for signal in ((), ("--signal=KILL", "--full")) if answers else ():
        run("scancel", f"--user={os.geteuid()}", *signal)
        if wait_for(lambda: not run("squeue", "--noheader").split(), 20):
            break
    for process in reversed(daemons):
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Return whether a condition holds, after waiting for it for some time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def last_words(folder: Path, daemons: list[subprocess.Popen[bytes]]) -> str:
    """Return the last line of each daemon that ended by itself; of all where none did."""
    ended = [number for number, process in enumerate(daemons) if process.poll() is not None]
    paths = [folder / f"{number}.out" for number in ended or range(len(daemons))]
    lines = [path.read_text(errors="replace").splitlines()[-1:] for path in paths]
    return "; ".join(line for found in lines for line in found) or "no daemon says why"
